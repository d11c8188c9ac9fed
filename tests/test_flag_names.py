"""Errors that a command tells name its flags, or the file of settings, and not the arguments of Python."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from training_runs import SMALL, write_splits

from cmsei_fast import cli, engines
from cmsei_fast.commands.sources import load_split
from cmsei_fast.data import write_split


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits, a run of one epoch in ``run``, a matrix of scores and files of settings."""
    made = tmp_path_factory.mktemp("flags")
    write_splits(made)
    assert cli.main(["train", f"{made}/train.h5", f"{made}/run", *SMALL, "--epochs", "1"]) == 0
    np.save(made / "scores.npy", np.zeros((3, 7), np.float32))
    (made / "owner.txt").write_text("0 0 0 1 1 2 2")
    (made / "from_one.txt").write_text("1 1 1 2 2 3 3")
    settings = {"patience": {"training": {"patience": 2}}, "heads": {"model": {"heads": 5, "width": 32}}}
    settings |= {"epochs": {"training": {"epochs": 0}}, "epoch": {"training": {"epoch": 3}}}
    for name, content in settings.items():
        (made / f"{name}.json").write_text(json.dumps(content))
    return made


TRAIN = ["train", "{f}/train.h5", "{f}/new", *SMALL]
EVALUATE = ["evaluate", "{f}/val.h5", "--model", "{f}/run/last"]
CASES = {
    "a setting": ([*TRAIN, "--patience", "2"], "--patience: expected 0 (there is no validation split), got 2"),
    "two words": ([*TRAIN, "--batch-size", "1"], "--batch-size: expected an integer >= 2, got 1"),
    "a seed": (
        [*TRAIN, "--seed", "18446744073709551616"],
        "--seed: expected an integer < 2**63, got 18446744073709551616",
    ),
    "of the model": ([*TRAIN, "--heads", "5"], "--width: expected a multiple of heads = 5, got 32"),
    "by default": ([*TRAIN, "--word-dropout", "2"], "--word-dropout: expected a number in [0, 1), got 2.0"),
    "a file": (
        ["train", "{f}/train.h5", "{f}/new", "--settings", "{f}/epochs.json"],
        "{f}/epochs.json: epochs: expected an integer >= 1, got 0",
    ),
    "a file's patience": (
        [*TRAIN, "--settings", "{f}/patience.json"],
        "{f}/patience.json: patience: expected 0 (there is no validation split), got 2",
    ),
    "a file's unknown name": (
        [*TRAIN, "--settings", "{f}/epoch.json"],
        "{f}/epoch.json: training configuration: expected any of ",
    ),
    "a run that is there": (
        ["train", "{f}/train.h5", "{f}/run", *SMALL],
        "{f}/run: expected a directory without a run (or --resume), got one",
    ),
    "a rate": (
        [*TRAIN, "--learning-rate", "1e30", "--weight-decay", "1e30"],
        "the loss: expected a finite number, got nan at step 1 (lower --learning-rate)",
    ),
    "an engine": ([*EVALUATE, "--engine", "fast"], "--engine: expected 'auto' or one of "),
    "an engine's advice": ([*EVALUATE, "--engine", "triton"], "Ask for --engine auto, or run `cmsei-fast doctor`"),
    "a precision": ([*EVALUATE, "--precision", "half"], "--precision: expected None or one of "),
    "folds": ([*EVALUATE, "--folds", "3"], "--folds: expected an integer >= 1 that divides 20 images, got 3"),
    "a protocol": (
        ["report", "--scores", "{f}/scores.npy", "--protocol", "coco-1k", "--caption-to-image", "{f}/owner.txt"],
        "--protocol coco-1k: expected a number of images that 5 folds divide, got 3",
    ),
    "captions an image": (
        ["report", "--scores", "{f}/scores.npy", "--captions-per-image", "2", "--out", "{f}/r.html"],
        "--captions-per-image: expected 2 captions for each of 3 images (6), got 7 (--caption-to-image or ",
    ),
    "a file of the captions' images": (
        ["report", "--scores", "{f}/scores.npy", "--caption-to-image", "{f}/from_one.txt", "--out", "{f}/r.html"],
        "error: {f}/from_one.txt[5]: expected an image from 0 to 2, got 3",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_errors_name_flags(folder: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, told = CASES[case]
    assert cli.main([word.format(f=folder) for word in command]) == 2
    assert told.format(f=folder) in capsys.readouterr().err


def test_the_room_for_scores_is_told_by_their_flag(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    scores = f"{tmp_path}/s.npy"
    assert cli.main([*[word.format(f=folder) for word in EVALUATE], "--scores", scores]) == 2
    told = f"cmsei-fast: error: --scores: expected 3.25 KiB of room for {scores}.part, got 10 bytes\n"
    assert capsys.readouterr().err == told


def test_a_mean_is_not_titled_by_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    np.save("more.npy", np.zeros((3, 7), np.float32))
    one = ["report", "run", "--caption-to-image", "owner.txt", "--out", "x.html", "--scores", "scores.npy"]
    for more, title in (([], "run"), (["--scores", "more.npy"], "scores.npy + more.npy")):
        assert cli.main([*one, *more]) == 0
        assert f"<title>Retrieval: {title}</title>" in Path("x.html").read_text()


def test_unknown_words_are_told_after_what_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = load_split(str(folder / "train.h5"))
    write_split(folder / "okapi.h5", replace(split, captions=("a okapi", *split.captions[1:])))
    tune = ["train", f"{folder}/okapi.h5", f"{folder}/tuned", "--model", f"{folder}/run/last", "--epochs", "1"]
    capsys.readouterr()
    assert cli.main([*tune, "--quiet", "--patience", "2"]) == 2
    assert capsys.readouterr().err.startswith("cmsei-fast: error: --patience: ")
    assert cli.main([*tune, "--quiet"]) == 0
    assert "1 of the " in (err := capsys.readouterr().err)
    assert err.endswith("captions are not in its vocabulary: okapi\n")
    words = f"{folder}/run/last/vocabulary.json"
    assert cli.main(["train", f"{folder}/okapi.h5", f"{folder}/words", *SMALL, "--vocabulary", words]) == 0
    assert f"warning: --vocabulary {words}: 1 of the " in capsys.readouterr().err


def test_an_interrupted_evaluation_tells_how_it_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    command = ["evaluate", f"{folder}/val.h5", "--model", f"{folder}/run/last", "--engine", "eager"]
    for options, told in (
        ([], ""),
        (["--scores", f"{tmp_path}/s.npy"], "; the same command with --resume goes on with what {}/s.npy.part has"),
        (["--scores", f"{tmp_path}/s.npy", "--resume"], "; the same command goes on with what {}/s.npy.part has"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(engines.get("eager"), "pair_score", interrupted)
            assert cli.main([*command, *options]) == cli.INTERRUPTED
        assert capsys.readouterr().err == f"cmsei-fast: interrupted{told.format(tmp_path)}\n"
    assert cli.main([*command, *options]) == 0


def test_who_meets_another_run_is_not_sent_to_its_scores(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="locks are POSIX's")
    command = [*[word.format(f=folder) for word in EVALUATE], "--scores", f"{tmp_path}/s.npy"]
    with open(tmp_path / "s.npy.part", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert cli.main(command) == 2
    told = f"{tmp_path}/s.npy.part: expected no other run that writes it, got one"
    assert capsys.readouterr().err == f"cmsei-fast: error: {told}\n"


def test_another_engine_does_not_go_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    command = [*[word.format(f=folder) for word in EVALUATE], "--scores", f"{tmp_path}/s.npy", "--resume"]
    with monkeypatch.context() as patched:
        patched.setattr(engines.get("eager"), "pair_score", interrupted)
        assert cli.main([*command, "--engine", "eager"]) == cli.INTERRUPTED
    capsys.readouterr()
    assert cli.main([*command, "--engine", "reference"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        f"cmsei-fast: error: --resume: expected the problem that {tmp_path}/s.npy.part was begun with"
    )
    assert err.endswith("; leaving out --resume starts afresh\n")
