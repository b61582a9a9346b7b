"""Ask PyPI for known vulnerabilities of what constraints-release.txt names, and never say that there are none unasked.

Run by `make audit`, with pip-audit. Exit code 0 says that all was asked about, and nothing is known of it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CANARY = "django==1.4"
"""Asked about too: a source that knows nothing of it, though much is known, knows nothing of the others either."""


def pins() -> list[str]:
    """Return ``NAME==VERSION`` of each package; what builds are called (``+cpu``) is left out, since PyPI knows no such."""
    text = (ROOT / "constraints-release.txt").read_text(encoding="utf-8")
    return re.findall(r"^([^#\s]+?==[^\s+]+)", text, re.MULTILINE)


def verdict(asked: list[str], output: str, errors: str) -> tuple[str, int]:
    """Return what is to be said of pip-audit's output, JSON where there is any, and the exit code."""
    try:
        found: dict[str, Any] = {one["name"].lower(): one for one in json.loads(output)["dependencies"]}
    except (ValueError, KeyError, TypeError):
        return f"not audited: {(errors.strip().splitlines() or ['pip-audit said nothing'])[-1]}", 2
    canary = found.pop(CANARY.partition("==")[0], {})
    known = [f"{name} {one['version']}: {vuln['id']}" for name, one in found.items() for vuln in one.get("vulns", [])]
    if known:
        return "\n".join(["known vulnerabilities:", *known]), 1
    skipped = [f"{name}: {one['skip_reason']}" for name, one in found.items() if "skip_reason" in one]
    unasked = [f"{pin}: no answer" for pin in asked if pin.partition("==")[0] not in found]
    if skipped or unasked:
        return f"not audited: {len(skipped + unasked)} of {len(asked)} packages, such as {(skipped + unasked)[0]}", 2
    if not canary.get("vulns"):
        return f"not audited: the source knows nothing of {CANARY} either", 2
    return f"audited: {len(asked)} packages, and no known vulnerability", 0


def main() -> None:
    asked = pins()
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "requirements.txt"
        file.write_text("\n".join([*asked, CANARY]), encoding="utf-8")
        options = ["--format", "json", "--no-deps", "--disable-pip", "--progress-spinner", "off", "--requirement", str(file)]
        done = subprocess.run([sys.executable, "-m", "pip_audit", *options], capture_output=True, text=True, check=False)
    said, code = verdict(asked, done.stdout, done.stderr)
    print(said)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
