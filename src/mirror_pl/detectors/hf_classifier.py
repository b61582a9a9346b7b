"""Any image classifier of Hugging Face transformers, in its own folder, with its own image processor's recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from mirror_pl.detectors.classifier import Classifier, FakeLabel, fake_classes
from mirror_pl.errors import CheckpointError, ConfigError, name_list, shown
from mirror_pl.images.spec import PreprocessSpec

PROCESSORS: Final = ("ViT", "DeiT", "Bit", "CLIP", "Siglip", "ConvNext")
"""Image processors whose settings make a recipe of ours, pixel for pixel; Swin and DINOv2 use the first and the third."""


class HfClassifier(Classifier):
    """What transformers' `AutoModelForImageClassification` makes of a folder, if its classes are real and fake."""

    title = "Hugging Face classifier"
    licence = "that of the model: see its page on the hub"
    files = "the folder of a Hugging Face image classifier: config.json, model.safetensors and preprocessor_config.json"

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        fake_label: FakeLabel = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> HfClassifier:
        """Load a classifier. No code of its repository is run, and weights are read from safetensors only.

        Args:
            checkpoint: Its folder.
            fake_label: The label, or labels, that mean fake; None reads it off their words.
            device: Where its tensors are put.
            dtype: Of its weights.

        Raises:
            CheckpointError: If a file is missing, damaged, or of a model or a processor that is not known; or if a tensor is
                missing, unexpected or misshapen.
            ConfigError: If it is not plain which label means fake.
        """
        from transformers import AutoImageProcessor, AutoModelForImageClassification, __version__

        folder = Path(checkpoint)
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"checkpoint: no config.json in {folder}. Expected {cls.files}")
        slow: dict[str, Any] = {"use_fast": False} if __version__.startswith("4.") else {"backend": "pil"}
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            processor = AutoImageProcessor.from_pretrained(folder, **slow, **local)
            model, info = AutoModelForImageClassification.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, dtype=dtype, **local
            )
        except Exception as error:  # transformers raises what it likes on files that make no sense
            raise CheckpointError(
                f"checkpoint: {folder} cannot be loaded by transformers as an image classifier: "
                f"{' '.join(str(error).split())[:300]}. Expected {cls.files}"
            ) from error
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if names := sorted(map(str, info.get(what, ()))):
                raise CheckpointError(f"checkpoint: {folder} has {what.replace('_', ' ')}: {name_list(names, 4)}")
        named = model.config.id2label
        if sorted(named) != list(range(len(named))):
            raise CheckpointError(f"checkpoint: {folder / 'config.json'} has labels for the classes {sorted(named)}")
        labels = [str(named[number]) for number in range(len(named))]
        spec = spec_of(type(processor).__name__, processor.to_dict(), folder)
        return cls(spec, model, labels, fake_classes(labels, fake_label), folder).ready(device)


def spec_of(kind: str, values: Mapping[str, Any], folder: Path) -> PreprocessSpec:
    """Return the recipe that an image processor's settings make.

    Args:
        kind: Its class.
        values: What its `to_dict` says.
        folder: Where it is from, for messages.

    Raises:
        CheckpointError: If it is of a kind that is not known, or does not make every image a square of one size.
    """
    try:
        return _spec_of(kind, values, folder)
    except (ConfigError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"checkpoint: the image processor of {folder} makes no recipe: {error}") from error


def _spec_of(kind: str, values: Mapping[str, Any], folder: Path) -> PreprocessSpec:
    name = kind.removesuffix("Fast").removesuffix("Pil").removesuffix("ImageProcessor")
    if name not in PROCESSORS:
        raise CheckpointError(
            f"checkpoint: the image processor of {folder} is a {kind}; known are {', '.join(PROCESSORS)}. Write a detector "
            "of your own around it: docs/adding-a-detector.md"
        )
    size, crop = values.get("size") or {}, values.get("crop_size") or {}
    short, squash = size.get("shortest_edge"), size.get("height") if size.get("height") == size.get("width") else None
    centre = crop.get("height") if values.get("do_center_crop") and crop.get("height") == crop.get("width") else None
    if name == "ConvNext" and short is not None:
        below = short < LARGE_CONVNEXT_PX
        short, squash, centre = (int(short / values["crop_pct"]), None, short) if below else (None, short, None)
    side = centre or squash
    if not values.get("do_resize", True) or side is None or (short is None) == (squash is None):
        raise CheckpointError(
            f"checkpoint: the image processor of {folder} does not make squares of one size: size {shown(dict(size))}, crop "
            f"{shown(dict(crop))}, do_resize {values.get('do_resize')}"
        )
    scale = 255 * (values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1)
    if abs(scale - 1) < 1e-9:
        scale = 1  # the file's 0.00392156862745098 is 1 / 255
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if values.get("do_normalize", True):
        mean, std = (_of_channels(values[name]) for name in ("image_mean", "image_std"))
    resample: Any = Image.Resampling(values.get("resample", 2)).name.lower()
    return PreprocessSpec(
        max_short_side_px=None,
        short_side_px=short,
        squash_px=squash,
        resample=resample,
        crop_px=side,
        crop_from="floor",
        align_suffixes=(),
        mean=_of_channels(mean, scale),
        std=_of_channels(std, scale),
    )


def _of_channels(values: Sequence[float], scale: float = 1) -> tuple[float, float, float]:
    red, green, blue = (float(value) / scale for value in values)
    return red, green, blue


LARGE_CONVNEXT_PX: Final = 384
"""From this size on, ConvNeXt squashes; below, it resizes a little larger and cuts the centre."""
