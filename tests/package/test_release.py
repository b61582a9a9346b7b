"""The release's pins are those that are tested, and an audit that asked nobody does not pass."""

from __future__ import annotations

import importlib.util
import json
import re
from importlib.metadata import requires
from types import ModuleType
from typing import Any

import pytest

from mirror_pl.locate import CHECKOUT

LOCK = CHECKOUT / "constraints-release.txt"


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", CHECKOUT / "tests/package/audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_release_has_every_package_with_a_hash_in_the_version_that_is_tested() -> None:
    lines = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found = {}
    for line in lines:
        match = re.fullmatch(r"([\w.-]+)==([\w.]+)(\+cpu)? --hash=sha256:[0-9a-f]{64}", line)
        assert match is not None, line
        found[normal(match[1])] = match[2]
    for requirement in requires("mirror_pl") or []:
        if "extra ==" not in requirement:
            assert normal(re.split(r"[<>=]", requirement)[0]) in found, "run make lock"
    pinned = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8")
    tested = re.findall(r"^([\w-]+)==(\S+)(?= |$)(?! ; python_version <)", pinned, re.MULTILINE)
    for name, version in tested:
        assert found.get(normal(name), version) == version, f"{name}: run make lock"


def answer(**vulns: Any) -> str:
    rows = [
        {"name": name, **({"skip_reason": vuln} if isinstance(vuln, str) else {"version": "1", "vulns": vuln})}
        for name, vuln in vulns.items()
    ]
    return json.dumps({"dependencies": rows})


def test_an_audit_that_asked_nobody_does_not_pass(audit: ModuleType) -> None:
    known, asked = [{"id": "CVE-1"}], ["a==1", "b==1"]
    assert audit.verdict(asked, answer(a=[], b=[], django=known), "") == (
        "audited: 2 packages, and no known vulnerability",
        0,
    )
    for output, errors, said, code in (
        ("", "Traceback\nConnectionError: no network", "not audited: ConnectionError: no network", 2),
        ("[]", "", "not audited: pip-audit said nothing", 2),
        (answer(a=[], b="not found", django=known), "", "not audited: 1 of 2 packages, such as b: not found", 2),
        (answer(a=[], django=known), "", "not audited: 1 of 2 packages, such as b==1: no answer", 2),
        (answer(a=[], b=[], django=[]), "", "not audited: the source knows nothing of django==1.4 either", 2),
        (answer(a=[], b=[]), "", "not audited: the source knows nothing of django==1.4 either", 2),
        (answer(a=known, b="not found", django=known), "", "known vulnerabilities:\na 1: CVE-1", 1),
    ):
        assert audit.verdict(asked, output, errors) == (said, code)
    assert "torch==2.13.0" in audit.pins()
    assert len(audit.pins()) == LOCK.read_text(encoding="utf-8").count("--hash")
