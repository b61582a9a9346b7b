"""The conversion job: any checkpoint in; config.json and model.safetensors, or a file in the published format, out."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console

from mirror_pl.config.build_detector import backbone_folder, build_backbone
from mirror_pl.config.schema import ConvertSettings, read_settings
from mirror_pl.detectors.checkpoint import (
    build_detector,
    departures,
    find_backbone,
    merged,
    read_checkpoint,
    read_detector,
    save_folder,
    save_published,
)
from mirror_pl.detectors.checkpoint.names import is_adapter
from mirror_pl.detectors.known_backbones import backbone_name
from mirror_pl.errors import ConfigError
from mirror_pl.files import path_sha256
from mirror_pl.reports import print_plain

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PUBLISHED_SUFFIX = ".pth"
"""An output that ends so is written in the published format."""


def run(cfg: DictConfig) -> None:
    """Convert as `cfg` says, and say what was done.

    Raises:
        MirrorError: If the input is no detector, or the output exists.
    """
    settings = read_settings(cfg, ConvertSettings)
    source, output = Path(settings.input), Path(settings.output)
    if output.exists():
        raise ConfigError(
            f"output: {output} exists already; nothing is overwritten. Give a new folder as output=FOLDER, or a new file "
            f"as output=FILE{PUBLISHED_SUFFIX}"
        )
    backbone, folder = build_backbone(settings.backbone), backbone_folder(settings.backbone)
    raw = read_checkpoint(source, "input")
    tensors, config = read_detector(
        raw, backbone=backbone, backbone_folder=folder, memory_path=settings.memory_path, key="input"
    )
    outside = find_backbone(raw, folder, "input")
    config = build_detector(tensors, config).config  # the check that all of it is there and fits
    adapters = sum(map(is_adapter, tensors)) // 2
    if settings.merge_lora:
        tensors, config = merged(tensors, config)
    dtype, published = DTYPES[settings.dtype], output.suffix.lower() == PUBLISHED_SUFFIX
    if published:
        epoch = raw.training.get("epoch", raw.epoch)
        epoch = epoch if isinstance(epoch, int) else 0
        save_published(output, tensors, config, dtype, epoch=epoch, training=raw.training)
    else:
        save_folder(output, tensors, config, dtype, raw.training)

    console = Console()

    def say(line: str) -> None:
        print_plain(line, console)

    lora = "no LoRA" if not adapters else f"{adapters} LoRA adapters {'merged' if settings.merge_lora else 'kept'}"
    say(f"read      {source} ({_size(source):,} bytes, sha256 {path_sha256(source)})")
    if outside is not None:
        say(f"and       {outside.path}, the backbone's weights (sha256 {outside.sha256})")
    say(f"backbone  {backbone_name(config.backbone) or 'without a name'} ({config.backbone})")
    say(f"tensors   {len(tensors)} with {sum(tensor.numel() for tensor in tensors.values()):,} values; {lora}")
    say(f"wrote     {output} ({_size(output):,} bytes, {settings.dtype}; sha256 {path_sha256(output)})")
    if published and departures(config):
        say(
            f"note      only mirror_pl can use it, not the published code, which knows no such detector: "
            f"{'; '.join(departures(config))}"
        )
    say(f"use it    python -m mirror_pl.eval benchmark=genimage data_root=FOLDER checkpoint={output}")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
