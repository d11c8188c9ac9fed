"""What a results file says of its machine: whether the source is that of the commit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def machine(of_benchmarks: Callable[[str], Any]) -> Any:
    """The module."""
    return of_benchmarks("machine")


def test_what_results_are_made_into_is_no_change_of_the_source(
    machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ("benchmarks/results/x.json", "README.md", "docs/speed.md", "docs/plots/speed.svg")
    for name in (*made, "docs/scores.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "-q"), ("add", "-A"), (*who, "commit", "-q", "-m", "all")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.describe()["changed_since_commit"] is False
    for name in made:
        (tmp_path / name).write_text("after")
    assert machine.describe()["changed_since_commit"] is False
    (tmp_path / "docs" / "scores.md").write_text("after")
    assert machine.describe()["changed_since_commit"] is True
