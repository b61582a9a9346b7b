"""Under which condition a picture is scored: what happened to it on its way, and which file formats are evened out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from mirror_pl.errors import ConfigError
from mirror_pl.images.perturb import UNPERTURBED, VERSION, Perturbation, parse_perturbation
from mirror_pl.images.spec import EVERY_SUFFIX, PreprocessSpec

FormatAlign = Literal["none", "png", "all"]
ALIGNED: Final[dict[FormatAlign, tuple[str, ...]]] = {"none": (), "png": (".png", ".bmp"), "all": (EVERY_SUFFIX,)}
"""The suffixes whose crops are compressed to JPEG, by the value of ``format_align``."""


@dataclass(frozen=True)
class Condition:
    """What is done to a picture besides the recipe of its detector.

    Attributes:
        perturbation: Done to the decoded image.
        format_align: Which crops are compressed to JPEG, at the recipe's quality: ``none``; ``png``, those of lossless
            files, as MIRROR does; ``all``, as its authors advise where file formats tell real from fake. None leaves that to
            the recipe.
    """

    perturbation: Perturbation = UNPERTURBED
    format_align: FormatAlign | None = None

    def __post_init__(self) -> None:
        if self.format_align not in (None, *ALIGNED):
            raise ConfigError(f"format_align must be {', '.join(ALIGNED)} or null, got {self.format_align}")

    def __str__(self) -> str:
        if self.format_align is None:
            return str(self.perturbation)
        aligned = f"format_align_{self.format_align}"
        return f"{self.perturbation}+{aligned}" if self.perturbation.steps else aligned

    def facts(self) -> dict[str, Any] | None:
        """Return what a record says of it; None for the picture as it is."""
        if self == AS_IT_IS:
            return None
        seed, version = self.perturbation.seed, VERSION
        return {"perturb": str(self.perturbation), "seed": seed, "version": version, "format_align": self.format_align}

    def recipe(self, spec: PreprocessSpec) -> PreprocessSpec:
        """Return the recipe as it is under this condition."""
        return spec if self.format_align is None else replace(spec, align_suffixes=ALIGNED[self.format_align])


AS_IT_IS: Final = Condition()
"""The picture as it is, by the recipe of the detector."""


def condition_of(
    perturb: str | Sequence[str] | None = None, seed: int = 0, format_align: FormatAlign | None = None
) -> Condition:
    """Return the condition that settings name.

    Raises:
        ConfigError: As `parse_perturbation`, and for another `format_align` than there is.
    """
    return Condition(parse_perturbation(perturb, seed), format_align)
