"""What was done to a picture before a detector saw it, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mirror_pl.detectors import CropPolicy
from mirror_pl.images import Crop, PreprocessSpec

_WORDS = {"mean": "mean", "median": "median", "topk": "mean of the largest", "max": "largest"}


def recipe(
    size: tuple[int, int], plan: Sequence[Crop], spec: PreprocessSpec, policy: CropPolicy, name: str
) -> Iterator[str]:
    """Yield the steps in their order.

    Args:
        size: Width and height of the decoded picture, in pixels.
        plan: The crops that were cut.
        spec: What they were cut and aligned by.
        policy: What became of their logits.
        name: Of the file, whose suffix decides about the alignment.
    """
    turned = "turned by EXIF, as OpenCV does" if spec.decoder == "opencv" else "not turned by EXIF"
    yield f"Decoded to RGB at {_by(size)} px, {turned}, transparency dropped."
    yield from _resizing(size, plan, spec)
    yield from _cutting(plan)
    yield _alignment(spec, Path(name).suffix.lower(), len(plan))
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (spec.mean, spec.std))
    yield f"Normalised by channel: minus the mean ({mean}), over the standard deviation ({std}), of values from 0 to 1."
    yield _aggregation(policy, len(plan))


def _resizing(size: tuple[int, int], plan: Sequence[Crop], spec: PreprocessSpec) -> Iterator[str]:
    for resized in dict.fromkeys(crop.resized for crop in plan):
        if resized != size:
            how = "bilinear as OpenCV does, without" if spec.resample == "opencv" else f"{spec.resample}, with"
            yield f"Resized from {_by(size)} to {_by(resized)} px, {how} antialiasing."
        elif spec.max_short_side_px is not None and min(size) <= spec.max_short_side_px:
            yield f"Not resized: the shorter side, {min(size)} px, is not above {spec.max_short_side_px} px."
        else:
            yield "Not resized."


def _cutting(plan: Sequence[Crop]) -> Iterator[str]:
    for resized in dict.fromkeys(crop.resized for crop in plan):
        crops = [crop for crop in plan if crop.resized == resized]
        side = crops[0].side
        places = ", ".join(dict.fromkeys(f"({crop.left}, {crop.top})" for crop in crops))
        count = "One crop" if len(crops) == 1 else f"{len(crops)} crops"
        where = f", in the picture of {_by(resized)} px," if len({crop.resized for crop in plan}) > 1 else ""
        yield f"{count} of {side} x {side} px{where} cut at {places}, from the left and the top."
        if any(crop.period is not None for crop in crops):
            yield "The picture is smaller than a crop, and was repeated."
        elif min(resized) < side:
            yield "The picture is smaller than a crop, and was padded with zeros."


def _alignment(spec: PreprocessSpec, suffix: str, count: int) -> str:
    each = "The crop was" if count == 1 else "Each crop was"
    because = f"because the file's name ends in {suffix}" if suffix else "because the file's name has no suffix"
    if suffix in spec.align_suffixes:
        return f"{each} compressed to JPEG at quality {spec.align_quality} and decoded again, {because}."
    if not spec.align_suffixes:
        return f"{each} not compressed to JPEG: this detector asks for it with no format."
    return f"{each} not compressed to JPEG, {because}: that is for {' and '.join(spec.align_suffixes)}."


def _aggregation(policy: CropPolicy, count: int) -> str:
    if count == 1:
        return "The score is that of the one crop."
    part = f", {policy.top_fraction:.0%} of them" if policy.aggregate == "topk" else ""
    return f"The score is the {_WORDS[policy.aggregate]} of the crops' {policy.of}s{part}."


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
