"""``python -m mirror_pl.weights``: the published weights that are known, what of them is here, and fetching the rest."""

from mirror_pl.start import start


def main() -> None:
    """Run the command."""
    start("weights")


if __name__ == "__main__":
    main()
