"""Write constraints-release.txt: each package that mirror_pl needs here, with the hash of the file that pip would install.

Run by `make lock`; further arguments are pip's.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAD = """\
# What mirror_pl[app,serve,provenance] needs under Python {python} on {system}, each with the hash of the one file that is
# installed; written by `make lock`, and installed, before mirror_pl itself with --no-deps, by
#   python -m pip install --require-hashes --extra-index-url https://download.pytorch.org/whl/cpu -r constraints-release.txt
# Another Python or system takes other files. So does torch for a GPU: each build of it is a file of its own, and that for the
# CPU has +cpu in its version, and is not on PyPI. What comes as source (antlr4-python3-runtime) is built with tools that
# have no hash here.
"""


def main() -> None:
    command = [
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--report",
        "-",
        "--constraint",
        "constraints.txt",
        ".[app,serve,provenance]",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *command, *sys.argv[1:]], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    lines = [
        f"{re.sub('[-_.]+', '-', one['metadata']['name'].lower())}=={one['metadata']['version']} "
        f"--hash=sha256:{one['download_info']['archive_info']['hashes']['sha256']}\n"
        for one in json.loads(done.stdout)["install"]
        if "archive_info" in one["download_info"]  # all but mirror_pl, which is a folder
    ]
    python, system = ".".join(platform.python_version_tuple()[:2]), f"{platform.system()} {platform.machine()}"
    text = HEAD.format(python=python, system=system) + "".join(sorted(lines))
    (ROOT / "constraints-release.txt").write_text(text, encoding="utf-8")
    print(f"constraints-release.txt: {len(lines)} packages")


if __name__ == "__main__":
    main()
