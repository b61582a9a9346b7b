"""Sparse top-k attention of tokens over a bank of prototypes. Tensors only: no model, no configuration.

`pool` gives what a score needs, `expand` what a map or Phase 1 needs, both in chunks; `dense` is the plain statement of
the same mathematics, slow and hungry, that the other two are measured against.
"""

from mirror_pl.retrieval.dense import dense
from mirror_pl.retrieval.evidence import ENTROPY_EPS, PooledEvidence, TokenEvidence
from mirror_pl.retrieval.pool import expand, pool

__all__ = ["ENTROPY_EPS", "PooledEvidence", "TokenEvidence", "dense", "expand", "pool"]
