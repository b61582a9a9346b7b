"""A suite: the perturbations that a detector is to be robust against, in families of rising strength."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mirror_pl.errors import ConfigError, shown
from mirror_pl.images.condition import ALIGNED, AS_IT_IS, Condition
from mirror_pl.images.perturb import parse_perturbation

FORMAT_FAMILY: Final = "Format alignment"
"""The family of conditions that say how much of a score rests on file formats; no perturbation, and in no mean over them."""


@dataclass(frozen=True)
class Suite:
    """What images are scored under.

    Attributes:
        name: Short.
        title: In print.
        source: Where its levels come from.
        families: Conditions by the family's name, each from weak to strong; the last is `FORMAT_FAMILY`.
    """

    name: str
    title: str
    source: str
    families: Mapping[str, tuple[Condition, ...]]

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All of them, behind that of the picture as it is."""
        return (AS_IT_IS, *(condition for family in self.families.values() for condition in family))


def parse_suite(values: Mapping[str, Any], seed: int = 0) -> Suite:
    """Read a suite as ``configs/suite/`` has it: ``name``, ``title``, ``source``, and ``families`` of perturbations.

    Raises:
        ConfigError: If something is missing, unknown, twice there, or no perturbation.
    """
    expected = {"name", "title", "source", "families"}
    if set(values) != expected:
        raise ConfigError(f"suite: expected {', '.join(sorted(expected))}; got {', '.join(sorted(map(str, values)))}")
    if not isinstance(values["families"], Mapping) or not values["families"]:
        raise ConfigError(f"suite.families: expected lists of perturbations by name, got {shown(values['families'])}")
    families = {}
    for family, entries in values["families"].items():
        if family == FORMAT_FAMILY or not isinstance(entries, list) or not entries:
            raise ConfigError(f"suite.families.{family}: expected a name of its own and a list of perturbations")
        for entry in entries:
            if not isinstance(entry, str | list):
                raise ConfigError(f"suite.families.{family}: expected a perturbation such as jpeg_50, got {shown(entry)}")
        families[str(family)] = tuple(Condition(parse_perturbation(entry, seed)) for entry in entries)
    families[FORMAT_FAMILY] = tuple(Condition(format_align=name) for name in ALIGNED)
    suite = Suite(str(values["name"]), str(values["title"]), str(values["source"]), families)
    names = list(map(str, suite.conditions))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"suite: {', '.join(twice)} is there twice, or is the picture as it is")
    return suite
