"""The prediction job: any pictures in, a file with a row for each out; what to score, score it, and where to write."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import torch
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mirror_pl.config.build_detector import build_condition, build_detector, build_policy, is_miniature
from mirror_pl.config.schema import PredictSettings, read_settings
from mirror_pl.errors import ConfigError, DataError, IncompleteRunError, name_list
from mirror_pl.images.origin import require_credentials
from mirror_pl.jobs.dependencies import WeightsFile, weights_of
from mirror_pl.jobs.maps import MapFolder, check_map_folder
from mirror_pl.jobs.prediction_progress import Progress
from mirror_pl.prediction import (
    Limits,
    Output,
    Tally,
    check_inputs,
    count_items,
    device_of,
    entries,
    expand,
    pictures_at_once,
    score,
    workers_of,
)
from mirror_pl.prediction.duplicates import Duplicates
from mirror_pl.prediction.engine import LARGEST_BATCH
from mirror_pl.prediction.on_ray import MOST_TRIES, Work, connected, packed, room_for, score_on_ray
from mirror_pl.provenance import Clock, device_name, git_revision, machine, versions
from mirror_pl.reports import print_plain
from mirror_pl.sources.shards import SHARD_SUFFIXES
from mirror_pl.stopping import go_on_with
from mirror_pl.texts import printable, storable

if TYPE_CHECKING:
    from mirror_pl.detectors import Detector, Prediction

MOST_SHOWN: Final = 20
"""Pictures whose scores are shown on the console, at most; more of them need an output."""


def run(cfg: DictConfig) -> None:
    """Score as `cfg` says, and write the output.

    Raises:
        MirrorError: Before anything is scored, if settings, inputs or checkpoint are not usable; while scoring, if rows
            cannot be written or a decoding process is lost; after everything was written, an `IncompleteRunError` if some
            pictures have no score, and a `DataError` if none has. A `DataError` without an output, if there is no picture.
    """
    settings = read_settings(cfg, PredictSettings)
    if settings.engine == "local":
        device_of(settings.device)  # what cannot be is said before anything is loaded
    build_policy(settings)
    if settings.provenance:
        require_credentials()
    check_inputs(settings.input)
    if settings.maps is not None:
        check_map_folder(Path(settings.maps), "maps")
    if settings.output is None and next(islice(expand(settings.input), MOST_SHOWN, None), None) is not None:
        raise ConfigError(f"output: more than {MOST_SHOWN} pictures need one; give output=FILE, as in output=scores.csv")
    with _output(settings) as output, output.claimed():
        output.check(resume=settings.resume)
        if settings.output is not None:
            go_on_with("resume=true")
        with connected(settings.ray.address) if settings.engine == "ray" else nullcontext() as cluster:
            _Job(output, settings, cluster, Console()).run()


@contextmanager
def _output(settings: PredictSettings) -> Iterator[Output]:
    """Hand out the output; where none was asked for, one that is thrown away: what is shown is all."""
    if settings.output is not None:
        yield Output(Path(settings.output), settings.save_every_s, settings.share)
        return
    with TemporaryDirectory(prefix="mirror_pl_") as folder:
        yield Output(Path(folder) / "scores.jsonl", settings.save_every_s)


class _Job:
    """A prediction on its way; `cluster` is what a Ray cluster has, where there is one."""

    def __init__(
        self, output: Output, settings: PredictSettings, cluster: Mapping[str, float] | None, console: Console
    ) -> None:
        self.output, self.settings, self.cluster, self.console = output, settings, cluster, console
        self.clock = Clock()
        self.policy, self.limits = build_policy(settings), Limits(settings.max_megapixels, settings.timeout_s)
        self.condition = build_condition(settings)
        given = settings.ray.num_gpus
        self.num_gpus = given if given is not None else min(1.0, (cluster or {}).get("GPU", 0.0))
        self.device = device_of(settings.device) if cluster is None else torch.device("cuda" if self.num_gpus else "cpu")
        auto = LARGEST_BATCH.get(self.device.type, 16)
        self.batch_size = auto if settings.batch_size == "auto" else int(settings.batch_size)
        self.together = pictures_at_once(self.batch_size, self.policy)
        self.passed_over: Counter[str] = Counter()
        self.shown: list[tuple[str, Prediction]] = []

    def run(self) -> None:
        """Score what is left, and make the output, or leave that to another share."""
        output, settings, console = self.output, self.settings, self.console
        weights = weights_of(settings)
        self.clock.lap("hash")
        # On a cluster, what scores is quantised there.
        here = settings if self.cluster is None else settings.model_copy(update={"quantise": None})
        detector = _load(here, self.device)
        if detector.quantised is not None:
            print_plain(str(detector.quantised), console)
        self.clock.lap("load")
        if is_miniature(settings.checkpoint):
            print_plain("This is the miniature: a small detector of small decoders, and none for the real world.", console)
        facts = _dependencies(settings, weights, detector, self.device, self.batch_size)
        finished = output.finished(facts)
        if finished is not None:
            print_plain(f"Complete already: {output.path}; nothing is scored", console)
            _raise_if_incomplete(Tally(Counter(finished["pictures"]["by_status"])), f"in {printable(output.path)}")
            return
        maps = None if settings.maps is None else MapFolder(Path(settings.maps), detector, settings.precision)
        if self.cluster is None:
            self._here(facts, detector.to(self.device), maps)
        else:
            self._on_ray(facts, self.cluster)
        self.clock.lap("score")
        _say_passed_over(self.passed_over, console)
        number, of = settings.share
        if of == 1 and not output.tally.total and not output.done().rows:
            raise DataError(f"input: there is no picture in {name_list(settings.input)}; nothing is written")
        if not output.complete(_record(settings, facts, weights, detector, output, self.device, self.clock)):
            if of == 1:
                raise RuntimeError(f"predict: {output.left_over():,} units came back without all their rows")
            print_plain(
                f"Share {number} of {of} is done; {output.left_over():,} units are left to others. Who ends last writes "
                f"{output.path}",
                console,
            )
        else:
            if 0 < len(self.shown) == output.tally.total <= MOST_SHOWN:
                console.print(_table(self.shown))
            _say(output.tally, console)
            if settings.output is not None:
                print_plain(f"Output: {output.path}", console)
        if maps is not None:
            print_plain(f"Maps: {maps.index}", console)
        _raise_if_incomplete(output.tally, "above" if settings.output is None else f"in {printable(output.path)}")

    def _here(self, facts: Mapping[str, Any], detector: Detector, maps: MapFolder | None) -> None:
        """Score in this process."""
        output, settings = self.output, self.settings
        given = entries(settings.input, passed_over=self.passed_over)
        items = output.begin(facts, given, self.together, self.passed_over)
        self._say_resumed()
        duplicates = Duplicates(output.scratch("seen")) if settings.dedupe else None
        predictions = score(
            items,
            detector,
            policy=self.policy,
            batch_size=self.batch_size,
            num_workers=workers_of(settings.num_workers),
            precision=settings.precision,
            limits=self.limits,
            condition=self.condition,
            duplicates=duplicates,
            with_origin=settings.provenance,
            on_batch=None if maps is None else maps.add_batch,
        )
        everywhere = (lambda: output.done().rows) if settings.share[1] > 1 else None
        shown = Progress(self.console, output.resumed, lambda: count_items(settings.input), everywhere=everywhere)
        with maps or nullcontext(), shown:
            for item, prediction in predictions:
                output.add(item, prediction)
                if len(self.shown) <= MOST_SHOWN:  # one more tells that there are too many
                    self.shown.append((item.path, prediction))
                shown.advance()
        if duplicates is not None:
            print_plain(
                f"Duplicates: {duplicates.count:,} pictures equal one before, and are not scored again", self.console
            )

    def _on_ray(self, facts: Mapping[str, Any], cluster: Mapping[str, float]) -> None:
        """Score on a cluster, whose actors write into the store."""
        output, settings, ray = self.output, self.settings, self.settings.ray
        given = entries(settings.input, passed_over=self.passed_over)
        units = [packed(unit, here) for unit, here in output.undone(facts, given, self.together)]
        self._say_resumed()
        if not units:
            return
        actors = room_for(ray.concurrency, ray.num_cpus, self.num_gpus, cluster)
        if ray.concurrency is not None and actors < ray.concurrency:
            print_plain(f"ray.concurrency={ray.concurrency}: the cluster has room for {actors}.", self.console)
        work = Work(
            load=partial(_load, settings, self.device),
            store=output.store,
            policy=self.policy,
            condition=self.condition,
            with_origin=settings.provenance,
            batch_size=self.batch_size,
            num_workers=max(1, int(ray.num_cpus)) if settings.num_workers is None else settings.num_workers,
            precision=settings.precision,
            limits=self.limits,
            dedupe=settings.dedupe,
            every_s=settings.save_every_s,
            device=self.device.type,
        )
        with Progress(self.console, 0, lambda: len(units), "units") as shown:
            for unit, rows, set_aside in score_on_ray(units, work, actors, ray.num_cpus, self.num_gpus):
                if set_aside:
                    print_plain(
                        f"{set_aside:,} pictures of unit {unit} are set aside: what scored them was lost {MOST_TRIES} times",
                        self.console,
                    )
                shown.advance(rows)

    def _say_resumed(self) -> None:
        if self.output.resumed:
            print_plain(f"Resumed: {self.output.resumed:,} pictures were scored before.", self.console)


def _load(settings: PredictSettings, device: torch.device) -> Detector:
    return build_detector(settings, settings.precision, device)[0]


def _dependencies(
    settings: PredictSettings,
    weights: Mapping[str, WeightsFile],
    detector: Detector,
    device: torch.device,
    batch_size: int,
) -> dict[str, Any]:
    """Return all that a row depends on, besides its picture.

    Batches and versions move a score by float rounding only; but a run that goes on is to end as if it had not been stopped.
    """
    return {
        **{key: file.sha256 for key, file in weights.items()},
        "detector": detector.description(),
        "policy": asdict(build_policy(settings)),
        "condition": build_condition(settings).facts(),
        **({} if settings.calibration is None else {"abstain": settings.abstain}),
        **({"provenance": True} if settings.provenance else {}),
        "precision": settings.precision,
        "compile": settings.compile,
        **({} if settings.quantise is None else {"quantise": settings.quantise}),
        "batch_size": batch_size,
        "device": device.type,
        "max_megapixels": settings.max_megapixels,
        "versions": versions(),
    }


def _record(
    settings: PredictSettings,
    facts: Mapping[str, Any],
    weights: Mapping[str, WeightsFile],
    detector: Detector,
    output: Output,
    device: torch.device,
    clock: Clock,
) -> dict[str, Any]:
    return {
        "command": [storable(argument) for argument in sys.argv],
        "input": [storable(name) for name in settings.input],
        **clock.facts(),
        "resumed_after": output.resumed or None,
        "miniature": is_miniature(settings.checkpoint),
        "weights": {key: file.to_dict() for key, file in weights.items()},
        **({} if detector.quantised is None else {"quantised": asdict(detector.quantised)}),
        "device_name": device_name(device),
        "revision": git_revision(),
        "machine": machine(),
        "depends_on": facts,
    }


def _say_passed_over(passed_over: Counter[str], console: Console) -> None:
    if not passed_over:
        return
    kinds = name_list(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in passed_over.most_common())
    print_plain(f"Passed over in folders and shards, by their suffix: {kinds}.", console)
    shards = sorted(SHARD_SUFFIXES & passed_over.keys())
    if shards:
        print_plain(f"A shard is read where it is named: 'FOLDER/*{shards[0]}'.", console)


def _say(tally: Tally, console: Console) -> None:
    kinds = ", ".join(f"{count:,} {status}" for status, count in tally.statuses.most_common())
    decided = f"{tally.fakes:,} with p_fake above 0.5"
    if tally.unsure is not None:
        decided = f"{tally.fakes:,} fake, {tally.scored - tally.fakes - tally.unsure:,} real, {tally.unsure:,} unsure"
    print_plain(f"{tally.total:,} pictures: {kinds}; {decided}", console)
    for path, reason in tally.unread:
        print_plain(f"  no score: {path}: {reason}", console)
    if tally.total - tally.scored > len(tally.unread):
        print_plain(f"  ... ({tally.total - tally.scored - len(tally.unread):,} more)", console)


def _table(rows: Sequence[tuple[str, Prediction]]) -> Table:
    """Return a table of pictures by name: p_fake, decision, and what is wrong with the file."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("picture", overflow="fold")
    table.add_column("p_fake", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("", no_wrap=True)
    says = any(found.origin is not None for _, found in rows)
    if says:
        table.add_column("its file", no_wrap=True)
    for name, found in rows:
        p_fake = "-" if found.p_fake is None else f"{found.p_fake:.4f}"
        cells = [p_fake, found.verdict or "-", "" if found.status == "ok" else found.status]
        table.add_row(Text(printable(name)), *cells, *([found.origin.says if found.origin else ""] if says else []))
    return table


def _raise_if_incomplete(tally: Tally, where: str) -> None:
    if tally.total and not tally.scored:
        raise DataError(f"none of the {tally.total:,} pictures has a score; the reasons are {where}")
    if tally.scored < tally.total:
        raise IncompleteRunError(
            f"{tally.total - tally.scored:,} of the {tally.total:,} pictures have no score; the reasons are {where}"
        )
