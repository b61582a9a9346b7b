"""Equal files are scored once: what was said of a file, by the hash of its bytes, on disk and so in bounded memory."""

from __future__ import annotations

import json
import sqlite3
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

    def find(self, picture: PreparedPicture) -> Prediction | None:
        """Return what was said of an equal file; None where there was none.

        Args:
            picture: With its `digest`; one without, such as an unreadable file, equals none.
        """
        found = self._said.execute("SELECT prediction FROM said WHERE file = ?", (picture.digest,)).fetchone()
        if not picture.digest or found is None:
            return None
        logit, p_fake, status, reason, crops, evidence = json.loads(found[0])
        self.count += 1
        scores = tuple(CropScore(crop, value) for crop, value in zip(picture.plan, crops, strict=True))
        return Prediction(logit, p_fake, status, reason, picture.size, scores, evidence)

    def add(self, picture: PreparedPicture, prediction: Prediction) -> None:
        """Note what was said of a file."""
        if picture.digest:
            said = [prediction.logit, prediction.p_fake, prediction.status, prediction.reason]
            said += [[score.logit for score in prediction.crops], dict(prediction.evidence)]
            self._said.execute("INSERT OR IGNORE INTO said VALUES (?, ?)", (picture.digest, json.dumps(said)))
