"""``mirror_pl.eval`` called as the shell would, in this process, and what came of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hydra.core.global_hydra import GlobalHydra

import mirror_pl.eval


class Sweep(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Sweep]


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: str) -> Sweep:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["eval", *arguments])
        GlobalHydra.instance().clear()
        code = 0
        try:
            mirror_pl.eval.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Sweep(code, *capsys.readouterr())

    return call
