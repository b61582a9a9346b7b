"""Measure speed and memory on this machine, each row with its ratio to another one and its share of what the machine allows.

    python bench                                all but the long ones; on a CPU some with a smaller backbone
    python bench retrieval index --repeats 9    some of them; settings of theirs are --NAME VALUE
    python bench gpu                            what only a GPU can tell, in eight minutes; on a CPU a proof that it runs
    python bench scaling --sizes 1000,10000     time and memory against the number of images, and docs/pictures/scaling.svg
    python bench compare HEAD~1 retrieval       this checkout's code against a commit's, alternately

bench/README.md says what each measures. Rows are also written, as they come, to outputs/bench/DATE-COMMIT.json.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

import paired

DEFAULT = (
    "retrieval", "detector", "training", "baselines", "decode", "suite", "detector:precisions", "detector:predict",
    "scaling:ray", "index", "scaling:report",
)  # fmt: skip
LONG = ("loading", "scaling:neighbours", "scaling")
GPU = {
    "gpu:kernel": 50, "gpu:tiles": 85, "gpu:products": 30, "gpu:retrieval": 30, "gpu:detector": 145, "gpu:splitting": 35,
    "gpu:processes": 60, "gpu:training": 45,
}  # fmt: skip
"""Parts, and the seconds after which each is ended."""


KEY = ("measurement", "part", "name", "unit")
"""What two rows of a file differ in."""


class Results:
    """Rows of a run, in a file as they come.

    Args:
        path: The file; None for outputs/bench/DATE-COMMIT.json.
        resume: Keep what is in it.
    """

    def __init__(self, path: Path | None, resume: bool = False) -> None:
        self.path, self.resume = path, resume
        self.content: dict[str, Any] = {"schema_version": 1, "machine": None, "rows": [], "not_measured": {}}
        if resume:
            if path is None or not path.is_file():
                sys.exit(f"--resume: expected --json FILE, the file of the run to go on with, got {path}")
            self.content = json.loads(path.read_text())

    def write(self) -> None:
        """Write the file."""
        from mirror_pl.files import write_text

        facts = self.content["machine"]
        if self.path is None:
            day, commit = facts["date"][:10], (facts["commit"] or "none").partition("-")
            self.path = paired.HERE.parent / f"outputs/bench/{day}-{commit[0][:10]}{commit[1]}{commit[2]}.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.content["rows"] = paired.finished(self.content["rows"])
        write_text(self.path, json.dumps(self.content, indent=1))

    def measure(self, name: str, settings: dict[str, Any]) -> None:
        """Run a measurement, keep its rows, print its tables."""
        earlier = [row for row in self.content["rows"] if row["measurement"] == name]
        if name == "scaling" and self.resume:  # which goes on in the middle
            settings = settings | {"done": json.dumps(earlier)}
        else:
            self.content["rows"] = [row for row in self.content["rows"] if row["measurement"] != name]
        for said in paired.run(name, settings, paired.SRC, GPU.get(name)):
            if "machine" in said:
                if self.content["machine"] is None:
                    print(paired.in_words(said["machine"]), flush=True)
                    if name in GPU and said["machine"]["gpu"] is None:
                        print("no GPU: small sizes, and Triton's interpreter; nothing that follows is a figure of a GPU")
                self.content["machine"] = said["machine"]
            elif "row" in said:
                new = {"measurement": name, **said["row"]}
                same = [row for row in self.content["rows"] if all(row[key] == new[key] for key in KEY)]
                self.content["rows"] = [row for row in self.content["rows"] if row not in same] + [new]
            else:
                ((how, why),) = said.items()
                self.content["not_measured"][name] = f"{how}: {why}"
                print(f"\n{name}: {how}: {why}", flush=True)
                continue
            self.content["not_measured"].pop(name, None)
            self.write()
        for rows in paired.parts_of(row for row in self.content["rows"] if row["measurement"] == name):
            paired.show(rows)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        paired.be_child(sys.argv[2], json.loads(sys.argv[3]))
        return
    sys.path.insert(0, str(paired.SRC))
    known = (*DEFAULT, *LONG, *GPU)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(known)}; or gpu, or compare BASE")
    parser.add_argument("--quick", action="store_true", help="one repeat and small sizes, to see that everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write rows")
    parser.add_argument("--resume", action="store_true", help="go on with what is in that file")
    parser.add_argument("--rounds", type=int, default=6, help="of compare: fresh processes for each side")
    options, rest = parser.parse_known_args()
    if len(rest) % 2 or any(not key.startswith("--") for key in rest[::2]):
        parser.error(f"expected settings as --NAME VALUE, got {' '.join(rest)}")
    settings: dict[str, Any] = {key[2:].replace("-", "_"): value for key, value in zip(rest[::2], rest[1::2], strict=True)}
    if options.quick:
        settings["quick"] = True
    comparing = options.names[:1] == ["compare"]
    given = options.names[2:] if comparing else options.names
    names = [part for name in given or DEFAULT for part in (GPU if name == "gpu" else (name,))]
    for name in names:
        if name not in known:
            from mirror_pl.errors import nearest

            parser.error(f"no measurement {name!r}.{nearest(name, known)} Known: {', '.join(known)}, gpu, compare")
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.default_int_handler)  # so that what is open is closed
    if comparing:
        from compare import compare

        compare(options.names[1] if len(options.names) > 1 else "HEAD~1", names, options.rounds, settings)
        return
    results = Results(options.json, options.resume)
    for name in names:
        results.measure(name, settings)
    print(f"\n{results.path}")
    failed = [name for name, why in results.content["not_measured"].items() if why.startswith("failed")]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
