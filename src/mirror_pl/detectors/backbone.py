"""DINOv2 and DINOv3 through transformers: pixels to features. The one room that builds transformers' classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from mirror_pl.detectors.config import BackboneConfig
from mirror_pl.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Features(NamedTuple):
    """Final-norm features of a batch of images.

    Attributes:
        cls: ``(B, D)``, the CLS token.
        tokens: ``(B, N, D)``, all other tokens: the registers, where there are any, then the patches row by row.
    """

    cls: Tensor
    tokens: Tensor


class Backbone(nn.Module):
    """A DINOv2 or DINOv3 vision transformer with fresh weights; `load_detector` fills in the real ones."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        from transformers import AutoModel

        self.config = config
        self.model: nn.Module = AutoModel.from_config(_transformers_config(config), attn_implementation="sdpa")
        if config.family == "dinov3":
            self.model.config.pos_embed_rescale = config.rope_rescale

    def forward(self, pixels: Tensor) -> Features:
        """Compute features of normalised pixels ``(B, 3, H, W)``; H and W multiples of the patch."""
        hidden = self.model(pixel_values=pixels).last_hidden_state
        return Features(cls=hidden[:, 0], tokens=hidden[:, 1:])

    def rescale_positions(self, factor: float | None) -> None:
        """Let train mode rescale DINOv3's position coordinates at random, by up to `factor`; None leaves them as they are.

        Raises:
            ConfigError: If the backbone is no DINOv3, or the factor is not more than 1.
        """
        if factor is not None and not 1 < factor < float("inf"):
            raise ConfigError(f"rope_rescale must be more than 1, or null for none, got {factor}")
        self.config = replace(self.config, rope_rescale=factor)
        if self.config.family == "dinov3":
            config: Any = self.model.config
            config.pos_embed_rescale = factor

    def checkpoint_gradients(self) -> None:
        """Compute each layer anew in the backward pass instead of keeping its activations: less memory, more time."""
        model: Any = self.model
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    @torch.no_grad()
    def restore_constants(self) -> None:
        """Make the constant buffers anew that no file carries, after construction on the meta device."""
        rope = getattr(self.model, "rope_embeddings", None)
        if rope is not None:
            self.model.rope_embeddings = type(rope)(self.model.config)


def _transformers_config(config: BackboneConfig) -> PretrainedConfig:
    from transformers import Dinov2Config, DINOv3ViTConfig

    shared: dict[str, Any] = {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "patch_size": config.patch_px,
        "image_size": config.native_px,
    }
    if config.family == "dinov2":
        return Dinov2Config(**shared, mlp_ratio=config.mlp_width // config.width)
    return DINOv3ViTConfig(
        **shared,
        intermediate_size=config.mlp_width,
        use_gated_mlp=config.gated_mlp,
        hidden_act="silu" if config.gated_mlp else "gelu",
        num_register_tokens=config.registers,
    )


def read_backbone_folder(folder: Path) -> BackboneConfig:
    """Read the architecture from a Hugging Face model folder; the folder's name means nothing.

    Args:
        folder: Holds a ``config.json`` of a DINOv2 or DINOv3 model.

    Raises:
        CheckpointError: If there is none, or it describes a model this project does not build.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(
            f"backbone.path: no config.json in {folder}. Expected a Hugging Face model folder of DINOv2 or DINOv3"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        model_type = values["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"backbone.path: {file} is no Hugging Face model config ({error!r})") from error
    families = {"dinov2": "dinov2", "dinov3_vit": "dinov3"}
    if model_type not in families:
        raise CheckpointError(f"backbone.path: {file} describes a {model_type!r} model; expected {' or '.join(families)}")
    from transformers import AutoConfig

    # transformers fills in what the file leaves out.
    full: Any = AutoConfig.for_model(**values)
    dinov3 = model_type == "dinov3_vit"
    config = BackboneConfig(
        family="dinov3" if dinov3 else "dinov2",
        width=full.hidden_size,
        depth=full.num_hidden_layers,
        heads=full.num_attention_heads,
        mlp_width=full.intermediate_size if dinov3 else full.hidden_size * full.mlp_ratio,
        gated_mlp=bool(dinov3 and full.use_gated_mlp),
        patch_px=full.patch_size,
        registers=full.num_register_tokens if dinov3 else 0,
        native_px=224 if dinov3 else full.image_size,
    )
    ours = _transformers_config(config)
    for name in _DECIDING:
        if getattr(full, name, None) != getattr(ours, name, None):
            raise CheckpointError(
                f"backbone.path: {file} has {name} = {getattr(full, name, None)!r}; this project builds "
                f"{config.family} with {getattr(ours, name, None)!r} only"
            )
    return config


_DECIDING = (
    "hidden_act", "layer_norm_eps", "num_channels", "qkv_bias", "use_swiglu_ffn", "query_bias", "key_bias", "value_bias",
    "proj_bias", "mlp_bias", "rope_theta",
)  # fmt: skip
"""Settings that change what is computed and that `BackboneConfig` does not carry: a folder must have our values."""
