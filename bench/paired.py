"""What all measurements share: ways taken in turn, rows of results and their table, the machine and its ceilings.

A measurement is a function that yields `Row`; its keyword arguments are its settings. `run` starts it in a process of its
own and hands its rows on as they come. Torch is imported where it is needed, so that the process that waits stays small.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

HERE = Path(__file__).resolve().parent
SRC = Path(os.environ.get("BENCH_SRC", HERE.parent / "src"))
"""The src folder that is measured: of this checkout, or of another by the environment variable BENCH_SRC."""


@dataclass
class Row:
    """One result.

    Attributes:
        name: What was measured.
        unit: What ends in "/s" is better the larger it is, anything else the smaller.
        values: Round by round.
        base: Name of the row of the same part and unit that it is compared with; empty for none.
        possible: The best value that the machine allows; None if nothing says so.
        bound: What `possible` is.
        part: The table it belongs to.
        note: What else is to be said.
    """

    name: str
    unit: str
    values: Sequence[float]
    base: str = ""
    possible: float | None = None
    bound: str = ""
    part: str = ""
    note: str = ""


def quick(**settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a measurement the settings of ``--quick``, which only shows that it runs."""

    def marked(function: Callable[..., Any]) -> Callable[..., Any]:
        function.quick = settings
        return function

    return marked


# Rounds and intervals


def all_seconds_of(
    ways: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device, warm_up: int = 1, least_s: float = 0
) -> dict[str, list[float]]:
    """Seconds of each way, round by round: in turn, there and back, so that busy minutes fall on all of them.

    Args:
        least_s: Seconds that a way is called over and over in a round, by its speed in the warm-up; so a pause of the
            machine weighs no more on a fast way than on a slow one. What is returned is of one call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    calls = dict.fromkeys(ways, 1)
    for round_ in range(warm_up + repeats):
        for name, way in list(ways.items())[:: (-1) ** round_]:
            synchronise(device)
            start = time.perf_counter()
            for _ in range(calls[name]):
                way()
            synchronise(device)
            spent = (time.perf_counter() - start) / calls[name]
            if round_ >= warm_up:
                seconds[name].append(spent)
            else:
                calls[name] = max(1, round(least_s / spent))
    return seconds


def timed(
    ways: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device, unit: str = "s", count: float = 1, **more: Any
) -> Iterator[Row]:
    """Time ways in turn.

    Args:
        unit: "s" or a rate, of which a call makes `count`.
        more: Of each row; of `all_seconds_of`, `warm_up` and `least_s`.
    """
    turns = {key: more.pop(key) for key in ("warm_up", "least_s") if key in more}
    for name, seconds in all_seconds_of(ways, repeats, device, **turns).items():
        yield Row(name, unit, [count / value for value in seconds] if unit.endswith("/s") else seconds, **more)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Interval of the median by order statistics, and its coverage: the narrowest of at least 95 %, else all values.

    Of six values it is from the smallest to the largest, which cover the median with 1 - 2 / 2**6 = 97 %; of five with 94 %.
    """
    ordered, count = sorted(values), len(values)
    outside = [2 * sum(math.comb(count, i) for i in range(cut + 1)) / 2**count for cut in range(count // 2)] or [1.0]
    cut = max((cut for cut, lost in enumerate(outside) if lost <= 0.05), default=0)
    return ordered[cut], ordered[-1 - cut], 1 - outside[cut]


# The machine and its ceilings


def best_device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cores() -> int:
    return len(os.sched_getaffinity(0))


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def machine() -> dict[str, Any]:
    """The machine, what is installed, and the commit of the code that is measured."""
    import torch

    from mirror_pl.provenance import git_revision, versions

    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    cpu = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    gpu = None
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        gpu = {"name": torch.cuda.get_device_name(), "capability": capability, "free": free, "total": total}
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": git_revision(),
        "cpu": cpu.get("model name") or platform.machine(),
        "flags": [flag for flag in cpu.get("flags", "").split() if flag.startswith(("avx", "amx", "fma"))],
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "ram": pages,
        "gpu": gpu,
        "cuda": torch.version.cuda,
        "versions": versions(),
    }


def matrix_ceiling(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Operations/s of a large matrix product of random numbers, TF32 off."""
    import torch

    side = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = all_seconds_of({"product": lambda: left @ right}, repeats, device, warm_up=2)["product"]
    return 2 * side**3 / statistics.median(seconds)


def copy_ceiling(device: torch.device, repeats: int = 5) -> float:
    """Bytes/s, read and written, of a large copy."""
    import torch

    source = torch.randint(0, 255, (2**30 if device.type == "cuda" else 2**27,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = all_seconds_of({"copy": lambda: target.copy_(source)}, repeats, device, warm_up=2)["copy"]
    return 2 * source.numel() / statistics.median(seconds)


def matrix_bound(device: torch.device, dtype: torch.dtype, operations: float) -> dict[str, Any]:
    """What a row's `possible` and `bound` are, of something per second that needs so many operations each."""
    rate = matrix_ceiling(device, dtype)
    name = str(dtype).removeprefix("torch.")
    bound = f"a large {name} product's {rate / 1e12:.2f} TFLOP/s, at {operations / 1e9:.3g} GFLOP each"
    return {"possible": rate / operations, "bound": bound}


# Memory


def resident_bytes(field: str, process: int | str = "self") -> int:
    """Resident memory of a process: "VmRSS" now, "VmHWM" at its peak since that was reset (Linux)."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/{process}/status")


def added_mib(work: Callable[[], Any], device: torch.device) -> float:
    """MiB that a call adds to the peak: of the GPU, or of this process, which should be a fresh one."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident_bytes("VmRSS")
    work()
    return (resident_bytes("VmHWM") - before) / 2**20


def fresh(function: Callable[..., Any], *arguments: Any, device: torch.device | None = None) -> Any:
    """Call a function in a fresh process; on a GPU, which counts its memory from call to call, in this one."""
    if device is not None and device.type == "cuda":
        return function(*arguments)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def command(name: str, *settings: str, cwd: Path, **environment: str) -> tuple[float, float, str]:
    """Run a command of mirror_pl: its seconds, and the peak in MiB of the largest of its processes, and which that was.

    Peaks are read five times a second, so that what a process takes in its last moments is not seen.

    Raises:
        RuntimeError: If it fails; with the end of what it printed.
    """
    start, peaks = time.perf_counter(), {}
    given = [sys.executable, "-m", f"mirror_pl.{name}", *settings]
    with (cwd / f"{name}.log").open("w+b") as log:
        process = subprocess.Popen(given, stdout=log, stderr=log, cwd=cwd, env=os.environ | environment)
        try:
            while process.poll() is None:
                for one in _tree(process.pid):
                    try:
                        peaks[one] = resident_bytes("VmHWM", one)
                    except (OSError, RuntimeError):  # it has just ended
                        continue
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        seconds = time.perf_counter() - start
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{' '.join(map(str, given[1:]))}: {log.read().decode(errors='replace')[-2000:]}")
    largest = max(peaks, key=peaks.get)
    return seconds, peaks[largest] / 2**20, "the command" if largest == process.pid else "a process that it started"


def _tree(process: int) -> Iterator[int]:
    yield process
    try:
        tasks = [path.read_text().split() for path in Path(f"/proc/{process}/task").glob("*/children")]
    except OSError:
        return
    for children in tasks:
        for child in children:
            yield from _tree(int(child))


# A measurement in a process of its own


OPTIONAL = ("hydra", "omegaconf", "wandb", "ray", "matplotlib", "triton", "pyarrow")
"""What may be missing: a measurement that needs it is skipped, with a sentence."""


def run(name: str, settings: Mapping[str, Any], src: Path, budget_s: float | None = None) -> Iterator[dict[str, Any]]:
    """Run a measurement, and yield what it says as it comes: `machine`, `row`, `skipped`, and last `failed` if it did.

    Args:
        name: A module, for its `rows`, or ``module:function``.
        settings: As text, and ``quick``.
        src: The src folder that is imported.
        budget_s: Seconds after which it is ended; what it said by then stays.
    """
    path = os.pathsep.join(filter(None, [str(src), os.environ.get("PYTHONPATH")]))
    spinning = {} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": "10000"}  # as the commands have it
    given = [sys.executable, HERE, "--child", name, json.dumps(settings)]
    late = threading.Event()
    with subprocess.Popen(
        given,
        stdout=subprocess.PIPE,
        text=True,
        env=spinning | os.environ | {"PYTHONPATH": path, "BENCH_SRC": str(src)},
        start_new_session=True,
    ) as process:

        def end() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)  # its own processes too

        watch = threading.Timer(budget_s or 0, end)
        if budget_s:
            watch.start()
        try:
            assert process.stdout is not None
            yield from map(json.loads, process.stdout)
            process.wait()
        finally:
            watch.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if late.is_set():
        yield {"failed": f"ended after its {budget_s:.0f} s"}
    elif process.returncode:
        yield {"failed": f"exit status {process.returncode}; its message is above"}


def be_child(name: str, given: dict[str, Any]) -> None:
    """Be the process that `run` starts: rows go to standard output, a line of JSON each, and all else to standard error."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)

        def say(**content: Any) -> None:
            print(json.dumps(content), file=out, flush=True)

        say(machine=machine())
        module, _, function = name.partition(":")
        try:
            measurement = getattr(__import__(module), function or "rows")
            for row in measurement(**_settings(name, measurement, given)):
                say(row=vars(row))
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] not in OPTIONAL:
                raise
            say(skipped=f"it needs {error.name}, which is not installed")


def _settings(name: str, measurement: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Settings of a measurement from text, each of the kind of its default."""
    import inspect

    from mirror_pl.errors import nearest

    known = {key: parameter.default for key, parameter in inspect.signature(measurement).parameters.items()}
    fast = given.pop("quick", False)
    found = ({"repeats": 1} | getattr(measurement, "quick", {})) if fast else {}
    for key, text in given.items():
        if key not in (*known, "repeats"):
            sys.exit(f"{name}: no setting --{key}.{nearest(key, known)} It has: {', '.join(f'--{one}' for one in known)}")
        default = known.get(key)
        if isinstance(default, tuple):
            found[key] = tuple(type(default[0])(part) for part in text.split(","))
        else:
            found[key] = text if default is None else type(default)(text)
    return {key: value for key, value in found.items() if key in known}


# Tables


def finished(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with repeats, median, interval, ratio and share."""
    by_name = {(row["measurement"], row["part"], row["name"], row["unit"]): row for row in rows}
    found = []
    for row in rows:
        values, middle = row["values"], statistics.median(row["values"])
        low, high, coverage = interval(values)
        one = {**row, "repeats": len(values), "median": middle, "interval": [low, high], "coverage": coverage}
        base = by_name.get((row["measurement"], row["part"], row["base"], row["unit"]))
        one |= {"ratio": None, "ratio_interval": None, "share": None}
        if base and len(base["values"]) == len(values) and all(base["values"]):
            ratios = [value / other for value, other in zip(values, base["values"], strict=True)]
            one |= {"ratio": middle / statistics.median(base["values"]), "ratio_interval": interval(ratios)[:2]}
        if row["possible"] and middle:
            one["share"] = middle / row["possible"] if row["unit"].endswith("/s") else row["possible"] / middle
        found.append(one)
    return found


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print finished rows of one part."""
    width = max(len(row["name"]) for row in rows) + 1
    print(f"\n{rows[0]['measurement']}{': ' * bool(rows[0]['part'])}{rows[0]['part']}")
    print(f"{'':<{width}}{'median':>10} {'unit':<10}{'interval':>20}{'ratio':>8}{'interval':>15}{'share':>8}")
    for row in rows:
        spread = f"{number(row['interval'][0])} to {number(row['interval'][1])}" if row["repeats"] > 1 else ""
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
        of_ratio = "{:.2f} to {:.2f}".format(*row["ratio_interval"]) if ratio and row["repeats"] > 1 else ""
        share = "" if row["share"] is None else f"{row['share']:.0%}"
        cells = f"{number(row['median']):>10} {row['unit']:<10}{spread:>20}{ratio:>8}{of_ratio:>15}{share:>8}"
        print(f"{row['name']:<{width}}{cells}  {row['note']}".rstrip())
    bases, bounds = ({row[key]: None for row in rows if row[key]} for key in ("base", "bound"))
    for title, names in (("ratio: to", bases), ("share: of", bounds)):
        for name in names:
            print(f"{title} {name}")
    sys.stdout.flush()


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def in_words(facts: Mapping[str, Any]) -> str:
    """The machine in a line."""
    gpu = f"{facts['gpu']['name']}, " if facts["gpu"] else ""
    cpu = f"{facts['cores']} cores of {facts['cpu']}, {facts['threads']} threads, {facts['ram'] / 2**30:.0f} GiB"
    return f"{gpu}{cpu}, torch {facts['versions']['torch']}, commit {facts['commit']}, {facts['date']}"


def parts_of(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows by measurement and part, in the order of their coming."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["measurement"], row["part"]), []).append(row)
    yield from found.values()
