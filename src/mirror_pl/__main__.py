"""``python -m mirror_pl``: list the commands."""

from __future__ import annotations

COMMANDS = {
    "eval": "run a detector over a benchmark and write the published report",
    "convert": "read any checkpoint and write config.json and model.safetensors",
}


def main() -> None:
    """Print the commands."""
    for name, what in COMMANDS.items():
        print(f"python -m mirror_pl.{name:<8} {what}; --help lists its settings")


if __name__ == "__main__":
    main()
