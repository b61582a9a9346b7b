"""What a benchmark is: its manifest, and the index of the files that are really there. Knows no image and no model."""

from mirror_pl.benchmarks.index import BenchmarkIndex, index_benchmark
from mirror_pl.benchmarks.manifest import LabelTable, Layout, Manifest, parse_label_table, parse_manifest
from mirror_pl.benchmarks.published import PublishedNumber, published_for
from mirror_pl.benchmarks.shipped import benchmark_aliases, benchmark_names, load_manifest, without_settings

__all__ = [
    "BenchmarkIndex",
    "LabelTable",
    "Layout",
    "Manifest",
    "PublishedNumber",
    "benchmark_aliases",
    "benchmark_names",
    "index_benchmark",
    "load_manifest",
    "parse_label_table",
    "parse_manifest",
    "published_for",
    "without_settings",
]
