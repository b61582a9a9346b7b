"""The page, in gradio: two tabs, whose answers are HTML of our own. No state is kept of anybody between two answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import gradio as gr

from mirror_pl.app_page import markup
from mirror_pl.app_page.answer import Costs, answer, predictions_of
from mirror_pl.app_page.uploads import Uploads
from mirror_pl.detectors import CropPolicy, Detector, Prediction
from mirror_pl.detectors.aggregation import AGGREGATES, VALUES
from mirror_pl.errors import ConfigError
from mirror_pl.images import CROPS

FONTS: Final = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif")
"""Fonts that the reader's machine has; gradio's own themes load theirs from a server elsewhere."""
MONOSPACE: Final = ("ui-monospace", "SF Mono", "Liberation Mono", "monospace")
MOST_WAITING: Final = 64
"""Requests that may wait for their turn; further ones are told to come again."""
TOGETHER: Final = 8
"""Pictures of a batch that are scored together, at most, so that its progress is seen."""
_EVERY_S: Final = 0.5
"""How often the progress of a batch is shown."""

File = dict[str, Any]
"""An upload as the browser names it: ``path``, which ends with the key of `Uploads`, and ``orig_name``."""


@dataclass(frozen=True)
class Service:
    """What the page needs.

    Attributes:
        detector: In eval mode.
        title: What it is called on the page.
        policy: Where the page's settings begin.
        costs: What a picture may cost.
        uploads: Where the bytes are.
        at_once: Answers worked on at a time.
        miniature: Whether the detector is the one that is shipped with the package.
    """

    detector: Detector
    title: str
    policy: CropPolicy
    costs: Costs
    uploads: Uploads
    at_once: int = 2
    miniature: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def turn(self) -> AbstractContextManager[Any]:
        """To be held while the detector works: on a device other than a CPU, threads take turns."""
        on_cpu = next(self.detector.parameters()).device.type == "cpu"
        return nullcontext() if on_cpu else self._lock


def build_blocks(service: Service) -> gr.Blocks:
    """Build the page."""
    uploads, policy = service.uploads, service.policy
    with gr.Blocks(title="mirror_pl", analytics_enabled=False) as blocks:
        gr.HTML(
            markup.heading(service.title, uploads.limits, service.costs.max_megapixels, miniature=service.miniature),
            js_on_load=None,
            apply_default_css=False,
        )
        with gr.Accordion("Crops, and how they become one score", open=False, elem_id="settings"):
            crops = gr.Radio(list(CROPS), value=policy.crops, label="Crops", elem_id="crops")
            aggregate = gr.Radio(list(AGGREGATES), value=policy.aggregate, label="Aggregate of several")
            of = gr.Radio(list(VALUES), value=policy.of, label="Of their")
            fraction = gr.Number(policy.top_fraction, label="Part that topk takes", minimum=0.01, maximum=1, step=0.01)
        chosen = [crops, aggregate, of, fraction]
        with gr.Tab("One picture"):
            picture = gr.File(label="Picture", elem_id="picture", height=150)
            found = gr.HTML(elem_id="answer", js_on_load=None, apply_default_css=False)
        with gr.Tab("Batch"):
            pictures = gr.File(label="Pictures", file_count="multiple", elem_id="pictures", height=150)
            rows = gr.HTML(elem_id="table", js_on_load=None, apply_default_css=False)
        # Bytes are taken as they were uploaded (preprocess=False), and the field is free for the next ones afterwards.
        shared: dict[str, Any] = {
            "preprocess": False,
            "concurrency_limit": service.at_once,
            "concurrency_id": "scoring",
            "show_progress": "minimal",
            "api_visibility": "private",
        }
        picture.upload(_one(service), [picture, *chosen], [found, picture], **shared)
        pictures.upload(_batch(service), [pictures, *chosen], [rows, pictures], **shared)
    blocks.queue(max_size=MOST_WAITING, api_open=False)
    return blocks


def _one(service: Service) -> Callable[..., tuple[str, None]]:
    def score(file: File | None, *chosen: Any) -> tuple[str, None]:
        content = None if file is None else service.uploads.take(key_of(file))
        try:
            policy = policy_of(*chosen)
        except ConfigError as error:
            return markup.message(str(error)), None
        if file is None or content is None:
            return markup.message(_GONE), None
        with service.turn:
            found = answer(service.detector, content, name_of(file), policy, service.costs)
        return markup.shown(found, miniature=service.miniature), None

    return score


def _batch(service: Service) -> Callable[..., Iterator[tuple[Any, ...]]]:
    uploads = service.uploads

    def score(files: list[File] | None, *chosen: Any) -> Iterator[tuple[Any, ...]]:
        waiting = list(files or [])
        try:
            policy = policy_of(*chosen)
            if len(waiting) > uploads.limits.max_files:
                raise ConfigError(f"{len(waiting)} files; at most {uploads.limits.max_files} are taken at once (max_files)")
        except ConfigError as error:
            _drop(uploads, waiting)
            yield markup.message(str(error)), None
            return
        rows: list[tuple[str, Prediction]] = []
        total, said = len(waiting), time.monotonic()
        at_once = min(TOGETHER, max(1, service.costs.batch_size // policy.count))
        try:
            while waiting:
                part, waiting = waiting[:at_once], waiting[at_once:]
                with service.turn:
                    rows += _scored(service, part, policy)
                if waiting and time.monotonic() - said > _EVERY_S:
                    said = time.monotonic()
                    yield markup.progress(len(rows), total), gr.skip()
        finally:  # who asked may have left
            _drop(uploads, waiting)
        yield markup.table(rows, miniature=service.miniature), None

    return score


def _scored(service: Service, files: list[File], policy: CropPolicy) -> Iterator[tuple[str, Prediction]]:
    contents = [service.uploads.take(key_of(file)) for file in files]
    there = [(name_of(file), content) for file, content in zip(files, contents, strict=True) if content is not None]
    found = iter(predictions_of(service.detector, there, policy, service.costs))
    for file, content in zip(files, contents, strict=True):
        yield name_of(file), next(found) if content is not None else Prediction(None, None, "undecodable", _GONE)


_GONE: Final = "The upload is no longer here; drop it again."


def _drop(uploads: Uploads, files: list[File]) -> None:
    for file in files:
        uploads.take(key_of(file))


def key_of(file: File) -> str:
    """Return the key of an upload: the last part of its path."""
    return str(file.get("path", "")).rpartition("/")[2]


def name_of(file: File) -> str:
    """Return the name that a file has where it comes from."""
    return str(file.get("orig_name") or key_of(file))


def policy_of(crops: Any, aggregate: Any, of: Any, fraction: Any) -> CropPolicy:
    """Return what the page's settings ask for.

    Raises:
        ConfigError: If it is nothing that there is; a program may send anything.
    """
    try:
        share = float(fraction)
    except (TypeError, ValueError):
        raise ConfigError(f"the part that topk takes must be a number, got {fraction!r}") from None
    return CropPolicy(str(crops), str(aggregate), str(of), share)


def theme() -> gr.themes.Base:
    """Return plain colours, in light and dark, and the fonts of the machine."""
    base = gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", radius_size="md", font=list(FONTS), font_mono=list(MONOSPACE)
    )
    return base.set(
        body_background_fill="#f7f7f5",
        body_background_fill_dark="#121518",
        body_text_color="#1c2126",
        body_text_color_dark="#e7eaed",
        body_text_color_subdued="#5d6770",
        body_text_color_subdued_dark="#9aa5ae",
        block_background_fill="#ffffff",
        block_background_fill_dark="#191d21",
        border_color_primary="#e2e5e7",
        border_color_primary_dark="#2c3238",
        block_border_color="#e2e5e7",
        block_border_color_dark="#2c3238",
        block_label_text_color="#5d6770",
        block_label_text_color_dark="#9aa5ae",
    )
