"""The file that training writes: a detector under our names, with its frozen backbone weights or without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mirror_pl.detectors.checkpoint.backbone_folder import BackboneSource
from mirror_pl.detectors.checkpoint.files import CONFIG_KEY
from mirror_pl.detectors.checkpoint.names import is_adapter, with_our_names
from mirror_pl.detectors.checkpoint.torch_file import for_saving, is_plain
from mirror_pl.detectors.contract import Detector


def detector_content(
    detector: Detector,
    tensors: Mapping[str, Tensor] | None = None,
    *,
    backbone: BackboneSource | None = None,
    training: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a file holds of a detector; the two keys fit into a Lightning checkpoint too.

    Args:
        detector: On any device.
        tensors: Under our names, where they are others than the detector's own: an average, say.
        backbone: A folder that holds the weights of the backbone, all but the adapters', to the bit: so they are frozen, and
            no adapter is merged into them. They are left out, and the folder is recorded. None leaves nothing out.
        training: How it was trained, in plain values.

    Returns:
        ``state_dict``, tensors under our names, and ``mirror_pl``: what rebuilds the detector, the backbone's folder
        or None, and `training`.

    Raises:
        ValueError: If a weight that would be left out can be trained.
        TypeError: If `training` holds anything but plain values: the file could not be loaded safely.
    """
    training = dict(training or {})
    if not is_plain(training):
        raise TypeError(f"training: expected plain values only, got {training}")
    tensors = with_our_names(detector.state_dict()) if tensors is None else tensors
    if backbone is not None:
        trainable = with_our_names({name: part.requires_grad for name, part in detector.named_parameters()})
        left_out = [name for name in tensors if name.startswith("backbone.") and not is_adapter(name)]
        lost = [name for name in left_out if trainable.get(name)]
        if lost:
            raise ValueError(f"backbone: {lost[0]} is not frozen, and would not be in the file")
        tensors = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    return {
        "state_dict": {name: for_saving(tensor) for name, tensor in tensors.items()},
        CONFIG_KEY: {
            "detector": detector.rebuilt_from(),
            "backbone": None if backbone is None else backbone.to_dict(),
            "training": training,
        },
    }
