"""What can be seen to fail before torch and Lightning are imported, which takes seconds: paths that are not there."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import DictConfig

from mirror_pl.benchmarks import index_benchmark
from mirror_pl.calibration import read_calibration
from mirror_pl.config.build import manifest_of
from mirror_pl.errors import CheckpointError, DataError, OutputError
from mirror_pl.images import condition_of
from mirror_pl.sources.place import path_of
from mirror_pl.sources.walk import find_folder


def check_early(cfg: DictConfig) -> None:
    """Look whether a command's files and folders are there; what is looked at closely is looked at by its job.

    Raises:
        BenchmarkAbsentError, DataError: If nothing of the benchmark is in ``data_root``, in the words of `index_benchmark`.
        ConfigError: If there is no such perturbation, or the calibration has no band for ``abstain``.
        CheckpointError: If the checkpoint does not exist, or the calibration cannot be read.
        OutputError: If ``output_dir`` cannot be made.
    """
    if cfg.get("repeat"):  # its settings are those of another run
        return
    condition_of(cfg.get("perturb"))
    checkpoint = cfg.get("checkpoint")
    names_its_files = "checkpoint" in (cfg.get("detector") or {})  # the others' loader says which files it wants
    uses_none = (cfg.get("phase") or {}).get("name") == "memory"  # its job says so
    if not (names_its_files or uses_none or checkpoint is None) and not Path(checkpoint).exists():
        raise CheckpointError(f"{checkpoint} does not exist; give another one with checkpoint=...")
    for head in cfg.get("heads") or ():
        if not Path(head).exists():
            raise CheckpointError(f"heads: {head} does not exist; give another one")
    if cfg.get("calibration") is not None:
        read_calibration(Path(cfg.calibration)).with_abstention(cfg.get("abstain"))
    if "data_root" in cfg and "benchmark" in cfg:
        manifest = manifest_of(cfg.benchmark)
        root = path_of(cfg.data_root)
        folders = [folder for layout in manifest.layouts.values() for folder in layout.folders]
        if not root.is_dir() or not any(find_folder(root, folder) for folder in folders):
            index_benchmark(manifest, root, frozenset())
    for key in ("root", "real", "fake") if "phase" in cfg and "data" in cfg else ():
        named = cfg.data.get(key) or []
        for folder in map(path_of, [named] if isinstance(named, str) else named):
            if not folder.exists():
                example = f"data.{key}=FOLDER" if key == "root" else f"data.{key}=[FOLDER]"
                raise DataError(f"data.{key}: {folder} does not exist; give a folder of images as {example}")
    if "output_dir" in cfg:
        output = Path(cfg.output_dir).absolute()
        there = next(folder for folder in (output, *output.parents) if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise OutputError(f"output_dir: {cfg.output_dir} cannot be written: {there} is no folder that it may be made in")
