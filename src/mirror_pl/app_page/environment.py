"""What gradio finds around it: a private folder, and everything that would ask or tell somebody else switched off."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_ENVIRONMENT: Final = {
    "GRADIO_TEMP_DIR": "",
    "GRADIO_ANALYTICS_ENABLED": "False",  # no report of its use, no question for a newer version
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_SHARE": "False",
    "GRADIO_MCP_SERVER": "False",
}


@contextmanager
def private_folder() -> Iterator[Path]:
    """Give gradio a folder of its own for temporary files, which only this user can read, and remove it in the end.

    Nothing should ever be in it: uploads stay in memory, and answers are part of the page.
    """
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    with tempfile.TemporaryDirectory(prefix="mirror_pl-app-") as name:  # of mode 0700
        os.environ.update({**_ENVIRONMENT, "GRADIO_TEMP_DIR": name})
        try:
            yield Path(name)
        finally:
            for key, value in before.items():
                os.environ.pop(key, None)
                if value is not None:
                    os.environ[key] = value
