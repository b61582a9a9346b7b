"""Batches that do not fit into memory are split and tried again, so that no image is lost to a batch size."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from mirror_pl.detectors.verdict import Verdict
from mirror_pl.errors import ConfigError


class SplittingScorer:
    """Scores batches with a detector, in as many parts as memory asks for.

    The first batch that does not fit is halved until its parts do; later ones are split to that size at once. Scores do not
    depend on it beyond float tolerance.

    Args:
        detector: Scores a batch.
        at_once: See below.
        one_size: Fill batches up to the size of the largest so far, for a detector that is compiled for one size at a time.

    Attributes:
        at_once: Images scored at a time, at most; None takes a batch as it comes.
        most_together: Images scored at a time since a batch did not fit; None while every batch has fitted.
    """

    def __init__(self, detector: Callable[[Tensor], Verdict], at_once: int | None = None, *, one_size: bool = False) -> None:
        self.detector = detector
        self.at_once = at_once
        self.one_size = one_size
        self._size = 0
        self.most_together: int | None = None

    def __call__(self, pixels: Tensor) -> Verdict:
        """Return the verdict on pixels ``(B, 3, H, W)``.

        Raises:
            ConfigError: If a single image does not fit, or the backbone cannot be compiled.
        """
        while True:
            parts = pixels.split(self.most_together or self.at_once or len(pixels))
            try:
                verdicts = [self._score(part) for part in parts]
            except Exception as error:
                if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
                    why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
                    raise ConfigError(f"compile=true: the backbone cannot be compiled ({why}); use compile=false") from error
                if not is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            else:
                return verdicts[0] if len(verdicts) == 1 else _joined(verdicts)
            # Only here, out of the except clause, are the tensors that the error's frames held free.
            tried = self._size if self.one_size else len(parts[0])
            if tried == 1:
                raise ConfigError(
                    f"out of memory with a single image ({reason}); use trainer.precision=bf16-true, a smaller "
                    "backbone, or a device with more free memory"
                )
            self.most_together = (tried + 1) // 2
            self._size = 0
            warnings.warn(
                f"{tried} images at a time do not fit into memory; going on with {self.most_together} (batch_size="
                f"{self.most_together} would from the start)",
                stacklevel=2,
            )
            _release()

    def _score(self, pixels: Tensor) -> Verdict:
        count = len(pixels)
        self._size = max(self._size, count)
        if not self.one_size or count == self._size:
            return self.detector(pixels)
        filled = torch.cat([pixels, pixels[-1:].expand(self._size - count, -1, -1, -1)])
        logit, p_fake, evidence = self.detector(filled)
        return Verdict(logit[:count], p_fake[:count], {name: value[:count] for name, value in evidence.items()})


def _joined(verdicts: list[Verdict]) -> Verdict:
    evidence = {name: torch.cat([verdict.evidence[name] for verdict in verdicts]) for name in verdicts[0].evidence}
    return Verdict(torch.cat([v.logit for v in verdicts]), torch.cat([v.p_fake for v in verdicts]), evidence)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


# torch's CPU allocator and its users raise plain RuntimeError.
_SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "cublas_status_alloc_failed")


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
