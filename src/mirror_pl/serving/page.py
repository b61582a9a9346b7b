"""The page in the browser, of gradio's own components. Nothing is kept of anybody but what gradio's private folder holds."""

from __future__ import annotations

import ctypes
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any, Final, TypeAlias

import gradio as gr
from fastapi import Depends, HTTPException, Request
from PIL import Image, ImageDraw
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from mirror_pl.abstention import UNSURE, VERDICTS
from mirror_pl.detectors import CropPolicy, MirrorDetector, Prediction
from mirror_pl.detectors.aggregation import AGGREGATES, VALUES
from mirror_pl.detectors.contract import device_turn
from mirror_pl.detectors.maps import token_maps
from mirror_pl.errors import ConfigError
from mirror_pl.explanation import drawn_maps
from mirror_pl.images import CROPS, PreparedPicture, decode
from mirror_pl.images.origin import Origin, has_credentials
from mirror_pl.images.pictures import shrunk
from mirror_pl.labels import FAKE, LABEL_NAMES, REAL
from mirror_pl.prediction import Item
from mirror_pl.serving.recipe import recipe
from mirror_pl.serving.scoring import Scorer
from mirror_pl.sources.folder import suffix_of
from mirror_pl.sources.source import ImageSource
from mirror_pl.texts import write_csv

SHOWN_PX: Final = 768
"""Longer side of a picture that is shown, at most."""
MAP_PX: Final = 512
"""Likewise of a map."""
THUMBNAIL_PX: Final = 256
"""Likewise of a picture in a batch."""
TIDY_S: Final = 60
KEPT_S: Final = 900
"""Every so many seconds, files of the page that are older than this are removed."""
MOST_WAITING: Final = 64
"""Requests that may wait for their turn; further ones are told to come again."""
_SESSIONS: Final = 200
"""Visitors whose page is remembered, at most."""

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
WORDS: Final = {
    LABEL_NAMES[FAKE]: "Fake: the detector takes this picture for generated.",
    LABEL_NAMES[REAL]: "Real: the detector takes this picture for a real one.",
    VERDICTS[UNSURE]: "Unsure: with this score, a picture may be either.",
}
"""The verdict, in words."""
ORIGINS: Final = {
    "says_ai": "It says that AI made the picture or a part of it.",
    "edited": "It says that the picture was edited.",
    "says_camera": "It names a camera or the like.",
    "unknown": "It does not say where the picture comes from, which makes it neither real nor fake.",
}
"""What files say of their own origin, in words; it takes no part in the score, and anybody can write it."""
_NOT_A_CHANCE: Final = {
    False: "p_fake is the detector's own score, not the chance that this picture is generated.",
    True: "p_fake is calibrated: it is the chance of a generated picture among pictures such as those it was fitted on.",
}
_MINIATURE: Final = (
    "This is the miniature: a small detector of a few small decoders. It is here to try things out, and no detector for the "
    "real world."
)
_STYLE: Final = """
footer { display: none !important }
body:not(.dark) { --color-accent: var(--primary-700) }
.answer { overflow-wrap: anywhere; line-height: 1.55 }
.answer .word { font-size: 1.35rem; font-weight: 650; margin: .25rem 0 }
.answer .bar { height: .75rem; border: 1px solid var(--body-text-color); border-radius: 6px; overflow: hidden }
.answer .bar div { height: 100%; background: var(--body-text-color) }
.answer .ends { display: flex; justify-content: space-between; font-size: .85rem }
.answer h3 { margin: 1rem 0 .25rem; font-weight: 650 }
.answer dl { display: grid; grid-template-columns: auto 1fr; gap: .15rem 1rem }
.answer dt { font-variant-numeric: tabular-nums } .answer dd { margin: 0 }
.answer ul { list-style: disc; padding-left: 1.4rem }
.answer ol { list-style: decimal; padding-left: 1.4rem } .answer p { margin: .4rem 0 }
"""

Titled: TypeAlias = list[tuple[Image.Image, str]]
"""Pictures with their titles, as a gallery takes them."""
File: TypeAlias = Mapping[str, Any]
"""An upload as the browser names it; gradio has seen that its ``path`` is one."""


def build_page(scorer: Scorer, folder: Path, *, max_files: int, at_once: int) -> gr.Blocks:
    """Build the page.

    Args:
        scorer: Its policy is where the page's settings begin; of a calibrated detector they are fixed.
        folder: From `place.private_folder`.
        max_files: Pictures in one batch, at most.
        at_once: Answers worked on at a time.
    """
    policy, fixed = scorer.policy, scorer.detector.calibration is not None
    with gr.Blocks(title="mirror_pl", analytics_enabled=False, delete_cache=(TIDY_S, KEPT_S)) as page:
        gr.Markdown(f"# Real or generated?\nDetector: {scorer.name}. {_MINIATURE if scorer.miniature else ''}")
        with gr.Accordion("Crops, and how they become one score", open=False, elem_id="settings"):
            if fixed:
                gr.Markdown("The calibration is of these crops only, so they are fixed.")
            crops = gr.Radio(
                list(CROPS), value=policy.crops, label="Crops", elem_id="crops", interactive=not fixed,
                info="Which parts of a picture the detector looks at. More crops take longer, and see more of it.",
            )  # fmt: skip
            aggregate = gr.Radio(
                list(AGGREGATES), value=policy.aggregate, label="Aggregate", interactive=not fixed,
                info="How the values of several crops become one; with one crop it changes nothing.",
            )  # fmt: skip
            of = gr.Radio(
                list(VALUES), value=policy.of, label="Of", interactive=not fixed,
                info="Whether the crops' logits are aggregated, or their scores, which lie between 0 and 1.",
            )  # fmt: skip
            fraction = gr.Slider(
                0.01, 1, policy.top_fraction, step=0.01, label="Part for topk", interactive=not fixed,
                info="The share of the crops, those with the largest values, whose mean topk takes.",
            )  # fmt: skip
        chosen = [crops, aggregate, of, fraction]
        with gr.Tab("One picture"):
            with gr.Row():
                picture = gr.Image(
                    type="filepath", image_mode=None, sources=["upload", "clipboard"], label="Picture",
                    elem_id="picture", height=320, buttons=[],
                )  # fmt: skip
                with gr.Column():
                    verdict = gr.HTML(elem_id="verdict", js_on_load=None, apply_default_css=False)
                    again = gr.Button("Score it again with the settings above", elem_id="again", size="md")
            shown = gr.Gallery(
                label="What the detector saw, and its maps", columns=2, object_fit="contain", height="max-content",
                elem_id="shown", interactive=False, buttons=["fullscreen"],
            )  # fmt: skip
            details = gr.HTML(elem_id="details", js_on_load=None, apply_default_css=False)
        with gr.Tab("Batch"):
            pictures = gr.File(label="Pictures", file_count="multiple", elem_id="pictures", height=160)
            said = gr.HTML(elem_id="said", js_on_load=None, apply_default_css=False)
            download = gr.DownloadButton("Download as CSV", interactive=False, elem_id="download", size="md")
            rows = gr.Dataframe(
                headers=list(COLUMNS), interactive=False, wrap=True, elem_id="rows", label="Verdicts", buttons=[]
            )
            thumbnails = gr.Gallery(
                label="Pictures", columns=4, object_fit="contain", height="max-content", elem_id="thumbnails",
                interactive=False, buttons=[],
            )  # fmt: skip
        # preprocess=False: what is scored is the file as it was uploaded, under the name that it has where it comes from.
        shared: dict[str, Any] = {
            "preprocess": False,
            "concurrency_limit": at_once,
            "concurrency_id": "scoring",
            "api_visibility": "private",
        }
        gr.on([picture.input, again.click], _one(scorer), [picture, *chosen], [verdict, shown, details], **shared)
        pictures.upload(_batch(scorer, folder, max_files), [pictures, *chosen], [said, rows, thumbnails, download], **shared)
    page.queue(max_size=MOST_WAITING)
    return page


def launch(
    page: gr.Blocks, *, host: str, port: int, hosts: Sequence[str], root_path: str | None, max_upload_mb: float
) -> None:
    """Begin to serve the page, in a thread of gradio's.

    Args:
        page: From `build_page`.
        host: Where it listens.
        port: Likewise.
        hosts: Names that it may be asked by, see `place.allowed_hosts`.
        root_path: The path or address at which a reverse proxy serves it.
        max_upload_mb: Of a file, at most.
    """
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
    page.launch(
        server_name=f"[{host}]" if ":" in host else host,  # as in an address
        server_port=port,
        root_path=root_path,
        max_file_size=int(max_upload_mb * 2**20),
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        state_session_capacity=_SESSIONS,
        app_kwargs={
            "middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
            "dependencies": [Depends(_only_uploads)],
        },
        theme=gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"]),
        css=_STYLE,
    )


async def _only_uploads(request: Request) -> None:
    """Refuse a question that names an address in place of an upload: gradio would fetch what is there."""
    is_question = request.method == "POST" and "json" in request.headers.get("content-type", "").lower()
    if is_question and _ADDRESS.search(json.dumps(await request.json())):
        raise HTTPException(400, "only uploads are scored")


_ADDRESS: Final = re.compile('"path": "https?://')


def _one(scorer: Scorer) -> Callable[..., tuple[str, Titled | None, str]]:
    def answer(file: File | None, *chosen: Any) -> tuple[str, Titled | None, str]:
        if file is None:
            return "", None, ""
        policy, seen = _policy_of(scorer, *chosen), list[PreparedPicture]()
        item = _item_of(file)
        ((_, prediction),) = scorer.score(
            [item], policy, lambda batch: seen.extend(one for _, one, _ in batch), with_origin=True
        )
        if prediction.size is None:
            return verdict_html(scorer, item.path, prediction), None, ""
        assert isinstance(item.source, ImageSource)
        image = decode(item.source, scorer.detector.spec.decoder).image
        steps = recipe(prediction.size, seen[0].plan, scorer.detector.spec, policy, item.path)
        explained = details_html(prediction, list(steps))
        pictures = list(_pictures(scorer, image, seen[0]))
        _give_back_memory()
        return verdict_html(scorer, item.path, prediction), pictures, explained

    return answer


def _batch(scorer: Scorer, folder: Path, max_files: int) -> Callable[..., tuple[str, list[list[str]], Titled, Any]]:
    # gradio finds the progress bar of a function by its argument's default.
    def answer(
        files: Sequence[File] | None,
        crops: str,
        aggregate: str,
        of: str,
        fraction: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, list[list[str]], Titled, Any]:
        items = [_item_of(file) for file in files or ()]
        if len(items) > max_files:
            raise gr.Error(f"{len(items)} files; at most {max_files} are taken at once (max_files).", print_exception=False)
        found: list[Prediction] = []
        thumbnails: Titled = []
        for item, prediction in scorer.score(items, _policy_of(scorer, crops, aggregate, of, fraction)):
            found.append(prediction)
            progress((len(found), len(items)), unit="pictures")
            if prediction.size is not None:
                assert isinstance(item.source, ImageSource)
                small = shrunk(decode(item.source, scorer.detector.spec.decoder).image, THUMBNAIL_PX)
                words = [word for word in (prediction.verdict, prediction.status) if word not in (None, "ok")]
                thumbnails.append((small, f"{item.path}: {', '.join(map(str, words))}"))
        names = [item.path for item in items]
        _give_back_memory()
        saved = gr.update(value=str(_written(folder, names, found)), interactive=True)
        return batch_html(scorer, found), table(names, found), thumbnails, saved

    return answer


def _item_of(file: File) -> Item:
    path = Path(str(file["path"]))
    if not path.is_file():
        raise gr.Error("The upload is no longer here; drop it again.", print_exception=False)
    name = str(file.get("orig_name") or path.name)
    return Item(ImageSource(path), name, suffix_of(name))


def _policy_of(scorer: Scorer, crops: Any, aggregate: Any, of: Any, fraction: Any) -> CropPolicy:
    if scorer.detector.calibration is not None:
        return scorer.policy
    try:
        return CropPolicy(str(crops), str(aggregate), str(of), float(fraction))
    except (ConfigError, TypeError, ValueError) as error:  # a program may send anything
        raise gr.Error(str(error), print_exception=False) from error


def _pictures(scorer: Scorer, image: Image.Image, prepared: PreparedPicture) -> Iterator[tuple[Image.Image, str]]:
    """Yield the picture with its crops outlined, and maps drawn over it, each with its title."""
    shown = shrunk(image, SHOWN_PX)
    pen, scale = ImageDraw.Draw(shown), shown.width / image.width
    for crop in prepared.plan:
        box = [value * scale for value in crop.box(image.size)]
        pen.rectangle(box, outline="black", width=5)
        pen.rectangle([box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1], outline="white", width=2)
    count = len(prepared.plan)
    rest = "the rest was not looked at" if count == 1 else "outlined"
    crops = "crop" if count == 1 else f"{count} crops"
    yield shown, f"The picture, {image.width} x {image.height} px, and its {crops}; {rest}"
    detector = scorer.detector
    if not isinstance(detector, MirrorDetector) or detector.config.memory_bank is None:
        return
    with device_turn(detector):
        found = token_maps(detector, prepared, batch_size=scorer.batch_size, precision=scorer.precision)
    yield from ((drawn, title) for title, drawn in drawn_maps(image, found, MAP_PX))


def _give_back_memory() -> None:
    """Have glibc give back to the system what it keeps of freed pictures, for each of the threads that answer."""
    with suppress(AttributeError, OSError, TypeError):  # another C library, or another system
        ctypes.CDLL(None).malloc_trim(0)


def verdict_html(scorer: Scorer, name: str, prediction: Prediction) -> str:
    """Return the verdict on a picture in words, and p_fake as a bar; or why there is none."""
    title = f'<h2 dir="auto">{escape(name)}</h2>'
    if prediction.p_fake is None or prediction.logit is None:
        why = f'<p class="word">No score</p><p>{escape(prediction.reason)}</p>'
        return f'<div class="answer" role="alert">{title}{why}</div>'
    p_fake = f"{prediction.p_fake:.3f}"
    raw = "" if prediction.raw_logit is None else f" (the detector's own: {prediction.raw_logit:+.3f})"
    notes = [_NOT_A_CHANCE[prediction.raw_logit is not None]]
    if prediction.status != "ok":
        notes.insert(0, f"{prediction.status.capitalize()}: {prediction.reason}. What there is of it was scored.")
    if scorer.miniature:
        notes.append("And the miniature is no detector for the real world.")
    return (
        f'<div class="answer" role="status">{title}<p class="word">{WORDS[prediction.verdict or ""]}</p>'
        f'<div class="bar" role="img" aria-label="p_fake {p_fake}, from 0, real, to 1, fake">'
        f'<div style="width: {100 * prediction.p_fake:.2f}%"></div></div>'
        '<div class="ends"><span>0 real</span><span>0.5</span><span>1 fake</span></div>'
        f"<p><b>p_fake {p_fake}</b>, logit {prediction.logit:+.3f}{raw}</p>"
        + "".join(f"<p>{escape(note)}</p>" for note in notes)
        + "</div>"
    )


def details_html(prediction: Prediction, steps: Sequence[str]) -> str:
    """Return what a verdict rests on: the evidence in numbers, and the recipe step by step."""
    evidence = "".join(
        f"<dt>{value:.4g}</dt><dd>{escape(EVIDENCE.get(name, name))}</dd>" for name, value in prediction.evidence.items()
    )
    logits = ", ".join(f"{score.logit:+.2f}" for score in prediction.crops)
    several = f"<p>Means over the crops, whose own logits are: {logits}</p>" if len(prediction.crops) > 1 else ""
    found = prediction.origin or Origin()
    without = "" if has_credentials() else " Content Credentials were not looked for: they need mirror_pl[provenance]."
    origin = "".join(f"<li>{escape(one)}</li>" for one in found.detail.split("; ") if one)
    recipe_steps = "".join(f"<li>{escape(step)}</li>" for step in steps)
    return (
        '<div class="answer"><p>A map is evidence, not a verdict: the decision rests on means over all patches.</p>'
        f"<h3>Evidence</h3><dl>{evidence}</dl>{several}<h3>The recipe that was applied</h3><ol>{recipe_steps}</ol>"
        f"<h3>What the file says of its own origin</h3><p>{ORIGINS[found.says]} It takes no part in the "
        f"score, and anybody can write it.{without}</p><ul>{origin}</ul></div>"
    )


def batch_html(scorer: Scorer, found: Sequence[Prediction]) -> str:
    """Return what a batch comes to, in a sentence."""
    scored = sum(one.p_fake is not None for one in found)
    fakes = sum(one.is_fake is True for one in found)
    unsure = sum(one.is_unsure for one in found)
    said = f"<b>{scored} of {len(found)} scored</b>: {fakes} fake, {scored - fakes - unsure} real"
    said += f", {unsure} unsure." if unsure else "."
    return f'<div class="answer" role="status"><p>{said} {_MINIATURE if scorer.miniature else ""}</p></div>'


def table(names: Sequence[str], found: Sequence[Prediction]) -> list[list[str]]:
    """Return the rows of a batch, with `COLUMNS`."""
    return [
        [name, "" if one.p_fake is None else f"{one.p_fake:.4f}", one.verdict or "", one.status, one.reason]
        for name, one in zip(names, found, strict=True)
    ]


def _written(folder: Path, names: Sequence[str], found: Sequence[Prediction]) -> Path:
    """Write the rows of a batch, scores in full, where gradio removes files with time."""
    path = Path(tempfile.mkdtemp(dir=folder)) / "mirror_pl.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        cells = ((name, one.p_fake, one.verdict, one.status, one.reason) for name, one in zip(names, found, strict=True))
        write_csv(file, [COLUMNS, *cells], end="\r\n")
    return path
