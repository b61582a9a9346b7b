"""Checkpoints: reading every published and own format, writing ours. Safe loading only, all or nothing."""

from mirror_pl.detectors.checkpoint.backbone_folder import BackboneSource, backbone_sha256, load_backbone
from mirror_pl.detectors.checkpoint.bank import bank_content, load_bank, save_bank
from mirror_pl.detectors.checkpoint.frozen_backbone import backbone_source, find_backbone
from mirror_pl.detectors.checkpoint.load import build_detector, calibration_for, load_mirror, merged, read_detector
from mirror_pl.detectors.checkpoint.published import departures, save_published
from mirror_pl.detectors.checkpoint.read import read_checkpoint
from mirror_pl.detectors.checkpoint.write import detector_content, save_folder

__all__ = [
    "BackboneSource",
    "backbone_sha256",
    "backbone_source",
    "bank_content",
    "build_detector",
    "calibration_for",
    "departures",
    "detector_content",
    "find_backbone",
    "load_backbone",
    "load_bank",
    "load_mirror",
    "merged",
    "read_checkpoint",
    "read_detector",
    "save_bank",
    "save_folder",
    "save_published",
]
