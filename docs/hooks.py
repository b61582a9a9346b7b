"""Called by MkDocs for each page: formulas between dollars become MathML, which browsers show without a script."""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|(?<![\w\\$])\$(?P<inline>[^$\n`]+?)\$(?![\w$])", re.DOTALL)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the formulas of a page that says ``formulas: true`` in its head; elsewhere a dollar is one."""
    if not page.meta.get("formulas"):
        return markdown
    return _FORMULA.sub(_mathml, markdown)


def _mathml(found: re.Match[str]) -> str:
    if found["block"] is not None:
        return f'<div class="formula">{convert(" ".join(found["block"].split()), display="block")}</div>'
    return f"<span>{convert(found['inline'])}</span>"  # a line that begins with it is no block
