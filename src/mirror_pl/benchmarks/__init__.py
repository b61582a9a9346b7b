"""What a benchmark is: its manifest, and the index of the files that are really there. Knows no image and no model."""

from mirror_pl.benchmarks.index import BenchmarkIndex, index_benchmark
from mirror_pl.benchmarks.manifest import Layout, Manifest, parse_manifest
from mirror_pl.benchmarks.published import PublishedNumber, published_for

__all__ = ["BenchmarkIndex", "Layout", "Manifest", "PublishedNumber", "index_benchmark", "parse_manifest", "published_for"]
