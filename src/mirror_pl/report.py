"""``python -m mirror_pl.report``: gather finished evaluations into the table that one would publish."""

from mirror_pl.start import start


def main() -> None:
    """Run the command."""
    start("report")


if __name__ == "__main__":
    main()
