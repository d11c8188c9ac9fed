"""README: its commands, its code and its table of speeds are what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = (
    "    pip install -c constraints.txt -e . && cmsei-fast demo\n",
    '    pip install -c constraints.txt -e ".[test]" && pytest\n',
)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The generator of the table; benchmarks are not installed with the package."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import table

    return table


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_there_exactly_once(command: str) -> None:
    assert README.count(command) == 1


def test_there_are_examples() -> None:
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.sub(r"\W+", "-", block.splitlines()[-1])[:30])
def test_example_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {"__name__": "example"})


def test_table_is_what_the_results_give(table: Any) -> None:
    assert table.replaced(README, table.render()) == README, "run python -m benchmarks.table"


def test_table_of_gpus_is_what_the_results_give(table: Any) -> None:
    assert table.replaced(README, table.render_gpu(), table.GPU_BEGIN, table.GPU_END) == README
    assert json.loads(table.VERIFIED.read_text(encoding="utf-8")) == table.verified()


def test_an_engine_is_verified_by_a_green_suite_and_faster_rows(table: Any, tmp_path: Path) -> None:
    assert table.render_gpu(tmp_path) == table.GPU_NOTHING
    assert table.verified(tmp_path) == {}
    rows = {key: {"seconds": 0.25, "over_eager": 2.5} for keys in table.GPU_EVIDENCE.values() for key in keys}
    rows["semantic_both"]["over_eager"] = 0.9
    rows["scan_scoring"]["over_compiled"] = "RuntimeError: no compiler"
    about = {"gpu": "G1", "architecture": "sm_90", "python": "3.12", "torch": "2.11", "triton": "3.6"}
    found = {**about, "date": "2000-01-01", "commit": "0123456789abcdef", "suite": {"green": True, "passed": 7}}
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "g1.json").write_text(json.dumps({**found, "rows": rows}), encoding="utf-8")
    assert table.verified(tmp_path) == {"sm_90": {"pair_score": ["triton"]}}
    text = table.render_gpu(tmp_path)
    assert "**G1** (sm_90)" in text
    assert "| scan scoring | seconds: 0.25; over eager: 2.50×; over compiled eager: RuntimeError: no compiler |" in text
    found["suite"] = {"green": False}
    (tmp_path / "gpu" / "g1.json").write_text(json.dumps({**found, "rows": rows}), encoding="utf-8")
    assert table.verified(tmp_path) == {}


def test_table_without_results(table: Any, tmp_path: Path) -> None:
    assert table.render(tmp_path) == table.NOTHING
    assert table.NOTHING in table.replaced(f"a\n{table.BEGIN}\nold\n{table.END}\nz", table.render(tmp_path))


def test_table_of_results(table: Any, tmp_path: Path) -> None:
    measured = {"median": 31.26, "q1": 30.0, "q3": 32.5, "rounds": 7, "unit": "×", "target": "≥ 25.0×"}
    rows = {
        "one": {"title": "A over B", "verdict": "met", **measured},
        "two": {
            "title": "C",
            "verdict": "no target",
            **measured,
            "median": 0.5,
            "unit": "%",
            "target": "–",
            "rounds": 1,
        },
        "three": {"title": "D", "verdict": "not measured: no compiler"},
    }
    about = {"cpu": "X1", "threads": 2, "isa": "avx2", "python": "3.11", "torch": "2.13", "date": "2000-01-01"}
    found = {**about, "commit": "0123456789abcdef", "changed_since_commit": True, "rows": rows}
    (tmp_path / "x1.json").write_text(json.dumps(found), encoding="utf-8")
    text = table.render(tmp_path)
    assert "**X1**, 2 threads, instruction set in use: avx2" in text
    assert "commit 0123456789ab with local changes." in text
    assert "| A over B | 31.3× | 30.0× – 32.5× | ≥ 25.0× | met |" in text
    assert "| C | 50 % | | – | |" in text
    assert "| D | – | | | not measured: no compiler |" in text


@pytest.mark.parametrize("text", ["", "{begin} {begin} {end}", "{end} {begin}", "{begin} {end} {end}"])
def test_table_needs_its_markers(table: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"README\.md: expected <!-- speed"):
        table.replaced(text.format(begin=table.BEGIN, end=table.END), "")
