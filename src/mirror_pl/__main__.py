"""``python -m mirror_pl``: list the commands."""

from __future__ import annotations

COMMANDS = {
    "eval": "run a detector over a benchmark and write the published report",
    "robustness": "the same under each perturbation of a suite, and what they change",
    "predict": "score any pictures, and write a file with a row for each",
    "app": "a page in the browser that scores pictures, on this machine",
    "serve": "scores over HTTP, for programs",
    "report": "gather finished evaluations into the table one would publish, with intervals, and a page to look at",
    "gallery": "show the surest, the most mistaken and the least sure images of evaluations, with maps if asked for",
    "calibrate": "fit on a finished evaluation what makes p_fake a probability, and when to say unsure",
    "check_data": "say what of the benchmarks is on disk, in which layout, and what is wrong with it",
    "weights": "list the published weights that are known, what of them is here, and fetch others",
    "train": "learn a memory bank from real images (Phase 1)",
    "convert": "read any checkpoint and write config.json and model.safetensors",
}


def main() -> None:
    """Print the commands."""
    for name, what in COMMANDS.items():
        print(f"python -m mirror_pl.{name:<10} {what}; --help lists its settings")


if __name__ == "__main__":
    main()
