"""A perturbation: what may have happened to a picture on its way, as a chain of operations, each with its level."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, features

from mirror_pl.errors import ConfigError, nearest
from mirror_pl.images.decode import UndecodableImageError
from mirror_pl.images.perturb.operations import OPERATIONS

VERSION: Final = 1
"""To be raised when an operation gives other pixels for the same image, level and seed."""

CLEAN: Final = "clean"
"""Name of the chain without operations."""


@dataclass(frozen=True)
class Step:
    """One operation of a chain.

    Attributes:
        name: One of `OPERATIONS`.
        low: Its level, in the unit of the operation.
        high: The same; or larger, where each image gets a level of its own, drawn evenly from between the two.
    """

    name: str
    low: float
    high: float

    def level(self, generator: np.random.Generator, *, whole: bool) -> float:
        """Return the level of one image; of a range, its own, which draws a random number."""
        if self.low == self.high:
            return round(self.low) if whole else self.low
        if whole:
            return int(generator.integers(round(self.low), round(self.high), endpoint=True))
        return float(generator.uniform(self.low, self.high))

    def __str__(self) -> str:
        return f"{self.name}_{self.low:g}" + ("" if self.low == self.high else f":{self.high:g}")


@dataclass(frozen=True)
class Perturbation:
    """A chain of operations, done in order on the decoded image, before the recipe of the detector.

    What is random in an operation follows from the seed, the image's id, the operation's name, and how often that has stood
    in the chain before: not from the image's label, its place in a batch, or the level. So a picture's noise is the same at
    each level, but stronger, and the levels are compared on the same draw.

    Attributes:
        steps: In order; none of them for the picture as it is.
        seed: 0 or above.
    """

    steps: tuple[Step, ...] = ()
    seed: int = 0

    def __str__(self) -> str:
        return "+".join(map(str, self.steps)) or CLEAN

    def __call__(self, image: Image.Image, suffix: str, image_id: str) -> tuple[Image.Image, str]:
        """Return what becomes of a decoded RGB image, and of the suffix of its file: that of the last codec.

        Args:
            image: In mode RGB; it is not changed.
            suffix: Of its file, with the dot.
            image_id: Names the image, the same wherever it is scored; the path in the prediction table.

        Raises:
            UndecodableImageError: If an operation cannot be done on it.
        """
        before: Counter[str] = Counter()
        for step in self.steps:
            operation = OPERATIONS[step.name]
            generator = self._generator(image_id, step.name, before[step.name])
            before[step.name] += 1
            try:
                image = operation.apply(image, step.level(generator, whole=operation.whole), generator)
            except UndecodableImageError:
                raise
            except Exception as error:  # of memory, say
                reason = " ".join(str(error).split()) or "no message"
                raise UndecodableImageError(f"{step} is not possible: {type(error).__name__}: {reason}") from error
            suffix = operation.suffix or suffix
        return image, suffix

    def _generator(self, image_id: str, name: str, number: int) -> np.random.Generator:
        key = "\0".join([str(VERSION), str(self.seed), image_id, name, str(number)])
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        return np.random.default_rng(np.frombuffer(digest, np.uint32))


UNPERTURBED: Final = Perturbation()


def parse_perturbation(given: str | Sequence[str] | None, seed: int = 0) -> Perturbation:
    """Read a chain as settings have it: ``jpeg_50``, ``[resize_0.5, jpeg_70]``, or the same as ``resize_0.5+jpeg_70``.

    A level may be a range, ``jpeg_70:100``, of which each image has its own.

    Args:
        given: None, ``clean`` and an empty list are the picture as it is.
        seed: 0 or above.

    Raises:
        ConfigError: If there is no such operation, a level is out of its range, or Pillow lacks the codec.
    """
    texts = (given or "").split("+") if isinstance(given, str) or given is None else [str(part) for part in given]
    steps = tuple(_step(text.strip()) for text in texts if text.strip() not in ("", CLEAN))
    if seed < 0:
        raise ConfigError(f"perturb_seed must be 0 or more, got {seed}")
    return Perturbation(steps, seed)


_STEP: Final = re.compile(r"(?P<name>[a-z0-9_]*[a-z][a-z0-9]*)_(?P<low>-?[0-9.]+(e-?\d+)?)(:(?P<high>-?[0-9.]+(e-?\d+)?))?")


def _step(text: str) -> Step:
    form = "OPERATION_LEVEL, such as jpeg_50 or resize_0.5, or OPERATION_LOW:HIGH"
    found = _STEP.fullmatch(text)
    name = text.rpartition("_")[0] if found is None else found["name"]
    if name not in OPERATIONS and text not in OPERATIONS:
        raise ConfigError(
            f"perturb={text}: there is no such operation.{nearest(name or text, OPERATIONS)} Expected {form}; "
            f"available: {', '.join(OPERATIONS)}"
        )
    operation = OPERATIONS[name if name in OPERATIONS else text]
    try:
        low = float(found["low"]) if found else float("nan")
        high = float(found["high"]) if found and found["high"] else low
    except ValueError:
        low = high = float("nan")
    if not operation.low <= low <= high <= operation.high:
        raise ConfigError(
            f"perturb={text}: expected {form}, a level from {operation.low:g} to {operation.high:g}: {operation.unit}"
        )
    if operation.whole and (low != round(low) or high != round(high)):
        raise ConfigError(f"perturb={text}: the level must be a whole number: {operation.unit}")
    if operation.feature and not features.check(operation.feature):
        raise ConfigError(
            f"perturb={text}: this installation of Pillow was built without {name}; install Pillow's own wheel "
            "(`pip install --force-reinstall pillow`), or leave the operation out"
        )
    return Step(name, low, high)
