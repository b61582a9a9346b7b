"""``python -m mirror_pl.calibrate``: fit a calibration on the scores of a finished evaluation."""

from mirror_pl.start import start


def main() -> None:
    """Run the command."""
    start("calibrate")


if __name__ == "__main__":
    main()
