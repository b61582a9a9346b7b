"""The conversion job: any checkpoint in, config.json and model.safetensors out."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig

from mirror_pl.config.build import build_backbone
from mirror_pl.config.settings import ConvertSettings, read_settings
from mirror_pl.detectors.checkpoint import build_detector, merged, read_detector, save_folder
from mirror_pl.detectors.known_backbones import backbone_name
from mirror_pl.errors import ConfigError
from mirror_pl.files import path_sha256

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def run(cfg: DictConfig) -> None:
    """Convert as `cfg` says, and say what was done.

    Raises:
        MirrorError: If the input is no detector, or the output exists.
    """
    settings = read_settings(cfg, ConvertSettings)
    source, output = Path(settings.input), Path(settings.output)
    if output.exists():
        raise ConfigError(f"output: {output} exists already; nothing is overwritten. Give a new folder as output=FOLDER")
    tensors, config = read_detector(
        source, backbone=build_backbone(settings.backbone), memory_path=settings.memory_path, key="input"
    )
    config = build_detector(tensors, config).config  # the check that all of it is there and fits
    adapters = sum(name.endswith(".lora_a") for name in tensors)
    if settings.merge_lora:
        tensors, config = merged(tensors, config)
    save_folder(output, tensors, config, DTYPES[settings.dtype])

    lora = "no LoRA" if not adapters else f"{adapters} LoRA adapters {'merged' if settings.merge_lora else 'kept'}"
    print(f"read      {source} ({_size(source):,} bytes, sha256 {path_sha256(source)})")
    print(f"backbone  {backbone_name(config.backbone) or 'without a name'} ({config.backbone})")
    print(f"tensors   {len(tensors)} with {sum(tensor.numel() for tensor in tensors.values()):,} values; {lora}")
    print(f"wrote     {output} ({_size(output):,} bytes, {settings.dtype}; sha256 {path_sha256(output)})")
    print(f"use it    python -m mirror_pl.eval checkpoint={output}")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
