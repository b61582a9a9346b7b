"""B-Free: DINOv2 ViT-B/14 with registers over five windows of the whole image, and a linear layer over its CLS token.

The published code cuts the windows from the map of patches, not from the image. Cut from the image at multiples of the
patch they are the same, so that here an image is five crops (`plan_crops`' ``windows``) and travels as several crops of any
detector do: windows of images of all sizes make up a batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from mirror_pl.detectors.aggregation import CropPolicy
from mirror_pl.detectors.baseline import (
    AskedSize,
    Baseline,
    VitSize,
    asked_size,
    assembled,
    check_depth,
    check_fit,
    tensor_shapes,
)
from mirror_pl.detectors.checkpoint.names import from_original_names
from mirror_pl.detectors.checkpoint.read import read_checkpoint
from mirror_pl.detectors.verdict import Verdict
from mirror_pl.errors import CheckpointError, shown
from mirror_pl.files import read_yaml
from mirror_pl.images.spec import PreprocessSpec

VIT_B: Final = VitSize(width=768, depth=12, heads=12, mlp_width=3072)
"""The published size."""
SPEC: Final = PreprocessSpec(max_short_side_px=None, crop_px=504, align_suffixes=())
WINDOWS: Final = CropPolicy(crops="windows", aggregate="mean", of="logit")
PATCH_PX: Final = 14
REGISTERS: Final = 4

CONFIG_FILE: Final = "config.yaml"
WEIGHTS_FILE: Final = "model_epoch_best.pth"
PUBLISHED_CONFIG: Final = {"arch": "timm_c5i504_vit_base_patch14_reg4_dinov2.lvd142m", "norm_type": "resnet"}
"""What the config beside the weights says of them: backbone, windows and normalisation."""


class RegisterBackbone(nn.Module):
    """DINOv2 with registers, for windows of one size; the position table has one row more than the file's, for CLS."""

    def __init__(self, size: VitSize) -> None:
        super().__init__()
        from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

        config = Dinov2WithRegistersConfig(
            hidden_size=size.width,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            mlp_ratio=size.mlp_width // size.width,
            patch_size=PATCH_PX,
            image_size=SPEC.crop_px,
            num_register_tokens=REGISTERS,
        )
        self.model: nn.Module = Dinov2WithRegistersModel(config)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the CLS token ``(B, D)`` of normalised pixels ``(B, 3, 504, 504)``."""
        return self.model(pixel_values=pixels).last_hidden_state[:, 0]


class BfreeDetector(Baseline):
    """B-Free as published; what it scores are windows, and `protocol` makes an image's logit of those of its five.

    Args:
        size: Of the backbone.
    """

    title = "B-Free"
    licence = "code and weights by GRIP-UNINA, for non-profit use only; DINOv2, which they are built on, Apache-2.0"
    restricted = True
    files = "the folder BFREE_dino2reg4, of config.yaml and model_epoch_best.pth"
    protocol: ClassVar[CropPolicy] = WINDOWS

    def __init__(self, size: VitSize = VIT_B) -> None:
        super().__init__(SPEC, RegisterBackbone(size), nn.Linear(size.width, 1), size=size)

    def feature(self, pixels: Tensor) -> Tensor:
        """Return the CLS token ``(B, D)`` of normalised pixels ``(B, 3, 504, 504)``."""
        feature: Tensor = self.backbone(pixels)
        return feature

    def score(self, pixels: Tensor) -> Verdict:
        """Score windows ``(B, 3, 504, 504)`` in [0, 1]; of windows that are equal, one."""
        kept, place = distinct_windows(pixels)
        verdict = super().score(pixels if len(kept) == len(pixels) else pixels[kept])
        return Verdict(
            verdict.logit[place], verdict.p_fake[place], {name: value[place] for name, value in verdict.evidence.items()}
        )

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        size: AskedSize = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> BfreeDetector:
        """Load the published ``BFREE_dino2reg4``.

        Weights stay mapped from the file until they are used; it must not be written to meanwhile.

        Args:
            checkpoint: The folder of ``config.yaml`` and ``model_epoch_best.pth``, or the latter; a config beside it must
                then be that of this detector.
            size: Of its backbone, which it does not carry.
            device: Where its tensors are put, whichever device it was saved from.
            dtype: Of the backbone's weights; the linear layer is float32 always.

        Raises:
            CheckpointError: If a file is missing, damaged, unsafe or of another detector, or any tensor is missing,
                unexpected or of the wrong shape.
        """
        path, size = _weights_of(Path(checkpoint)), asked_size(size, VIT_B)
        tensors = from_original_names(read_checkpoint(path).tensors)
        what = f"B-Free (DINOv2 with patch {PATCH_PX} and {REGISTERS} registers, {size})"
        check_depth(tensors, cls.layers, size.depth, path, what)
        with torch.device("meta"):
            shapes = tensor_shapes(cls(size))
        mask_token = shapes.pop(_MASK)  # for training: no window is masked, and timm has none
        shapes[_TABLE] = torch.Size((1, (SPEC.crop_px // PATCH_PX) ** 2, size.width))
        check_fit(tensors, shapes, path, what)
        tensors[_MASK] = torch.zeros(mask_token)
        # Patches have positions, the class token and the registers have none; adding zero changes nothing.
        tensors[_TABLE] = torch.cat([torch.zeros(1, 1, size.width), tensors[_TABLE].float()], dim=1)
        return assembled(lambda: cls(size), tensors, path, what, device, dtype)


def distinct_windows(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return which windows to score, and for each window which of these is like it.

    An image of 504 px or less has five equal windows, one that is narrow or low two pairs of them. Windows are compared
    with the four before them, pixel by pixel: on any device that is nothing beside scoring one.

    Args:
        pixels: ``(B, 3, H, W)``.

    Returns:
        Two int64 vectors on the device of the pixels: ``(K,)`` ascending, and ``(B,)`` with values below K.
    """
    number = len(pixels)
    like = list(range(number))
    for back in range(1, min(WINDOWS.count, number)):
        same = (pixels[back:] == pixels[:-back]).flatten(1).all(dim=1).tolist()
        for later, is_same in enumerate(same, start=back):
            if is_same:
                like[later] = min(like[later], later - back)
    kept = [window for window in range(number) if like[window] == window]
    position = {window: place for place, window in enumerate(kept)}
    for window in range(number):  # ascending, so that what a window is like has its place already
        position.setdefault(window, position[like[window]])
    return (
        torch.tensor(kept, device=pixels.device),
        torch.tensor([position[window] for window in range(number)], device=pixels.device),
    )


_TABLE = "backbone.embeddings.position_embeddings"
_MASK = "backbone.embeddings.mask_token"


def _weights_of(path: Path) -> Path:
    """Return the file of the weights, after a look at the config beside it."""
    config_file = (path if path.is_dir() else path.parent) / CONFIG_FILE
    if not config_file.is_file():
        if path.is_dir():
            raise CheckpointError(
                f"checkpoint: no {CONFIG_FILE} in the folder {path}; expected that and {WEIGHTS_FILE} of B-Free"
            )
        return path
    config = _read_config(config_file)
    for key, expected in PUBLISHED_CONFIG.items():
        if config.get(key) != expected:
            raise CheckpointError(
                f"checkpoint: {config_file} has {key} = {shown(config.get(key))}; B-Free's has {expected!r}"
            )
    name = config.get("weights_file", WEIGHTS_FILE)
    if not isinstance(name, str) or Path(name).name != name:
        raise CheckpointError(f"checkpoint: {config_file} names weights outside its folder: {shown(name)}")
    return path / name if path.is_dir() else path


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = read_yaml(file, limit=2**14)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint: {file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"checkpoint: {file} is damaged: expected keys and values, got {shown(config)}")
    return config
