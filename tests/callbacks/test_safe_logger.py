"""Loggers that fail: a run goes on without them, and W&B never asks a question."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger

from mirror_pl.callbacks.loggers import SafeLogger, SafeWandbLogger, upload_command


class Broken(DummyLogger):
    """A logger that fails from its n-th call on."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls
        self.logged: list[Any] = []

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError("No space left\non device")
        self.logged.append(args)


def test_everything_is_passed_on(tmp_path: Path) -> None:
    real = CSVLogger(tmp_path, name="csv", version="")
    logger = SafeLogger(real, "csv")
    for name in ("name", "version", "root_dir", "log_dir", "save_dir", "group_separator", "experiment"):
        assert getattr(logger, name) == getattr(real, name)
    logger.log_hyperparams({"a": 1})
    logger.log_metrics({"b": 2.0}, step=3)
    assert logger.finish(0) is None
    assert (tmp_path / "csv/hparams.yaml").read_text() == "a: 1\n"
    assert (tmp_path / "csv/metrics.csv").read_text() == "b,step\n2.0,3\n"
    assert not logger.failed


def test_the_first_failure_is_said_and_the_last_thing_heard_of_it() -> None:
    broken = Broken(calls=1)
    logger = SafeLogger(broken, "mine")
    logger.log_metrics({"a": 1.0}, 0)
    assert broken.logged == [({"a": 1.0}, 0)]
    with pytest.warns(UserWarning, match=r"logger=mine: Broken failed \(No space left on device\); the run goes on"):
        logger.log_metrics({"a": 1.0}, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            logger.log_metrics({"a": 1.0}, 2)
        logger.experiment.anything(1, x=2)
        logger.save()
        logger.finish(0)
    assert broken.left == -1, "it was not asked again"


def test_what_is_no_failure_of_the_logger_ends_the_run() -> None:
    class Interrupted(DummyLogger):
        def log_metrics(self, *args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SafeLogger(Interrupted(), "mine").log_metrics({})


class FakeRun:
    dir = "/runs/some where/wandb/offline-run-1/files"

    def __init__(self, mode: str) -> None:
        self.settings = SimpleNamespace(mode=mode)
        self.exit_code: int | None = None

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


class FakeWandb:
    """Lightning's WandbLogger without W&B: it knows in which modes a run can be started."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, configured: str, key: bool | Exception, reachable: bool = True
    ) -> None:
        self.configured = configured
        self.key = key
        self.reachable = reachable
        self.asked_for_key = 0
        monkeypatch.setattr(wandb, "setup", self.setup)
        monkeypatch.setattr(wandb, "login", self.login)
        monkeypatch.setattr(wandb, "teardown", lambda: None)

    def setup(self, settings: Any = None) -> Any:
        self.configured = self.configured if settings is None else settings.mode
        return SimpleNamespace(settings=SimpleNamespace(mode=self.configured))

    def login(self, *, prompt: bool, verify: bool) -> bool:
        assert not prompt
        assert not verify
        assert self.configured == "online", "otherwise W&B looks for no key"
        self.asked_for_key += 1
        if isinstance(self.key, Exception):
            raise self.key
        return self.key

    def build(self, mode: str | None) -> Any:
        this = self

        class Logger(DummyLogger):
            @property
            def experiment(self) -> Any:
                if mode == "online" and not this.reachable:
                    raise ConnectionError("connection refused")
                return FakeRun(str(mode))

        return Logger()

    def start(self, asked: str | None = None) -> SafeWandbLogger:
        logger = SafeWandbLogger(self.build, "wandb", asked)
        logger.start()
        return logger


@pytest.mark.parametrize(
    ("configured", "key", "asked", "started", "warning"),
    [
        ("online", True, None, "online", None),
        ("online", False, None, "offline", None),
        ("online", False, "online", "offline", "there is no key"),
        ("online", ValueError("40 characters"), None, "offline", r"the key for W&B cannot be used \(40 characters\)"),
        ("offline", True, None, "offline", None),
        ("dryrun", True, None, "offline", None),
        ("offline", True, "online", "online", None),
        ("online", True, "offline", "offline", None),
        ("disabled", True, None, "disabled", None),
        ("online", True, "disabled", "disabled", None),
    ],
)
def test_the_mode(
    monkeypatch: pytest.MonkeyPatch,
    configured: str,
    key: bool | Exception,
    asked: str | None,
    started: str,
    warning: str | None,
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    fake = FakeWandb(monkeypatch, configured, key)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logger = fake.start(asked)
    assert logger._run.settings.mode == started
    assert (logger.run is None) == (started == "disabled")
    messages = [str(entry.message) for entry in caught]
    assert len(messages) == (warning is not None)
    if warning:
        with pytest.raises(AssertionError, match=warning):
            raise AssertionError(messages[0])
        assert "wandb sync '/runs/some where/wandb/offline-run-1'" in messages[0]


def test_the_environment_asks_for_online_and_there_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.warns(UserWarning, match="there is no key for W&B"):
        FakeWandb(monkeypatch, "online", key=False).start()


def test_a_server_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match=r"cannot be used online \(connection refused\); .* upload it: wandb sync"):
        logger = FakeWandb(monkeypatch, "online", key=True, reachable=False).start()
    assert not logger.failed
    run = logger.run
    assert logger.finish(3) == f"W&B has not got this run; to upload it: {upload_command(run)}"
    assert run.exit_code == 3
    assert logger.run is None


def test_an_upload_that_does_not_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(self: FakeRun, exit_code: int) -> None:
        raise TimeoutError("Timed out finishing run.")

    logger = FakeWandb(monkeypatch, "online", key=True).start()
    monkeypatch.setattr(FakeRun, "finish", finish)
    with pytest.warns(UserWarning, match=r"did not end well \(Timed out finishing run\.\)"):
        assert "wandb sync" in str(logger.finish(0))


def test_a_run_that_was_uploaded_needs_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FakeWandb(monkeypatch, "online", key=True).start().finish(0) is None
    assert FakeWandb(monkeypatch, "disabled", key=True).start().finish(0) is None
