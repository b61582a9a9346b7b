"""UnivFD (UniversalFakeDetect): CLIP ViT-L/14 as it is, and a linear layer over its image embedding."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mirror_pl.detectors.backbone import completed_config
from mirror_pl.detectors.checkpoint.backbone_folder import CONFIG, read_tensors
from mirror_pl.detectors.checkpoint.names import substitute
from mirror_pl.detectors.checkpoint.read import read_checkpoint
from mirror_pl.detectors.linear_detector import LinearDetector, VitSize, check_depth, check_fit, filled
from mirror_pl.errors import CheckpointError, ConfigError, shown
from mirror_pl.files import read_json
from mirror_pl.images.spec import CLIP_MEAN, CLIP_STD, PreprocessSpec

VIT_L: Final = VitSize(width=1024, depth=24, heads=16, mlp_width=4096)
"""The published size."""
PROJECTION: Final = 768
"""Features of its embedding."""
SPEC: Final = PreprocessSpec(max_short_side_px=None, crop_px=224, align_suffixes=(), mean=CLIP_MEAN, std=CLIP_STD)
"""The central crop of the image as it is, padded with zeros."""
PATCH_PX: Final = 14

_SETTINGS: Final[dict[str, Any]] = {
    "image_size": SPEC.crop_px,
    "patch_size": PATCH_PX,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "num_channels": 3,
}
"""What a CLIP must have to be this one, besides its size."""
_SIZES: Final = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "projection_dim")


class UnivfdDetector(LinearDetector):
    """UnivFD as published; its embedding is projected, and not brought to length 1.

    Args:
        size: Of CLIP's vision transformer.
        projection: Features of the embedding.
    """

    title = "UnivFD"
    licence = "code and fc_weights.pth MIT; OpenAI's CLIP, code and weights, MIT"

    def __init__(self, size: VitSize = VIT_L, projection: int = PROJECTION) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        config = CLIPVisionConfig(
            hidden_size=size.width,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            intermediate_size=size.mlp_width,
            projection_dim=projection,
            **_SETTINGS,
        )
        super().__init__(SPEC, CLIPVisionModelWithProjection(config), size, projection)

    def description(self) -> dict[str, Any]:
        """Return what it is, in plain values."""
        return {**super().description(), "projection": self.head.in_features}

    def restore_constants(self) -> None:
        """Number the positions, which no file need do."""
        embeddings: Any = self.backbone.get_submodule("vision_model.embeddings")
        embeddings.position_ids = torch.arange(embeddings.position_ids.shape[1])[None]

    def feature(self, pixels: Tensor) -> Tensor:
        """Return the embedding ``(B, D)`` of normalised pixels ``(B, 3, 224, 224)``."""
        return self.backbone(pixel_values=pixels).image_embeds


def load_univfd(
    fc_weights: str | Path,
    clip: str | Path,
    *,
    size: VitSize = VIT_L,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> UnivfdDetector:
    """Load the published ``fc_weights.pth`` and the CLIP it belongs to, which it does not hold.

    Args:
        fc_weights: The linear layer.
        clip: A Hugging Face folder with ``config.json`` and ``model.safetensors`` of a CLIP, text half included or not, such
            as that of openai/clip-vit-large-patch14; or a file of tensors under the names of OpenAI's own code. OpenAI's
            ``ViT-L-14.pt`` itself is a TorchScript archive, which is a program: it is refused, and the message says how to
            convert it.
        size: Of CLIP's vision transformer; a folder says it itself.
        device: Where the tensors are put, whichever device they were saved from.
        dtype: Of CLIP's weights, whatever they are stored in: the published code computes in float32, though OpenAI's file
            has half precision. The linear layer is float32 always.

    Raises:
        CheckpointError: If a file is missing, damaged, unsafe or of another CLIP, or any tensor is missing, unexpected or of
            the wrong shape.
    """
    head_path, clip_path = Path(fc_weights), Path(clip)
    head = dict(read_checkpoint(head_path).tensors)
    projection = PROJECTION
    if clip_path.is_dir():
        size, projection = _read_clip_config(clip_path / CONFIG)
        tensors = read_tensors(clip_path)
        tensors = {name: tensor for name, tensor in tensors.items() if not _PASSED_OVER.match(name)}
    else:
        tensors = _from_openai_names(_read_openai_file(clip_path))
        if "visual_projection.weight" in tensors and tensors["visual_projection.weight"].ndim == 2:
            projection = tensors["visual_projection.weight"].shape[0]
    clip_is = f"CLIP (patch {PATCH_PX}, {size})"
    check_depth(tensors, "vision_model.encoder.layers.", size, clip_path, clip_is)
    with torch.device("meta"):
        detector = UnivfdDetector(size, projection)
    shapes = {name.removeprefix("backbone."): tensor.shape for name, tensor in detector.backbone.state_dict().items()}
    check_fit(tensors, shapes, clip_path, clip_is)
    what = f"UnivFD's linear layer over the {projection} features of the CLIP in {clip_path}"
    check_fit(head, {name: tensor.shape for name, tensor in detector.head.state_dict().items()}, head_path, what)
    live = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
    return filled(detector, live | {f"head.{name}": tensor for name, tensor in head.items()}, device, dtype)


_PASSED_OVER = re.compile(r"^(text_model\.|text_projection\.|logit_scale$|vision_model\.embeddings\.position_ids$)")
"""In a folder: CLIP's text half, and a constant that older files carry."""


def _read_clip_config(file: Path) -> tuple[VitSize, int]:
    """Return size and projection of the CLIP that a Hugging Face config describes.

    Raises:
        CheckpointError: If there is none, or it describes another model.
    """
    if not file.is_file():
        raise CheckpointError(f"backbone.path: no {file.name} in {file.parent}. {_EXPECTED}")
    try:
        values = read_json(file)
        kind = values["model_type"]
        if kind == "clip":
            projection = values.get("projection_dim")
            values = dict(values["vision_config"])
            if projection is not None:
                values["projection_dim"] = projection
        elif kind != "clip_vision_model":
            raise CheckpointError(f"backbone.path: {file} describes a {shown(kind)} model. {_EXPECTED}")
        full = completed_config("clip_vision_model", values, _SIZES, _SETTINGS)
        size = VitSize(full.hidden_size, full.num_hidden_layers, full.num_attention_heads, full.intermediate_size)
        projection = full.projection_dim
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"backbone.path: {file} is no config of a CLIP ({error!r}). {_EXPECTED}") from error
    for name, expected in _SETTINGS.items():
        if getattr(full, name) != expected:
            raise CheckpointError(
                f"backbone.path: {file} has {name} = {shown(getattr(full, name))}; UnivFD's CLIP has {expected!r}. "
                f"{_EXPECTED}"
            )
    return size, projection


_EXPECTED = "Expected the Hugging Face folder of openai/clip-vit-large-patch14, or of its vision half"


def _read_openai_file(path: Path) -> Mapping[str, Tensor]:
    """Return what a file of OpenAI's layout holds of the vision transformer.

    Raises:
        CheckpointError: If it is a TorchScript archive, or as `read_checkpoint`.
    """
    if _is_program(path):
        raise CheckpointError(
            f"backbone.path: {path} is a TorchScript archive, which is a program with tensors in it, and is not loaded "
            f"here. {_EXPECTED}: the same weights. Or, if you trust the file, take its tensors out of it once:\n"
            f"  python -c \"import torch; torch.save(torch.jit.load('{path.name}', map_location='cpu').state_dict(), "
            "'clip_vit_l14.pth')\"\nand give that file"
        )
    tensors = read_checkpoint(path, "backbone.path").tensors
    return {name: tensor for name, tensor in tensors.items() if not _OPENAI_TEXT.match(name)}


def _is_program(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())
    except Exception:  # no archive, or a damaged one: what is wrong with it is said when it is read
        return False


_OPENAI_TEXT = re.compile(
    r"^(transformer\.resblocks\.|token_embedding\.|ln_final\.|positional_embedding$|text_projection$|logit_scale$"
    r"|input_resolution$|context_length$|vocab_size$)"
)
"""In OpenAI's layout: the text half, and numbers that say how large it is."""

_LAYER = r"^visual\.transformer\.resblocks\.(\d+)\."
_OPENAI = (
    (re.compile(_LAYER + r"ln_([12])\."), r"vision_model.encoder.layers.\1.layer_norm\2."),
    (re.compile(_LAYER + r"attn\.in_proj_(weight|bias)$"), r"vision_model.encoder.layers.\1.self_attn.in_proj.\2"),
    (re.compile(_LAYER + r"attn\.out_proj\."), r"vision_model.encoder.layers.\1.self_attn.out_proj."),
    (re.compile(_LAYER + r"mlp\.c_fc\."), r"vision_model.encoder.layers.\1.mlp.fc1."),
    (re.compile(_LAYER + r"mlp\.c_proj\."), r"vision_model.encoder.layers.\1.mlp.fc2."),
    (re.compile(r"^visual\.class_embedding$"), "vision_model.embeddings.class_embedding"),
    (re.compile(r"^visual\.positional_embedding$"), "vision_model.embeddings.position_embedding.weight"),
    (re.compile(r"^visual\.conv1\."), "vision_model.embeddings.patch_embedding."),
    (re.compile(r"^visual\.ln_pre\."), "vision_model.pre_layrnorm."),
    (re.compile(r"^visual\.ln_post\."), "vision_model.post_layernorm."),
    (re.compile(r"^visual\.proj$"), "visual_projection.weight"),
)


def _from_openai_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate OpenAI's names to those of transformers, in which q, k and v are three and the projection is transposed."""
    found = {}
    for name, tensor in tensors.items():
        theirs = substitute(name, _OPENAI)
        if ".in_proj." in theirs and tensor.ndim:
            for letter, part in zip("qkv", tensor.chunk(3), strict=False):
                found[theirs.replace(".in_proj.", f".{letter}_proj.")] = part
        else:
            found[theirs] = tensor.t() if theirs == "visual_projection.weight" and tensor.ndim == 2 else tensor
    return found
