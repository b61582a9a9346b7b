"""Verdicts on any number of pictures: what to score (`entries`), score it (`score`), and where to write (`Output`).

Each of the three is of use without the others. Knows no Lightning and no Hydra.
"""

from mirror_pl.images import Limits
from mirror_pl.prediction.engine import device_of, pictures_at_once, score, workers_of
from mirror_pl.prediction.inputs import Item, check_inputs, count_items, entries, expand
from mirror_pl.prediction.outputs import Output
from mirror_pl.prediction.rows import Tally, row_of

__all__ = [
    "Item",
    "Limits",
    "Output",
    "Tally",
    "check_inputs",
    "count_items",
    "device_of",
    "entries",
    "expand",
    "pictures_at_once",
    "row_of",
    "score",
    "workers_of",
]
