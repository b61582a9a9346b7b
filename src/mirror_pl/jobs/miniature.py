"""The miniature: a dataset made on the spot, a bank and a detector trained on it, and their evaluation, in one folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mirror_pl.config.command import compose
from mirror_pl.config.schema import MiniatureSettings, read_settings
from mirror_pl.detectors.detector_config import HeadConfig
from mirror_pl.detectors.variants import LINEAR_PROBE
from mirror_pl.errors import ConfigError, DataError, name_list
from mirror_pl.files import read_json
from mirror_pl.jobs import eval as evaluation
from mirror_pl.jobs import train as training
from mirror_pl.locate import miniature_dir
from mirror_pl.miniature import WorldSpec, build_world
from mirror_pl.provenance import git_revision, machine, versions
from mirror_pl.reports import RunFolder, print_plain
from mirror_pl.stopping import go_on_with

BANK_LABELS = {"real": "[0]", "mixed": "[0,1]", "fake": "[1]"}
"""Classes of the training images that a bank is learnt from."""


PASSED_ON = ("phase", "callbacks", "paths", "hydra", "num_workers", "seed", "output_dir", "resume")
PASSED_ON_OF_TRAINER = ("accelerator", "precision")
"""Settings that reach the parts; the others have values of their own there."""


def run(cfg: DictConfig) -> None:
    """Make the world, learn a bank, train a detector and evaluate it, as `cfg` says; what is there is not made again.

    Raises:
        MirrorError: If settings are not usable, or a part fails.
    """
    settings = read_settings(cfg, MiniatureSettings)
    _check_passed_on(cfg)
    console = Console()
    started, clock = datetime.now().astimezone(), time.perf_counter()
    path, spec = Path(settings.output_dir), WorldSpec()
    print_plain("The miniature: small decoders to be told from photographs. It is no detector for the real world.", console)
    folder = RunFolder(path, OmegaConf.to_yaml(cfg, resolve=True), resume=settings.resume)
    go_on_with(f"output_dir={path}", "resume=true")
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], None]) -> None:
        begin = time.perf_counter()
        work()
        seconds[name] = time.perf_counter() - begin

    world = path / "world" if settings.phase.world is None else Path(settings.phase.world)
    if not (world / "test").is_dir():
        if settings.phase.world is not None:
            folder.release()
            raise DataError(f"phase.world: {world} is no world of an earlier run; leave it out to make one")
        photographs = miniature_dir() / "photographs"
        timed("world", lambda: build_world(world, photographs, spec, settings.seed, lambda line: print_plain(line, console)))

    shared = _passed_on(cfg, settings)
    images = [f"data.root={_quoted(world / 'train')}", f"seed={settings.seed}", *shared]
    bank = []
    if HeadConfig(tuple(cfg.detector.head.inputs)).needs_bank:
        labels = f"data.labels={BANK_LABELS[settings.phase.bank]}"
        timed("memory", lambda: _train(path / "memory", "miniature_memory", [*images, labels]))
        bank = [f"memory_path={_quoted(path / 'memory/memory_bank.pth')}"]
    more = [f"+validation.val={_quoted(world / 'val')}", f"detector={cfg.detector.name}", *bank]
    experiment = "miniature_probe" if cfg.detector.name == LINEAR_PROBE else "miniature_detector"
    timed("detector", lambda: _train(path / "detector", experiment, [*images, *more]))
    report = path / f"eval_{started:%Y%m%d_%H%M%S}"  # of a run that was stopped there may be one already
    # The last one: the validation scenes are too few to choose by.
    timed("eval", lambda: _evaluate(report, path / "detector/last.ckpt", world / "test", shared))

    metrics = read_json(report / "metrics.json")
    bal_acc = {row["subset"]: row["metrics"]["bal_acc"] for row in metrics["subsets"]}
    seen = sum(bal_acc[name] for name in spec.seen) / len(spec.seen)
    folder.complete(
        {
            "command": sys.argv,
            "started": started.isoformat(),
            "finished": datetime.now().astimezone().isoformat(),
            "seconds": seconds,
            "report": report.name,
            "bal_acc": {"seen": seen, "held_out": bal_acc[spec.held_out], **bal_acc},
            "versions": versions(),
            "revision": git_revision(),
            "machine": machine(),
        }
    )
    print_plain(
        f"On scenes that nothing was trained on, balanced accuracy is {seen:.1%} for the decoders trained on, and "
        f"{bal_acc[spec.held_out]:.1%} for {spec.held_out}, which was held out.",
        console,
    )
    print_plain(f"Everything is in {path}, after {time.perf_counter() - clock:.0f} s.", console)


def _check_passed_on(cfg: DictConfig) -> None:
    """Refuse settings that would change nothing.

    Raises:
        ConfigError: Naming them, and the command that takes them.
    """
    plain = compose("train", ["experiment=miniature", f"detector={cfg.detector.name}"])
    chosen, default = (OmegaConf.to_container(config, resolve=False) for config in (cfg, plain))
    assert isinstance(chosen, dict)
    assert isinstance(default, dict)
    for config in (chosen, default):
        for name in PASSED_ON:
            config.pop(name, None)
        config["trainer"] = {name: config["trainer"][name] for name in config["trainer"] if name not in PASSED_ON_OF_TRAINER}
    ignored = [str(name) for name in default if chosen.get(name) != default[name]]
    if ignored:
        raise ConfigError(
            f"{name_list(ignored)}: the miniature does not use it; its parts do: experiment=miniature_memory and "
            "experiment=miniature_detector, each with a world's folders (docs/miniature.md)"
        )


def _passed_on(cfg: DictConfig, settings: MiniatureSettings) -> list[str]:
    """Return the settings of this command that all its parts have too, as overrides."""
    workers = "null" if settings.num_workers is None else settings.num_workers
    passed = [f"num_workers={workers}", f"paths.outputs={_quoted(cfg.paths.outputs)}"]
    passed += [f"trainer.{name}={cfg.trainer[name]}" for name in PASSED_ON_OF_TRAINER]
    return passed if "progress" in cfg.callbacks else [*passed, "~callbacks.progress"]


def _train(output: Path, experiment: str, overrides: Iterable[str]) -> None:
    if (output / "run.json").exists():
        return
    resume = (output / "config.yaml").exists()
    named = [f"experiment={experiment}", f"output_dir={_quoted(output)}", f"resume={str(resume).lower()}"]
    training.run(compose("train", [*named, *overrides]))


def _evaluate(output: Path, checkpoint: Path, test: Path, overrides: Iterable[str]) -> None:
    named = ["benchmark=miniature", f"checkpoint={_quoted(checkpoint)}"]
    named += [f"data_root={_quoted(test)}", f"output_dir={_quoted(output)}"]
    evaluation.run(compose("eval", [*named, *overrides]))


def _quoted(path: Path | str) -> str:
    """Return a path as Hydra's command line takes it, whatever characters are in it."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
