"""``python -m mirror_pl.gallery``: a page of the surest, the most mistaken and the least sure images of evaluations."""

from mirror_pl.start import start


def main() -> None:
    """Run the command."""
    start("gallery")


if __name__ == "__main__":
    main()
