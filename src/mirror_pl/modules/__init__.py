"""LightningModules: a detector to score with or to train, and a memory bank to train."""

from mirror_pl.modules.detector import DetectorModule
from mirror_pl.modules.memory_bank import MemoryBankModule

__all__ = ["DetectorModule", "MemoryBankModule"]
