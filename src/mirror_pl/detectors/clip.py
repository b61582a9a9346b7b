"""CLIP's vision transformer, which several detectors look through: one tower, one way to read it from its files."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from mirror_pl.detectors.backbone import completed_config
from mirror_pl.detectors.baseline import Baseline, VitSize
from mirror_pl.detectors.checkpoint.backbone_folder import CONFIG, read_tensors
from mirror_pl.detectors.checkpoint.names import substitute
from mirror_pl.detectors.checkpoint.read import read_checkpoint
from mirror_pl.errors import CheckpointError, ConfigError, shown
from mirror_pl.files import read_json
from mirror_pl.images.spec import PreprocessSpec

VIT_L: Final = VitSize(width=1024, depth=24, heads=16, mlp_width=4096)
"""Of CLIP ViT-L/14, which the published detectors are built on."""
PATCH_PX: Final = 14
INPUT_PX: Final = 224

_SETTINGS: Final[dict[str, Any]] = {
    "image_size": INPUT_PX,
    "patch_size": PATCH_PX,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "num_channels": 3,
}
"""What a CLIP must have to be this one, besides its size."""
_SIZES: Final = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "projection_dim")


def clip_tower(size: VitSize, projection: int | None) -> nn.Module:
    """Build CLIP's vision half, whose tensors are ``vision_model.*``.

    Args:
        size: Of the transformer.
        projection: Features of its embedding; None leaves the class token as it is after the last layer norm.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        intermediate_size=size.mlp_width,
        projection_dim=projection or 1,
        **_SETTINGS,
    )
    tower: nn.Module = CLIPVisionModelWithProjection(config)
    if projection is None:
        tower.visual_projection = nn.Identity()
    return tower


def number_positions(tower: nn.Module) -> None:
    """Number the positions of a tower that was built on the meta device; no file need hold them."""
    embeddings: Any = tower.get_submodule("vision_model.embeddings")
    embeddings.position_ids = torch.arange(embeddings.position_ids.shape[1])[None]


class ClipDetector(Baseline):
    """A head over CLIP's embedding, projected or not; it is not brought to length 1."""

    layers = "backbone.vision_model.encoder.layers."

    def __init__(
        self, spec: PreprocessSpec, head: nn.Module, size: VitSize, embedding: int | None = None, **built_with: Any
    ) -> None:
        super().__init__(spec, clip_tower(size, embedding), head, size=size, **built_with)

    def restore_constants(self) -> None:
        """Number the positions, which no file need do."""
        number_positions(self.backbone)

    def feature(self, pixels: Tensor) -> Tensor:
        """Return the embedding ``(B, D)`` of normalised pixels ``(B, 3, 224, 224)``."""
        return self.backbone(pixel_values=pixels).image_embeds


def read_clip(path: Path, size: VitSize | None = None) -> tuple[dict[str, Tensor], VitSize, int | None]:
    """Read CLIP's vision half.

    Args:
        path: A Hugging Face folder with ``config.json`` and ``model.safetensors`` of a CLIP, text half included or not, such
            as that of openai/clip-vit-large-patch14; or a file of tensors under the names of OpenAI's own code. OpenAI's
            ``ViT-L-14.pt`` itself is a TorchScript archive, which is a program: it is refused, and the message says how to
            convert it.
        size: Of the transformer, where it is a file of another than ViT-L/14; a folder says it itself.

    Returns:
        Its tensors as ``backbone.vision_model.*`` and ``backbone.visual_projection.weight``, its size, and the features of
        its embedding, None where it has no projection.

    Raises:
        CheckpointError: If a file is missing, damaged, unsafe or of another CLIP.
    """
    projection: int | None
    if path.is_dir():
        size, projection = read_clip_config(path / CONFIG)
        tensors = {name: tensor for name, tensor in read_tensors(path).items() if not _PASSED_OVER.match(name)}
    else:
        tensors, size = _from_openai_names(_read_openai_file(path)), size or VIT_L
        found = tensors.get("visual_projection.weight")
        projection = found.shape[0] if found is not None and found.ndim == 2 else None
    return {f"backbone.{name}": tensor for name, tensor in tensors.items()}, size, projection


_PASSED_OVER = re.compile(r"^(text_model\.|text_projection\.|logit_scale$|vision_model\.embeddings\.position_ids$)")
"""In a folder: CLIP's text half, and a constant that older files carry."""


def read_clip_config(file: Path) -> tuple[VitSize, int]:
    """Return size and projection of the CLIP that a Hugging Face config describes.

    Raises:
        CheckpointError: If there is none, or it describes another model.
    """
    if not file.is_file():
        raise CheckpointError(f"backbone_folder: no {file.name} in {file.parent}. {_EXPECTED}")
    try:
        values = read_json(file)
        kind = values["model_type"]
        if kind == "clip":
            projection = values.get("projection_dim")
            values = dict(values["vision_config"])
            if projection is not None:
                values["projection_dim"] = projection
        elif kind != "clip_vision_model":
            raise CheckpointError(f"backbone_folder: {file} describes a {shown(kind)} model. {_EXPECTED}")
        full = completed_config("clip_vision_model", values, _SIZES, _SETTINGS)
        size = VitSize(full.hidden_size, full.num_hidden_layers, full.num_attention_heads, full.intermediate_size)
        projection = full.projection_dim
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"backbone_folder: {file} is no config of a CLIP ({error!r}). {_EXPECTED}") from error
    for name, expected in _SETTINGS.items():
        if getattr(full, name) != expected:
            raise CheckpointError(
                f"backbone_folder: {file} has {name} = {shown(getattr(full, name))}; the detectors' CLIP has {expected!r}. "
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
            f"backbone_folder: {path} is a TorchScript archive, which is a program with tensors in it, and is not loaded "
            f"here. {_EXPECTED}: the same weights. Or, if you trust the file, take its tensors out of it once:\n"
            f"  python -c \"import torch; torch.save(torch.jit.load('{path.name}', map_location='cpu').state_dict(), "
            "'clip_vit_l14.pth')\"\nand give that file"
        )
    tensors = read_checkpoint(path, "backbone_folder").tensors
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
