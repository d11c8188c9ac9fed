"""The command line: what it prints, its exit status, and that bad input gives one line and no traceback."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import signal
import stat
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import cmsei_fast
from cmsei_fast import cli, doctor, engines
from cmsei_fast.data import open_split, synthetic_scenes
from cmsei_fast.engines import native


def scene_lines(groups=6):
    return "".join(
        json.dumps(
            {
                "image": scene.image,
                "labels": scene.labels,
                "boxes": scene.boxes.tolist(),
                "relations": scene.relations,
                "captions": scene.captions,
            }
        )
        + "\n"
        for scene in synthetic_scenes(groups).scenes
    )


@pytest.fixture
def scenes(tmp_path):
    path = tmp_path / "scenes.jsonl.gz"
    path.write_bytes(gzip.compress(scene_lines().encode()))
    return path


@pytest.mark.parametrize("scorer", ["scan_t2i", "scan_i2t", "cmsei"])
def test_evaluate(scenes, tmp_path, capsys, scorer):
    out = tmp_path / "out.json"
    assert cli.main(["evaluate", str(scenes), "--scorer", scorer, "--engine", "eager", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert (result["images"], result["captions"], result["scorer"], result["engine"]) == (24, 120, scorer, "eager")
    lines = {line[:15].strip(): line[15:].split() for line in printed.splitlines()}
    assert lines[""] == ["R@1", "R@5", "R@10", "median", "mean"]
    for name, key in (("image to text", "i2t"), ("text to image", "t2i")):
        assert lines[name] == [f"{result[key][x]:.1f}" for x in ("R@1", "R@5", "R@10", "median rank", "mean rank")]
    assert lines["rSum"] == [f"{result['rSum']:.1f}"]
    assert lines["pairs/s"] == [f"{result['pairs_per_second']:.0f}"]
    chance = 2 * (1 + 5 + 10) / 24 * 100
    assert result["rSum"] > 1.5 * chance
    assert sorted(os.listdir(tmp_path)) == ["out.json", "scenes.jsonl.gz"]
    assert not stat.S_IMODE(out.stat().st_mode) & 0o111


def test_evaluate_shows_progress_on_stderr(scenes, capsys):
    assert cli.main(["evaluate", str(scenes), "--progress", "--precision", "bfloat16"]) == 0
    assert "pairs/s" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["absent", "truncated", "gzip", "directory", "engine", "precision", "json", "empty"])
def test_bad_input_gives_one_line_and_status_2(scenes, tmp_path, capsys, damage):
    path, options = tmp_path / "bad.jsonl", []
    path.write_text(scene_lines(1))
    expected = ""
    if damage == "absent":
        path.unlink()
        expected = f"error: {path}: No such file or directory\n"
    elif damage == "truncated":
        path.write_text(scene_lines(1)[:-40])
        expected = f"{path}, line 4: expected one JSON object, got malformed JSON at column"
    elif damage == "gzip":
        path = tmp_path / "bad.jsonl.gz"
        path.write_bytes(scenes.read_bytes()[:-100])
        expected = f"{path}: damaged gzip stream after line"
    elif damage == "directory":
        path, expected = tmp_path, "Is a directory"
    elif damage == "engine":
        options, expected = ["--engine", "warp"], "engine: expected 'auto' or one of"
    elif damage == "precision":
        options, expected = ["--precision", "int4"], "precision: expected None or one of float32"
    elif damage == "json":
        options = ["--json", str(tmp_path / "absent" / "out.json")]
        expected = "--json: expected a file in an existing directory, got "
    else:
        path.write_text("\n\n")
        expected = f"{path}: expected at least one scene, got an empty file"
    assert cli.main(["evaluate", str(path), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("cmsei-fast: error: ")
    assert expected in captured.err
    assert captured.err.count("\n") == 1


def test_an_engine_that_cannot_run_is_bad_input(scenes, monkeypatch, capsys):
    monkeypatch.setattr(engines.get("eager"), "unavailable", lambda: "it is switched off")
    assert cli.main(["evaluate", str(scenes), "--engine", "eager"]) == 2
    assert "engine 'eager' cannot run here: it is switched off" in capsys.readouterr().err


def test_an_error_is_one_line_of_some_length(tmp_path, capsys):
    """A file may hold anything, and messages quote it."""
    np.save(tmp_path / "x_ims.npy", np.zeros((2, 3, 4), np.float32))
    (tmp_path / "x_caps.txt").write_text("a\n" * 10)
    (tmp_path / "x_ids.txt").write_text("1\n" * 4 + "9" * 5000 + "\n" + "2\n" * 5)
    command = ["convert", "scan", str(tmp_path), "--split", "x", "--out", str(tmp_path / "o.h5")]
    assert cli.main(command) == 2
    printed = capsys.readouterr().err
    assert "x_ids.txt, line 5: expected each name 5 times in a row, got '9999" in printed
    assert printed.endswith("after '1'\n")
    assert len(printed) < 1300
    assert printed.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="closes the streams by a shell")
@pytest.mark.parametrize(
    ("closed", "split"), [(">&-", "x"), ("2>&-", "x"), ("<&- >&- 2>&-", "x"), ("<&- >&- 2>&-", "y")]
)
def test_closed_streams(tmp_path, closed, split):
    """As of a daemon's child, or of a cron job."""
    np.save(tmp_path / "x_ims.npy", np.zeros((2, 3, 4), np.float32))
    (tmp_path / "x_caps.txt").write_text("a\n" * 10)
    command = [sys.executable, "-m", "cmsei_fast", "convert", "scan", ".", "--out", "o.h5", "--split", split]
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command], cwd=tmp_path, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if split == "x" else 2)
    assert (tmp_path / "o.h5").exists() == (split == "x")
    assert split == "y" or len(open_split(tmp_path / "o.h5")) == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="writes to Linux's device that is full")
@pytest.mark.parametrize(
    ("command", "streams", "unbuffered", "status", "said"),
    [
        ("convert scan . --split x --out o.h5", ">", "", 2, "error: standard output: No space left on device"),
        ("convert scan . --split x --out o.h5", ">", "1", 2, "error: No space left on device"),
        ("convert scan . --split x --out o.h5", "2>", "", 0, ""),
        ("convert scan . --split y --out o.h5", "2>", "", 2, ""),
        ("--version", ">", "", 2, "error: standard output: No space left on device"),
    ],
)
def test_an_output_that_is_full_is_told_in_one_line(tmp_path, command, streams, unbuffered, status, said):
    """Of what is printed; the file that is written before it is there."""
    np.save(tmp_path / "x_ims.npy", np.zeros((2, 3, 4), np.float32))
    (tmp_path / "x_caps.txt").write_text("a\n" * 10)
    line = [sys.executable, "-m", "cmsei_fast", *command.split()]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        ["sh", "-c", f'"$@" {streams}/dev/full', "sh", *line],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (status, f"cmsei-fast: {said}\n" if said else "")
    assert (tmp_path / "o.h5").exists() == ("split x" in command)


@pytest.mark.skipif(os.name != "posix", reason="pipes of a shell")
@pytest.mark.parametrize("command", ["train --help", "convert scan . --split x --out o.h5", "--version"])
def test_a_reader_that_leaves_ends_a_command_in_silence(tmp_path, command):
    np.save(tmp_path / "x_ims.npy", np.zeros((2, 3, 4), np.float32))
    (tmp_path / "x_caps.txt").write_text("a\n" * 10)
    line = [sys.executable, "-m", "cmsei_fast", *command.split()]
    environment = os.environ | {"PYTHONUNBUFFERED": ""}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(line, cwd=tmp_path, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "o.h5").exists() == command.startswith("convert")


def test_the_caller_s_streams_are_as_they_were(tmp_path, monkeypatch):
    """Of Python code that runs a command: how they write, and what of theirs was not written yet."""
    with open(tmp_path / "out", "w", encoding="ascii") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        assert cli.main(["convert", "scan", str(tmp_path), "--split", "x", "--out", str(tmp_path / "o.h5")]) == 2
        with pytest.raises(SystemExit):
            cli.main(["--version"])
        assert stream.errors == "strict"
        stream.write("after")
    assert (tmp_path / "out").read_text(encoding="ascii") == f"cmsei-fast {cmsei_fast.__version__}\nafter"
    if not os.path.exists("/dev/full"):
        return
    with monkeypatch.context() as patched, open("/dev/full", "w", encoding="utf-8") as stream:
        patched.setattr(sys, "stdout", stream)
        before = os.fstat(stream.fileno()).st_rdev
        assert cli.main(["--version"]) == 2
        assert os.fstat(stream.fileno()).st_rdev == before


@pytest.mark.parametrize("name", ["o.h5", "\udcff.h5"])
def test_an_output_that_lacks_characters(tmp_path, name):
    """The multiplication sign of shapes in a locale without it; a name that is no text."""
    np.save(tmp_path / "x_ims.npy", np.zeros((2, 3, 4), np.float32))
    (tmp_path / "x_caps.txt").write_text("a\n" * 10)
    command = [sys.executable, "-m", "cmsei_fast", "convert", "scan", ".", "--split", "x", "--out", name]
    environment = os.environ | {"PYTHONIOENCODING": "ascii" if name == "o.h5" else "utf-8"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(name.replace("\udcff", "\\udcff"))
    assert ("features 6 \\xd7 4" if name == "o.h5" else "features 6 × 4") in done.stdout


def test_a_second_ctrl_c_is_no_traceback(scenes, monkeypatch, capsys):
    """As of processes of torchrun, which passes on what the terminal has sent them already."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engines.get("eager"), "pair_score", interrupted)
    monkeypatch.setattr(cli, "_drop_unwritten", interrupted)
    assert cli.main(["evaluate", str(scenes), "--engine", "eager"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "cmsei-fast: interrupted\n"


def test_no_memory_is_said_in_words(scenes, monkeypatch, capsys):
    """Python's own MemoryError has no message."""

    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr(engines.get("eager"), "pair_score", exhausted)
    assert cli.main(["evaluate", str(scenes), "--engine", "eager"]) == 2
    assert capsys.readouterr().err == "cmsei-fast: error: out of memory\n"


def test_a_defect_is_not_hidden(scenes, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("a defect")

    monkeypatch.setattr(engines.get("eager"), "pair_score", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main(["evaluate", str(scenes), "--engine", "eager"])


def test_an_interrupted_file_is_not_left_behind(scenes, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.json"
    out.write_text("old")

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    assert cli.main(["evaluate", str(scenes), "--engine", "eager", "--json", str(out)]) == 130
    assert out.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["out.json", "scenes.jsonl.gz"]
    assert capsys.readouterr().err == "cmsei-fast: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "x.h5", ""], "directory"),
        (["train", "x.h5", "run", "--word-vectors", ""], "--word-vectors"),
        (["evaluate", "x.h5", "--model", "a", "--model", ""], "--model"),
        (["report", ""], "RUN"),
        (["convert", "butd", "a.tsv", "", "--out", "x.h5"], "tsv"),
        (["explain", "x.h5", "--model", "", "--image", "0"], "--model"),
        (["demo", "--directory", ""], "--directory"),
    ],
)
def test_an_empty_path_is_not_the_current_directory(tmp_path, monkeypatch, capsys, arguments, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert f": error: argument {named}: expected a path, got an empty string (" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "retrieve x.h5 --model m --caption a --out y --page y",
            "--page: expected another file than that of --out, got y",
        ),
        ("retrieve x.h5 --model m --caption a --out x.h5", "--out: expected another file than that of path, got x.h5"),
        (
            "retrieve x.h5 --model m --captions-file y --page link",
            "--page: expected another file than that of --captions-file, got link",
        ),
        (
            "explain x.h5 --model m --image 0 --page y.png --picture y.png",
            "--picture: expected another file than that of --page, got y.png",
        ),
        (
            "explain x.h5 --model m --image 0 --json ./x.h5",
            "--json: expected another file than that of path, got ./x.h5",
        ),
        ("evaluate x.h5 --model m --json x.h5", "--json: expected another file than that of path, got x.h5"),
        (
            "evaluate x.h5 --model m --scores y.npy --json y.npy",
            "--json: expected another file than that of --scores, got y.npy",
        ),
        ("report --scores y.npy --out y.npy", "--out: expected another file than that of --scores, got y.npy"),
        (
            "report --scores y.npy --caption-to-image y --out y",
            "--out: expected another file than that of --caption-to-image, got y",
        ),
    ],
)
def test_no_file_takes_the_place_of_another(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("x.h5", "y", "y.npy"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("y")
    assert cli.main(arguments.split()) == 2
    assert capsys.readouterr() == ("", f"cmsei-fast: error: {message}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "x.h5", "y", "y.npy"]
    assert all((tmp_path / name).read_text() == name for name in ("x.h5", "y", "y.npy"))


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["evaluate"], ["evaluate", "x", "--scorer", "bm25"]])
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--help tells more)" in err


@pytest.mark.parametrize(
    ("arguments", "command", "meant"),
    [
        ("train a.h5 run --validaton b.h5", "train", "; there is --validation"),
        ("train a.h5 run --batch_size 5", "train", "; there is --batch-size"),
        ("convert scan data --split test --out x.h5 --box y", "convert scan", ""),
    ],
)
def test_an_unknown_flag_is_told_with_the_command_whose_help_has_the_right_one(arguments, command, meant, capsys):
    with pytest.raises(SystemExit):
        cli.main(arguments.split())
    told = "unrecognized arguments: " + " ".join(arguments.split()[-2:])
    name = f"cmsei-fast {command}"
    assert capsys.readouterr().err == f"{name}: error: {told}{meant} ({name} --help tells more)\n"


@pytest.mark.parametrize("command", ["retrieve a.h5 --model m", "explain a.h5 --model m --image 3"])
@pytest.mark.parametrize(
    "given",
    [["a man's hat"], ["--caption", "a", "man's", "hat"], ["a", "man's", "hat"]],
    ids=["no flag", "no quotes", "neither"],
)
def test_how_a_sentence_is_given_is_told(command, given, capsys):
    with pytest.raises(SystemExit):
        cli.main([*command.split(), *given])
    told = """; a sentence is given as --caption 'a man'"'"'s hat'"""
    assert f"{told} (cmsei-fast" in capsys.readouterr().err


def test_help_says_what_every_command_and_flag_is():
    parsers = [cli.build_parser()]
    for parser in parsers:
        assert parser.description, parser.prog
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                assert {choice.dest for choice in action._choices_actions if choice.help} == set(action.choices)
                parsers += action.choices.values()
            else:
                assert action.help, f"{parser.prog}: {action.dest}"
                assert not action.help.startswith(("of ", "default")), f"{parser.prog}: {action.dest}: {action.help}"
                if action.default not in (None, False, argparse.SUPPRESS) and action.default != []:
                    assert f"(default: {action.default:{'g' * isinstance(action.default, float)}})" in action.help
    assert {parser.prog.split(" ", 1)[-1] for parser in parsers} >= {"train", "doctor", "convert scan", "convert jsonl"}


def test_help_of_train_has_the_settings_of_the_docstrings(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    lines = " ".join(capsys.readouterr().out.split())
    assert (
        "--batch-size INT captions in a step, over all processes; each of their images is included once (def" in lines
    )
    assert '"cosine" lowers it to 1 % of its peak' in lines
    assert "--layers INT number of reasoning layers over each graph (default: 1)" in lines
    assert "(default: spatial semantic)" in lines
    assert "(default: yes)" in lines


def test_doctor(monkeypatch, capsys):
    monkeypatch.setitem(engines.MISSING_OPTIONS, "eager", {"norm": ("l1norm", "none")})
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "\n  eager      pair_score, relation_attention; without norm l1norm, none\n" in out
    assert out.startswith(f"cmsei_fast {cmsei_fast.__version__}, Python ")
    for name in engines.names():
        reason = engines.unavailable(name)
        if reason is None:
            assert f"\n  {name:10} pair_score" in out or f"\n  {name:10} relation_attention" in out
        else:
            assert f"\n  {name:10} cannot run: {reason}" in out
    assert all(f"\n  {name}" in out for name, _, _ in doctor.ENVIRONMENT)
    if engines.unavailable("native") is None:
        assert f"; in use {native.current_isa()}; {native.limits()}\n" in out
    assert out.endswith("all is well\n")


@pytest.mark.parametrize(
    ("isa", "whole_numbers", "told"),
    [
        ("baseline", False, "rounds to bfloat16 and int8, but multiplies in float32"),
        ("avx512", True, "multiplies int8 as such; rounds to bfloat16, but multiplies in float32"),
        ("avx512bf16", True, "multiplies bfloat16 and int8 as such"),
        ("avx512amx", False, "multiplies bfloat16 as such; rounds to int8, but multiplies in bfloat16"),
    ],
)
def test_doctor_tells_what_is_multiplied(monkeypatch, isa, whole_numbers, told):
    monkeypatch.setattr(native, "current_isa", lambda: isa)
    monkeypatch.setattr(native, "_module", lambda: SimpleNamespace(multiplies_int8=lambda name: whole_numbers))
    assert native.limits() == told


def test_doctor_finds_a_wrong_engine(monkeypatch, capsys):
    module = engines.get("eager")
    real = module.pair_score
    monkeypatch.setattr(module, "pair_score", lambda *a: real(*a) + 1e-3)
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "WRONG" in out
    assert out.splitlines()[-1].startswith("an engine disagrees with the reference")


def test_doctor_finds_nan(monkeypatch, capsys):
    module = engines.get("eager")
    monkeypatch.setattr(module, "pair_score", lambda v, w, i, j, *_: v.new_full((len(i) - 1, len(j) - 1), float("nan")))
    assert cli.main(["doctor"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_module_and_version():
    run = subprocess.run(
        [sys.executable, "-m", "cmsei_fast", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout == f"cmsei-fast {cmsei_fast.__version__}\n"


def test_import_is_light_and_names_are_there():
    code = "import cmsei_fast, sys; print(sorted({'torch', 'numpy', 'h5py', 'tqdm'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout == "[]\n"
    assert all(hasattr(cmsei_fast, name) for name in cmsei_fast.__all__)
    assert {*cmsei_fast.__all__, "nn"} <= set(dir(cmsei_fast))
    with pytest.raises(AttributeError, match="module 'cmsei_fast' has no attribute 'scores'"):
        _ = cmsei_fast.scores


def test_all_names_leave_a_notebook_its_nn():
    code = (
        "from torch import nn; own = nn; from cmsei_fast import *; assert nn is own and callable(score_matrix); "
        "import cmsei_fast; print(cmsei_fast.nn.PairScore.__name__); from cmsei_fast import nn; print(nn.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.split() == ["PairScore", "cmsei_fast.nn"]


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a process")
def test_interrupt_gives_130(tmp_path, interruptible):
    path = tmp_path / "scenes.jsonl"
    path.write_text(scene_lines(400))
    command = [sys.executable, "-m", "cmsei_fast", "evaluate", str(path), "--engine", "reference", "--progress"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stderr is not None
    assert b"%" in process.stderr.read(8)  # the bar is there: scoring has begun
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out == b""
    assert err.endswith(b"cmsei-fast: interrupted\n")
    assert b"Traceback" not in err
