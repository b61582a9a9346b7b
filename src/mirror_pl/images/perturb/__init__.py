"""What happens to pictures in the world, repeated to the bit: recompression, scaling, blur, noise, and chains of them."""

from mirror_pl.images.perturb.operations import OPERATIONS
from mirror_pl.images.perturb.perturbation import CLEAN, UNPERTURBED, VERSION, Perturbation, Step, parse_perturbation

__all__ = ["CLEAN", "OPERATIONS", "UNPERTURBED", "VERSION", "Perturbation", "Step", "parse_perturbation"]
