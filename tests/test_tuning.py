"""Choices kept on disk: measured once, whole files only, and no file that can do harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmsei_fast.engines.tuning import Choices, directory


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CMSEI_CACHE", str(tmp_path / "deep" / "cache"))
    return tmp_path / "deep" / "cache"


def test_the_folder(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert directory() == cache
    monkeypatch.delenv("CMSEI_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert directory() == Path("/x/cmsei_fast")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert directory() == Path.home() / ".cache" / "cmsei_fast"
    monkeypatch.setattr("sys.platform", "darwin")
    assert directory() == Path.home() / "Library" / "Caches" / "cmsei_fast"


def test_a_choice_is_measured_once_and_found_again(cache: Path) -> None:
    asked: list[float] = []

    def seconds(candidate: float) -> float:
        asked.append(candidate)
        return candidate

    first = Choices("NVIDIA H200", "3.6.0")
    assert first.best("scores", [3.0, 1.0, 2.0], seconds) == 1
    assert first.best("scores", [3.0, 1.0, 2.0], seconds) == 1
    assert Choices("NVIDIA H200", "3.6.0").best("scores", [3.0, 1.0, 2.0], seconds) == 1
    assert asked == [3.0, 1.0, 2.0]
    assert Choices("NVIDIA H100", "3.6.0").found == {}
    assert [x.suffix for x in cache.iterdir()] == [".json"]


def test_a_candidate_that_cannot_run_is_not_chosen() -> None:
    def seconds(candidate: int) -> float:
        if candidate == 0:
            raise RuntimeError("out of resources")
        return 1.0

    assert Choices("g", "1").best("k", [0, 1], seconds) == 1


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"k of 2": "1"}', '{"k of 2": 7}', '{"k of 2": -1}', "\x00"])
def test_a_file_that_makes_no_sense_is_as_good_as_none(text: str) -> None:
    choices = Choices("g", "1")
    choices.path.parent.mkdir(parents=True)
    choices.path.write_text(text, encoding="utf-8")
    assert Choices("g", "1").best("k", [2.0, 1.0], lambda x: x) == 1
    assert json.loads(choices.path.read_text(encoding="utf-8"))["k of 2"] == 1


def test_two_processes_keep_each_others_choices() -> None:
    one, other = Choices("g", "1"), Choices("g", "1")
    one.best("a", [1.0], lambda x: x)
    other.best("b", [1.0], lambda x: x)
    assert set(Choices("g", "1").found) == {"a of 1", "b of 1"}


def test_a_folder_that_cannot_be_written_does_no_harm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CMSEI_CACHE", str(tmp_path / "file"))
    assert Choices("g", "1").best("k", [2.0, 1.0], lambda x: x) == 1
