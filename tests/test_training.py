"""Training: it learns, resumes to the bit after a kill, and refuses what it cannot do."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import training_runs
from safetensors.torch import load_file
from training_runs import NOISY, losses

from cmsei_fast.data import Vocabulary
from cmsei_fast.training import TrainConfig, train
from cmsei_fast.training.log import read_log


def start(directory, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, training_runs.__file__, str(directory), json.dumps(options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def test_resumes_to_the_bit_after_a_kill_within_an_epoch(tmp_path):
    training_runs.run(tmp_path / "whole", **NOISY)
    killed = start(tmp_path / "killed", kill_at=3, **NOISY)  # behind the checkpoint of step 2 of an epoch's four
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(losses(tmp_path / "killed")) == 3
    training_runs.run(tmp_path / "killed", resume=True, **NOISY)
    expected = losses(tmp_path / "whole")
    assert len(expected) == 8
    assert all(map(math.isfinite, expected))
    assert losses(tmp_path / "killed") == expected
    a, b = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("whole", "killed"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_gradients_that_are_no_numbers_end_a_run_before_its_weights_are(tmp_path):
    """In the last step, whose loss is still a number: no later one would tell."""
    split = training_runs.tiny_split()
    model, last = training_runs.tiny_model(split), [3]
    before = []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        last[0] -= 1
        before[:] = [x.detach().clone() for x in model.parameters()]
        return gradient * torch.nan if last[0] < 0 else gradient

    next(model.parameters()).register_hook(spoil)
    with pytest.raises(ValueError, match=r"^gradients: expected a finite norm, got one of nan at step 3 \("):
        train(model, split, None, tmp_path / "run", training_runs.config(epochs=1), device="cpu", progress=False)
    assert len(losses(tmp_path / "run")) == 3
    assert all(map(torch.equal, before, model.parameters()))
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_a_resumed_run_may_be_longer_and_read_otherwise(tmp_path):
    training_runs.run(tmp_path / "whole", epochs=2)
    training_runs.run(tmp_path / "longer", epochs=1, validated=False)
    training_runs.run(tmp_path / "longer", resume=True, workers=1, checkpoint_every=3, validate_every=2)
    assert losses(tmp_path / "longer") == losses(tmp_path / "whole")
    settings = json.loads((tmp_path / "longer" / "run.json").read_text())["training"]
    assert [settings[name] for name in ("epochs", "workers", "checkpoint_every", "validate_every")] == [2, 1, 3, 2]
    with pytest.raises(ValueError, match=r"^epochs: expected 2 \(as the run began\), got 1$"):
        training_runs.run(tmp_path / "longer", resume=True, epochs=1)
    training_runs.run(tmp_path / "cosine", epochs=1, schedule="cosine", validated=False)
    with pytest.raises(ValueError, match=r"^epochs: expected 1 \(as the run began\), got 2$"):
        training_runs.run(tmp_path / "cosine", epochs=2, schedule="cosine", resume=True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("loss", ["hinge", "infonce"])
def test_the_loss_falls(tmp_path, loss, precision):
    training_runs.run(tmp_path, validated=False, epochs=8, loss=loss, precision=precision, warmup_epochs=0)
    found = losses(tmp_path)
    assert len(found) == 32
    assert sum(found[-4:]) < 0.8 * sum(found[:4])


def test_a_resumed_run_has_its_vocabulary_and_its_validation_split(tmp_path, monkeypatch):
    longer = {"epochs": 2, "schedule": "constant", "resume": True}
    training_runs.run(tmp_path, epochs=1, schedule="constant", validated=False)
    record = json.loads((tmp_path / "run.json").read_text())
    split, build = training_runs.tiny_split(), Vocabulary.build
    with monkeypatch.context() as patched:  # as many words in another order
        words = build(split.captions).words
        patched.setattr(Vocabulary, "build", lambda _: Vocabulary([*words[:4], *reversed(words[4:])]))
        expected = record["vocabulary"]["words"]
        with pytest.raises(ValueError, match=rf"^vocabulary\.words: expected '{expected}' \(as the run began\), got '"):
            training_runs.run(tmp_path, **longer)
    training_runs.run(tmp_path, **longer)
    training_runs.run(tmp_path, validated=False, **longer)
    other = training_runs.tiny_split(seed=1)
    told = r"^validation\.\w+: expected '.*' \(as the run began\), got '.*'; so it is another split$"
    with pytest.raises(ValueError, match=told):
        train(
            training_runs.tiny_model(split),
            split,
            other,
            tmp_path,
            training_runs.config(epochs=2, schedule="constant"),
            resume=True,
        )


def test_refusals(tmp_path, monkeypatch):
    model = training_runs.tiny_model
    training_runs.run(tmp_path, epochs=1)
    with pytest.raises(FileExistsError) as exists:
        training_runs.run(tmp_path, epochs=1)
    assert str(exists.value) == f"{tmp_path}: expected a directory without a run (or resume=True), got one"
    record = json.loads((tmp_path / "run.json").read_text())
    split = training_runs.tiny_split()
    for name, other in {
        "captions": replace(split, captions=(*split.captions[:-1], "another")),
        "features": replace(split, features=np.concatenate([split.features[:-1], split.features[:1]])),
        "regions": replace(split, boxes=split.boxes + 1),
    }.items():
        with monkeypatch.context() as patched:
            patched.setattr(training_runs, "tiny_split", lambda other=other: other)
            patched.setattr(training_runs, "tiny_model", lambda _, **changes: model(split, **changes))
            match = rf"^training\.{name}: expected '{record['data'][name]}' \(as the run began\), got '"
            with pytest.raises(ValueError, match=match):
                training_runs.run(tmp_path, resume=True, epochs=1)
    with pytest.raises(ValueError, match=r"^batch_size: expected 8 \(as the run began\), got 4$"):
        training_runs.run(tmp_path, epochs=1, batch_size=4, resume=True)
    split = training_runs.tiny_split()
    for arguments, told in (
        (("train.h5", None, tmp_path, TrainConfig()), "training: expected a Split, got str"),
        ((split, "val.h5", tmp_path, TrainConfig()), "validation: expected a Split or None, got str"),
        ((split, None, tmp_path, {"epochs": 1}), "config: expected a TrainConfig, got dict"),
    ):
        with pytest.raises(TypeError, match=f"^{told}$"):
            train(training_runs.tiny_model(split), *arguments)
    with pytest.raises(ValueError, match=r"^precision: expected float32 or bfloat16 on the CPU, got float16$"):
        training_runs.run(tmp_path / "half", precision="float16")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"captions": (), "caption_to_image": np.zeros(0, np.int64)}, "expected a split with captions, got none"),
        ({"features": None}, "features: expected images with features .*, got a split without"),
        ({"features": np.zeros((128, 3), np.float32)}, "features: expected width .*, got 3"),
        (
            {"relations": None, "relation_offsets": None, "predicate_names": ()},
            "relations: expected images with relations .*, got a split without",
        ),
    ],
)
def test_a_split_that_does_not_serve_is_told_before_the_first_step(tmp_path, changes, told):
    split = training_runs.tiny_split()
    other = replace(split, **changes)
    for name, splits in (("validation", (split, other)), ("training", (other, None))):
        with pytest.raises(ValueError, match=f"^{name}: {told}$"):
            train(training_runs.tiny_model(split), *splits, tmp_path / "run", TrainConfig(epochs=1), progress=False)
        assert not (tmp_path / "run").exists()


def test_two_processes_do_not_train_in_one_directory(tmp_path):
    """Both would write the same log and remove each other's checkpoints."""
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline()
        with pytest.raises(OSError, match=f"^{tmp_path}: expected no other process that trains there, got one$"):
            training_runs.run(tmp_path, epochs=1)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    training_runs.run(tmp_path, epochs=1, validated=False)
    assert len(losses(tmp_path)) == 4


def test_a_directory_that_cannot_be_written_is_named_and_not_its_lock(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(IsADirectoryError) as refused:
        training_runs.run(tmp_path, epochs=1)
    assert refused.value.filename == str(tmp_path)


def test_room_for_checkpoints_is_asked_for_before_the_first_step(tmp_path, monkeypatch):
    """So much that a run writes at once, or a little less: its largest checkpoint, beside the one before it."""

    def free(count):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=count))

    free(10)
    told = r": expected (\S+) KiB of room for {}, got 10 bytes$"
    for options, what in (
        ({"validated": False}, "two checkpoints"),
        ({}, "two checkpoints and a model"),
        ({"epochs": 1}, "a checkpoint and the models"),
    ):
        with pytest.raises(OSError, match=told.format(what)):
            training_runs.run(tmp_path / "run", **options)
    assert not (tmp_path / "run" / "checkpoints").exists()
    free(10**9)
    training_runs.run(tmp_path / "run", epochs=1, average=0.9)
    free(10)
    training_runs.run(tmp_path / "run", epochs=1, average=0.9, resume=True)  # nothing is left to write
    with pytest.raises(OSError, match=told.format("another checkpoint")) as short:
        training_runs.run(tmp_path / "run", epochs=2, average=0.9, resume=True)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    size = (checkpoint / "tensors.safetensors").stat().st_size
    assert 0.9 * size < 1024 * float(re.search(told.format("another checkpoint"), str(short.value))[1]) < size


def test_patience_ends_a_run_that_gets_no_better(tmp_path, capsys):
    """So slow a run keeps its ranks: the first validation is the best, and each later one another without a higher."""
    slow = {"learning_rate": 1e-12, "epochs": 9, "warmup_epochs": 0}
    training_runs.run(tmp_path / "patient", patience=2, **slow)
    assert len([r for r in read_log(tmp_path / "patient" / "log.jsonl") if "validation" in r]) == 3
    assert len(losses(tmp_path / "patient")) == 3 * 4
    assert (tmp_path / "patient" / "last" / "model.safetensors").is_file()
    training_runs.run(tmp_path / "patient", patience=2, resume=True, **slow)
    assert len(losses(tmp_path / "patient")) == 3 * 4
    split = training_runs.tiny_split()
    longer = training_runs.config(patience=3, **slow)
    train(training_runs.tiny_model(split), split, split, tmp_path / "patient", longer, resume=True)
    told = "ended after epoch 4: 3 validations without a higher rSum\n"
    assert capsys.readouterr().err.endswith(told)
    training_runs.run(tmp_path / "whole", **slow | {"epochs": 4})
    assert losses(tmp_path / "patient") == losses(tmp_path / "whole")
    training_runs.run(tmp_path / "learns", patience=2, epochs=4, warmup_epochs=0)
    rsums = [r["validation"]["rSum"] for r in read_log(tmp_path / "learns" / "log.jsonl") if "validation" in r]
    assert len(rsums) == 4, rsums
    with pytest.raises(ValueError, match=r"^patience: expected 0 \(there is no validation split\), got 2$"):
        training_runs.run(tmp_path / "blind", validated=False, patience=2)


def test_rates():
    step = TrainConfig(schedule="step", decay=0.1, decay_epochs=2, warmup_steps=4)
    assert [step.rate(i, 10) for i in (0, 3, 19, 20, 40)] == pytest.approx([0.25, 1, 1, 0.1, 0.01])
    cosine = TrainConfig(schedule="cosine", epochs=2, warmup_steps=0)
    assert [cosine.rate(i, 10) for i in (0, 10, 20, 30)] == pytest.approx([1, 0.505, 0.01, 0.01])
    assert TrainConfig(schedule="constant", warmup_steps=0).rate(1000, 10) == 1


@pytest.mark.parametrize(
    ("name", "taken", "refused", "told"),
    [
        ("epochs", 1, 0, "expected an integer >= 1"),
        ("batch_size", 2, 1, "expected an integer >= 2"),
        ("workers", 0, -1, "expected an integer >= 0"),
        ("patience", 3, True, "expected an integer >= 0"),
        ("neighbours", 1, 1.0, "expected an integer >= 1"),
        ("seed", 2**63 - 1, 2**63, r"expected an integer < 2\*\*63"),
        ("clip", 1, 0, "expected a number > 0"),
        ("learning_rate", 1e-9, math.nan, "expected a finite number"),
        ("decay", 1e-9, "0.1", "expected a finite number"),
        ("scale", 148, 148.5, "expected a number <= 148"),
        ("margin", 0, -0.1, "expected a number >= 0"),
        ("average", 0, 1, r"expected a number in \[0, 1\)"),
        ("smoothing", 0.5, -0.1, r"expected a number in \[0, 1\)"),
        ("schedule", "cosine", "linear", "expected one of step, cosine, constant"),
        ("loss", "infonce", "triplet", "expected one of infonce, hinge"),
        ("precision", "float16", "int8", "expected one of float32, bfloat16, float16"),
    ],
)
def test_what_a_setting_takes(name, taken, refused, told):
    assert getattr(TrainConfig(**{name: taken}), name) == taken
    with pytest.raises(ValueError, match=f"^{name}: {told}, got "):
        TrainConfig(**{name: refused})


def test_numbers_of_numpy_in_settings_are_plain_ones():
    made = TrainConfig(
        epochs=np.int64(3), batch_size=np.int32(4), learning_rate=np.float32(0.25), loss=np.str_("hinge")
    )
    plain = TrainConfig(epochs=3, batch_size=4, learning_rate=0.25, loss="hinge")
    assert made == plain
    assert json.dumps(made.to_dict()) == json.dumps(plain.to_dict())


def test_the_log_says_over_which_negatives_its_loss_is(tmp_path, capsys):
    split = training_runs.tiny_split()
    for loss, expected in (("hinge", ["sum"] * 4 + ["hardest"] * 4), ("infonce", [None] * 8)):
        config = TrainConfig(epochs=2, batch_size=8, loss=loss)
        train(training_runs.tiny_model(split), split, None, tmp_path / loss, config, device="cpu")
        records = read_log(tmp_path / loss / "log.jsonl")
        assert [record.get("negatives") for record in records] == expected
        lines = [line for line in capsys.readouterr().err.splitlines() if "loss" in line]
        assert [" (sum over negatives)" in line for line in lines] == [loss == "hinge", False]
