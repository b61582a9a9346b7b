"""When a run began, and how long its parts took."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any


class Clock:
    """Runs from when it is made.

    Attributes:
        started: When the run was started; for one that goes on, when it was first.
    """

    def __init__(self) -> None:
        self.started = datetime.now().astimezone()
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """End a part."""
        now = time.perf_counter()
        self._seconds[part], self._last = now - self._last, now

    def facts(self) -> dict[str, Any]:
        """Return it for ``run.json``."""
        finished = datetime.now().astimezone()
        return {"started": self.started.isoformat(), "finished": finished.isoformat(), "seconds": self._seconds}
