"""Every command that can take long shows progress on a terminal, with ``--progress`` in a log too, never with
``--quiet``; standard output is the same in each case.
"""

from __future__ import annotations

import argparse
import re
import sys

import pytest
from training_runs import SMALL, write_splits

from cmsei_fast import cli
from cmsei_fast.commands import demo

# The commands that can take long, each with what it cannot do without.
LONG = {
    "convert butd": ["a.tsv", "--out", "a.h5"],
    "convert jsonl": ["a.jsonl", "--out", "a.h5"],
    "convert npz": ["a", "--out", "a.h5"],
    "convert scan": ["a", "--split", "test", "--out", "a.h5"],
    "convert scene-graph": ["a.json", "b.json", "--out", "a.h5"],
    "demo": [],
    "evaluate": ["a.h5"],
    "report": [],
    "retrieve": ["a.h5", "--model", "m"],
    "train": ["a.h5", "run"],
}
SHORT = {"doctor", "explain"}  # the latter encodes one pair


def command_names(parser, name=""):
    """Names of all commands, with those of a command's formats."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        return {name}
    return {x for key, p in below[0].choices.items() for x in command_names(p, f"{name} {key}".strip())}


@pytest.mark.parametrize("terminal", [False, True])
def test_every_long_command_has_the_same_two_flags(terminal, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    parser = cli.build_parser()
    assert command_names(parser) == {*LONG, *SHORT}
    for name, needed in LONG.items():
        words = [*name.split(), *needed]
        assert parser.parse_args(words).progress is (terminal or name == "train"), (
            name
        )  # the log of a run has its losses
        assert parser.parse_args([*words, "--progress"]).progress is True, name
        assert parser.parse_args([*words, "--quiet"]).progress is False, name
        with pytest.raises(SystemExit):
            parser.parse_args([*words, "--progress", "--quiet"])
        assert "argument --quiet: not allowed with argument --progress" in capsys.readouterr().err


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("progress")
    write_splits(folder)
    assert cli.main(["train", f"{folder}/train.h5", f"{folder}/run", *SMALL, "--epochs", "1"]) == 0
    return folder


@pytest.mark.parametrize("command", ["evaluate", "retrieve", "report"])
def test_standard_output_is_the_same_with_a_bar(command, files, tmp_path, monkeypatch, capsys):
    if command == "report":
        pytest.importorskip("matplotlib", reason="the report needs matplotlib (extra plot)")
    arguments = {
        "evaluate": ["evaluate", f"{files}/val.h5", "--model", f"{files}/run/last"],
        "retrieve": ["retrieve", f"{files}/val.h5", "--model", f"{files}/run/last", "--caption", "a dog"],
        "report": ["report", f"{files}/run", "--split", f"{files}/val.h5", "--out", str(tmp_path / "r.html")],
    }[command]
    printed = []
    for terminal, flag, expected in (
        (False, [], r""),
        (True, [], r".*\d+/\d+ .*"),
        (True, ["--quiet"], r""),
        (False, ["--progress"], r".*pairs/s, done in .*"),
    ):
        monkeypatch.setattr(sys.stderr, "isatty", lambda shows=terminal: shows, raising=False)
        assert cli.main([*arguments, *flag]) == 0
        out, err = capsys.readouterr()
        assert re.fullmatch(expected, err, re.DOTALL), (terminal, flag, err)
        printed.append(re.sub(r"(?m)^pairs/s .*$", "", out))
    assert len({*printed}) == 1


def test_the_demo_shows_a_bar_of_all_models_below_its_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "MODELS", demo.MODELS[:2])
    options = ["--groups", "8", "--epochs", "1"]
    tables = []
    for terminal, flag in ((False, []), (True, []), (True, ["--quiet"])):
        monkeypatch.setattr(sys.stderr, "isatty", lambda shows=terminal: shows, raising=False)
        assert cli.main(["demo", *options, *flag]) == 0
        out, err = capsys.readouterr()
        assert ("all models: 100%" in err) is (terminal and not flag)
        assert bool(err) is (terminal and not flag)
        tables.append(re.sub(r" +\d+ s( in all)?", "", out))
    assert len({*tables}) == 1
