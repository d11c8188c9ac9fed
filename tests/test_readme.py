"""README and docs: their commands, their code and the table of speeds are what they say."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import documents
import pytest

from cmsei_fast import doctor

ROOT = documents.ROOT
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = documents.blocks("python")
LINES = documents.command_lines()
COMMANDS = (
    "    pip install -c constraints.txt -e . && cmsei-fast demo\n",
    '    pip install -c constraints.txt -e ".[test]" && pytest\n',
)


@pytest.fixture
def table(of_benchmarks: Callable[[str], Any]) -> Any:
    """The generator of the table."""
    return of_benchmarks("table")


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_there_exactly_once(command: str) -> None:
    assert README.count(command) == 1


def test_the_code_is_found() -> None:
    assert len([name for name, _ in BLOCKS if name == "README.md"]) >= 3
    assert {"README.md", "data-formats.md", "model.md"} <= {name for name, _ in LINES}
    assert documents.languages() <= set(documents.LANGUAGES)
    for _, text in documents.blocks("json"):
        json.loads(text)


def test_no_code_hides_in_an_indented_block() -> None:
    """Python is run and checked where a fence names its language; shell lines are found by their first word."""
    for path in documents.DOCUMENTS:
        text = documents.without_fences(path.read_text(encoding="utf-8"))
        assert not re.findall(r"^    (?:from \w|import \w|\$ |>>> |print\().*", text, re.MULTILINE), path.name


def test_readme_links_every_document_and_no_link_is_dead() -> None:
    for path in documents.DOCUMENTS:
        links = re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", path.read_text(encoding="utf-8"))
        for link, anchor in links:
            target = path.parent / link if link else path
            assert target.exists(), f"{documents.title(path)}: {link}"
            if anchor:
                assert anchor in documents.anchors(target.read_text(encoding="utf-8")), f"{path.name}: #{anchor}"
        if path == ROOT / "README.md":
            wanted = {x.relative_to(ROOT).as_posix() for x in documents.DOCUMENTS[1:]}
            assert wanted <= {link for link, _ in links}


def test_documents_and_doctor_know_the_same_environment_variables() -> None:
    text = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `([A-Z_]+)` \|.*\| at (run|build) time \|$", text, re.MULTILINE)
    assert {*told, ("OMP_NUM_THREADS", "run")} == {(name, when) for name, _, when in doctor.ENVIRONMENT}


def test_every_document_is_looked_at() -> None:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no history here that could list them")
    assert {ROOT / x for x in listed.stdout.splitlines()} == set(documents.DOCUMENTS)


def test_files_that_documents_name_are_there() -> None:
    found = 0
    for path in documents.DOCUMENTS:
        named = re.findall(
            r"`((?:cmsei_fast|csrc|tests|benchmarks|kernels|docs)/[\w./-]*)`", path.read_text(encoding="utf-8")
        )
        assert [x for x in named if not (ROOT / x).exists()] == [], documents.title(path)
        found += len(named)
    assert found >= 20


@pytest.mark.parametrize("top", ["csrc", "kernels", "cmsei_fast"])
def test_files_that_comments_name_are_there(top: str) -> None:
    tops = ("docs", "csrc", "kernels", "cmsei_fast", "tests", "benchmarks")
    there = [x.relative_to(ROOT).as_posix() for t in tops for x in (ROOT / t).rglob("*.*")] + ["setup.py"]
    endings = {path.split("/", i)[-1] for path in there for i in range(path.count("/") + 1)}
    found = 0
    for path in sorted((ROOT / top).rglob("*.*")):
        if path.suffix not in (".h", ".cuh", ".cpp", ".cu", ".py") or path.parent.name == "compat":
            continue  # compat names files of the repositories whose functions it has
        named = re.findall(r"(?<![\w./*<-])(\w[\w./-]*\.(?:h|cuh|cpp|cu|py|md))\b", documents.comments(path))
        assert [x for x in named if x not in endings] == [], path.relative_to(ROOT)
        found += len(named)
    assert found >= 5


@pytest.mark.parametrize("folder", ["csrc/cpu", "csrc/cuda", "csrc/include", "kernels"])
def test_a_folder_s_own_document_names_its_files(folder: str) -> None:
    text = (ROOT / folder.partition("/")[0] / "README.md").read_text(encoding="utf-8")
    names = re.findall(r"`([\w*.]+)`", text)
    files = [x.name for x in (ROOT / folder).iterdir() if x.suffix in (".h", ".cuh", ".cpp", ".cu", ".py")]
    headers = {f"{Path(x).stem}.h" for x in names if x.endswith(".cpp")}  # "and their headers"
    missing = [x for x in files if not any(fnmatch(x, y) for y in names) and x not in headers]
    assert [x for x in missing if x != "__init__.py"] == []
    tops = ("csrc", "kernels", "cmsei_fast", "tests")
    there = {x.name for top in tops for x in (ROOT / top).rglob("*.*")} | {x.name for x in ROOT.glob("*.py")}
    told = [x for x in names if re.search(r"\w\.(h|cuh|cpp|cu|py)$", x)]
    assert [x for x in told if not any(fnmatch(file, x) for file in there)] == []


def test_the_map_names_every_part_of_the_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = {x.rstrip("/") for x in re.findall(r"`([\w/.]+)`", text)}
    parts = {x.name for x in (ROOT / "cmsei_fast").iterdir() if x.suffix == ".py" or (x / "__init__.py").exists()}
    assert parts - names == {"__init__.py", "__main__.py", "version.py"}


# Figures in prose that a results file has: the document, how it says them, and what they are of.
EPYC = "amd-epyc-family-26-model-2.json"
FIGURES = [
    ("docs/scores.md", "SCAN is {:.2f} times as fast as in `bfloat16`", lambda rows: rows["scan_int8"]["median"]),
    ("docs/scores.md", "CMSEI {:.2f} times.", lambda rows: rows["cmsei_int8"]["median"]),
    ("docs/distributed.md", "{:.2f} times as fast as one, in the median", lambda rows: rows["distributed"]["median"]),
    ("docs/distributed.md", "so e = {:.2f};", lambda rows: rows["distributed"]["median"] / 2),
    (
        "docs/distributed.md",
        "| AMD EPYC (family 26), 1 thread, AVX-512 | {:,.0f},000 |",
        lambda rows: rows["distributed"]["pairs"] / rows["distributed"]["other_seconds"] / 1000,
    ),
]


@pytest.mark.parametrize(("document", "saying", "of"), FIGURES, ids=[x[1] for x in FIGURES])
def test_figures_in_prose_are_those_of_the_results(document: str, saying: str, of: Any) -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / EPYC).read_text(encoding="utf-8"))["rows"]
    text = " ".join((ROOT / document).read_text(encoding="utf-8").split())
    assert saying.format(of(rows)) in text


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BLOCKS)])
def test_example_runs(name: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    documents.make_files(block, tmp_path)
    exec(compile(block, name, "exec"), {"__name__": "example"})


@pytest.mark.parametrize("block", [block for _, block in documents.blocks("diff")])
def test_line_to_add_runs(block: str) -> None:
    added = documents.added(block)
    assert added.startswith("from cmsei_fast.")
    exec(compile(added, "diff", "exec"), {"__name__": "example"})


@pytest.mark.parametrize(("name", "command"), LINES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(LINES)])
def test_command_line_is_taken(name: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    documents.check_command(command)


@pytest.mark.parametrize(
    "command",
    [
        "cmsei-fast evaluate test.h5 --modle x",
        "cmsei-fast fly",
        "python -m benchmarks.absent",
        'pip install -e ".[absent]"',
        "pip install -c absent.txt -e .",
        "pytest absent/",
        "CMSEI_ABSENT=1 cmsei-fast demo",
        "torchrun -m another",
        "make",
    ],
)
def test_a_wrong_command_line_is_noticed(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    with pytest.raises((AssertionError, SystemExit)):
        documents.check_command(command)


def test_tables_are_what_the_results_give(table: Any) -> None:
    for path, text in table.documents().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python -m benchmarks.table"


def test_an_engine_is_verified_by_a_green_suite_and_faster_rows(table: Any, tmp_path: Path) -> None:
    assert table.render_gpu(tmp_path) == table.GPU_NOTHING
    assert table.verified(tmp_path) == {}
    rows = {
        f"{engine}_{key}": {"seconds": 0.25, "over_eager": gain}
        for keys in table.GPU_EVIDENCE.values()
        for key in keys
        for engine, gain in (("triton", 2.5), ("cuda", 2.6))
    }
    rows["triton_semantic_both"]["over_eager"] = rows["cuda_semantic_both"]["over_eager"] = 0.9
    rows["triton_scan_scoring"]["over_compiled"] = "RuntimeError: no compiler"
    about = {"gpu": "G1", "architecture": "sm_90", "python": "3.12", "torch": "2.11", "triton": "3.6"}
    found = {**about, "date": "2000-01-01", "commit": "0123456789abcdef", "suite": {"green": True, "passed": 7}}
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "g1.json").write_text(json.dumps({**found, "rows": rows}), encoding="utf-8")
    assert table.verified(tmp_path) == {"sm_90": {"pair_score": ["cuda", "triton"]}}
    rows["cuda_cmsei_training"] = {"failed": "RuntimeError: none"}
    (tmp_path / "gpu" / "g1.json").write_text(json.dumps({**found, "rows": rows}), encoding="utf-8")
    assert table.verified(tmp_path) == {"sm_90": {"pair_score": ["triton"]}}
    text = table.render_gpu(tmp_path)
    assert "**G1** (sm_90)" in text
    assert (
        "| triton scan scoring | seconds: 0.25; over eager: 2.50×; over compiled eager: RuntimeError: no compiler |"
        in text
    )
    found["suite"] = {"green": False, "engines": {"triton": True, "cuda": False}}
    (tmp_path / "gpu" / "g1.json").write_text(json.dumps({**found, "rows": rows}), encoding="utf-8")
    assert table.verified(tmp_path) == {"sm_90": {"pair_score": ["triton"]}}
    found["suite"] = {"green": False}
    (tmp_path / "gpu" / "g1.json").write_text(json.dumps({**found, "rows": rows}), encoding="utf-8")
    assert table.verified(tmp_path) == {}


def test_table_without_results(table: Any, tmp_path: Path) -> None:
    assert table.render(tmp_path) == table.NOTHING
    assert table.summary(tmp_path) == table.NOTHING
    assert table.NOTHING in table.replace_table(
        f"a\n{table.BEGIN}\nold\n{table.END}\nz", table.render(tmp_path), table.BEGIN, table.END
    )


def test_the_newest_results_are_first(table: Any, tmp_path: Path) -> None:
    about = {"threads": 2, "isa": "avx2", "python": "3.11", "torch": "2.13", "commit": None, "rows": {}}
    for name, date in (("a", "2000-01-01"), ("b", "2001-01-01"), ("c", "2000-01-01")):
        found = {**about, "cpu": name, "date": date, "changed_since_commit": False}
        (tmp_path / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
    assert [line[2] for line in table.render(tmp_path).splitlines() if line.startswith("**") and "threads" in line] == [
        "b",
        "a",
        "c",
    ]


def test_the_summary_says_what_missed_and_what_was_not_measured(table: Any, tmp_path: Path) -> None:
    about = {
        "threads": 2,
        "isa": "avx2",
        "python": "3.11",
        "torch": "2.13",
        "commit": None,
        "changed_since_commit": False,
    }
    met, missed = ({"median": x, "verdict": verdict} for x, verdict in ((30.0, "met"), (20.0, "missed")))
    for name, rows in (("a", {"scan_field_fp32": missed}), ("b", {"scan_field_fp32": met, "accuracy": None})):
        date = f"2000-01-0{2 if name == 'b' else 1}"
        found = {**about, "cpu": name, "date": date, "changed_since_commit": False, "rows": rows}
        (tmp_path / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
    text = table.summary(tmp_path)
    assert "| SCAN t2i, fp32: native over the field's code | ≥ 25.0× | 30.0× | 20.0× (missed) |" in text
    assert table.ROWS["accuracy"].title not in text
    assert "- A: **b**, 2 threads" in text
    assert "| | target | A: b, AVX2 | B: a, AVX2 |" in text


def test_the_summary_leaves_older_results_to_the_page_of_all(table: Any, tmp_path: Path) -> None:
    about = {"threads": 2, "isa": "avx2", "python": "3.11", "torch": "2.13", "commit": None}
    row = {"median": 30.0, "q1": 29.0, "q3": 31.0, "rounds": 9, "unit": "×", "target": "≥ 25.0×", "verdict": "met"}
    rates = {"pairs": 8192, "seconds": 0.0186, "other_seconds": 0.418}
    for name, date in (("new", "2000-01-05"), ("near", "2000-01-03"), ("old", "2000-01-02")):
        rows = {"scan_field_fp32": {**row, **(rates if name == "new" else {})}}
        found = {**about, "cpu": name, "date": date, "changed_since_commit": False, "rows": rows}
        (tmp_path / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
    summary, page = table.summary(tmp_path), table.render(tmp_path)
    assert "| A: new, AVX2 | B: near, AVX2 |" in summary
    assert "old" not in summary.replace("The field's code", "")
    assert "pairs per second: native / the field's code | – | 440,000 / 19,600 | – |" in summary
    assert page.index("**near**") < page.index(table.OLDER) < page.index("**old**")


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
    with pytest.raises(ValueError, match=r"expected <!-- speed"):
        table.replace_table(text.format(begin=table.BEGIN, end=table.END), "", table.BEGIN, table.END)
