"""Nothing is built but an exact list of classes, and a run's files bring values only."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from golden_set import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mirror_pl.config import build as building
from mirror_pl.config.build import TRUSTED
from mirror_pl.config.command import compose
from mirror_pl.config.schema import literal
from mirror_pl.errors import ConfigError, MirrorError
from mirror_pl.jobs import eval as evaluation
from mirror_pl.jobs import gallery

SHELL = "torch.optim.optimizer.torch.utils.collect_env.run"
PICKLE = "mirror_pl.detectors.checkpoint.read.torch.load"


@pytest.mark.parametrize(
    "target", [SHELL, PICKLE, "os.system", "mirror_pl.labels.str", "torch.optim.AdamW.step", "", None, 3]
)
def test_what_is_not_on_the_list_is_refused(target: Any) -> None:
    inner = {"_target_": target, "command": "true"}
    for node in (inner, {"_target_": "torch.optim.AdamW", "inner": [inner]}, {"a": {"b": inner}}):
        with pytest.raises(ConfigError, match="is not trusted"):
            building.build(OmegaConf.create(node))


def test_every_class_of_the_list_is_there() -> None:
    for target in sorted(TRUSTED):
        module, _, name = target.rpartition(".")
        building.check_targets({"_target_": target})
        assert isinstance(getattr(import_module(module), name), type)


@st.composite
def chains(draw: st.DrawFn) -> str:
    """A name that begins with a module of the list, and follows what is really there."""
    module = draw(st.sampled_from(sorted({target.rpartition(".")[0] for target in TRUSTED})))
    names, found = [module], import_module(module)
    for _ in range(draw(st.integers(1, 5))):
        inner = sorted(name for name in dir(found) if not name.startswith("__") or name == "__init__")
        if not inner:
            break
        names.append(draw(st.sampled_from(inner)))
        try:
            found = getattr(found, names[-1])
        except Exception:  # what cannot be had cannot be called
            break
        if not isinstance(found, ModuleType | type):
            break
    return ".".join(names)


@given(chains())
@settings(max_examples=300, deadline=None)
def test_no_chain_of_attributes_leads_out_of_the_list(target: str) -> None:
    built: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "instantiate", lambda node, **_: lambda: built.append(node["_target_"]))
        if target in TRUSTED:
            building.build(OmegaConf.create({"_target_": target}))
            assert built == [target]
        else:
            with pytest.raises(ConfigError, match="is not trusted"):
                building.build(OmegaConf.create({"_target_": target}))
            assert built == []


@given(st.text(st.sampled_from("\\${}:a.oc,env'\"[] ")))
def test_a_literal_is_the_text_itself(text: str) -> None:
    node = OmegaConf.create({"value": literal(text)})
    assert node.value == text
    assert OmegaConf.to_container(node, resolve=True) == {"value": text}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    data = ["benchmark=wildrf", f"checkpoint={SMALL.checkpoint}", f"data_root={SMALL.data_root}"]
    evaluation.run(
        compose(
            "eval",
            [*data, f"output_dir={folder}/run", f"paths.outputs={folder}", "trainer.accelerator=cpu", "num_workers=0"],
        )
    )
    return folder / "run"


def use(path: str) -> None:
    """Do what reads the settings of the run in the folder ``run``."""
    if path == "repeat":
        evaluation.run(compose("eval", ["repeat=run", "num_workers=0"]), {"repeat", "num_workers"})
    else:
        gallery.run(compose("gallery", ["runs=[run]", "output_dir=page", "maps=true", "count=1"]))


@pytest.mark.parametrize(
    "hostile",
    [
        {"callbacks": {"x": {"_target_": SHELL, "command": "touch PROOF"}}},
        {"callbacks": {"x": {"_target_": PICKLE, "f": "PICKLE", "weights_only": False}}},
        {"logger": {"x": {"_target_": SHELL, "command": "touch PROOF"}}},
        {"trainer": {"_target_": SHELL, "command": "touch PROOF"}},
        {"trainer": {"plugins": [{"_target_": SHELL, "command": "touch PROOF"}]}},
        {"data": {"_target_": SHELL, "command": "touch PROOF"}},
        {"backbone": {"name": {"_target_": SHELL, "command": "touch PROOF"}}},
        {"checkpoint": {"_target_": SHELL, "command": "touch PROOF"}},
        {"benchmark": {"name": {"_target_": SHELL, "command": "touch PROOF"}}},
        {"_target_": SHELL, "command": "touch PROOF"},
    ],
    ids=lambda hostile: "-".join(hostile),
)
@pytest.mark.parametrize("path", ["repeat", "gallery"])
def test_a_run_folder_runs_nothing(
    original: Path, hostile: dict[str, Any], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(original, "run")
    text = json.dumps(hostile).replace("PROOF", str(tmp_path / "proof")).replace("PICKLE", str(SMALL.checkpoint))
    facts = json.loads(Path("run/run.json").read_text())
    for name, value in json.loads(text).items():
        there = facts["config"].get(name)
        facts["config"][name] = {**there, **value} if isinstance(there, dict) and isinstance(value, dict) else value
    Path("run/run.json").write_text(json.dumps(facts))
    with suppress(MirrorError):
        use(path)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("path", ["repeat", "gallery"])
@pytest.mark.parametrize("setting", ["checkpoint", "data_root", "memory_path", "reals"])
def test_resolvers_in_a_run_are_text(
    original: Path, path: str, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "PASSWORD", "hunter2")
    shutil.copytree(original, "run")
    facts = json.loads(Path("run/run.json").read_text())
    facts["config"][setting] = "/nowhere/${oc.env:PASSWORD}/x"
    Path("run/run.json").write_text(json.dumps(facts))
    said = ""
    try:
        use(path)
    except MirrorError as error:
        said = str(error)
    assert "hunter2" not in said
    # A gallery with maps needs the weights, and neither the data nor shared reals by these settings.
    assert bool(said) == (path == "repeat" or setting in ("checkpoint", "memory_path"))
