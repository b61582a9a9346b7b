"""``python -m mirror_pl.check_data``: what of the benchmarks is on disk, in which layout, and what is wrong with it."""

from mirror_pl.start import start


def main() -> None:
    """Run the command."""
    start("check_data")


if __name__ == "__main__":
    main()
