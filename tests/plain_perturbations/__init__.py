"""Each operation of `mirror_pl.images.perturb` once more, plainly and slowly, by nobody's code but NumPy's, SciPy's and Pillow's."""

from plain_perturbations.blur import BLUR
from plain_perturbations.codecs import CODECS
from plain_perturbations.colour import COLOUR
from plain_perturbations.geometry import GEOMETRY
from plain_perturbations.noise import NOISE
from plain_perturbations.overlays import OVERLAYS
from plain_perturbations.statement import Statement

STATEMENTS: dict[str, Statement] = {**CODECS, **BLUR, **NOISE, **COLOUR, **GEOMETRY, **OVERLAYS}
