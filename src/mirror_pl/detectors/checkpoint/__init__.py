"""Checkpoints: reading every published and own format, writing ours. Safe loading only, all or nothing."""

from mirror_pl.detectors.checkpoint.backbone_folder import load_backbone
from mirror_pl.detectors.checkpoint.bank_file import save_bank
from mirror_pl.detectors.checkpoint.load import build_detector, load_detector, merged, read_detector
from mirror_pl.detectors.checkpoint.save import save_folder

__all__ = ["build_detector", "load_backbone", "load_detector", "merged", "read_detector", "save_bank", "save_folder"]
