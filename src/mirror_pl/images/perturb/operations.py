"""All operations by their names."""

from __future__ import annotations

from typing import Final

from mirror_pl.images.perturb.blur import BLUR
from mirror_pl.images.perturb.codecs import CODECS
from mirror_pl.images.perturb.colour import COLOUR
from mirror_pl.images.perturb.geometry import GEOMETRY
from mirror_pl.images.perturb.noise import NOISE
from mirror_pl.images.perturb.operation import Operation
from mirror_pl.images.perturb.overlays import OVERLAYS

OPERATIONS: Final[dict[str, Operation]] = {**CODECS, **BLUR, **NOISE, **COLOUR, **GEOMETRY, **OVERLAYS}
"""What `parse_perturbation` knows."""
