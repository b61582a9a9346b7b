"""Any image classifier of timm, in the folder or repository that timm's hub exporter writes."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Final

import torch

from mirror_pl.detectors.checkpoint.fit import misfits
from mirror_pl.detectors.checkpoint.read import published_tensors
from mirror_pl.detectors.classifier import Classifier, FakeLabel, fake_classes
from mirror_pl.errors import CheckpointError, ConfigError, shown
from mirror_pl.files import read_json
from mirror_pl.images.spec import PreprocessSpec


class TimmClassifier(Classifier):
    """What `timm.create_model` makes of a folder's ``config.json``, if its classes are real and fake."""

    title = "timm classifier"
    licence = "that of the model: see its page on the hub"
    files = "the folder of a timm image classifier: config.json and model.safetensors"

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        fake_label: FakeLabel = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> TimmClassifier:
        """Load a classifier.

        Args:
            checkpoint: Its folder. Labels are those of ``label_names`` in its config; without them, ``0``, ``1`` and so on.
            fake_label: The label, or labels, that mean fake; None reads it off their words.
            device: Where its tensors are put.
            dtype: Of its weights.

        Raises:
            ConfigError: If timm is not installed, or it is not plain which label means fake.
            CheckpointError: If a file is missing or damaged, timm has no such model, its evaluation makes no squares of one
                size, or a tensor is missing, unexpected or misshapen.
        """
        try:
            import timm
            from timm.data import resolve_data_config
        except ImportError as error:
            raise ConfigError("detector=timm_classifier wants timm: pip install 'mirror_pl[timm]'") from error
        folder = Path(checkpoint)
        try:
            values = read_json(folder / "config.json")
            number, published = int(values["num_classes"]), values["pretrained_cfg"]
            names = list(map(str, values.get("label_names") or published.get("label_names") or range(number)))
            if len(names) != number:
                raise ValueError(f"{number} classes, and {len(names)} label_names")
            architecture, arguments = values["architecture"], values.get("model_args", {})
            if not re.fullmatch(r"[\w.]+", architecture) or _ELSEWHERE & arguments.keys():
                raise ValueError(f"architecture {shown(architecture)} with {shown(arguments)} would load other files")
            model = timm.create_model(architecture, pretrained=False, num_classes=number, **arguments)
            data = resolve_data_config(pretrained_cfg=published)
        except Exception as error:  # timm raises what it likes on values that make no sense
            raise CheckpointError(
                f"checkpoint: {folder} is no image classifier of timm: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}. Expected {cls.files}"
            ) from error
        tensors = published_tensors(folder)
        if problems := misfits(tensors, {name: tensor.shape for name, tensor in model.state_dict().items()}):
            raise CheckpointError(
                "\n".join([f"checkpoint: {folder} does not fit timm's {values['architecture']}", *problems])
            )
        model.load_state_dict(tensors)
        spec, fake = _spec_of(data, folder), fake_classes(names, fake_label)
        return cls(spec, model.to(dtype=dtype), names, fake, folder).ready(device)


_ELSEWHERE: Final = frozenset({"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"})
"""Arguments of ``timm.create_model`` by which it reads, or downloads, what is not in the folder."""


def _spec_of(data: dict[str, Any], folder: Path) -> PreprocessSpec:
    """Return the recipe that timm's transform of an evaluation follows."""
    try:
        _channels, height, width = data["input_size"]
        mode = data.get("crop_mode") or "center"
        if height != width or mode not in ("center", "squash"):
            raise ValueError(f"{height} x {width} px with crop_mode {shown(mode)}; known are squares, with center or squash")
        resized = math.floor(height / data["crop_pct"])
        return PreprocessSpec(
            max_short_side_px=None,
            short_side_px=resized if mode == "center" else None,
            squash_px=resized if mode == "squash" else None,
            resample=data["interpolation"],
            crop_px=height,
            align_suffixes=(),
            mean=data["mean"],
            std=data["std"],
        )
    except (ConfigError, ValueError, TypeError, KeyError, ArithmeticError) as error:
        raise CheckpointError(f"checkpoint: the evaluation of {folder} makes no recipe: {error}") from error
