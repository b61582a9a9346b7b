"""Scoring on a Ray cluster: each row of a Ray dataset is a unit of work, which an actor scores into the store.

What is done are the parts that exist, as on one machine; Ray carries names and counts, and no picture. A unit whose actor or
node is lost is tried again; a batch at which it was lost `MOST_TRIES` times is set aside, with a reason in its rows.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from mirror_pl.detectors import CropPolicy, Detector, Prediction
from mirror_pl.errors import ConfigError, LostProcessError
from mirror_pl.images import Condition, Limits
from mirror_pl.images.condition import AS_IT_IS
from mirror_pl.prediction.duplicates import Duplicates
from mirror_pl.prediction.engine import pictures_at_once, score
from mirror_pl.prediction.inputs import Item
from mirror_pl.prediction.recorder import Recorder
from mirror_pl.prediction.units import Done, Numbered, folder_of, left
from mirror_pl.stopping import take_signals
from mirror_pl.store import Store

MOST_TRIES: Final = 3
_TRIES: Final = "_tries"
"""Folder of the store with an empty file per try of the units that are on their way."""
_BLOCKS: Final = 10_000
"""Blocks of the dataset, at most: Ray keeps an entry of each. One holds a unit, or several of more units."""


@dataclass(frozen=True)
class Work:
    """All that an actor must know to score units as one machine would.

    Attributes:
        load: Returns the detector, in eval mode; called once per actor, where it runs.
        store: Where rows go: a folder that all nodes see.
        policy: See `score`.
        batch_size: Likewise.
        num_workers: Likewise; of each actor.
        precision: Likewise.
        limits: Likewise.
        dedupe: Whether an actor scores equal files once.
        every_s: See `Recorder`.
        device: Of each actor.
        condition: See `score`.
        with_origin: Likewise.
        folder: That relative paths start from, on every node.
    """

    load: Callable[[], Detector]
    store: Store
    policy: CropPolicy
    batch_size: int
    num_workers: int
    precision: str
    limits: Limits
    dedupe: bool
    every_s: float
    device: str
    condition: Condition = AS_IT_IS
    with_origin: bool = False
    folder: str = field(default_factory=os.getcwd)


class UnitScorer:
    """Scores units into the store. An actor of Ray Data: its constructor loads the detector, once."""

    def __init__(self, work: Work) -> None:
        os.chdir(work.folder)
        self._work = work
        self._detector = work.load().to(work.device)
        self._duplicates = Duplicates() if work.dedupe else None

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[int]]:
        """Score the units of a batch.

        Args:
            rows: ``unit``: pickled entries, as `packed` makes them.

        Returns:
            Of each unit its number, its rows, and how many pictures were set aside.
        """
        found: dict[str, list[int]] = {"unit": [], "rows": [], "set_aside": []}
        for packed in rows["unit"]:
            number, entries = pickle.loads(packed)  # made by our own driver
            count, set_aside = self._score(number, entries)
            for name, value in (("unit", number), ("rows", count), ("set_aside", set_aside)):
                found[name].append(value)
        return found

    def _score(self, number: int, entries: Sequence[Numbered]) -> tuple[int, int]:
        """Score what is left of a unit; return its rows, and how many pictures were set aside."""
        work = self._work
        together = pictures_at_once(work.batch_size, work.policy)
        set_aside = 0
        while True:
            tries = self._begin(number)
            # From the second try on each batch is kept: the next death then leaves no doubt at which batch it was.
            recorder = Recorder(work.store, together, work.every_s if len(tries) == 1 else 0)
            done = Done(work.store.names(folder_of(number)))
            items = left(entries, done, on_empty=recorder.add_empty)
            is_hopeless = len(tries) > MOST_TRIES
            try:
                for item, prediction in _set_aside(islice(items, together)) if is_hopeless else self._predictions(items):
                    recorder.add(item, prediction)
            except LostProcessError:  # what decodes was ended, by lack of memory say: a try, as if it had been the actor
                recorder.keep_whole_batches()
                continue
            recorder.flush()
            for mark in tries:
                mark.unlink(missing_ok=True)
            if not is_hopeless:
                return recorder.tally.total + done.reached(number)[0], set_aside
            set_aside += recorder.tally.total

    def _begin(self, number: int) -> list[Path]:
        """Note a try, and return the notes of all of them, this one's included."""
        folder = self._work.store.folder / _TRIES
        folder.mkdir(exist_ok=True)
        tries = sorted(folder.glob(f"{number}.*"))
        mark = folder / f"{number}.{len(tries)}"
        mark.touch()
        return [*tries, mark]

    def _predictions(self, items: Iterator[Item]) -> Iterator[tuple[Item, Prediction]]:
        work = self._work
        return score(
            items,
            self._detector,
            policy=work.policy,
            condition=work.condition,
            batch_size=work.batch_size,
            num_workers=work.num_workers,
            precision=work.precision,
            limits=work.limits,
            duplicates=self._duplicates,
            with_origin=work.with_origin,
            start="forkserver",  # an actor has threads of Ray's
        )


def _set_aside(items: Iterator[Item]) -> Iterator[tuple[Item, Prediction]]:
    reason = f"set aside: what scored its batch was lost {MOST_TRIES} times"
    return ((item, Prediction(None, None, "undecodable", reason)) for item in items)


def forget_tries(store: Store) -> None:
    """Forget the tries of a run that was stopped: that it was is no fault of its units."""
    for mark in (store.folder / _TRIES).glob("*"):
        mark.unlink(missing_ok=True)


def packed(unit: int, entries: Sequence[Numbered]) -> dict[str, bytes]:
    """Return a unit as a row of the dataset."""
    return {"unit": pickle.dumps((unit, list(entries)))}


@contextmanager
def connected(address: str | None) -> Iterator[dict[str, float]]:
    """Belong to a cluster while the block runs, and give what it has: ``CPU``, ``GPU`` and so on, as numbers.

    Args:
        address: ``auto`` for the one that this machine belongs to, or its address; None starts one on this machine.

    Raises:
        ConfigError: If Ray is not installed, or the cluster is not there.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError("engine=ray: Ray Data is not installed: pip install 'mirror_pl[ray]'") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it says how it goes in its own way, beside ours
    mine = not ray.is_initialized()
    if mine:
        _see(address)
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"ray.address={address}: {str(error).splitlines()[0]}") from error
    take_signals()  # Ray has its own answer to SIGTERM
    try:
        yield dict(ray.cluster_resources())
    finally:
        if mine:
            ray.shutdown()


def _see(address: str | None) -> None:
    """See that somebody listens at an address: Ray itself would wait for five minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConfigError(f"ray.address={address}: nobody answers there: {error.strerror or error}") from error


def score_on_ray(
    units: Sequence[dict[str, bytes]], work: Work, actors: int, num_cpus: float, num_gpus: float
) -> Iterator[tuple[int, int, int]]:
    """Score units on a cluster, and yield of each its number, its rows, and how many of them were set aside, as they end.

    Args:
        units: From `packed`.
        work: How they are scored.
        actors: How many; see `room_for`.
        num_cpus: CPUs of each actor.
        num_gpus: GPUs of each actor; a fraction lets several share one.
    """
    import ray

    forget_tries(work.store)
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.from_items(list(units), override_num_blocks=min(len(units), _BLOCKS)).map_batches(
        UnitScorer,
        fn_constructor_args=(work,),
        batch_size=1,
        num_gpus=num_gpus,
        num_cpus=num_cpus,
        compute=ray.data.ActorPoolStrategy(size=actors),
    )
    for row in dataset.iter_rows():
        yield row["unit"], row["rows"], row["set_aside"]


def room_for(wanted: int | None, num_cpus: float, num_gpus: float, there: Mapping[str, float]) -> int:
    """Return how many actors a cluster has room for, and no more than are wanted; None wants as many as there can be.

    Ray would wait for ever for the room of one more. The units wait in memory: nothing that reads needs a CPU beside them.

    Raises:
        ConfigError: If there is room for none.
    """
    shares = [there.get(name, 0.0) / each for name, each in (("CPU", num_cpus), ("GPU", num_gpus)) if each]
    room = int(min(shares, default=wanted or 1))
    if room < 1:
        raise ConfigError(
            f"ray: an actor takes ray.num_cpus={num_cpus:g} and ray.num_gpus={num_gpus:g}; the cluster has "
            f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs"
        )
    return room if wanted is None else min(wanted, room)
