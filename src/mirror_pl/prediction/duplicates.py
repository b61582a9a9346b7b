"""Equal files are scored once: what was said of a file, by the hash of its bytes, on disk and so in bounded memory."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from mirror_pl.detectors import CropScore, Prediction
from mirror_pl.images.pictures import PreparedPicture


class Duplicates:
    """What was said of the files seen so far, by one process.

    Args:
        path: A file to keep it in, for a run that goes on; None keeps it as long as this lives.

    Attributes:
        count: Pictures that were found to be equal to one before, and so were not scored.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.count = 0
        # Used by one thread at a time, which may be another one than this.
        self._said = sqlite3.connect(path or "", isolation_level=None, check_same_thread=False)
        self._said.execute("PRAGMA synchronous = OFF")  # what a power cut takes is scored again
        self._said.execute("CREATE TABLE IF NOT EXISTS said (file BLOB PRIMARY KEY, prediction TEXT) WITHOUT ROWID")

    def once(
        self, pictures: Sequence[PreparedPicture], predict: Callable[[list[PreparedPicture]], list[Prediction]]
    ) -> list[Prediction]:
        """Return what is said of each picture; one whose file equals another's, here or before, is not scored again.

        Args:
            pictures: With their digests; one without, such as an unreadable file, equals none.
            predict: Scores pictures.
        """
        found = [self._find(picture) for picture in pictures]
        new: dict[bytes | int, int] = {}
        for place, picture in enumerate(pictures):
            if found[place] is None:
                new.setdefault(picture.digest or place, place)
        places = list(new.values())
        for place, prediction in zip(places, predict([pictures[place] for place in places]), strict=True):
            found[place] = prediction
            self._add(pictures[place], prediction)
        said = [prediction or self._find(picture) for prediction, picture in zip(found, pictures, strict=True)]
        self.count += len(pictures) - len(places)
        return [prediction for prediction in said if prediction is not None]

    def _find(self, picture: PreparedPicture) -> Prediction | None:
        found = self._said.execute("SELECT prediction FROM said WHERE file = ?", (picture.digest,)).fetchone()
        if found is None:
            return None
        logit, p_fake, status, reason, crops, evidence, raw_logit, banded = json.loads(found[0])
        scores = tuple(CropScore(crop, value) for crop, value in zip(picture.plan, crops, strict=True))
        return Prediction(logit, p_fake, status, reason, picture.size, scores, evidence, raw_logit, banded)

    def _add(self, picture: PreparedPicture, prediction: Prediction) -> None:
        if picture.digest:
            logits = [score.logit for score in prediction.crops]
            said = (
                prediction.logit,
                prediction.p_fake,
                prediction.status,
                prediction.reason,
                logits,
                dict(prediction.evidence),
                prediction.raw_logit,
                prediction.banded,
            )
            self._said.execute("INSERT OR IGNORE INTO said VALUES (?, ?)", (picture.digest, json.dumps(said)))
