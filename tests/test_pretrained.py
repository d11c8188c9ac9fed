"""Models on disk: the same numbers come back, and nothing else is taken for a model."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from training_runs import tiny_model, tiny_split

from cmsei_fast import CMSEI, PairScorer, score_matrix
from cmsei_fast.model import pretrained

SPLIT = tiny_split(2)

SCORES = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from training_runs import tiny_split
from cmsei_fast import CMSEI, score_matrix
from safetensors.torch import save_file
torch.set_num_threads(1)
model, split = CMSEI.from_pretrained(sys.argv[2]), tiny_split(2)
scores = score_matrix(model.encode_images(split), model.encode_captions(split.captions), scorer=model.scorer)
save_file({"scores": scores}, sys.argv[3])
"""


def scores_of(model: CMSEI) -> torch.Tensor:
    return score_matrix(model.encode_images(SPLIT), model.encode_captions(SPLIT.captions), scorer=model.scorer)


def test_another_process_gives_the_same_scores_to_the_bit(tmp_path):
    model = tiny_model(SPLIT)
    with torch.no_grad():
        model.score.log_scale += 0.1
        model.score.gate_shift -= 0.2
    model.save_pretrained(tmp_path / "model")
    assert sorted(os.listdir(tmp_path)) == ["model"]
    assert sorted(os.listdir(tmp_path / "model")) == ["config.json", "model.safetensors", "vocabulary.json"]
    expected = scores_of(model)
    back = CMSEI.from_pretrained(tmp_path / "model")
    assert not back.training
    assert back.config == model.config
    assert torch.equal(scores_of(back), expected)
    here = os.path.dirname(__file__)
    command = [sys.executable, "-c", SCORES, here, str(tmp_path / "model"), str(tmp_path / "scores")]
    subprocess.run(command, check=True, timeout=400)
    assert torch.equal(load_file(tmp_path / "scores")["scores"], expected)


def test_a_model_is_read_with_other_settings(tmp_path):
    """For training on: what the weights depend on cannot change, and what a score has learned is of that score."""
    model = tiny_model(SPLIT)
    with torch.no_grad():
        model.score.log_scale += 0.1
    model.save_pretrained(tmp_path / "model")
    same = model.config.scorer.to_dict()
    back = CMSEI.from_pretrained(tmp_path / "model", dropout=0.5, region_dropout=0.25, width=32, scorer=same)
    assert back.config == replace(model.config, dropout=0.5, region_dropout=0.25)
    assert (back.dropout.p, back.regions.dropout.p, back.text.dropout.p) == (0.5, 0.5, 0.5)
    assert torch.equal(scores_of(back), scores_of(model))
    other = PairScorer.scan_i2t()
    back = CMSEI.from_pretrained(tmp_path / "model", scorer=other)
    assert back.scorer.t2i is None
    for old, new in zip(other.scalars(), back.scorer.scalars(), strict=True):
        assert new == pytest.approx(old, rel=1e-6)
    assert all(torch.equal(x, model.state_dict()[k]) for k, x in back.state_dict().items() if k[:6] != "score.")
    for changes, told in (
        ({"width": 64}, "width: expected 32 (as the saved model has it), got 64"),
        ({"relations": ["spatial"]}, "relations: expected ('spatial', 'semantic') (as the saved model has it), got"),
        ({"dropout": 1.0}, "dropout: expected a number in [0, 1), got 1.0"),
        ({"droput": 0.1}, "model configuration: expected any of "),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(told)}"):
            CMSEI.from_pretrained(tmp_path / "model", **changes)


def test_the_weights_are_readable_by_whom_the_configuration_is(tmp_path):
    """safetensors alone makes files of 0600, which nobody else in a group can load."""
    before = os.umask(0o027)
    try:
        tiny_model(SPLIT).save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    assert set(modes.values()) == {modes["config.json"]}


def test_a_failed_save_leaves_the_model_as_it_was(tmp_path, monkeypatch):
    model = tiny_model(SPLIT)
    model.save_pretrained(tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.score.log_scale += 1

    def torn(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(pretrained, "save_file", torn)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert os.listdir(tmp_path) == ["model"]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    """safetensors has an error of its own for what the system says."""

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(pretrained, "save_file", full)
    with pytest.raises(OSError, match=r"^\[Errno 28\] .*: '.*model\.safetensors'$") as raised:
        tiny_model(SPLIT).save_pretrained(tmp_path / "model")
    assert raised.value.filename == str(tmp_path / "model" / "model.safetensors")  # not the hidden one beside it
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_a_directory_is_an_error_that_names_the_model(tmp_path, monkeypatch):
    make = Path.mkdir

    def full(self, *rest, **options):
        if self.name.endswith(".part"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        make(self, *rest, **options)

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match="No space left") as raised:
        tiny_model(SPLIT).save_pretrained(tmp_path / "model")
    assert raised.value.filename == str(tmp_path / "model")


@pytest.mark.skipif(os.name != "posix", reason="makes a symbolic link")
def test_a_link_to_a_model_gives_way_to_another(tmp_path):
    tiny_model(SPLIT).save_pretrained(tmp_path / "disk" / "model")
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "model")
    other = tiny_model(SPLIT, width=16)
    other.save_pretrained(tmp_path / "model")
    assert sorted(os.listdir(tmp_path)) == ["disk", "model"]
    assert torch.equal(scores_of(CMSEI.from_pretrained(tmp_path / "model")), scores_of(other.eval()))
    assert torch.equal(
        scores_of(CMSEI.from_pretrained(tmp_path / "disk" / "model")), scores_of(tiny_model(SPLIT).eval())
    )


@pytest.mark.parametrize("number", [1, 2, 3])
def test_ctrl_c_leaves_one_of_two_models(tmp_path, monkeypatch, interruptible, number):
    """Of two of another structure, whose files are not the same."""
    tiny_model(SPLIT).save_pretrained(tmp_path / "model")
    other = tiny_model(SPLIT, width=16)
    rename, calls = Path.rename, []

    def interrupted(self, target):
        calls.append(1)
        if len(calls) == number:
            signal.raise_signal(signal.SIGINT)
        done = rename(self, target)
        if len(calls) == number - 1 and number == 3:
            signal.raise_signal(signal.SIGINT)
        return done

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            other.save_pretrained(tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]
    kept = other if number == 3 else tiny_model(SPLIT)
    assert torch.equal(scores_of(CMSEI.from_pretrained(tmp_path / "model")), scores_of(kept.eval()))


def test_saves_over_a_model_and_over_nothing_else(tmp_path):
    tiny_model(SPLIT).save_pretrained(tmp_path / "model")
    other = tiny_model(SPLIT, width=16)
    other.save_pretrained(tmp_path / "model")
    assert torch.equal(scores_of(CMSEI.from_pretrained(tmp_path / "model")), scores_of(other))
    assert os.listdir(tmp_path) == ["model"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="expected a new directory or one with a saved model, got something else"):
        other.save_pretrained(tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["notes.txt"]


def damage(path, name: str) -> str:
    """Does it, and returns the error's beginning behind the path."""
    config, weights = path / "config.json", path / "model.safetensors"
    record = json.loads(config.read_text())
    if name == "truncated config":
        config.write_text(config.read_text()[:50])
        return "config.json: expected one JSON object, got malformed JSON: "
    if name == "deep config":
        config.write_text("[" * 100_000)
        return "config.json: expected one JSON object, got JSON nested too deeply"
    if name == "foreign config":
        config.write_text('{"model_type": "bert"}')
        return "config.json: expected the configuration of a cmsei_fast model, got another JSON file"
    if name == "later version":
        config.write_text(json.dumps(record | {"version": 9}))
        return "config.json: expected version 1, got 9"
    if name == "unknown field":
        config.write_text(json.dumps(record | {"model": record["model"] | {"depth": 1}}))
        return "config.json: model configuration: expected any of "
    if name == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-10])
        return "model.safetensors: expected safetensors, got a damaged file ("
    if name == "pickle":
        torch.save({}, weights)
        return "model.safetensors: expected safetensors, got a damaged file ("
    if name == "tensor missing":
        tensors = load_file(weights)
        del tensors["words.trained"]
        save_file(tensors, weights)
        return "model.safetensors: expected the tensors of config.json, got a difference in words.trained"
    config.write_text(json.dumps(record | {"model": record["model"] | {"word_width": 13}}))
    return "model.safetensors: expected the tensors of config.json, got a difference in "


@pytest.mark.parametrize(
    "name",
    [
        "truncated config",
        "deep config",
        "foreign config",
        "later version",
        "unknown field",
        "truncated weights",
        "pickle",
        "tensor missing",
        "other shape",
    ],
    ids=lambda name: name.replace(" ", "_"),
)
def test_damaged_models(tmp_path, name):
    tiny_model(SPLIT).save_pretrained(tmp_path)
    message = damage(tmp_path, name)
    with pytest.raises(ValueError, match="expected") as caught:
        CMSEI.from_pretrained(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_a_device_that_is_not_here(tmp_path):
    tiny_model(SPLIT).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^device: expected an available device .*, got 'cuda:99'$"):
        CMSEI.from_pretrained(tmp_path, "cuda:99")
    with pytest.raises(ValueError, match=r"^device: expected cpu, cuda or cuda:N, got 'gpu'$"):
        CMSEI.from_pretrained(tmp_path, device="gpu")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocabulary.json"])
def test_missing_files(tmp_path, name):
    tiny_model(SPLIT).save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        CMSEI.from_pretrained(tmp_path)
