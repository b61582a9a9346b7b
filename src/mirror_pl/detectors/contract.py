"""What every detector is: an `nn.Module` from pixels to a verdict, with a preprocessing recipe of its own."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, overload

import torch
from torch import Tensor, nn

from mirror_pl.calibration import Calibration
from mirror_pl.detectors.aggregation import CropPolicy
from mirror_pl.detectors.exact import no_narrower
from mirror_pl.detectors.scoring import HasWeights, device_of, predict_all
from mirror_pl.detectors.verdict import Prediction, Verdict
from mirror_pl.errors import CheckpointError, ConfigError
from mirror_pl.images.pictures import Picture, prepare
from mirror_pl.images.spec import PreprocessSpec

if TYPE_CHECKING:
    from typing_extensions import Self

    from mirror_pl.detectors.checkpoint.read import RawCheckpoint
    from mirror_pl.detectors.quantise import Quantised

_DEVICE_TURN = threading.RLock()


def device_turn(detector: HasWeights) -> AbstractContextManager[object]:
    """Return what a thread holds while a detector works, so that on a device other than a CPU they take turns.

    How a GPU multiplies is a setting of the process.
    """
    return nullcontext() if device_of(detector).type == "cpu" else _DEVICE_TURN


class Detector(nn.Module, ABC):
    """Base of all detectors; a subclass implements `score` and owns a `spec`.

    A package registers its detectors as entry points of the group ``mirror_pl.detectors``; docs/adding-a-detector.md.

    Attributes:
        title: Its name in print; unique.
        licence: Of code and weights, in one line.
        restricted: Whether that licence keeps some users from using it.
        files: What its checkpoint is, in one line.
        protocol: Which crops its published evaluation looks at, and how they become one score.
        calibration: What makes its logits probabilities, and where it says unsure, in `predict`; None for nothing. What
            `forward` returns is its own.
        quantised: What quantising did to it, see `quantise`; None where it was not.
        backbone: The part that nearly all the time goes to, that `compile_backbone` compiles, and whose weights may have
            half precision; the rest is float32, and stays so under ``to(torch.bfloat16)``.
        compiled: Whether that was done.
    """

    title: ClassVar[str] = ""
    licence: ClassVar[str] = "not said"
    restricted: ClassVar[bool] = False
    files: ClassVar[str] = "its checkpoint"
    protocol: ClassVar[CropPolicy] = CropPolicy()
    backbone: nn.Module
    calibration: Calibration | None = None
    quantised: Quantised | None = None
    compiled: bool = False

    def __init__(self, spec: PreprocessSpec) -> None:
        super().__init__()
        self.spec = spec

    def __repr__(self) -> str:
        weight = next(self.parameters(), torch.empty(0))
        count = sum(parameter.numel() for parameter in self.parameters())
        mode = "train mode" if self.training else "eval mode"
        return (
            f"{type(self).__name__}: {self.name}\n"
            f"  {self.spec.crop_px} px crops, {self.protocol.crops}; licence: {self.licence}\n"
            f"  {count:,} parameters, {str(weight.dtype).removeprefix('torch.')} on {weight.device}, {mode}"
        )

    def compile_backbone(self) -> None:
        """Let torch compile the backbone: one of its layers, whose code serves them all; the whole where it has no layers.

        Names in its state dict stay as they are. The first batch waits for it: some seconds, fewer where the folder
        ``TORCHINDUCTOR_CACHE_DIR`` has it from another process.
        """
        lists = [module for module in self.backbone.modules() if isinstance(module, nn.ModuleList)]
        for layer in max(lists, key=len, default=[self.backbone]):
            layer.compile()
        self.compiled = True

    @classmethod
    def load(cls, checkpoint: str | Path, *args: Any, **settings: Any) -> Self:
        """Load it from its published file, in eval mode; a subclass says by its parameters which settings it has.

        A parameter is a setting: ``detector.X=...`` of the command line is its ``X``. Four have settings of their own:
        `backbone_folder` (``backbone.path``), `memory_path`, `merge` (``detector.merge_lora``) and `size`.

        Args:
            checkpoint: As `files` says.
            args: None; settings are named.
            settings: Of the subclass; of every one, ``device``, where its tensors are put, and ``dtype``, of the backbone's
                weights.

        Raises:
            CheckpointError: If a file is missing, damaged, unsafe or of another kind, or any tensor does not fit.
            ConfigError: If the subclass has none, and is only built in Python.
        """
        del args, settings
        raise ConfigError(
            f"checkpoint: {cls.__name__} cannot be loaded from {checkpoint}: it has no classmethod load; "
            "docs/adding-a-detector.md"
        )

    @classmethod
    def rebuilt(cls, trained: RawCheckpoint, *args: Any, **settings: Any) -> Self:
        """Load it from a file of our training, which carries what `rebuilt_from` returned.

        Args:
            trained: The file.
            args: None; settings are named.
            settings: ``merge``, ``device`` and ``dtype``, as of `load`.

        Raises:
            CheckpointError: As `load`.
        """
        del args, settings
        raise CheckpointError(f"checkpoint: {trained.path} holds {cls.title}, which cannot be rebuilt from it")

    @property
    def name(self) -> str:
        """What it is called in reports: among the published numbers, where it has any there."""
        return self.title or type(self).__name__

    def description(self) -> dict[str, Any]:
        """Return what it is, in plain values, for records: ``name``, ``preprocess``, and what else its kind has."""
        return {"name": self.name, "preprocess": asdict(self.spec)}

    def rebuilt_from(self) -> dict[str, Any]:
        """Return what rebuilds it around its tensors, in plain values; a file of our training carries it."""
        return self.description()

    def forward(self, pixels: Tensor) -> Verdict:
        """Score a batch of images.

        Args:
            pixels: ``(B, 3, H, W)`` RGB, uint8 in [0, 255] or floating point in [0, 1]; preprocessed by `spec` up to,
                and not including, the normalisation with its mean and std.

        Raises:
            ValueError: If the pixels have another shape or dtype.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"pixels must be (B, 3, H, W), got {tuple(pixels.shape)}")
        if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
            raise ValueError(f"pixels must be uint8 in [0, 255] or floating point in [0, 1], got {pixels.dtype}")
        if pixels.dtype == torch.uint8:
            pixels = pixels.float().div_(255)
        return self.score(pixels)

    @overload
    def predict(
        self,
        pictures: Picture,
        *,
        policy: CropPolicy | None = ...,
        batch_size: int = ...,
        device: torch.device | str | None = ...,
        precision: str = ...,
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        pictures: list[Any] | tuple[Any, ...],
        *,
        policy: CropPolicy | None = ...,
        batch_size: int = ...,
        device: torch.device | str | None = ...,
        precision: str = ...,
    ) -> list[Prediction]: ...

    def predict(
        self,
        pictures: Picture | list[Any] | tuple[Any, ...],
        *,
        policy: CropPolicy | None = None,
        batch_size: int = 16,
        device: torch.device | str | None = None,
        precision: str = "32-true",
    ) -> Prediction | list[Prediction]:
        """Score one picture, or several.

        What cannot be read has a status and a reason in place of a score. Nothing is printed, no seed is set, and several
        threads may call it at once; on a device other than a CPU they take turns. Scores do not depend on the batch size
        beyond float rounding.

        Args:
            pictures: A path, bytes, an image or pixels (see `images.pictures.Picture`), or a list of such.
            policy: Which crops are scored, and how they become one score; None is the published `protocol`.
            batch_size: Crops at a time, at most.
            device: Where to; the detector stays there. None leaves it where it is.
            precision: Of the backbone: one of `scoring.PRECISIONS`.

        Returns:
            A `Prediction` for a single picture, a list of them in order for a list.

        Raises:
            TypeError: If something is no picture.
            ValueError: If pixels have another shape, dtype or range than they should.
            ConfigError: If a setting is out of range, or a single crop does not fit into memory.

        Example::

            detector = load_detector("miniature")
            prediction = detector.predict("picture.jpg")
            print(prediction.p_fake, prediction.status, prediction.reason)
        """
        policy = policy or self.protocol
        several: Sequence[Any] = pictures if isinstance(pictures, list | tuple) else [pictures]
        if device is not None and torch.device(device) != device_of(self):
            with _DEVICE_TURN:
                self.to(device)
        at_once = max(1, batch_size // policy.count)
        found: list[Prediction] = []
        for start in range(0, len(several), at_once):  # so that memory does not depend on how many there are
            prepared = [prepare(picture, self.spec, policy.crops) for picture in several[start : start + at_once]]
            with device_turn(self):
                found += predict_all(self, prepared, policy=policy, batch_size=batch_size, precision=precision)
        found = [replace(prediction, picture=picture) for prediction, picture in zip(found, several, strict=True)]
        return found if several is pictures else found[0]

    @abstractmethod
    def score(self, pixels: Tensor) -> Verdict:
        """Score pixels ``(B, 3, H, W)`` in [0, 1]."""

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        for name, part in self.named_children() if recurse else ():
            part._apply(fn if name == "backbone" else no_narrower(fn))
        return super()._apply(no_narrower(fn), recurse=False)  # type: ignore[no-untyped-call]

    def checkpoint_gradients(self) -> None:
        """Compute each layer anew in the backward pass instead of keeping its activations: less memory, more time.

        Raises:
            ConfigError: If its backbone is no model of transformers.
        """
        from transformers import PreTrainedModel

        model = next((part for part in self.backbone.modules() if isinstance(part, PreTrainedModel)), None)
        if model is None:
            raise ConfigError(
                f"phase.gradient_checkpointing: {self.name} has no model of transformers to do it; give "
                "phase.gradient_checkpointing=false"
            )
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def class_logits(self, pixels: Tensor) -> Tensor:
        """Return ``(B, 2)``, of real and fake, for pixels in [0, 1]; what training compares with the labels.

        The softmax of 0 and a logit is that logit's sigmoid.
        """
        logit = self.score(pixels).logit
        return torch.stack([torch.zeros_like(logit), logit], dim=1)
