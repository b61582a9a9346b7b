"""``python -m mirror_pl.train``: learn a memory bank from real images (Phase 1), then a detector around it (Phase 2)."""

from mirror_pl.start import start


def main() -> None:
    """Run the command."""
    start("train")


if __name__ == "__main__":
    main()
