"""``python -m mirror_pl.robustness``: evaluate a detector under each perturbation of a suite."""

from mirror_pl.start import start


def main() -> None:
    """Run the command."""
    start("robustness")


if __name__ == "__main__":
    main()
