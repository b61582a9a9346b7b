"""When a detector says *unsure* in place of real or fake: the band of a split-conformal predictor, and its quantiles.

It is label-conditional (Mondrian): the error rate that it promises holds for reals and for fakes, each, whatever their
shares (Vovk, Gammerman and Shafer, 2005; Sadinle, Lei and Wasserman, 2019). Bands are in the detector's own logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mirror_pl.errors import ConfigError
from mirror_pl.labels import FAKE, LABEL_NAMES, REAL

UNSURE: Final = 2
"""The third answer, beside `REAL` and `FAKE`."""

VERDICTS: Final = (*LABEL_NAMES, "unsure")

STEP: Final = 0.001
"""Error rates that quantiles are kept for are multiples of this, up to one half."""

RATES: Final = 500


@dataclass(frozen=True)
class Band:
    """For one error rate, up to which logit an image may be real, and from which on it may be fake.

    Attributes:
        highest_real: An image may be real if its logit is at most this.
        lowest_fake: An image may be fake if its logit is at least this.
    """

    highest_real: float
    lowest_fake: float

    def verdicts(self, logit: NDArray[np.floating], decided_fake: NDArray[np.bool_]) -> NDArray[np.int8]:
        """Return `REAL`, `FAKE` or `UNSURE` for each image.

        An image that may be both is unsure. Where the classes lie so far apart that there is a gap instead of a band, an
        image in it can be neither, and the detector's own decision stands: no real above `highest_real` and no fake below
        `lowest_fake` is more than the error rate allows, wherever in the gap it is cut.

        Args:
            logit: ``(S,)``, the detector's own.
            decided_fake: ``(S,)``, its decision without the band.
        """
        may_be_real, may_be_fake = logit <= np.float64(self.highest_real), logit >= np.float64(self.lowest_fake)
        single = np.where(may_be_fake | (~may_be_real & decided_fake), FAKE, REAL)
        return np.where(may_be_real & may_be_fake, UNSURE, single).astype(np.int8)


@dataclass(frozen=True)
class Quantiles:
    """The bands of all error rates.

    Attributes:
        highest_real: ``(RATES,)``, for error rates `STEP`, 2 x `STEP`, ...; None where there are too few reals.
        lowest_fake: ``(RATES,)``, likewise.
        reals: They are of so many.
        fakes: Likewise.
    """

    highest_real: tuple[float | None, ...]
    lowest_fake: tuple[float | None, ...]
    reals: int
    fakes: int

    def band(self, rate: float) -> Band:
        """Return the band of an error rate, which is rounded down to a multiple of `STEP`.

        Raises:
            ConfigError: If the rate is out of range, or a class has too few images for it.
        """
        if not STEP <= rate <= RATES * STEP:
            raise ConfigError(f"abstain must be from {STEP:g} to {RATES * STEP:g}, got {rate:g}")
        place = math.floor(round(rate / STEP, 6)) - 1
        high, low = self.highest_real[place], self.lowest_fake[place]
        for value, count, name in ((high, self.reals, "reals"), (low, self.fakes, "fakes")):
            if value is None:
                needed = math.ceil(round(1 / ((place + 1) * STEP), 6)) - 1
                raise ConfigError(
                    f"abstain={rate:g} needs at least {needed:,} {name} in the set that the calibration was fitted on, "
                    f"which has {count:,}; give a larger abstain, or fit on a larger set"
                )
        assert high is not None
        assert low is not None
        return Band(high, low)
