"""Score it: items become predictions, in their order. Knows neither where items come from nor where predictions go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby, islice
from typing import Final, TypeAlias

import torch

from mirror_pl.detectors import CropPolicy, Detector, Prediction
from mirror_pl.detectors.out_of_memory import SplittingScorer
from mirror_pl.detectors.scoring import predict_all
from mirror_pl.errors import ConfigError
from mirror_pl.images import Condition, Limits
from mirror_pl.images.condition import AS_IT_IS
from mirror_pl.images.pictures import PreparedPicture
from mirror_pl.prediction.decoding import Prepared, prepared
from mirror_pl.prediction.duplicates import Duplicates
from mirror_pl.prediction.inputs import Item
from mirror_pl.prediction.pictures import prepare_item

Batch: TypeAlias = Sequence[tuple[Item, PreparedPicture, Prediction]]
LARGEST_BATCH: Final = {"cpu": 16, "cuda": 256}
"""Crops per batch, by kind of device, from which on more bring no speed, as in evaluations; the first for other devices."""
MOST_WORKERS: Final = 8


def score(
    items: Iterable[Item],
    detector: Detector,
    *,
    policy: CropPolicy | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
    precision: str = "32-true",
    limits: Limits | None = None,
    condition: Condition = AS_IT_IS,
    duplicates: Duplicates | None = None,
    with_origin: bool = False,
    start: str | None = None,
    on_batch: Callable[[Batch], None] | None = None,
) -> Iterator[tuple[Item, Prediction]]:
    """Score items, and yield each with its prediction, in their order.

    Items are taken lazily, some batches ahead. A batch is `pictures_at_once` items of a unit that follow each other, or what
    is left of the unit: with the same items, scores are the same to the bit, whatever the number of processes that decode,
    and whichever process scores the unit.

    Args:
        items: What to score.
        detector: In eval mode; its device is where it is scored.
        policy: Which crops are scored, and how they become one score; None is the detector's published protocol.
        batch_size: Crops at a time, at most. What does not fit into memory is split.
        num_workers: Processes that decode; with 0, this one does, and a picture that takes for ever does so.
        precision: Of the backbone: one of `scoring.PRECISIONS`.
        limits: What a picture may cost; None is the default.
        condition: Under which pictures are scored.
        duplicates: Knows equal files, which are scored once; None scores each.
        with_origin: Whether to read what each file says of its own origin, too; see `images.origin`.
        start: How decoding processes are started; see `prepared`.
        on_batch: Called with each batch before it is yielded, for what needs the pixels too, such as maps.

    Raises:
        ConfigError: If a setting is out of range, or a single crop does not fit into memory.
        LostProcessError: If the system ends a decoding process.
    """
    policy, limits = policy or detector.protocol, limits or Limits()
    at_once = pictures_at_once(batch_size, policy)
    ahead = 2 * (at_once + num_workers)
    scorer = SplittingScorer(detector, one_size=detector.compiled)
    predict = partial(predict_all, detector, policy=policy, batch_size=batch_size, precision=precision, scorer=scorer)
    prepare = partial(
        prepare_item,
        spec=detector.spec,
        crops=policy.crops,
        limits=limits,
        condition=condition,
        with_digest=duplicates is not None,
        with_origin=with_origin,
    )
    with prepared(items, prepare, limits.timeout_s, num_workers, ahead, start) as pictures:
        for batch in _batches(pictures, at_once):
            shown = [picture for _, picture in batch]
            predictions = predict(shown) if duplicates is None else duplicates.once(shown, predict)
            if with_origin:
                pairs = zip(predictions, shown, strict=True)
                predictions = [replace(prediction, origin=picture.origin) for prediction, picture in pairs]
            if on_batch is not None:
                on_batch([(*pair, prediction) for pair, prediction in zip(batch, predictions, strict=True)])
            yield from ((item, prediction) for (item, _), prediction in zip(batch, predictions, strict=True))


def _batches(pictures: Iterable[Prepared], at_once: int) -> Iterator[list[Prepared]]:
    for _, unit in groupby(pictures, key=lambda pair: pair[0].place.unit):
        while batch := list(islice(unit, at_once)):
            yield batch


def pictures_at_once(batch_size: int, policy: CropPolicy) -> int:
    """Return how many pictures are scored together."""
    return max(1, batch_size // policy.count)


def device_of(name: str) -> torch.device:
    """Return a device by its name; ``auto`` is the first GPU where there is one.

    Raises:
        ConfigError: If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the second of a torch without CUDA
        raise ConfigError(f"device={name}: {str(error).splitlines()[0]}; use auto, cpu or cuda:0") from error
    return device


def workers_of(number: int | None) -> int:
    """Return how many processes decode; None is one per core that this process may use, `MOST_WORKERS` at most."""
    if number is not None:
        return number
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)
