"""What pages are made with: the templates in ``page/``, which escape every name, and the policy that nothing else runs."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_PAGE: Final = Path(__file__).with_name("page")


def page_templates() -> Environment:
    """Return the templates; what one is not given is an error, and what it is given is escaped."""
    return Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def policy_hash(name: str) -> str:
    """Return what a content security policy calls an element that holds a file of ``page/``; no other of its kind works."""
    content = (_PAGE / name).read_text(encoding="utf-8").removesuffix("\n")  # as templates include it
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
