"""``python -m mirror_pl.eval``: run a detector over a benchmark and write the published report."""

from mirror_pl.start import start


def main() -> None:
    """Run the command."""
    start("eval")


if __name__ == "__main__":
    main()
