"""All operations by their names."""

from __future__ import annotations

from typing import Final

from mirror_pl.images.perturb.codecs import CODECS
from mirror_pl.images.perturb.geometry import GEOMETRY
from mirror_pl.images.perturb.noise import NOISE
from mirror_pl.images.perturb.operation import Operation

OPERATIONS: Final[dict[str, Operation]] = {**CODECS, **GEOMETRY, **NOISE}
"""What `parse_perturbation` knows."""
