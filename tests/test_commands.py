"""``train`` and ``evaluate``: from files to a run, from a run to recalls, and errors that name what is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import scoring_runs
import torch
from training_runs import SMALL, write_splits

from cmsei_fast import CMSEI, cli, engines, progress, recall_metrics, score_file, score_matrix
from cmsei_fast.commands.scoring_flags import warn_unusual_counts
from cmsei_fast.commands.sources import load_split
from cmsei_fast.data import split_from_scenes, synthetic_scenes, write_split
from cmsei_fast.data.files import check_target, write_text
from cmsei_fast.devices import process_device
from cmsei_fast.training.log import read_log


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("splits")
    write_splits(folder)
    return folder


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["train", str(files / "train.h5"), str(directory), "--validation", str(files / "val.h5")]
    assert cli.main([*arguments, *SMALL]) == 0
    return directory


def test_train_leaves_a_run(run, capsys):
    assert {"best", "last", "checkpoints", "log.jsonl", "run.json"} <= {path.name for path in run.iterdir()}
    records = read_log(run / "log.jsonl")
    assert [r["step"] for r in records if "loss" in r] == [1, 2, 3, 4]
    assert all(np.isfinite(r["loss"]) for r in records if "loss" in r)
    assert len([r for r in records if "validation" in r]) == 2
    settings = json.loads((run / "run.json").read_text())
    assert settings["model"]["width"] == 32
    assert settings["training"]["epochs"] == 2


def test_train_says_how_far_it_is_and_what_it_leaves(files, tmp_path, capsys):
    arguments = ["train", str(files / "train.h5"), str(tmp_path / "run"), *SMALL[:-1]]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert out == f"saved: {tmp_path / 'run' / 'last'}\n"
    # Not a terminal: no bar that overwrites itself, a line an epoch.
    assert "\r" not in err
    assert [line.partition(", loss ")[0] for line in err.splitlines()] == [
        "epoch 1/2: step 2 of 2",
        "epoch 2/2: step 2 of 2",
    ]


def test_each_validation_is_a_line_of_the_log(files, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = ["train", str(files / "train.h5"), str(run), "--validation", str(files / "val.h5"), *SMALL[:-1]]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines() if "validation: " in line]
    found = [record["validation"] for record in read_log(run / "log.jsonl") if "validation" in record]
    assert len(told) == len(found) == 2
    best = -1.0
    for epoch, (line, metrics) in enumerate(zip(told, found, strict=True), 1):
        better, best = metrics["rSum"] > best, max(best, metrics["rSum"])
        recalls = [" ".join(f"{metrics[way][name]:.1f}" for name in ("R@1", "R@5", "R@10")) for way in ("i2t", "t2i")]
        assert line == (
            f"epoch {epoch}/2: validation: rSum {metrics['rSum']:.1f} "
            f"({'the best so far' if better else f'best {best:.1f}'}), i2t {recalls[0]}, t2i {recalls[1]}"
        )
    assert out.startswith("validation after the last epoch:\n")
    assert f"{found[-1]['rSum']:7.1f}\nsaved: " in out


def test_steps_are_a_bar_on_a_terminal_and_lines_elsewhere(capsys, monkeypatch):
    clock = iter([0.0, 9.0, 10.0, 10.0, 11.0, 12.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.Steps(4, "step", "epoch 1/1", done=1) as steps:
        for loss in ("3", "2", "1"):
            steps.update(1, {"loss": loss})
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["epoch 1/1: step 3 of 4, loss 2", "epoch 1/1: step 4 of 4, loss 1"]
    monkeypatch.undo()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.Steps(4, "step", "epoch 1/1", done=1) as steps:
        steps.update(3, {"loss": "1"})
    err = capsys.readouterr().err
    assert "epoch 1/1: 4/4 " in err
    assert "loss=1" in err


def test_the_figures_of_a_bar_fit_into_a_terminal():
    """Of a usual width, which pty makes."""
    pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX's")
    code = (
        "import fcntl, struct, sys, termios; fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0)); "
        "from cmsei_fast.progress import Steps; steps = Steps(4425, 'step', 'epoch 12/30', 4424); "
        "steps.update(1, {'loss': '0.829', 'best rSum': '138.0', 'pairs': '98,586/s'}); steps.__exit__()"
    )
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode().split("\r")
    os.close(ours)
    last = [line for line in shown if "4425/4425" in line][-1]
    assert re.search(r"loss=0\.829, best rSum=138\.0, pairs=9", last), last
    assert len(last) <= 80


def test_a_split_without_what_a_graph_needs(tmp_path, capsys):
    made = synthetic_scenes(2, width=16)
    split = split_from_scenes(made.scenes, features=made.features)
    no_graphs = replace(split, relations=None, relation_offsets=None, relation_scores=None, predicate_names=())
    write_split(tmp_path / "boxes.h5", no_graphs)
    write_split(tmp_path / "bare.h5", replace(no_graphs, boxes=None, sizes=None))
    for name, kind, lack, other in (
        ("boxes", [], "'semantic' and a split without scene graphs", " or --relations spatial\n"),
        ("bare", [], "'spatial' and a split without boxes", "; try --relations alone (none)\n"),
        ("bare", ["--relations", "semantic"], "'semantic' and a split without scene graphs", " alone (none)\n"),
    ):
        assert cli.main(["train", str(tmp_path / f"{name}.h5"), str(tmp_path / "run"), *kind, *SMALL]) == 2
        err = capsys.readouterr().err
        assert f"relations: expected graphs that the split has, got {lack}" in err
        assert err.endswith(other)
    assert not (tmp_path / "run").exists()
    assert cli.main(["train", str(tmp_path / "bare.h5"), str(tmp_path / "run"), *SMALL, "--relations"]) == 0


def test_devices_by_name(files, tmp_path, run, capsys, monkeypatch):
    for device, told in (
        ("gpu", "device: expected cpu, cuda or cuda:N, got 'gpu'"),
        ("cuda:77", "device: expected an available device (GPUs that torch can use: "),
        ("meta", "device: expected an available device that holds data, got 'meta'"),
    ):
        assert cli.main(["train", str(files / "train.h5"), str(tmp_path / "run"), *SMALL, "--device", device]) == 2
        assert told in capsys.readouterr().err
        assert cli.main(["evaluate", str(files / "val.h5"), "--model", str(run / "best"), "--device", device]) == 2
        assert told in capsys.readouterr().err
    assert process_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert process_device("cuda") == process_device() == torch.device("cuda", 2)
    assert process_device("cuda:1") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(ValueError, match=r"an available device \(GPUs that torch can use: 3\), got 'cuda'"):
        process_device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("mps"))
    with pytest.raises(ValueError, match="device: expected a device that has float64, such as cpu or cuda, got 'mps'"):
        process_device("mps")


def test_a_split_that_a_model_cannot_take(files, run, tmp_path, capsys):
    split = load_split(str(files / "val.h5"))
    write_split(tmp_path / "bare.h5", replace(split, boxes=None, sizes=None))
    write_split(tmp_path / "mute.h5", replace(split, captions=(), caption_to_image=np.empty(0, np.int64)))
    model = str(run / "best")
    assert cli.main(["evaluate", str(tmp_path / "bare.h5"), "--model", model]) == 2
    assert f"error: {model}: boxes: expected images with boxes (the model" in capsys.readouterr().err
    assert cli.main(["evaluate", str(tmp_path / "mute.h5"), "--model", model]) == 2
    assert capsys.readouterr().err == "cmsei-fast: error: split: expected captions to score images with, got none\n"


def test_a_run_in_place_of_its_model(files, run, tmp_path, capsys):
    for directory, told in ((run, f"a directory of models: {run / 'best'}, {run / 'last'}"), (tmp_path, "none")):
        assert cli.main(["evaluate", str(files / "val.h5"), "--model", str(directory)]) == 2
        assert capsys.readouterr().err == (
            f"cmsei-fast: error: {directory}: expected a saved model (config.json and its like), got {told}\n"
        )


@pytest.mark.parametrize("folds", ["0", "-2", "3"])
def test_folds_that_cannot_be(files, run, folds, capsys):
    assert cli.main(["evaluate", str(files / "val.h5"), "--model", str(run / "best"), "--folds", folds]) == 2
    assert f"folds: expected an integer >= 1 that divides 20 images, got {folds}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ["--engine", "fast"],
            "--engine: expected 'auto' or one of reference, eager, native, triton, cuda, got ",
        ),
        (["--precision", "half"], "--precision: expected None or one of "),
        (["--folds", "3"], "--folds: expected an integer >= 1 that divides 20 images, got 3"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_flags_that_cannot_be_are_told_before_anything_is_encoded(files, run, flags, told, capsys, monkeypatch):
    monkeypatch.setattr(CMSEI, "encode_images", None)
    assert cli.main(["evaluate", str(files / "val.h5"), "--model", str(run / "best"), *flags]) == 2
    assert capsys.readouterr().err.startswith(f"cmsei-fast: error: {told}")


def test_a_name_that_is_too_long_is_told_before_anything_is_encoded(files, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(CMSEI, "encode_images", None)
    monkeypatch.chdir(tmp_path)
    for flag, name in (("--json", "x" * 300), ("--scores", "é" * 115 + ".npy")):
        assert cli.main(["evaluate", str(files / "val.h5"), "--model", str(run / "best"), flag, name]) == 2
        told = rf"{flag}: expected the name of a file of at most \d+ bytes, got {len(name.encode())}\n"
        assert re.fullmatch(f"cmsei-fast: error: {told}", capsys.readouterr().err)


def test_a_long_name_can_be_written(tmp_path):
    """The longest that is not refused, though the record's temporary name is longer still."""
    longest = os.pathconf(tmp_path, "PC_NAME_MAX") - len("..record.12345678.part")
    out = tmp_path / ("x" * (longest - 4) + ".npy")
    with pytest.raises(OSError, match=rf"expected the name of a file of at most {longest} bytes, got {longest + 1}$"):
        score_matrix(*scoring_runs.features(), out=out.with_name(f"x{out.name}"), engine="eager")
    assert score_matrix(*scoring_runs.features(), out=out, engine="eager").shape == (12, 30)
    assert os.listdir(tmp_path) == [out.name]


@pytest.mark.parametrize("told", [0, -1])
def test_a_file_system_that_tells_no_longest_name(told, tmp_path, monkeypatch):
    """As some of those do that a process serves."""
    monkeypatch.setattr(os, "pathconf", lambda *_: told)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    with pytest.raises(OSError, match="expected the name of a file of at most 240 bytes, got 241"):
        check_target(tmp_path / ("x" * 241))


def test_an_engine_that_cannot_run_is_told_before_anything_is_encoded(files, run, capsys, monkeypatch):
    monkeypatch.setattr(CMSEI, "encode_images", None)
    monkeypatch.setattr(engines, "unavailable", lambda name, device=None: "it is not built")
    assert cli.main(["evaluate", str(files / "val.h5"), "--model", str(run / "best"), "--engine", "native"]) == 2
    assert capsys.readouterr().err.startswith("cmsei-fast: error: engine 'native' cannot run here: it is not built.")


def test_a_split_is_known_by_its_first_bytes(files, tmp_path, run, capsys):
    other = tmp_path / "val.split"
    other.write_bytes((files / "val.h5").read_bytes())
    assert cli.main(["evaluate", str(other), "--model", str(run / "best")]) == 0
    assert f"{other}: 20 images" in capsys.readouterr().out


def test_settings_file_under_flags(files, tmp_path):
    settings = tmp_path / "settings.json"
    scorer = {"t2i": {"temperature": 7.0, "aggregate": "mean"}}
    content = {"model": {"width": 16, "heads": 2, "relations": [], "scorer": scorer}, "training": {"epochs": 9}}
    settings.write_text(json.dumps(content))
    arguments = ["train", str(files / "train.h5"), str(tmp_path / "run"), "--settings", str(settings)]
    assert cli.main([*arguments, "--epochs", "1", "--quiet", "--loss", "infonce"]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["model"]["width"], record["training"]["epochs"], record["training"]["loss"]) == (16, 1, "infonce")
    assert record["model"]["relations"] == []
    assert record["model"]["scorer"]["t2i"]["temperature"] == 7.0
    assert record["model"]["scorer"]["i2t"] is None


def test_training_starts_from_a_saved_model(files, run, tmp_path, capsys):
    """Its weights, its widths and its words; the dropouts and the training may be others."""
    start = CMSEI.from_pretrained(run / "last")
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"model": {"width": 32, "word_dropout": 0.1}}))  # as the first run had it
    other = write_with_other_words(files, tmp_path)
    arguments = ["train", other, str(tmp_path / "tuned"), "--model", str(run / "last"), "--settings", str(settings)]
    rates = ["--learning-rate", "1e-30", "--scalar-rate", "1", "--weight-decay", "0"]  # so that nothing moves
    assert cli.main([*arguments, "--epochs", "1", "--batch-size", "16", "--quiet", *rates, "--dropout", "0.25"]) == 0
    tuned = CMSEI.from_pretrained(tmp_path / "tuned" / "last")
    assert tuned.config == replace(start.config, dropout=0.25, word_dropout=0.1)
    assert tuned.vocabulary.words == start.vocabulary.words
    torch.testing.assert_close(tuned.state_dict(), start.state_dict())
    told = "words of the captions are not in its vocabulary: okapi, quagga\n"
    err = capsys.readouterr().err
    assert err.startswith(f"cmsei-fast: warning: --model {run / 'last'}: 2 of the ")
    assert err.endswith(told)


def write_with_other_words(files, folder):
    split = load_split(str(files / "train.h5"))
    captions = (f"okapi quagga {split.captions[0]}", *split.captions[1:])
    write_split(folder / "other.h5", replace(split, captions=captions))
    return str(folder / "other.h5")


def test_word_vectors_of_words_beyond_the_captions(files, tmp_path):
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("dog 1 0 2\nzebra 0 1 0\ncat 1 1 0\n")
    arguments = ["train", str(files / "train.h5"), str(tmp_path / "run"), "--word-vectors", str(vectors), *SMALL]
    assert cli.main(arguments) == 0
    model = CMSEI.from_pretrained(tmp_path / "run" / "last")
    assert "zebra" in model.vocabulary
    beyond = [word for word in ("dog", "zebra", "cat") if word in model.vocabulary.words[model.config.trained_words :]]
    assert "zebra" in beyond
    assert model.words.fixed.shape == (len(beyond), 24)


def test_evaluate_is_the_three_lines_of_the_api(files, run, tmp_path, capsys):
    saved, out = tmp_path / "scores.npy", tmp_path / "out.json"
    arguments = ["evaluate", str(files / "val.h5"), "--model", str(run / "best")]
    assert cli.main([*arguments, "--scores", str(saved), "--json", str(out)]) == 0
    split, model = load_split(str(files / "val.h5")), CMSEI.from_pretrained(run / "best")
    scores = score_matrix(
        model.encode_images(split), model.encode_captions(split.captions), scorer=model.scorer
    ).numpy()
    np.testing.assert_array_equal(np.load(saved, allow_pickle=False), scores)
    metrics = recall_metrics(scores, caption_to_image=split.caption_to_image)
    result = json.loads(out.read_text())
    assert result["rSum"] == metrics.rsum
    assert (result["images"], result["captions"]) == (20, 40)
    assert f"rSum{metrics.rsum:18.1f}" in capsys.readouterr().out


def test_evaluate_streams_and_its_file_is_resumed(files, run, tmp_path, monkeypatch):
    saved, results = tmp_path / "scores.npy", [tmp_path / name for name in ("streamed.json", "resumed.json")]
    arguments = ["evaluate", str(files / "val.h5"), "--model", str(run / "best"), "--engine", "eager", "--folds", "5"]
    with scoring_runs.small_tiles() as scored:
        assert cli.main([*arguments, "--json", str(results[0])]) == 0
        assert sum(scored) < 20 * 40  # pairs of two folds are left out
        arguments += ["--scores", str(saved)]
        with monkeypatch.context() as patched:
            patched.setattr(score_file.ScoreFile, "finish", _interrupt)
            assert cli.main(arguments) == cli.INTERRUPTED
        assert not saved.exists()
        scored.clear()
        assert cli.main([*arguments, "--resume", "--json", str(results[1])]) == 0
        assert scored == []
    assert np.load(saved).shape == (20, 40)
    a, b = (json.loads(path.read_text()) for path in results)
    assert a["rSum"] == b["rSum"]
    assert b["engine"] == "eager"
    assert a["pairs_per_second"] > 0 == b["pairs_per_second"]  # all pairs were there


def _interrupt(self):
    raise KeyboardInterrupt


def test_an_ensemble_is_the_mean_of_scores(files, run, tmp_path, capsys):
    alone, both = tmp_path / "alone.npy", tmp_path / "both.npy"
    arguments = ["evaluate", str(files / "val.h5"), "--model", str(run / "best")]
    assert cli.main([*arguments, "--scores", str(alone)]) == 0
    other = CMSEI.from_pretrained(run / "best")
    other.regions.features.weight.data *= -1
    other.save_pretrained(tmp_path / "other")
    assert cli.main([*arguments, "--model", str(tmp_path / "other"), "--scores", str(both)]) == 0
    split = load_split(str(files / "val.h5"))
    second = score_matrix(other.encode_images(split), other.encode_captions(split.captions), scorer=other.scorer)
    np.testing.assert_allclose(np.load(both), (np.load(alone) + second.numpy()) / 2, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("options", "folds"), [(["--folds", "4"], 4), (["--protocol", "coco-1k"], 5), ([], 1)])
def test_folds(files, run, tmp_path, capsys, options, folds):
    out, saved = tmp_path / "out.json", tmp_path / "scores.npy"
    arguments = ["evaluate", str(files / "val.h5"), "--model", str(run / "last"), "--scores", str(saved)]
    assert cli.main([*arguments, *options, "--json", str(out)]) == 0
    metrics = recall_metrics(
        np.load(saved), caption_to_image=load_split(str(files / "val.h5")).caption_to_image, folds=folds
    )
    assert json.loads(out.read_text())["rSum"] == metrics.rsum
    printed, warned = capsys.readouterr()
    assert (f"mean over {folds} folds of {20 // folds} images each, by " in printed) == (folds > 1)
    if "--protocol" in options:
        assert "--protocol coco-1k: papers have 5,000 images (5 folds of 1,000), this split has 20, 4 a fold" in warned
    else:
        assert "warning" not in warned


def test_a_protocol_of_five_captions_is_told_of_others(capsys):
    arguments = Namespace(protocol="f30k-1k", folds=None)
    owner = np.repeat(np.arange(1000), 5)
    warn_unusual_counts(arguments, 1000, owner)
    warn_unusual_counts(Namespace(protocol=None, folds=5), 3, np.arange(3))
    assert capsys.readouterr().err == ""
    warn_unusual_counts(arguments, 1000, np.append(owner, [7, 8, 8]))
    warned = capsys.readouterr().err
    assert "--protocol f30k-1k: papers have 5 captions of each image, this split has 5 to 7; more captions" in warned
    assert warned.endswith(" (convert --max-captions 5 keeps the first 5)\n")
    warn_unusual_counts(arguments, 1000, owner[::5])
    assert capsys.readouterr().err.endswith("this split has 1; more captions give higher recalls from image to text\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "{f}/absent.h5", "{t}/run"], "absent.h5"),
        (["train", "{f}/train.h5", "{r}", *SMALL], "{r}: expected a directory without a run (or --resume), got one"),
        (["train", "{f}/train.h5", "{t}/run", "--heads", "3"], "width: expected a multiple of heads = 3, got 1024"),
        (["train", "{f}/train.h5", "{t}/run", "--loss", "mse"], "loss: expected one of infonce, hinge, got 'mse'"),
        (
            ["train", "{f}/train.h5", "{t}/run", "--relations", "social"],
            "relations: expected any of implicit, spatial, ",
        ),
        (
            ["train", "{f}/train.h5", "{t}/run", "--settings", "{f}/bad.json"],
            "bad.json: expected any of model, training",
        ),
        (["train", "{f}/train.h5", "{t}/run", "--settings", "{f}/key.json"], "training configuration: expected any of"),
        (
            ["train", "{f}/bare.h5", "{t}/run", "--settings", "{f}/widht.json"],
            "{f}/widht.json: model configuration: expected any of",
        ),
        (
            ["train", "{f}/train.h5", "{t}/run", "--settings", "{f}/field.json"],
            "{f}/field.json: scorer: PairScorer.t2i: expected any of aggregate, attend, gates, lse_temperature, ",
        ),
        (
            ["train", "{f}/train.h5", "{t}/run", "--settings", "{f}/nan.json"],
            "{f}/nan.json: scorer: Attention.weight: expected a finite number >= 0, got nan",
        ),
        (
            ["train", "{f}/train.h5", "{r}", *SMALL, "--resume", "--seed", "5"],
            "seed: expected 0 (as the run began), got 5",
        ),
        (
            ["train", "{f}", "{t}/run"],
            "{f}: expected .h5 (cmsei-fast convert makes one) or .jsonl, .jsonl.gz, got a dir",
        ),
        (
            ["train", "{f}/ims.npy", "{t}/run"],
            "ims.npy: expected .h5 (cmsei-fast convert makes one) or .jsonl, .jsonl.gz, got",
        ),
        (["train", "{f}/train.h5", "{t}/run", "--model", "{r}"], "{r}: expected a saved model (config.json and its"),
        (
            ["train", "{f}/train.h5", "{t}/run", "--model", "{r}/last", "--heads", "2"],
            "heads: expected 4 (as the saved model has it), got 2",
        ),
        (
            ["train", "{f}/train.h5", "{t}/run", "--model", "{r}/last", "--vocabulary", "x"],
            "--vocabulary: expected none beside --model (which has its own), got x",
        ),
        (
            ["train", "{f}/bare.h5", "{t}/run", "--model", "{r}/last"],
            "training: features: expected images with features",
        ),
        (
            ["train", "{f}/train.h5", "{f}/val.h5"],
            "directory: expected a directory for the run, got the file {f}/val.h5 (--validation takes a split)",
        ),
        (
            ["train", "{f}/train.h5", "{t}/run", "--vocabulary", "{f}/words.zip"],
            "words.zip: expected a vocabulary as JSON, got malformed JSON: Expecting value",
        ),
        (
            ["train", "{f}/train.h5", "{t}/run", "--word-vectors", "{f}/others.txt"],
            "others.txt: expected vectors of words of the vocabulary, got those of others: <unk>, Hund, Katze\n",
        ),
        (
            ["train", "{f}/train.h5", "{t}/run", "--word-vectors", "{f}/others.txt", "--vector-limit", "0"],
            "others.txt: expected vectors of words of the vocabulary, got ",
        ),
        (
            ["train", "{f}/train.h5", "{t}/run", "--word-vectors", "{f}/words.zip"],
            "words.zip: expected word vectors as text, gzipped or not, got a zip archive of them",
        ),
        (
            ["evaluate", "{f}/val.h5", "--model", "{r}/best/model.safetensors"],
            "model.safetensors: expected a saved model (config.json and its like), got a file",
        ),
        (["evaluate", "{f}/val.h5"], "--model: expected a saved model for {f}/val.h5"),
        (["evaluate", "{f}/val.h5", "--model", "{f}"], "config.json"),
        (
            ["evaluate", "{f}/val.h5", "--model", "{r}/best", "--folds", "3"],
            "folds: expected an integer >= 1 that divides",
        ),
        (
            ["evaluate", "{f}/val.h5", "--model", "{r}/best", "--scorer", "cmsei"],
            "--scorer: expected none beside --model",
        ),
        (
            ["evaluate", "{f}/val.h5", "--model", "{r}/best", "--scores", "{t}/no/x.npy"],
            "--scores: expected a file in an",
        ),
        (
            ["evaluate", "{f}/val.h5", "--model", "{r}/best", "--scores", "{t}/x.bin"],
            "name of a file that ends in .npy",
        ),
        (["evaluate", "{f}/val.h5", "--model", "{r}/best", "--resume"], "--resume: expected --scores with the file to"),
    ],
)
def test_bad_input_gives_one_line(files, run, tmp_path, capsys, arguments, message):
    (files / "bad.json").write_text('{"optimizer": {}}')
    (files / "words.zip").write_bytes(b"PK\3\4 and so on")
    (files / "others.txt").write_text("<unk> 0 0 0\nHund 1 0 2\nKatze 0 1 0\n")
    (files / "key.json").write_text('{"training": {"lr": 1}}')
    (files / "widht.json").write_text('{"model": {"widht": 3, "relations": ["spatial"]}}')
    (files / "field.json").write_text('{"model": {"scorer": {"t2i": {"temprature": 9}}}}')
    (files / "nan.json").write_text('{"model": {"scorer": {"t2i": {"weight": NaN}}}}')
    write_split(files / "bare.h5", replace(load_split(str(files / "train.h5")), features=None))
    names = {"f": str(files), "r": str(run), "t": str(tmp_path)}
    assert cli.main([x.format(**names) for x in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cmsei-fast: error: ")
    assert message.format(**names) in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_results_have_a_place_before_they_are_computed(files, run, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(os, "access", lambda name, mode: not (mode == os.W_OK and name == str(tmp_path)))
    arguments = ["evaluate", str(files / "val.h5"), "--model", str(run / "best"), "--json", str(tmp_path / "a.json")]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.endswith(
        f"error: --json: expected a file in a directory that can be written, got {tmp_path}/a.json\n"
    )


def test_a_missing_extra_is_one_line(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    arguments = ["train", str(files / "train.h5"), str(tmp_path / "run"), "--transformer", "bert", "--quiet"]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("cmsei-fast: error: --transformer: expected the package transformers")
    assert error.count("\n") == 1
