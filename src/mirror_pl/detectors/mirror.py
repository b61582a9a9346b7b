"""MIRROR: a backbone, a memory bank of real prototypes, and a dual-branch head (arXiv 2602.02222)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mirror_pl.detectors.aggregation import CropPolicy
from mirror_pl.detectors.backbone import Backbone, Features
from mirror_pl.detectors.contract import Detector, device_turn
from mirror_pl.detectors.detector_config import BackboneConfig, DetectorConfig, LoraConfig
from mirror_pl.detectors.head import DualBranchHead
from mirror_pl.detectors.lora import add_lora
from mirror_pl.detectors.maps import TokenMaps, token_maps
from mirror_pl.detectors.memory_bank import BankEvidence, MemoryBank
from mirror_pl.detectors.normalise import Normalise
from mirror_pl.detectors.variants import detector_name
from mirror_pl.detectors.verdict import Verdict
from mirror_pl.errors import ConfigError
from mirror_pl.images.decode import UndecodableImageError
from mirror_pl.images.pictures import Picture, prepare
from mirror_pl.labels import FAKE, REAL
from mirror_pl.retrieval import TokenEvidence

if TYPE_CHECKING:
    from mirror_pl.detectors.checkpoint.hub_folder import Runs


class Judgement(NamedTuple):
    """What a detector makes of a batch, before it is a verdict.

    Attributes:
        class_logits: ``(B, 2)`` of real and fake, in the dtype of the head.
        evidence: What the bank found; None for a detector without one.
    """

    class_logits: Tensor
    evidence: BankEvidence | None


class MirrorDetector(Detector):
    """The detector as published, or one of its variants; `config` rebuilds it.

    Its verdict's evidence: ``logit_real`` and ``logit_fake`` ``(B,)``, the two outputs whose difference is the logit; and,
    but for a detector without a bank, ``max_weight`` and ``entropy`` ``(B,)``, the perplexity evidence, and
    ``mean_residual`` ``(B, D)``.
    """

    title = "MIRROR"
    files = "checkpoint-h-cur.pth, a folder of mirror_pl.convert, or a .ckpt of our training"
    backbone: Backbone

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__(config.preprocess)
        self.config = config
        width = config.backbone.width
        self.normalise = Normalise(config.preprocess.mean, config.preprocess.std)
        self.backbone = Backbone(config.backbone)
        if config.lora is not None:
            add_lora(self.backbone, config.lora)
        if config.memory_bank is not None:
            self.memory_bank = MemoryBank(width, config.memory_bank)
        self.head = DualBranchHead(width, config.head)

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        backbone: BackboneConfig | str | None = None,
        backbone_folder: str | Path | None = None,
        memory_path: str | Path | None = None,
        merge: bool = True,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> MirrorDetector:
        """Rebuild a detector from its file, in eval mode.

        Weights stay mapped from the file as long as nothing about them changes, and are read when first used; the file must
        not be written to in the meantime. Other ones go to their device and dtype tensor by tensor, without a second copy.

        Args:
            checkpoint: A published Phase-2 file (``checkpoint-h-cur.pth``, any envelope, either layout of transformers), a
                folder written by ``mirror_pl.convert``, or a file of this project's training (``.ckpt``). "miniature", where
                there is nothing of that name, is the small detector that is shipped with the package.
            backbone: Its architecture, or the name of a known one. Needed only where the file does not carry its own and its
                shapes are those of no known backbone; where given, it must agree with the file.
            backbone_folder: The Hugging Face folder of the backbone. A file that training wrote without the frozen weights
                takes them from it, or, where it is None, from where they were then; they must be the same. For any other
                file, it gives the architecture.
            memory_path: A published Phase-1 file. A Phase-2 file holds the bank already; then the two must be equal.
            merge: Fold LoRA into the weights it adapts, which is faster and changes scores by float rounding only.
            device: Where its tensors are put.
            dtype: Of the backbone's weights. Bank, head and normalisation are float32 always: they compute in it.

        Raises:
            CheckpointError: If a file is missing, damaged, unsafe or of another kind; if the backbone's weights are not
                those the file was written with; or if any tensor is missing, unexpected or of the wrong shape, with its name
                and the backbone the file looks like.
        """
        from mirror_pl.detectors.checkpoint.load import load_mirror  # which builds this class

        return load_mirror(
            checkpoint,
            backbone=backbone,
            backbone_folder=backbone_folder,
            memory_path=memory_path,
            merge=merge,
            device=device,
            dtype=dtype,
        )

    def save_pretrained(
        self, folder: str | Path, *, run: Runs = (), licence: str | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """Write it to a new folder, whole or not at all: as ``mirror_pl.convert`` does, and a model card as ``README.md``.

        A calibration is a file of its own, and is not in it.

        Args:
            folder: Must not exist.
            run: What the card tells of: folders of its training, of evaluations of it, or of a report on them, which has
                intervals. No paths of this machine get into the card.
            licence: Of what was trained, as the Hub names licences; the backbone's is said besides.
            dtype: Stored precision of the weights.

        Raises:
            ConfigError: If `run` names none of these, or another detector's.
            OutputError: If `folder` exists or cannot be written.
        """
        from mirror_pl.detectors.checkpoint.hub_folder import write_pretrained

        write_pretrained(self, Path(folder), run, licence, dtype)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None, **settings: Any) -> MirrorDetector:
        """Load it from a folder, or from a repository on the Hugging Face Hub.

        Args:
            source: The folder; or ``org/name``, with or without ``hf-hub:`` before it.
            revision: Branch, tag or commit of the repository; None for ``main``.
            settings: Of `load`.

        Raises:
            ConfigError, CheckpointError: As `load`, and as `hub.local_path`.
        """
        from mirror_pl.detectors.checkpoint.hub_folder import load_pretrained

        return load_pretrained(source, revision, **settings)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        run: Runs = (),
        licence: str | None = None,
        private: bool | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> str:
        """Publish what `save_pretrained` writes as a repository on the Hugging Face Hub, made if there is none.

        Args:
            repo_id: As ``org/name``.
            run: As of `save_pretrained`.
            licence: Likewise.
            private: Whether a new repository is seen by its owners only; None leaves that to the organisation.
            dtype: Stored precision of the weights.

        Returns:
            Its id with the commit, by which it can be loaded.

        Raises:
            ConfigError: As `save_pretrained`; or if `repo_id` is none.
            OutputError: If the Hub cannot be reached, or refuses.
        """
        from mirror_pl.detectors.checkpoint.hub_folder import push

        return push(self, repo_id, run, licence, private, dtype)

    @property
    def name(self) -> str:
        """Variant and backbone, as in "mirror/dinov3_l"."""
        return detector_name(self.config)

    def description(self) -> dict[str, Any]:
        """Return its name and config."""
        return {"name": self.name, **self.config.to_dict()}

    def rebuilt_from(self) -> dict[str, Any]:
        """Return its config."""
        return self.config.to_dict()

    @property
    def lora(self) -> LoraConfig | None:
        """Its adapters; None where it has none, or they are merged."""
        return self.config.lora

    def adapt(self, lora: LoraConfig) -> None:
        """Put adapters around q, k and v of every layer, in place; the output does not change."""
        add_lora(self.backbone, lora)
        self.config = replace(self.config, lora=lora)

    def rescale_positions(self, factor: float | None) -> None:
        """See `Backbone.rescale_positions`; its config says so too."""
        self.backbone.rescale_positions(factor)
        self.config = replace(self.config, backbone=self.backbone.config)

    def features(self, pixels: Tensor) -> Features:
        """Return CLS and the tokens that go to the bank, for pixels ``(B, 3, H, W)`` in [0, 1]."""
        normalised = self.normalise(pixels)
        features = self.backbone(normalised.to(next(self.backbone.parameters()).dtype))
        if self.config.drop_registers:
            return Features(features.cls, features.tokens[:, self.config.backbone.registers :])
        return features

    def judge(self, pixels: Tensor, *, retrieval_gradient: bool = True) -> Judgement:
        """Classify pixels ``(B, 3, H, W)`` in [0, 1].

        Args:
            pixels: The batch.
            retrieval_gradient: Let gradients flow through the retrieval to the tokens, as in the released training code;
                False takes what the bank rebuilds as given, as the code before it did.
        """
        features = self.features(pixels)
        if self.config.memory_bank is None:
            return Judgement(self.head(None, None, features.cls), None)
        evidence = self.memory_bank(features.tokens, retrieval_gradient=retrieval_gradient)
        perplexity = torch.stack([evidence.max_weight, evidence.entropy], dim=-1)
        return Judgement(self.head(perplexity, evidence.mean_residual, features.cls), evidence)

    def score(self, pixels: Tensor) -> Verdict:
        """Score pixels ``(B, 3, H, W)`` in [0, 1]."""
        class_logits, evidence = self.judge(pixels)
        logits = class_logits.float()
        logit = logits[:, FAKE] - logits[:, REAL]
        found = {} if evidence is None else evidence._asdict()
        return Verdict(
            logit=logit,
            p_fake=logit.sigmoid(),
            evidence={"logit_real": logits[:, REAL], "logit_fake": logits[:, FAKE], **found},
        )

    def reconstruct(self, pixels: Tensor) -> tuple[Tensor, TokenEvidence]:
        """Return the tokens ``(B, N, D)`` and what the bank makes of each, for pixels ``(B, 3, H, W)`` in [0, 1].

        Raises:
            ConfigError: If the detector has no bank.
        """
        if self.config.memory_bank is None:
            raise ConfigError("this detector looks at the CLS token only: it has no memory bank to rebuild tokens from")
        tokens = self.features(pixels).tokens
        return tokens, self.memory_bank.reconstruct(tokens)

    def maps(
        self, picture: Picture, *, policy: CropPolicy | None = None, batch_size: int = 16, precision: str = "32-true"
    ) -> list[TokenMaps]:
        """Map residual norm, retrieval entropy and largest weight of each patch of a picture, register tokens left out.

        Computed where the detector is. Several threads may call it at once; on a device other than a CPU they take turns.

        Args:
            picture: A path, bytes, an image or pixels; see `images.pictures.Picture`.
            policy: Which crops are looked at; None is the published protocol.
            batch_size: Crops at a time, at most.
            precision: Of the backbone: one of `scoring.PRECISIONS`.

        Returns:
            One a crop, in the order of `plan_crops`.

        Raises:
            TypeError, ValueError: As `predict`.
            UndecodableImageError: If it cannot be read.
            ConfigError: If the detector has no bank, or a setting is out of range.

        Example::

            detector = load_detector("miniature")
            (maps,) = detector.maps("picture.jpg")
            print(maps.residual_norm.max(), maps.crop.box((640, 480)))
        """
        prepared = prepare(picture, self.spec, (policy or CropPolicy()).crops)
        if prepared.pixels is None:
            raise UndecodableImageError(prepared.reason)
        with device_turn(self):
            return token_maps(self, prepared, batch_size=batch_size, precision=precision)
