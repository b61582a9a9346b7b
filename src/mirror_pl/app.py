"""``python -m mirror_pl.app``: a page in the browser that scores the pictures dropped onto it."""

from mirror_pl.start import start


def main() -> None:
    """Run the command."""
    start("app")


if __name__ == "__main__":
    main()
