"""DINOv2 and DINOv3 through transformers: pixels to features. The one room that builds transformers' classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from mirror_pl.detectors.detector_config import BackboneConfig
from mirror_pl.errors import CheckpointError, ConfigError, shown

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
        self.rescale_positions(config.rope_rescale)

    def forward(self, pixels: Tensor) -> Features:
        """Compute features of normalised pixels ``(B, 3, H, W)``; H and W multiples of the patch."""
        hidden = self.model(pixel_values=pixels).last_hidden_state
        return Features(cls=hidden[:, 0], tokens=hidden[:, 1:])

    def rescale_positions(self, factor: float | None) -> None:
        """Let train mode rescale DINOv3's position coordinates at random, by up to `factor`; None leaves them as they are.

        Raises:
            ConfigError: If the backbone is no DINOv3, or the factor is not more than 1.
        """
        self.config = replace(self.config, rope_rescale=factor)
        if self.config.family == "dinov3":
            config: Any = self.model.config
            config.pos_embed_rescale = None if factor is None else float(factor)  # transformers refuses an integer

    def _apply(self, fn: Any, recurse: bool = True) -> Backbone:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        rope = getattr(self.model, "rope_embeddings", None)
        rounded = [] if rope is None else [buffer for buffer in rope.buffers() if buffer.dtype.itemsize < 4]
        if rounded:  # angles are computed in float32, whatever the weights are
            self.restore_constants()
            self.model.rope_embeddings.to(rounded[0].device)
        return self

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


def config_of_transformers(file: Path, values: Mapping[str, Any]) -> BackboneConfig:
    """Return the architecture that a ``config.json`` of transformers describes.

    Args:
        file: For messages.
        values: What is in it.

    Raises:
        CheckpointError: If it is of a model that this project does not build.
    """
    model_type = values["model_type"]
    if model_type not in ("dinov2", "dinov3_vit"):
        raise CheckpointError(
            f"backbone_folder: {file} describes a {shown(model_type)} model; expected dinov2 or dinov3_vit"
        )
    dinov3 = model_type == "dinov3_vit"
    try:
        full = completed_config(model_type, values, (*_SIZES, *(_DINOV3_SIZES if dinov3 else _DINOV2_SIZES)), _DECIDING)
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
    except ConfigError as error:
        raise CheckpointError(f"backbone_folder: {file} describes no backbone: {error}") from error
    ours = _transformers_config(config)
    for name in _DECIDING:
        if name in ABSENT_BIASES and getattr(full, name, None) is False:
            continue
        if getattr(full, name, None) != getattr(ours, name, None):
            raise CheckpointError(
                f"backbone_folder: {file} has {name} = {shown(getattr(full, name, None))}; this project builds "
                f"{config.family} with {getattr(ours, name, None)!r} only"
            )
    return config


def completed_config(model_type: str, values: Mapping[str, Any], sizes: Iterable[str], settings: Iterable[str]) -> Any:
    """Let transformers fill in what a model's config leaves out.

    It is given what is looked at here and nothing else: other keys, such as ``num_labels``, can make it build lists of any
    length.

    Args:
        model_type: As transformers knows it.
        values: What the file says.
        sizes: Keys that are looked at, and are numbers of something.
        settings: Further keys that are looked at.

    Raises:
        ConfigError: If a size is no integer within bounds, or transformers refuses a value.
    """
    from transformers import AutoConfig

    for name in sizes:
        size = values.get(name, 0)
        if type(size) is not int or not 0 <= size <= 2**16:
            raise ConfigError(f"{name} must be an integer of at most {2**16}, got {shown(size)}")
    given = {name: values[name] for name in (*sizes, *settings) if name in values}
    try:
        return AutoConfig.for_model(model_type, **given)
    except Exception as error:  # transformers raises what it likes on values that make no sense
        raise ConfigError(f"transformers refuses it: {' '.join(str(error).split())[:300]}") from error


ABSENT_BIASES: Final = {"query_bias": "q", "value_bias": "v"}
"""Settings of DINOv3 that may be off in a folder, as those of its 7B are: here such a bias is zero."""
_SIZES: Final = ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")
_DINOV2_SIZES: Final = ("mlp_ratio", "image_size")
_DINOV3_SIZES: Final = ("intermediate_size", "num_register_tokens")
_DECIDING = (
    "use_gated_mlp", "hidden_act", "layer_norm_eps", "num_channels", "qkv_bias", "use_swiglu_ffn", "query_bias",
    "key_bias", "value_bias", "proj_bias", "mlp_bias", "rope_theta",
)  # fmt: skip
"""Settings that change what is computed and that `BackboneConfig` does not carry: a folder must have our values."""
