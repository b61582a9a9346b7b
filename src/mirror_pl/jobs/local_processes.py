"""The further processes of a run on this machine: the first one starts them, watches them, and ends them when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mirror_pl.config.command import same_command
from mirror_pl.errors import LostProcessError
from mirror_pl.stopping import LOOK_S, STARTED_BY_US, asked_to_stop, how_to_go_on

if TYPE_CHECKING:
    import lightning as L

SAVE_S = 2.0
"""Seconds that the others have to save what they have, when the run is stopped."""
LOOK_LONGER_S = 3.0
"""How long a process that lost the connection looks for a dead one, which may be why."""


@contextmanager
def local_processes(trainer: L.Trainer) -> Iterator[None]:
    """Run the block in all processes that a trainer is to have on this machine: a command's own are started here.

    They run the same command, with the variables by which Lightning knows that it has not to start any: it would watch them
    itself, and when one dies kill all, this one too, without a word. Processes that something else starts, such as torchrun
    or Slurm, are in its care.

    Raises:
        LostProcessError: If the block fails because a process died.
    """
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    environment = getattr(trainer.strategy, "cluster_environment", None)
    is_first = isinstance(environment, LightningEnvironment) and not environment.creates_processes_externally
    command = same_command() if is_first else None
    if command is None:
        yield
        return
    assert environment is not None
    variables = {
        "MASTER_ADDR": environment.main_address,
        "MASTER_PORT": str(environment.main_port),
        "NODE_RANK": str(environment.node_rank()),
        "WORLD_SIZE": str(trainer.world_size),
    }
    processes = [
        subprocess.Popen(command, env=os.environ | variables | {"LOCAL_RANK": str(rank), STARTED_BY_US: "1"})
        for rank in range(1, trainer.num_devices)
    ]
    before, ended = dict(os.environ), threading.Event()
    os.environ |= variables | {"LOCAL_RANK": "0"}
    threading.Thread(target=_watch, args=(processes, ended), daemon=True, name="process-watch").start()
    try:
        yield
        _let_go()
    except Exception as error:
        ended.set()
        lost = _wait_for_dead(processes)
        _kill(processes)
        _let_go()
        if lost is None:
            raise
        raise lost from error
    except BaseException:  # they save what they have too
        for process in processes:
            process.terminate()
        until = time.monotonic() + SAVE_S
        while time.monotonic() < until and any(process.poll() is None for process in processes):
            time.sleep(LOOK_S / 10)
        _kill(processes)
        raise
    finally:
        ended.set()
        os.environ.clear()
        os.environ.update(before)


def _watch(processes: Sequence[subprocess.Popen[bytes]], ended: threading.Event) -> None:
    while not ended.wait(LOOK_S):
        lost = _dead(processes)
        if lost is None or asked_to_stop():
            continue
        _kill(processes)
        print(f"\nerror: {lost}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(lost.exit_code)  # the main thread may be waiting in a collective, which nothing else ends


def _dead(processes: Sequence[subprocess.Popen[bytes]]) -> LostProcessError | None:
    for rank, process in enumerate(processes, 1):
        code = process.poll()
        if code:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            go_on = how_to_go_on()
            return LostProcessError(
                f"process {rank} of {len(processes) + 1} {how}; there is no report. Its message, if it had one, is above. "
                f"Go on with: {go_on or 'the same command, output_dir= the folder of the run, and resume=true'}",
                code,
            )
    return None


def _wait_for_dead(processes: Sequence[subprocess.Popen[bytes]]) -> LostProcessError | None:
    until = time.monotonic() + LOOK_LONGER_S * bool(processes)
    while time.monotonic() < until:
        lost = _dead(processes)
        if lost is not None:
            return lost
        time.sleep(LOOK_S / 10)
    return None


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()


def _let_go() -> None:
    """End the connection of the processes, so that a sweep's next job makes one of its own."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
