"""``python -m mirror_pl.serve``: scores over HTTP, for programs."""

from mirror_pl.start import start


def main() -> None:
    """Run the command."""
    start("serve")


if __name__ == "__main__":
    main()
