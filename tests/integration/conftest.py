"""Fixtures of more than one file here."""

from __future__ import annotations

import pytest
from sweeps import Call, caller


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``mirror_pl.eval`` with some arguments."""
    return caller(monkeypatch, capsys)
