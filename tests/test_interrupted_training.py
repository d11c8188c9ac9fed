"""Training that Ctrl-C or a full disk stops: its status, one line, no half-written file; it goes on to the bit."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from training_runs import write_splits

from cmsei_fast import CMSEI, cli
from cmsei_fast.model import pretrained
from cmsei_fast.training import batches, loop
from cmsei_fast.training import checkpoint as disk
from cmsei_fast.training.log import Log

OPTIONS = ["--width", "16", "--heads", "2", "--word-width", "12", "--epochs", "2", "--batch-size", "16", "--quiet"]
# Where a run is stopped: what is called there, and at which of its calls, or at that with a directory of which name.
PLACES: dict[str, tuple[Any, str, int | str]] = {
    "the captions are read": (batches.Batches, "__init__", 1),
    "the first step": (loop._Run, "_learn", 1),
    "a step": (loop._Run, "_learn", 3),
    "gradients": (loop, "average_gradients", 2),
    "the log": (Log, "write", 2),
    "a validation's images": (CMSEI, "encode_images", 1),
    "a validation's captions": (CMSEI, "encode_captions", 2),
    "a validation's ranks": (loop, "evaluate", 1),
    "the best model": (loop._Run, "_record_validation", 1),
    "the last model": (CMSEI, "save_pretrained", "last"),
    "a checkpoint": (pretrained, "save_file", 1),
    "the best model's weights": (pretrained, "save_file", 2),
    "another checkpoint": (pretrained, "save_file", 4),
    "a checkpoint on its way to the disk": (os, "fsync", 4),
    "a checkpoint takes its place": (Path, "rename", 3),
    "older checkpoints": (disk, "remove_directory", 1),
    "older checkpoints than the last": (disk, "remove_directory", 3),
}


BEFORE_A_CHECKPOINT = {
    *("the captions are read", "the first step", "a validation's images"),
    *("a checkpoint", "a checkpoint on its way to the disk"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits, and in ``run`` a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("interrupted")
    write_splits(folder)
    assert train(folder, folder / "run") == 0
    return folder


def train(folder: Path, run: Path, *options: str) -> int:
    splits = [str(folder / "train.h5"), str(run), "--validation", str(folder / "val.h5")]
    return cli.main(["train", *splits, *OPTIONS, "--checkpoint-every", "1", "--device", "cpu", *options])


def content(run: Path) -> dict[str, Any]:
    """Every file of a run; of its log what does not tell the time."""
    found: dict[str, Any] = {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    records = [json.loads(line) for line in found.pop("log.jsonl").splitlines()]
    found = {name: x for name, x in found.items() if not name.startswith("tensorboard")}
    return found | {"log": [{k: x for k, x in record.items() if k != "pairs_per_second"} for record in records]}


def how_to_go_on(run: Path) -> str:
    """What a command says of the run that it was stopped in."""
    left = sorted(run.glob("checkpoints/step-*"))
    return f"; the same command with --resume goes on after step {int(left[-1].name[5:])}" if left else ""


def at(which: int | str, real: Callable[..., Any], stop: Callable[..., None]) -> Callable[..., Any]:
    """The function, but for one call: of a number, counted from 1, or whose last argument has that file name."""
    calls = []

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if which in (len(calls), Path(arguments[-1]).name if isinstance(which, str) else None):
            stop(*arguments, **options)
        return real(*arguments, **options)

    return call


@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c(
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    interruptible: None,
    place: str,
) -> None:
    owner, name, which = PLACES[place]

    def interrupt(*arguments: Any, **options: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, at(which, getattr(owner, name), interrupt))
        assert train(whole, tmp_path / "run") == cli.INTERRUPTED
    way = how_to_go_on(tmp_path / "run")
    assert capsys.readouterr().err == f"cmsei-fast: interrupted{way}\n"
    assert bool(way) == (place not in BEFORE_A_CHECKPOINT)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".") and path.name != ".lock"]
    assert train(whole, tmp_path / "run", "--resume") == 0
    assert content(tmp_path / "run") == content(whole / "run")


@pytest.mark.parametrize(
    ("number", "file"),
    [
        (1, "checkpoints/step-000000001/tensors.safetensors"),
        (2, "best/model.safetensors"),
        (4, "checkpoints/step-000000003/tensors.safetensors"),
    ],
)
def test_a_full_disk(
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    file: str,
) -> None:
    def full(tensors: Any, path: Any, *rest: Any, **options: Any) -> None:
        Path(path).write_bytes(b"half")
        raise SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error {errno.ENOSPC})")

    with monkeypatch.context() as patched:
        patched.setattr(pretrained, "save_file", at(number, pretrained.save_file, full))
        assert train(whole, tmp_path / "run") == cli.BAD_INPUT
    way = how_to_go_on(tmp_path / "run")
    expected = f"cmsei-fast: error: {tmp_path / 'run' / file}: {os.strerror(errno.ENOSPC)}{way}\n"
    assert capsys.readouterr().err == expected
    assert bool(way) == (number > 1)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".") and path.name != ".lock"]
    assert train(whole, tmp_path / "run", "--resume") == 0
    assert content(tmp_path / "run") == content(whole / "run")


def test_a_checkpoint_s_file_is_named_where_it_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left") as raised:
        disk.write_checkpoint(tmp_path, 7, {}, {})
    assert raised.value.filename == str(tmp_path / "step-000000007" / "state.json")
    assert list(tmp_path.iterdir()) == []


def interrupted_at(line: int, call: Callable[[], Any]) -> bool:
    """Calls with an interrupt before a line of the removal, counted from 1; whether there are so many."""
    left = line

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal left
        if Path(frame.f_code.co_filename).name not in ("checkpoint.py", "files.py", "shutil.py"):
            return None
        left -= event == "line"
        if left == 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    assert left > 0, "the interrupt is lost"
    return False


def test_ctrl_c_at_any_line_of_a_removal(tmp_path: Path) -> None:
    """It is an interrupt and no bad descriptor, and what it leaves goes with the next removal."""
    line = 0
    while True:
        line += 1
        for name in ("step-1", "step-2", ".step-2.0.part"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "state.json").touch()
        there = interrupted_at(line, lambda: disk.remove_others(tmp_path, tmp_path / "step-2"))
        assert os.listdir(tmp_path / "step-2") == ["state.json"]
        if not there:
            break
        disk.remove_others(tmp_path, tmp_path / "step-2")
        assert os.listdir(tmp_path) == ["step-2"]
    assert line > 20
