"""``train --resume``: a setting that is not the run's is told by its flag, with both values, before any work."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from training_runs import SMALL

from cmsei_fast import cli
from cmsei_fast.commands import train as command
from cmsei_fast.data import split_from_scenes, synthetic_scenes, write_split
from cmsei_fast.model import ModelConfig
from cmsei_fast.training import TrainConfig

GIVEN = [*SMALL, "--epochs", "1", "--relations"]
FREE = {"workers": "2", "checkpoint_every": "3", "validate_every": "4", "patience": "3", "epochs": "2"}
OTHERS = {
    "schedule": "cosine",
    "loss": "infonce",
    "precision": "bfloat16",
    "relations": "spatial",
    "transformer": "somewhere",
    "scorer": "scan_t2i",
    "clip": "1",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without graphs, on a split that has nothing to make them of."""
    folder = tmp_path_factory.mktemp("resumed")
    made = synthetic_scenes(4, width=16)
    split = split_from_scenes(made.scenes, features=made.features)
    split = replace(split, relations=None, relation_offsets=None, predicate_names=(), boxes=None, sizes=None)
    write_split(folder / "bare.h5", split)
    assert resumed(folder / "run", *GIVEN) == 0
    return folder / "run"


def resumed(run: Path, *options: str) -> int:
    return cli.main(["train", str(run.parent / "bare.h5"), str(run), "--resume", *options])


def test_the_graphs_that_the_run_had_none_of(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert resumed(run, *GIVEN[:-1]) == 2
    told = "--relations: expected none (as the run began), got spatial semantic, the default"
    way = f"--settings {run / 'run.json'} gives the settings of the run"
    assert capsys.readouterr().err == f"cmsei-fast: error: {told}; {way}\n"
    assert resumed(run, "--settings", str(run / "run.json")) == 0


def test_a_saved_model_has_its_settings_as_its_run_has_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bare.h5").write_bytes((run.parent / "bare.h5").read_bytes())
    options = ["--model", str(run / "last"), "--quiet", "--batch-size", "16", "--epochs"]
    for epochs in "12":
        assert resumed(tmp_path / "run", *options, epochs) == 0
    assert resumed(tmp_path / "run", *options, "2", "--heads", "2") == 2
    assert "--heads: expected 4 (as the run began), got 2; --resume takes" in capsys.readouterr().err


def test_a_run_that_lost_its_checkpoints_says_that_it_starts_afresh(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bare.h5").write_bytes((run.parent / "bare.h5").read_bytes())
    assert resumed(tmp_path / "run", *GIVEN) == 0
    assert resumed(tmp_path / "run", *GIVEN) == 0
    assert capsys.readouterr().err == ""
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert resumed(tmp_path / "run", *GIVEN) == 0
    told = f"{tmp_path / 'run'}: the run has no checkpoint, so it starts afresh"
    assert capsys.readouterr().err == f"cmsei-fast: warning: {told}\n"


def test_the_model_that_a_run_started_from_is_noted_and_asked_for(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bare.h5").write_bytes((run.parent / "bare.h5").read_bytes())
    start, options = str(run / "last"), ["--quiet", "--batch-size", "16", "--epochs"]
    assert resumed(tmp_path / "run", "--model", start, *options, "1") == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["start"] == {"model": start}
    capsys.readouterr()
    assert resumed(tmp_path / "run", *options, "2") == 2
    assert f"error: --model: expected {start} (as the run began), got none; --resume" in capsys.readouterr().err
    moved = shutil.copytree(run / "last", tmp_path / "moved")
    assert resumed(tmp_path / "run", "--model", str(moved), *options, "2") == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["start"] == {"model": start}
    assert json.loads((run / "run.json").read_text())["start"] == {"model": None}
    capsys.readouterr()
    assert resumed(run, *GIVEN[:-1], "--model", start) == 2
    assert f"error: --model: expected none (as the run began), got {start}; --resume" in capsys.readouterr().err


def test_the_file_of_a_run_gives_its_settings_to_another(run: Path, tmp_path: Path) -> None:
    made = synthetic_scenes(4, width=8)
    split = split_from_scenes(made.scenes, features=made.features)
    write_split(tmp_path / "bare.h5", replace(split, relations=None, relation_offsets=None, predicate_names=()))
    assert resumed(tmp_path / "run", "--settings", str(run / "run.json"), "--heads", "2") == 0
    before, after = (json.loads((each / "run.json").read_text()) for each in (run, tmp_path / "run"))
    assert after["training"] == before["training"]
    changed = {name for name in before["model"] if before["model"][name] != after["model"][name]}
    assert changed == {"heads", "feature_width", "object_names"}  # the flag, and what the split has


def other_values() -> dict[str, str]:
    """A value that the run did not have, as its flag takes it, of each setting that has a flag."""
    found = {"boxes": "", "word_residual": "", "scorer": OTHERS["scorer"]}
    for config in (TrainConfig, ModelConfig):
        for f in fields(config):
            if f.name not in (*found, *command._NO_FLAG):
                found[f.name] = OTHERS.get(f.name, "64" if "int" in str(f.type) else "0.5")
    return found


@pytest.mark.parametrize("name", other_values())
def test_each_setting_is_the_run_s(
    run: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: Any) -> None:
        raise ValueError("the splits are read")

    monkeypatch.setattr(command, "load_split", work)
    value = FREE.get(name) or other_values()[name]
    flag = f"--{name.replace('_', '-')}"
    assert resumed(run, *GIVEN, flag, *([value] if value else [])) == 2
    err = capsys.readouterr().err
    if name in FREE:
        assert err == "cmsei-fast: error: the splits are read\n"
    else:
        told = re.escape(value).replace("64", r"64(\.0)?").replace("1", r"1(\.0)?") or "True"
        assert re.search(rf"error: {flag}: expected \S+ \(as the run began\), got '?{told}'?; --resume takes", err)


def test_scorers_are_told_by_their_presets_or_by_a_number(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resumed(run, *GIVEN, "--scorer", "scan_i2t") == 2
    assert "--scorer: expected cmsei (as the run began), got scan_i2t;" in capsys.readouterr().err
    for temperature in (7.0, 8.0):
        scorer = {"t2i": {"temperature": temperature, "aggregate": "mean"}}
        (tmp_path / "settings.json").write_text(json.dumps({"model": {"scorer": scorer}}))
        (tmp_path / "bare.h5").write_bytes((run.parent / "bare.h5").read_bytes())
        found = resumed(tmp_path / "run", *GIVEN, "--settings", str(tmp_path / "settings.json"))
        assert found == (0 if temperature == 7.0 else 2)
    assert "--scorer.t2i.temperature: expected 7.0 (as the run began), got 8.0;" in capsys.readouterr().err


def test_what_sets_what_no_flag_does_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors, split = tmp_path / "vectors.txt", tmp_path / "bare.h5"
    vectors.write_text("dog 1 0 2\nzebra 0 1 0\na 1 1 0\n")
    split.write_bytes((run.parent / "bare.h5").read_bytes())
    assert resumed(tmp_path / "run", *GIVEN, "--word-vectors", str(vectors)) == 0
    capsys.readouterr()
    assert resumed(tmp_path / "run", *GIVEN) == 2
    err = capsys.readouterr().err
    assert re.search(r"--trained-words: expected \d+ \(as the run began\), got None; pretrained word vectors set", err)
    vectors.write_text("dog 1 0 2\nyak 0 1 0\na 1 1 0\n")
    assert resumed(tmp_path / "run", *GIVEN, "--word-vectors", str(vectors)) == 2
    assert "got '" in (err := capsys.readouterr().err)
    assert err.endswith("; captions, names, pretrained word vectors or the file of a vocabulary make it\n")
    made = synthetic_scenes(4, width=8)
    wide = split_from_scenes(made.scenes, features=made.features)
    write_split(split, replace(wide, relations=None, relation_offsets=None, predicate_names=(), boxes=None, sizes=None))
    assert resumed(tmp_path / "run", *GIVEN, "--word-vectors", str(vectors)) == 2
    told = "feature_width: expected 16 (as the run began), got 8; the training split sets it\n"
    assert capsys.readouterr().err.endswith(told)
