"""Any image classifier with a real and a fake class, whichever library it is from: what its labels mean, and its logit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from mirror_pl.detectors.contract import Detector
from mirror_pl.detectors.normalise import Normalise
from mirror_pl.detectors.verdict import Verdict
from mirror_pl.errors import CheckpointError, ConfigError, nearest
from mirror_pl.hub import HubId, origin
from mirror_pl.images.spec import PreprocessSpec

if TYPE_CHECKING:
    from typing_extensions import Self

FAKE_WORDS: Final = frozenset(
    {"fake", "ai", "aigc", "generated", "synthetic", "artificial", "deepfake", "aigenerated", "gan", "diffusion"}
)
REAL_WORDS: Final = frozenset({"real", "human", "hum", "natural", "nature", "authentic", "genuine", "photo", "photograph"})
NEGATIONS: Final = frozenset({"not", "no", "non"})


FakeLabel = str | int | Sequence[str | int] | None
"""``detector.fake_label``: a label or several; a number is the label that is written so."""


def fake_classes(labels: Sequence[str], fake_label: FakeLabel) -> list[int]:
    """Return which classes mean fake.

    Args:
        labels: Of all classes, in their order.
        fake_label: Those that mean fake; None reads it off their words, where every one is plainly of one kind.

    Raises:
        ConfigError: If it is not plain, there is no such label, or nothing is left for real.
    """
    shown = ", ".join(labels)
    if fake_label is not None:
        asked = [str(label) for label in ([fake_label] if isinstance(fake_label, str | int) else fake_label)]
        for label in asked:
            if label not in labels:
                raise ConfigError(
                    f"detector.fake_label: there is no label {label!r}.{nearest(label, labels)} There are: {shown}"
                )
        found = [number for number, label in enumerate(labels) if label in asked]
    else:
        kinds = [_kind(label) for label in labels]
        if None in kinds:
            raise ConfigError(
                f"detector.fake_label: which label means fake cannot be told from their names: {shown}; give "
                "detector.fake_label=LABEL, or a list of labels"
            )
        found = [number for number, kind in enumerate(kinds) if kind]
    if not found or (len(found) == len(labels) and len(labels) > 1):
        raise ConfigError(f"detector.fake_label: of the labels {shown}, some must mean fake and some real")
    return found


def _kind(label: str) -> bool | None:
    """Whether a label means fake; None where its words do not say so plainly."""
    words = set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", label).lower()))
    fake, real = bool(words & FAKE_WORDS), bool(words & REAL_WORDS)
    return None if fake == real or words & NEGATIONS else fake


class Classifier(Detector):
    """A classifier of which each class is real or fake.

    Its logit is that of all fake classes against all real ones: with two classes the difference of their logits; with one
    output, that output. Its verdict's evidence is ``logits`` ``(B, classes)``.

    Args:
        spec: Its recipe.
        model: From normalised pixels to an object with ``logits`` ``(B, classes)``, or to these themselves.
        labels: Of the classes.
        fake: Which of them mean fake.
        source: The folder it is from, which names it.
    """

    def __init__(
        self, spec: PreprocessSpec, model: nn.Module, labels: Sequence[str], fake: Sequence[int], source: Path
    ) -> None:
        super().__init__(spec)
        self.normalise = Normalise(spec.mean, spec.std)
        self.backbone = model
        self.labels, self.fake = tuple(labels), tuple(fake)
        self.source = source

    @property
    def name(self) -> str:
        """The repository's name on the hub, as its cache has it, or the folder's."""
        found = origin(self.source)
        return HubId.parse(found).repo if found else self.source.resolve().name

    def description(self) -> dict[str, Any]:
        """Return what it is, in plain values."""
        fake = [self.labels[number] for number in self.fake]
        return {**super().description(), "labels": list(self.labels), "fake_labels": fake}

    def ready(self, device: torch.device | str) -> Self:
        """Return it frozen, in eval mode and on a device, once it has been seen to score what its recipe makes.

        Raises:
            CheckpointError: If its network takes no such pixels, or makes other classes.
        """
        self.requires_grad_(False).eval()
        try:
            with torch.inference_mode():
                found = self.score(torch.zeros(1, 3, self.spec.crop_px, self.spec.crop_px)).evidence["logits"].shape
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:  # as its library has it
            said = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"checkpoint: the network of {self.source} does not take what its recipe makes, images of "
                f"{self.spec.crop_px} px: {said}"
            ) from error
        if found != (1, len(self.labels)):
            raise CheckpointError(
                f"checkpoint: the network of {self.source} makes outputs {tuple(found)}; expected (1, {len(self.labels)}), "
                "one for each label"
            )
        return self.to(device)

    def score(self, pixels: Tensor) -> Verdict:
        """Score pixels ``(B, 3, H, W)`` in [0, 1]."""
        found = self.backbone(self.normalise(pixels.float()).to(next(self.backbone.parameters()).dtype))
        logits: Tensor = getattr(found, "logits", found).float()
        fake = list(self.fake)
        real = [number for number in range(len(self.labels)) if number not in fake]
        logit = logits[:, fake].logsumexp(dim=1)
        if real:
            logit = logit - logits[:, real].logsumexp(dim=1)
        return Verdict(logit, logit.sigmoid(), {"logits": logits})
