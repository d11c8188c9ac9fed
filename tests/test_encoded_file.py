"""What models encode of a split, in one file for all commands that score it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from training_runs import tiny_model, tiny_split

from cmsei_fast import CMSEI, cli
from cmsei_fast.data import write_split
from cmsei_fast.model import pretrained

SPLIT = tiny_split(3)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split, the same in another order, two models, and a run with the first of them."""
    folder = tmp_path_factory.mktemp("encoded")
    write_split(folder / "s.h5", SPLIT)
    write_split(folder / "other.h5", SPLIT.subset(np.arange(len(SPLIT))[::-1]))
    tiny_model(SPLIT).eval().save_pretrained(folder / "a")
    tiny_model(SPLIT, width=16).eval().save_pretrained(folder / "b")
    tiny_model(SPLIT).eval().save_pretrained(folder / "run" / "last")
    (folder / "run" / "run.json").write_text('{"training": {}, "model": {}}', encoding="utf-8")
    step = {"step": 1, "epoch": 0, "loss": 1.0, "learning_rate": 0.1, "pairs_per_second": 1}
    (folder / "run" / "log.jsonl").write_text(json.dumps(step) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images or captions were encoded, call by call."""
    calls: list[int] = []

    def noting(real: Any) -> Any:
        def note(self: CMSEI, what: Any, *rest: Any, **options: Any) -> Any:
            calls.append(len(what))
            return real(self, what, *rest, **options)

        return note

    for name in ("encode_images", "encode_captions"):
        monkeypatch.setattr(CMSEI, name, noting(getattr(CMSEI, name)))
    return calls


def evaluate(files: Path, *options: Any, models: tuple[str, ...] = ("a",), split: str = "s.h5") -> int:
    named = [x for name in models for x in ("--model", str(files / name))]
    return cli.main(["evaluate", str(files / split), *named, "--device", "cpu", *map(str, options)])


def test_evaluate_encodes_a_split_once(files: Path, tmp_path: Path, encoded: list[int]) -> None:
    kept = tmp_path / "kept.safetensors"
    matrices = []
    for number, options in enumerate(([], ["--encoded", kept], ["--encoded", kept])):
        encoded.clear()
        scores, told = tmp_path / f"{number}.npy", tmp_path / f"{number}.json"
        assert evaluate(files, *options, "--scores", scores, "--json", told, models=("a", "b")) == 0
        assert encoded == ([] if number == 2 else [len(SPLIT), len(SPLIT.captions)] * 2)
        found = json.loads(told.read_text(encoding="utf-8"))
        matrices.append((np.load(scores).tobytes(), found["i2t"], found["t2i"]))
    assert matrices[0] == matrices[1] == matrices[2]
    assert not list(tmp_path.glob("*.part*"))


def test_commands_read_each_other_s_file(files: Path, tmp_path: Path, encoded: list[int]) -> None:
    kept = ["--encoded", str(tmp_path / "kept.safetensors")]
    asked = ["retrieve", str(files / "s.h5"), "--model", str(files / "a"), "--device", "cpu", *kept]
    report = ["report", str(files / "run"), "--split", str(files / "s.h5"), "--device", "cpu", *kept]
    assert cli.main([*asked, "--caption", SPLIT.captions[0]]) == 0
    encoded.clear()
    assert evaluate(files, *kept) == 0
    assert encoded == [len(SPLIT.captions)]
    encoded.clear()
    assert evaluate(files, *kept) == 0
    assert cli.main([*asked, "--image", "3"]) == 0
    assert cli.main([*report, "--out", str(tmp_path / "page.html")]) == 0
    assert encoded == []


def test_what_else_was_encoded_is_refused_in_one_line(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.safetensors"
    assert evaluate(files, "--encoded", kept) == 0
    before = kept.read_bytes()
    capsys.readouterr()
    for path, change, message in (
        (kept, {"models": ("b",)}, "got what other models encode"),
        (kept, {"models": ("a", "b")}, "got what other models encode"),
        (kept, {"split": "other.h5"}, "got that of other images"),
        (kept, {"models": ()}, "--encoded: expected --model with what encodes the split, got none"),
        (files / "a" / "model.safetensors", {}, "expected a cmsei_fast encoded split of version 2, got another file"),
        (tmp_path, {}, "--encoded: expected the name of a file, got the directory"),
        (files / "s.h5", {}, "--encoded: expected another file than that of path"),
    ):
        assert evaluate(files, "--encoded", path, **change) == 2  # type: ignore[arg-type]
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    scores = tmp_path / "s.npy"
    assert evaluate(files, "--encoded", scores, "--scores", scores) == 2
    assert "--encoded: expected another file than that of --scores" in capsys.readouterr().err
    np.save(scores, np.zeros((len(SPLIT), len(SPLIT.captions)), dtype=np.float32))
    assert cli.main(["report", "--scores", str(scores), "--encoded", str(kept)]) == 2
    assert "--encoded: expected none beside --scores (no model is run)" in capsys.readouterr().err
    assert kept.read_bytes() == before


def test_a_full_disk_is_told_in_one_line(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors has an error of its own for what the system says."""

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(pretrained, "save_file", full)
    kept = tmp_path / "kept.safetensors"
    assert evaluate(files, "--encoded", kept) == 2
    assert capsys.readouterr().err == f"cmsei-fast: error: {kept}: No space left on device\n"
    assert list(tmp_path.iterdir()) == []
