"""The linear probes of "Simplicity Prevails" (arXiv 2602.01738): a linear layer over the class token of a known backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from mirror_pl.detectors.backbone import ABSENT_BIASES, Backbone
from mirror_pl.detectors.baseline import Baseline, VitSize, assembled, check_depth
from mirror_pl.detectors.checkpoint.backbone_folder import read_backbone_folder
from mirror_pl.detectors.checkpoint.names import our_name
from mirror_pl.detectors.checkpoint.read import published_tensors
from mirror_pl.detectors.clip import ClipDetector, clip_tower, number_positions, read_clip_config
from mirror_pl.detectors.dda import resampled_positions
from mirror_pl.detectors.detector_config import BackboneConfig
from mirror_pl.errors import CheckpointError, ConfigError
from mirror_pl.files import read_json
from mirror_pl.images.spec import IMAGENET_MEAN, IMAGENET_STD, PreprocessSpec

CROP_PX: Final = 224
DINO_SHORT_SIDE_PX: Final = 256
_TABLE = "backbone.embeddings.position_embeddings"


class SimplicityDetector(Baseline):
    """dinov2lin, dinov3lin or metacliplin.

    Args:
        dino: The backbone of the first two; its position table is that of 224 px already.
        clip: Size of the backbone of the third; None of the others.
        mean: Per RGB channel; the third has it from the folder of its backbone.
        std: Likewise.
    """

    title = "Simplicity Prevails"
    licence = "code and linear layers Apache-2.0; DINOv2 Apache-2.0, DINOv3 DINOv3 License, MetaCLIP CC BY-NC 4.0"
    restricted = True
    files = "dinov2lin0.pth, dinov3lin0.pth or metacliplin0.pth, and the config.json of its backbone"

    def __init__(
        self,
        dino: BackboneConfig | None = None,
        clip: VitSize | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        if (dino is None) == (clip is None):
            raise ConfigError("a linear probe has a DINO backbone or a CLIP backbone, one of the two")
        short = CROP_PX if dino is None else DINO_SHORT_SIDE_PX
        spec = PreprocessSpec(
            max_short_side_px=None, short_side_px=short, crop_px=CROP_PX, align_suffixes=(), mean=mean, std=std
        )
        built: Any = {"dino": dino, "clip": clip, "mean": mean, "std": std}
        if dino is not None:
            super().__init__(spec, Backbone(dino), nn.Linear(dino.width, 2), **built)
        elif clip is not None:
            super().__init__(spec, clip_tower(clip, None), nn.Linear(clip.width, 2), **built)
        self.dino = dino

    @property
    def name(self) -> str:
        """Which of the probes."""
        return "metacliplin" if self.dino is None else f"{self.dino.family}lin"

    def restore_constants(self) -> None:
        """Make anew what no file carries."""
        if isinstance(self.backbone, Backbone):
            self.backbone.restore_constants()
        else:
            number_positions(self.backbone)

    def feature(self, pixels: Tensor) -> Tensor:
        """Return the class token ``(B, D)`` after the last layer norm."""
        found: Tensor = self.backbone(pixels).cls if self.dino else self.backbone(pixel_values=pixels).image_embeds
        return found

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        backbone_folder: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> SimplicityDetector:
        """Load a published file, which holds the backbone's weights too.

        The published code takes whatever fits and leaves the rest as it is; here all must fit.

        Args:
            checkpoint: The file.
            backbone_folder: The Hugging Face folder of the backbone; its ``config.json`` says what the backbone is, and for
                MetaCLIP its ``preprocessor_config.json`` the mean and std.
            device: Where its tensors are put, whichever device it was saved from.
            dtype: Of the backbone's weights; the linear layer is float32 always.

        Raises:
            CheckpointError: If a file is missing, damaged, unsafe or of another backbone, or any tensor is missing,
                unexpected or misshapen.
        """
        path, folder = Path(checkpoint), Path(backbone_folder)
        raw = published_tensors(path)
        if _is_clip(folder):
            size, _ = read_clip_config(folder / "config.json")
            tensors = {name.replace("backbone.", "backbone.vision_model.", 1): tensor for name, tensor in raw.items()}
            what, layers = f"a linear probe of CLIP (patch 14, {size})", ClipDetector.layers
            check_depth(tensors, layers, size.depth, path, what)
            mean, std = _normalisation(folder / "preprocessor_config.json")
            return assembled(lambda: cls(None, size, mean, std), tensors, path, what, device, dtype)
        config = read_backbone_folder(folder)
        tensors = {our_name(name.replace("backbone.", "backbone.model.", 1)): tensor for name, tensor in raw.items()}
        for letter in _absent_biases(folder):
            names = (f"{cls.layers}{layer}.attention.{letter}.bias" for layer in range(config.depth))
            tensors |= {name: torch.zeros(config.width) for name in names if name not in tensors}
        what = f"a linear probe of {config}"
        check_depth(tensors, cls.layers, config.depth, path, what)
        if config.family == "dinov2":
            edge, table = config.native_px // config.patch_px, tensors.get(_TABLE)
            if table is None or table.shape != (1, 1 + edge * edge, config.width):
                raise CheckpointError(
                    f"checkpoint: {path} does not fit {what}: no position table of {edge} x {edge} for the "
                    f"{config.native_px} px that {folder / 'config.json'} says"
                )
            config = BackboneConfig(
                config.family, config.width, config.depth, config.heads, config.mlp_width, patch_px=config.patch_px,
                native_px=CROP_PX,
            )  # fmt: skip
            tensors[_TABLE] = resampled_positions(table, CROP_PX // config.patch_px, more=0)
        return assembled(lambda: cls(config), tensors, path, what, device, dtype)


def _is_clip(folder: Path) -> bool:
    """Whether the config in a folder is of a CLIP; what is wrong with one is said when it is read."""
    try:
        kind = read_json(folder / "config.json")["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return isinstance(kind, str) and kind.startswith("clip")


def _absent_biases(folder: Path) -> list[str]:
    """Return which of q and v have no bias in a backbone that `read_backbone_folder` has read."""
    values = read_json(folder / "config.json")
    return [letter for name, letter in ABSENT_BIASES.items() if values.get(name) is False]


def _normalisation(file: Path) -> tuple[Any, Any]:
    """Return the mean and std of a Hugging Face image processor; without it, the published code would take ImageNet's."""
    try:
        values = read_json(file)
        mean, std = (tuple(float(value) for value in values[name]) for name in ("image_mean", "image_std"))
        PreprocessSpec(mean=mean, std=std)  # type: ignore[arg-type]  # it checks how many there are
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f"backbone_folder: no mean and std of the image processor in {file} ({error!r}); it belongs to the backbone's "
            "folder on the hub"
        ) from error
    return mean, std
