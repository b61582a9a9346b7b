"""What an evaluation looks like on Weights & Biases: figures, tables, curves, histograms and sample images of a run.

Everything is computed from the prediction table and the report, so that it can be computed again; docs/wandb.md shows which
panels it is for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from mirror_pl.labels import FAKE, LABEL_NAMES, REAL
from mirror_pl.reports.published_csv import Delta
from mirror_pl.scores import METRICS, BenchmarkScores
from mirror_pl.scores.columns import Columns, columns, distinct_rows, rows_by_subset
from mirror_pl.scores.curves import Curve, precision_recall_curve, roc_curve, thin

if TYPE_CHECKING:
    from PIL import Image

    from mirror_pl.benchmarks import Manifest

CURVE_POINTS: Final = 200
"""Most points that a curve is drawn with. W&B draws 10,000 rows of a table: 50 subsets."""

CHARTS: Final = (
    ("roc", "ROC: true positive rate over false positive rate", "false positive rate"),
    ("precision_recall", "Precision over recall", "recall"),
)
"""Key, title and x axis of the charts of curves."""

PUBLISHED_COLUMNS: Final = ("benchmark", "group", "detector", "source", "published", "measured", "difference")

BINS: Final = 50
"""Bins of the histograms of p_fake, over [0, 1]."""


@dataclass(frozen=True)
class SampleImage:
    """An image that is worth a look.

    Attributes:
        kind: Why.
        image: As small as it is shown.
        path: Relative to data_root.
        subset: Where it is from.
        label: 0 real, 1 fake.
        p_fake: What the detector says.
        logit: Likewise.
    """

    kind: str
    image: Image.Image
    path: str
    subset: str
    label: int
    p_fake: float
    logit: float


def figures_of(benchmark: str, scores: BenchmarkScores) -> dict[str, float]:
    """Return the figures that are defined, as fractions, for the run's summary.

    ``BENCHMARK/METRIC`` is the mean over subsets, ``BENCHMARK/pooled/METRIC`` and ``BENCHMARK/SUBSET/METRIC`` are theirs.
    """
    named: dict[str, Mapping[str, float | None]] = {benchmark: scores.mean, f"{benchmark}/pooled": scores.pooled.metrics}
    named |= {f"{benchmark}/{row.subset}": row.metrics for row in scores.rows}
    return {
        f"{where}/{name}": value
        for where, metrics in named.items()
        for name in METRICS
        if (value := metrics[name]) is not None
    }


def log_evaluation(
    run: Any,
    manifest: Manifest,
    table: pa.Table,
    scores: BenchmarkScores,
    compared: Sequence[Delta],
    detector: str,
    samples: Sequence[SampleImage],
) -> None:
    """Send an evaluation to its run.

    Args:
        run: The run, of ``wandb.init``.
        manifest: The benchmark.
        table: The prediction table.
        scores: The report.
        compared: The published numbers beside the measured one; where there are none, the measured one stands alone.
        detector: Its name, as in "mirror/dinov3_l".
        samples: Images to be shown; none makes no table of them.
    """
    import wandb

    run.summary.update(figures_of(manifest.name, scores))
    data = columns(table)
    subsets = [
        [manifest.name, row.subset, row.reals, row.fakes, row.unscored, *(row.metrics[name] for name in METRICS)]
        for row in scores.rows
    ]
    published = [
        [manifest.name, manifest.group, each.detector, each.source, each.published, each.measured, each.difference]
        for each in compared
    ]
    alone = [manifest.name, manifest.group, detector, "", None, scores.mean["bal_acc"], None]
    galleries, images = _images(samples)
    run.log({**_histograms(data), **galleries})
    # Online, W&B asks its server about each table: what needs no answer comes first.
    logged = {
        "subsets": wandb.Table(columns=["benchmark", "subset", "reals", "fakes", "unscored", *METRICS], data=subsets),
        "published": wandb.Table(columns=list(PUBLISHED_COLUMNS), data=published or [alone]),
        **_curves(data),
        **images,
    }
    run.log(logged)


def upload_predictions(run: Any, file: Path) -> None:
    """Send the prediction table itself, as an artifact; its paths and scores say which images it was."""
    import wandb

    artifact = wandb.Artifact(f"predictions-{run.id}", type="predictions")
    artifact.add_file(str(file))
    run.log_artifact(artifact)


def _curves(data: Columns) -> dict[str, Any]:
    """Draw a line for each subset that has both classes, in the order of the table."""
    from wandb import plot

    lines: dict[str, tuple[Curve, Curve]] = {}
    for name, rows in zip(data.names, rows_by_subset(data), strict=True):
        label, p_fake = data.label[rows][data.scored[rows]], data.p_fake[rows][data.scored[rows]]
        if (label == REAL).any() and (label == FAKE).any():
            both = roc_curve(label, p_fake), precision_recall_curve(label, p_fake)
            lines[name] = (thin(both[0], CURVE_POINTS), thin(both[1], CURVE_POINTS))
    if not lines:
        return {}
    charts = {}
    for position, (key, title, x_name) in enumerate(CHARTS):
        drawn = [curves[position] for curves in lines.values()]
        xs, ys = [curve.x.tolist() for curve in drawn], [curve.y.tolist() for curve in drawn]
        charts[key] = plot.line_series(xs, ys, keys=list(lines), title=title, xname=x_name)
    return charts


def _histograms(data: Columns) -> dict[str, Any]:
    """Count p_fake by label, each image once."""
    import wandb

    histograms = {}
    rows = distinct_rows(data)
    for label, name in enumerate(LABEL_NAMES):
        here = rows[data.scored[rows] & (data.label[rows] == label)]
        if len(here):
            counted = np.histogram(data.p_fake[here].astype(np.float64), bins=BINS, range=(0.0, 1.0))
            histograms[f"p_fake/{name}"] = wandb.Histogram(np_histogram=counted)
    return histograms


def _images(samples: Sequence[SampleImage]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make a gallery of each kind, and a table of all, by their keys; nothing where there are no samples.

    A gallery's files are in the run's folder, also where it is kept on this machine; a table's images wait where W&B keeps
    the files of artifacts.
    """
    import wandb

    galleries: dict[str, Any] = {}
    for kind in dict.fromkeys(sample.kind for sample in samples):
        shown = [sample for sample in samples if sample.kind == kind]
        captions = [f"{LABEL_NAMES[s.label]}, p_fake {s.p_fake:.3f}, {s.subset}: {s.path}" for s in shown]
        galleries[f"samples/{kind}"] = [
            wandb.Image(image, caption=caption, file_type="jpg")
            for image, caption in zip(_equally_large([sample.image for sample in shown]), captions, strict=True)
        ]
    rows = [
        [
            wandb.Image(sample.image, file_type="jpg"),
            *(sample.kind, sample.path, sample.subset, LABEL_NAMES[sample.label], sample.p_fake, sample.logit),
        ]
        for sample in samples
    ]
    columns: list[str | int] = ["image", "kind", "path", "subset", "label", "p_fake", "logit"]
    return galleries, {"images": wandb.Table(columns=columns, data=rows)} if samples else {}


def _equally_large(images: Sequence[Image.Image]) -> list[Image.Image]:
    """Put images onto grey ones of the size that holds all: W&B lays a gallery out by its first image."""
    from PIL import Image

    size = (max(image.width for image in images), max(image.height for image in images))
    padded = []
    for image in images:
        canvas = Image.new("RGB", size, (128, 128, 128))
        canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
        padded.append(canvas)
    return padded
