"""``python -m mirror_pl.convert``: read any checkpoint and write config.json and model.safetensors."""

from mirror_pl.start import start


def main() -> None:
    """Run the command."""
    start("convert")


if __name__ == "__main__":
    main()
