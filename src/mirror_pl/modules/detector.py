"""A detector as a LightningModule: it scores benchmarks, and LoRA and its head learn to tell real from fake (Phase 2)."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirror_pl.benchmarks import BenchmarkIndex
from mirror_pl.calibration import p_fake_of
from mirror_pl.data.batch import Batch
from mirror_pl.detectors.aggregation import CropPolicy
from mirror_pl.detectors.checkpoint import BackboneSource, detector_content, read_checkpoint
from mirror_pl.detectors.checkpoint.names import is_adapter, with_our_names
from mirror_pl.detectors.contract import Detector
from mirror_pl.detectors.exact import exact_float32, float32_products
from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.detectors.out_of_memory import SplittingScorer
from mirror_pl.detectors.registry import kind_of, load_detector
from mirror_pl.detectors.several_heads import SeveralHeads
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.images import PreprocessSpec
from mirror_pl.modules.objectives import WarmUpThenCosine
from mirror_pl.modules.trainable import OptimizerFactory, SchedulerFactory, TrainableModule, published_adamw
from mirror_pl.scores.streaming import SubsetBalancedAccuracy

REFERENCE_BATCH = 256
"""Images per batch that the published learning rates are for."""

SLOW_CROP_S = 0.1
"""From which on one decoding process keeps up with a detector."""


class DetectorModule(TrainableModule):
    """Wraps a detector for Lightning's Trainer: `test`, `validate`, `predict` and `fit`.

    What is scored comes from a data module with `scored_sets`, one of this project's; images become pixels by the
    detector's own recipe, which the data module takes from here. Logs, at the end of a test, ``test/bal_acc/SUBSET`` for
    each subset that has both classes, and ``test/bal_acc``, their unweighted mean; in a validation ``val/...`` likewise, or,
    of a training's named sets, ``val/bal_acc/NAME``, the mean over its subsets, and ``val/bal_acc``, the mean over the sets.
    Of images that are scored under several conditions, ``test/bal_acc/CONDITION`` likewise.
    Fractions in [0, 1], counted exactly over all processes; a score that is not finite counts in none.

    Training changes LoRA, where the detector has it apart (``load_detector(..., merge=False)``), and the head; the
    backbone's own weights, the bank and the normalisation stay. The loss is the cross-entropy of the two class logits, which
    is the binary cross-entropy of their difference, the paper's. Logs ``train/accuracy`` besides the loss.

    Args:
        detector: Any detector.
        heads: Further detectors with the same backbone, which scores once for all of them; they are not trained. Of H
            detectors in all, the rows of a step's result are an image's H scores, one image after the other. What is logged
            is of the first.
        policy: How the scores of an image's crops become one; None is the detector's protocol.
        tf32: Let a GPU round the factors of the backbone's float32 products to TF32, where it scores.
        optimizer: Makes the optimizer; None is the published AdamW.
        scheduler: Makes the schedule; None is the published warm-up and half cosine.
        reference_batch: Images per batch that the learning rate is for: it grows and shrinks with the batch, of all
            processes and accumulated ones together (released code). None takes it as it is.
        label_smoothing: Share of the label that is spread over both classes.
        retrieval_gradient: Let gradients flow through the retrieval into LoRA; see `MirrorDetector.judge`.
        mixup: Alpha of the beta distribution by which images of a batch are mixed pairwise, their labels too; 0 mixes none.
        backbone: The folder that the frozen backbone's weights come from; checkpoints leave them there.
        seed: Of dropout and mixup.

    Raises:
        ConfigError: If a number is out of range.
    """

    detector: Detector

    def __init__(
        self,
        detector: Detector,
        *,
        heads: Sequence[Detector] = (),
        policy: CropPolicy | None = None,
        tf32: bool = False,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        reference_batch: int | None = REFERENCE_BATCH,
        label_smoothing: float = 0.1,
        retrieval_gradient: bool = True,
        mixup: float = 0.0,
        backbone: BackboneSource | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            detector, optimizer or published_adamw(lr=1e-4, weight_decay=0.01), scheduler or WarmUpThenCosine, backbone, seed
        )
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing must be at least 0 and less than 1, got {label_smoothing}")
        if not 0 <= mixup < float("inf"):
            raise ConfigError(f"mixup must be 0 or more, got {mixup}")
        if reference_batch is not None and reference_batch < 1:
            raise ConfigError(f"reference_batch must be at least 1, or null, got {reference_batch}")
        self.policy = policy or detector.protocol
        self.tf32 = tf32
        self.reference_batch = reference_batch
        self.label_smoothing = label_smoothing
        self.retrieval_gradient = retrieval_gradient
        self.mixup = mixup
        self.heads = SeveralHeads([detector, *heads]) if heads else None
        self.scorer = SplittingScorer(self.heads or detector, one_size=detector.compiled)
        self.scored_sets: dict[str, BenchmarkIndex] = {}
        self.conditions = [""]
        self.balanced_accuracy = nn.ModuleList()
        self.validated: dict[str, float] = {}
        """What the last validation logged."""
        self.save_hyperparameters(
            {
                "detector": detector.description(),
                "reference_batch": reference_batch,
                "label_smoothing": label_smoothing,
                "retrieval_gradient": retrieval_gradient,
                "mixup": mixup,
                "seed": seed,
            }
        )

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # no map_location: the Trainer moves it; all or nothing: no strict
        cls, checkpoint_path: str | Path, *, backbone_folder: str | Path | None = None, **settings: Any
    ) -> DetectorModule:
        """Rebuild a module from a checkpoint of its own, or from any file that `load_detector` takes. Loaded safely.

        Args:
            checkpoint_path: The file; of a detector that is not MIRROR, one that training wrote.
            backbone_folder: Where the frozen backbone's weights are, if they have moved since it was written.
            settings: Of this class, in place of those that the checkpoint says.

        Raises:
            CheckpointError: As `load_detector`.
        """
        folder = None if backbone_folder is None else Path(backbone_folder)
        raw = read_checkpoint(Path(checkpoint_path))
        known = inspect.signature(cls.__init__).parameters.keys() - {"self", "detector"}
        saved = {name: value for name, value in raw.hyper_parameters.items() if name in known}
        kind = kind_of(raw)
        detector: Detector
        if kind is None:
            detector = load_detector(checkpoint_path, backbone_folder=folder, merge=False)
        else:
            detector = load_detector(checkpoint_path, detector=kind, merge=False)
        if raw.backbone is not None:
            saved["backbone"] = BackboneSource.of(folder or raw.backbone.path)
        return cls(detector, **{**saved, **settings})

    @property
    def recipe(self) -> tuple[PreprocessSpec, str]:
        """How images become pixels for this module: the detector's recipe, and which crops of each image."""
        return self.detector.spec, self.policy.crops

    def setup(self, stage: str) -> None:
        """Count by the subsets of what is to be scored."""
        if stage == "fit" and self.detector.quantised is not None:
            raise ConfigError("quantise: a quantised detector cannot be trained; load it without")
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        self.scored_sets = getattr(data, "scored_sets", {}) if stage in ("fit", "validate", "test") else {}
        self.conditions = [str(condition) for condition in getattr(data, "conditions", ())] or [""]
        # An image under many conditions makes a batch of more crops than one would otherwise take.
        self.scorer.at_once = getattr(data, "crops_per_batch", None) if len(self.conditions) > 1 else None
        members = [torch.from_numpy(index.members()) for index in self.scored_sets.values()]
        each = [torch.block_diag(*[part] * len(self.conditions)).bool() for part in members]  # groups of each condition
        self.balanced_accuracy = nn.ModuleList(SubsetBalancedAccuracy(part) for part in each)

    def forward(self, pixels: Tensor) -> Any:
        """Return the detector's verdict on pixels ``(B, 3, H, W)``; see `Detector.forward`."""
        return self.detector(pixels)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Score a batch; returns ``id`` ``(B,)`` int64, and ``logit`` and ``p_fake``, ``(B,)`` float32 each.

        They are calibrated, where the detector has a calibration.
        """
        scores, calibration = self._scores(batch), self.detector.calibration
        if calibration is None:
            return scores
        logit = calibration(scores["logit"].float().cpu().numpy())
        both = {"logit": logit, "p_fake": p_fake_of(logit)}
        return {**scores, **{name: torch.from_numpy(values).to(self.device) for name, values in both.items()}}

    def _scores(self, batch: Batch) -> dict[str, Tensor]:
        """Score a batch by the detector's own logits."""
        if len(batch.ids) == 0:  # every image of the batch was undecodable
            logit = p_fake = torch.empty(0, dtype=torch.float32, device=self.device)
        else:
            with float32_products(batch.pixels.device, tf32=self.tf32):
                logit, p_fake = self.scorer(batch.pixels)[:2]
            if len(logit) != len(batch.ids) or self.heads:
                by_head = logit.view(len(batch.ids), -1, self.num_heads).transpose(1, 2)
                logit, p_fake = self.policy(by_head.flatten(0, 1))
        return {"id": batch.ids, "logit": logit, "p_fake": p_fake}

    @torch.inference_mode()
    def seconds_per_crop(self, together: int) -> float:
        """Measure how long a crop takes where the module is now, scored with others; of slow ones, by itself.

        Args:
            together: Crops per batch.
        """
        side = self.detector.spec.crop_px
        scorer = SplittingScorer(self.heads or self.detector)  # its own: what fits here need not be what the run has
        crops = torch.zeros(together, 3, side, side, dtype=torch.uint8, device=self.device)
        passed = 0.0
        for pixels in (crops[:1], crops)[int(self.detector.compiled) :]:
            for _ in range(2):  # once to warm up: the first call on a GPU takes seconds, as one that compiles does
                began = time.perf_counter()
                with self.trainer.precision_plugin.forward_context(), float32_products(self.device, tf32=self.tf32):
                    scorer(pixels).logit.cpu()  # which waits for the device
                passed = (time.perf_counter() - began) / len(pixels)
            if passed >= SLOW_CROP_S:
                break
        return passed

    @property
    def num_heads(self) -> int:
        """How many detectors score an image."""
        return len(self.heads) if self.heads else 1

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Score a batch by the detector's own logits, calibrated or not, and count its decisions."""
        scores = self._scores(batch)
        if len(self.balanced_accuracy):
            self.count(scores["logit"][:: self.num_heads], batch.labels, batch.groups, dataloader_idx)
        return scores

    def count(self, logit: Tensor, labels: Tensor, groups: Tensor, dataloader_idx: int = 0) -> None:
        """Let decisions count in what is logged; those of logits that are not finite are none.

        Args:
            logit: ``(B,)``, the detector's own; where it has a calibration, what that makes of them decides.
            labels: ``(B,)``.
            groups: ``(B,)``, positions in the groups of the set's index.
            dataloader_idx: Of the set.
        """
        finite = logit.isfinite()
        metric: Any = self.balanced_accuracy[dataloader_idx]
        decided = logit[finite]
        if self.detector.calibration is not None:
            decided = torch.from_numpy(self.detector.calibration(decided.float().cpu().numpy())).to(decided.device)
        metric.update(decided > 0, labels[finite], groups[finite])

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Score a batch, as `test_step` does.

        Raises:
            DataError: In a training, if a score is not finite: what is best would be decided by the others.
        """
        scores = self.test_step(batch, batch_idx, dataloader_idx)
        if self.trainer.state.fn == "fit" and not bool(scores["logit"].isfinite().all()):
            raise DataError("validation: the detector's scores are not finite; start anew with a lower optimizer.lr")
        return scores

    def on_test_epoch_end(self) -> None:
        """Log balanced accuracies."""
        self._log_balanced_accuracy("test")

    def on_validation_epoch_end(self) -> None:
        """Log balanced accuracies."""
        self.validated = self._log_balanced_accuracy("val")

    def _log_balanced_accuracy(self, stage: str) -> dict[str, float]:
        figures: dict[str, Tensor] = {}
        for (name, index), metric in zip(self.scored_sets.items(), self.balanced_accuracy, strict=True):
            values = metric.compute().view(len(self.conditions), -1)  # type: ignore[operator]
            metric.reset()  # type: ignore[operator]
            for condition, row in zip(self.conditions, values, strict=True):
                defined = ~row.isnan()
                mean_of = name or (condition if len(self.conditions) > 1 else "")
                if mean_of and defined.any():
                    figures[mean_of] = row[defined].mean()
                elif not mean_of:
                    figures |= {subset: row[i] for i, subset in enumerate(index.subsets) if defined[i]}
        if figures:
            mean = torch.stack(list(figures.values())).mean()
            logged = {f"{stage}/bal_acc": mean, **{f"{stage}/bal_acc/{name}": value for name, value in figures.items()}}
            # Summed over processes already, so that all log the same.
            self.log_dict({name: value.float() for name, value in logged.items()}, sync_dist=True)
        return {name: float(value) for name, value in figures.items()}

    def train(self, mode: bool = True) -> DetectorModule:
        """Set train or eval mode; a memory bank stays in eval mode.

        In train mode MIRROR's backbone computes the same features, as it has no dropout, unless its config asks for
        `rope_rescale`.
        """
        super().train(mode)
        if isinstance(self.detector, MirrorDetector) and self.detector.config.memory_bank is not None:
            self.detector.memory_bank.eval()
        return self

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """LoRA and the head, by this project's names."""
        named = with_our_names(dict(self.detector.named_parameters()))
        return {name: named[name] for name in named if name.startswith("head.") or is_adapter(name)}

    def learning_rate_factor(self) -> float:
        """Return the size of a batch, of all processes and accumulated ones together, in `reference_batch`."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if self.reference_batch is None or not hasattr(data, "batch_size"):
            return 1.0
        return float(data.batch_size * self.trainer.accumulate_grad_batches / self.reference_batch)

    def loss_of(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropy, and the accuracy."""
        pixels = batch.pixels.float() / 255
        labels = F.one_hot(batch.labels, 2).float()
        if self.mixup:
            pixels, labels = _mixed(pixels, labels, self.mixup)
        with float32_products(pixels.device, tf32=False):
            if isinstance(self.detector, MirrorDetector):
                logits = self.detector.judge(pixels, retrieval_gradient=self.retrieval_gradient).class_logits
            else:
                logits = self.detector.class_logits(pixels)
        with exact_float32(logits.device):
            targets = labels if self.mixup else batch.labels
            loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        return loss, {"accuracy": (logits.detach().argmax(dim=1) == batch.labels).float().mean()}

    def file_content(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the detector as `load_detector` takes it."""
        training = {**self.origin, **self.progress(), "validated": self.validated or None}
        return detector_content(self.detector, tensors, backbone=self.backbone, training=training)

    def may_lack(self, name: str) -> bool:
        """Whether it is the frozen backbone's."""
        return name.startswith("backbone.") and not is_adapter(name)


def _mixed(pixels: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mix each image with another one of the batch, and their labels, by a share drawn from ``Beta(alpha, alpha)``."""
    share = torch.distributions.Beta(alpha, alpha).sample((len(pixels),)).to(pixels)
    other = torch.randperm(len(pixels)).to(pixels.device)
    share_of_pixels = share[:, None, None, None]
    mixed = share_of_pixels * pixels + (1 - share_of_pixels) * pixels[other]
    return mixed, share[:, None] * labels + (1 - share[:, None]) * labels[other]
