"""``python -m mirror_pl.predict``: score any pictures, and write a file with a row for each."""

from mirror_pl.start import start


def main() -> None:
    """Run the command."""
    start("predict")


if __name__ == "__main__":
    main()
