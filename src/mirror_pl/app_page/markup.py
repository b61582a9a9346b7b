"""What the page shows, as HTML; every name in it is escaped, and pictures are part of it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mirror_pl.app_page.answer import Answer, decision
from mirror_pl.app_page.uploads import UploadLimits
from mirror_pl.detectors import Prediction
from mirror_pl.texts import csv_text

_PAGE: Final = Path(__file__).with_name("page")

EVIDENCE: Final = {
    "logit_real": "output for real",
    "logit_fake": "output for fake; the logit is the difference of the two",
    "entropy": "retrieval entropy, in nats: how undecided the bank was",
    "max_weight": "largest retrieval weight, a share: how decided it was",
    "residual_norm": "length of the mean residual, in feature units: what the bank could not rebuild",
}
"""What the numbers mean that a detector gives beside its score."""

COLUMNS: Final = ("name", "p_fake", "decision", "status", "reason")
"""Of the table of a batch."""


def text_of(name: str) -> str:
    """Return a file of the page: its style or its script."""
    return (_PAGE / name).read_text(encoding="utf-8")


def heading(detector: str, limits: UploadLimits, max_megapixels: float, *, miniature: bool) -> str:
    """Return the top of the page: what it is, of which detector, and within which limits."""
    return _render("heading", detector=detector, limits=limits, max_megapixels=max_megapixels, miniature=miniature)


def shown(answer: Answer, *, miniature: bool) -> str:
    """Return what is shown of a picture."""
    prediction = answer.prediction
    size = prediction.size
    return _render(
        "answer",
        answer=answer,
        prediction=prediction,
        decision=decision(prediction),
        picture=None if answer.jpeg is None else _data("image/jpeg", answer.jpeg),
        boxes=[] if size is None else [_box(score.crop.box(size)) for score in prediction.crops],
        evidence=[(EVIDENCE.get(name, name), value) for name, value in prediction.evidence.items()],
        maps=[(one.title, _data("image/png", one.png)) for one in answer.maps],
        miniature=miniature,
    )


def message(text: str) -> str:
    """Return why there is nothing else to show."""
    return _render("message", text=text)


def progress(done: int, total: int) -> str:
    """Return how far a batch is."""
    return _render("progress", done=done, total=total)


def table(rows: Sequence[tuple[str, Prediction]], *, miniature: bool) -> str:
    """Return the table of a batch, with the same as a file to download, which is part of the page too."""
    return _render(
        "table",
        rows=[(name, prediction, decision(prediction)) for name, prediction in rows],
        scored=sum(prediction.p_fake is not None for _, prediction in rows),
        fakes=sum(prediction.is_fake is True for _, prediction in rows),
        csv=_data("text/csv;charset=utf-8", table_csv(rows).encode("utf-8")),
        miniature=miniature,
    )


def table_csv(rows: Sequence[tuple[str, Prediction]]) -> str:
    """Return the table of a batch as CSV."""
    cells = ((name, one.p_fake, decision(one), one.status, one.reason) for name, one in rows)
    return csv_text([COLUMNS, *cells], end="\r\n")


def _render(name: str, **values: Any) -> str:
    return _environment.get_template(f"{name}.jinja").render(**values)


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _box(box: tuple[float, float, float, float]) -> dict[str, float]:
    left, top, right, bottom = (round(value, 2) for value in box)
    return {"x": left, "y": top, "width": round(right - left, 2), "height": round(bottom - top, 2)}


_environment = Environment(
    loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
