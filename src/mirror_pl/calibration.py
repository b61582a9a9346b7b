"""A calibration: what makes a detector's logits probabilities, and what it was fitted on. Its file is plain JSON.

It is applied to the logit of an image, after its crops' are made one, and never falls with it: ranks stay, but for ties.
``scores/fit_calibration.py`` fits one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mirror_pl.abstention import RATES, Band, Quantiles
from mirror_pl.errors import CheckpointError, ConfigError, name_list, shown
from mirror_pl.files import read_text
from mirror_pl.texts import storable

METHODS: Final = ("none", "temperature", "platt", "isotonic", "shift")
FORMAT: Final = "mirror_pl calibration"
VERSION: Final = 1

_LARGEST_FILE: Final = 2**27
"""Bytes: enough for ten million images."""
_LARGEST: Final = np.finfo(np.float32).max


@dataclass(frozen=True)
class FittedOn:
    """The images and the detector that a calibration was fitted on.

    Attributes:
        benchmark: Its name.
        subsets: Those of its subsets.
        reals: Scored real images.
        fakes: Scored fake images.
        detector: Its name.
        checkpoint: SHA-256 of its weights.
        protocol: Which crops were scored, and how they became one score.
        data: Fingerprint of the benchmark's images.
        images: ``(N,)`` uint64, rising: a digest of each image's path, see `path_digests`.
    """

    benchmark: str
    subsets: tuple[str, ...]
    reals: int
    fakes: int
    detector: str
    checkpoint: str
    protocol: Mapping[str, Any]
    data: str
    images: NDArray[np.uint64] = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """The set in a few words."""
        return f"{self.benchmark} ({name_list(self.subsets, 4)})"

    def check_detector(self, name: str, checkpoint: str, protocol: Mapping[str, Any] | None = None) -> None:
        """See that it was fitted on a detector, as far as is known.

        Raises:
            ConfigError: If it was not.
        """
        now = {"detector": name, "checkpoint": checkpoint, "protocol": protocol}
        for key, value in now.items():
            if value is not None and value != getattr(self, key):
                raise ConfigError(
                    f"calibration: it was fitted on another {key}: {getattr(self, key)}, and this one is {value}. Fit one "
                    "for this detector: mirror-pl calibrate RUN output=FILE"
                )

    def check_images(self, digests: NDArray[np.uint64]) -> None:
        """See that images are none that it was fitted on: judged on those, it would flatter the detector.

        Raises:
            ConfigError: If some are.
        """
        shared = int(np.isin(digests, self.images).sum())
        if shared:
            raise ConfigError(
                f"calibration: it was fitted on {self.name}, and {shared:,} of the {len(digests):,} images here are "
                f"among its {len(self.images):,}. Report on another set, or fit on another one: mirror-pl calibrate RUN "
                "subsets=[...]"
            )


@dataclass(frozen=True)
class Calibration:
    """How a detector's logits become calibrated ones, and where it says unsure.

    Attributes:
        method: One of `METHODS`.
        slope: Of all but ``isotonic``: the calibrated logit is slope x logit + offset. 1 / temperature; above 0.
        offset: Likewise.
        logits: Of ``isotonic``: never falling; between them, and not beyond, probabilities are interpolated.
        probabilities: Of ``isotonic``: never falling, above 0 and below 1, so that logits are finite.
        balanced: Whether reals and fakes weighed equally in the fit: then p_fake is for a prior of one half.
        quantiles: Bands of the set that it was fitted on.
        fitted_on: That set, and the detector.
        abstain: Error rate of the band that is on; None for none. No part of the file.
    """

    method: str
    quantiles: Quantiles
    fitted_on: FittedOn
    slope: float = 1.0
    offset: float = 0.0
    logits: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()
    balanced: bool = True
    abstain: float | None = None

    def __call__(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return calibrated logits, of any shape; those that are not finite stay as they are."""
        raw = logits.astype(np.float64)
        if self.method == "isotonic":
            p_fake = np.interp(raw, self.logits, self.probabilities)
            calibrated = np.log(p_fake) - np.log1p(-p_fake)
        else:
            calibrated = self.slope * raw + self.offset
        return np.where(np.isfinite(raw), np.clip(calibrated, -_LARGEST, _LARGEST), raw).astype(np.float32)

    def verdicts(self, logits: NDArray[np.float32]) -> NDArray[np.int8]:
        """Return real, fake or unsure for each of the detector's own logits, by the band that is on.

        Raises:
            ConfigError: As `with_abstention`.
        """
        return self.band.verdicts(logits, self(logits) > 0)

    @property
    def band(self) -> Band:
        """The band that is on."""
        if self.abstain is None:
            raise ConfigError("abstain: no error rate is given; give abstain=0.1 for one of 10 %")
        return self.quantiles.band(self.abstain)

    def with_abstention(self, abstain: float | None) -> Calibration:
        """Return it with a band for an error rate in each class, or with none.

        Raises:
            ConfigError: If the rate is out of range, or a class had too few images for it.
        """
        found = replace(self, abstain=abstain)
        if abstain is not None:
            _ = found.band
        return found

    def description(self) -> dict[str, Any]:
        """Return what it is for records, in plain values: not its images, its quantiles, and an isotonic one's steps."""
        long = ("images", "logits", "probabilities")
        head, origin = (
            {key: part[key] for key in part if key not in long} for part in (_head(self), _plain(self.fitted_on))
        )
        return {**head, "fitted_on": origin, "abstain": self.abstain}


def p_fake_of(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sigmoid of logits, computed in float64."""
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def path_digests(paths: Iterable[str], benchmark: str, data_root: str) -> NDArray[np.uint64]:
    """Return ``(N,)`` digests by which images are told again, also where the data has moved.

    Args:
        paths: Relative to `data_root`, or absolute.
        benchmark: Below ``folder`` anything may lie, so a path there is taken with its root.
        data_root: Of the run.
    """
    root = f"{data_root.rstrip('/')}/" if benchmark == "folder" else ""
    whole = (path if path.startswith("/") else f"{root}{path}" for path in map(storable, paths))
    digests = b"".join(hashlib.sha256(path.encode()).digest()[:8] for path in whole)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def as_text(calibration: Calibration) -> str:
    """Return what a calibration's file holds."""
    quantiles = asdict(calibration.quantiles)
    content = {**_head(calibration), "quantiles": quantiles, "fitted_on": _plain(calibration.fitted_on)}
    return json.dumps({"format": FORMAT, "version": VERSION, **content}, allow_nan=False) + "\n"


def read_calibration(path: Path) -> Calibration:
    """Read a file of `as_text`.

    Raises:
        CheckpointError: If it is missing, damaged, or no such file, with what is wrong.
    """
    try:
        content = json.loads(read_text(path, _LARGEST_FILE))
        return _read(content)
    except OSError as error:
        raise CheckpointError(f"calibration: {path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise CheckpointError(f"calibration: {path} is nested too deeply") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"calibration: {path} is no file that mirror_pl.calibrate wrote, or damaged: {reason}; fit it anew"
        ) from error


def _head(calibration: Calibration) -> dict[str, Any]:
    head: dict[str, Any] = {"method": calibration.method, "balanced": calibration.balanced}
    if calibration.method == "isotonic":
        return {**head, "logits": list(calibration.logits), "probabilities": list(calibration.probabilities)}
    return {**head, "slope": calibration.slope, "offset": calibration.offset}


def _plain(origin: FittedOn) -> dict[str, Any]:
    values = {name: getattr(origin, name) for name in FittedOn.__dataclass_fields__}
    images = base64.b64encode(origin.images.astype("<u8").tobytes()).decode()
    return {**values, "subsets": list(origin.subsets), "protocol": dict(origin.protocol), "images": images}


def _read(content: Any) -> Calibration:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f'its "format" is not "{FORMAT}"')
    if content["version"] != VERSION:
        raise ValueError(f"its version is {shown(content['version'])}, and this mirror_pl reads {VERSION}; update mirror_pl")
    method = content["method"]
    if method not in METHODS:
        raise ValueError(f"its method is {shown(method)}, none of {', '.join(METHODS)}")
    origin, quantiles = content["fitted_on"], content["quantiles"]
    known: dict[str, Any] = {name: _count(origin, name) for name in ("reals", "fakes")}
    known |= {name: _text(origin, name) for name in ("benchmark", "detector", "checkpoint", "data")}
    if not isinstance(origin["protocol"], dict) or not isinstance(content["balanced"], bool):
        raise ValueError("protocol or balanced is of another type")
    images = np.frombuffer(base64.b64decode(_text(origin, "images"), validate=True), "<u8").astype(np.uint64)
    subsets = tuple(_text({"subset": name}, "subset") for name in origin["subsets"])
    fitted_on = FittedOn(subsets=subsets, **known, protocol=origin["protocol"], images=images)
    high = _numbers(quantiles, "highest_real", falling=True)
    low = _numbers(quantiles, "lowest_fake")
    if len(high) != RATES or len(low) != RATES:
        raise ValueError(f"there are {len(high)} and {len(low)} quantiles, expected {RATES}")
    bands = Quantiles(high, low, _count(quantiles, "reals"), _count(quantiles, "fakes"))
    values: dict[str, Any] = {}
    if method == "isotonic":
        values = {name: _numbers(content, name, whole=True) for name in ("logits", "probabilities")}
        p_fake = values["probabilities"]
        if not len(values["logits"]) == len(p_fake) > 0 or not 0 < p_fake[0] <= p_fake[-1] < 1:
            raise ValueError("logits and probabilities must be as many, and probabilities above 0 and below 1")
    else:
        values = {name: _number(content[name]) for name in ("slope", "offset")}
        if not values["slope"] > 0:
            raise ValueError(f"slope must be above 0, got {values['slope']}")
    return Calibration(method, bands, fitted_on, balanced=content["balanced"], **values)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{shown(value)} is no finite number")
    return float(value)


def _numbers(content: Any, name: str, *, whole: bool = False, falling: bool = False) -> tuple[Any, ...]:
    """Read numbers, or nulls before them unless `whole`, that never fall, or never rise."""
    found = [None if value is None and not whole else _number(value) for value in content[name]]
    known = [value for value in found if value is not None]
    if found[len(found) - len(known) :] != known or known != sorted(known, reverse=falling):
        raise ValueError(f"{name} is not in order")
    return tuple(found)


def _count(content: Any, name: str) -> int:
    value = content[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {shown(value)}, expected a count of at least 1")
    return value


def _text(content: Any, name: str) -> str:
    value = content[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shown(value)}, expected a text")
    return value
