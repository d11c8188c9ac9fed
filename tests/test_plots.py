"""README's plots are those that the results files give, to the byte, and a missing number leaves its plot out."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import documents
import matplotlib
import pytest

ROOT = documents.ROOT
PINNED = re.findall(r"^matplotlib==(\S+?);? ", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
NEWEST = PINNED[0]  # makes the committed plots


@pytest.fixture
def plots(of_benchmarks: Callable[[str], Any]) -> Any:
    """The generator of the plots."""
    return of_benchmarks("plots")


def test_readme_shows_the_plots_there_are(plots: Any) -> None:
    made = plots.render()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert plots.replace_table(readme, plots.links(list(made)), plots.BEGIN, plots.END) == readme
    assert {path.name for path in plots.PLOTS.glob("*.svg") if path.name in plots.ALL} == made.keys()
    assert {"speed.svg", "scale.svg"} <= made.keys()


@pytest.mark.skipif(matplotlib.__version__ != NEWEST, reason=f"the plots are made by matplotlib {NEWEST}")
def test_the_plots_are_what_the_results_give(plots: Any) -> None:
    for name, content in plots.render().items():
        assert (plots.PLOTS / name).read_bytes() == content, f"{name}: run python -m benchmarks.plots"


def test_the_same_numbers_give_the_same_bytes(plots: Any) -> None:
    first = plots.render()
    assert first == plots.render()
    for content in first.values():
        assert ElementTree.fromstring(content).tag.endswith("svg")
        assert b"<dc:date>" not in content


def test_other_numbers_give_another_plot(plots: Any) -> None:
    results = plots.processors()
    changed = copy.deepcopy(results)
    changed[0]["rows"]["scan_mm_fp32"]["median"] *= 1.5
    changed[0]["rows"]["scale_time"]["microseconds_per_pair"][0] *= 1.5
    with plots.charts.style():
        assert plots.speed_plot(changed) != plots.speed_plot(results)
        assert plots.scale_plot(changed) != plots.scale_plot(results)


def test_results_without_the_numbers_leave_a_plot_out(plots: Any, tmp_path: Any) -> None:
    assert plots.render(tmp_path) == {}
    results = plots.processors()
    for result in results:
        result["rows"].pop("accuracy", None)
        result["rows"]["scale_time"] = {"title": "x", "verdict": "not measured: nothing"}
    with plots.charts.style():
        assert plots.accuracy_plot(results) is None
        assert plots.scale_plot(results) is None
        assert plots.speed_plot(results[:1]) is not None


def test_ratios_have_two_digits_and_no_exponent(plots: Any) -> None:
    assert [plots.times(x) for x in (0.426, 0.9, 2.01, 9.94, 9.96, 38.04, 103.2, 1234.5)] == [
        *("0.43", "0.90", "2.0", "9.9", "10", "38", "103", "1234"),
    ]


def test_accuracy_of_each_precision(plots: Any) -> None:
    result = copy.deepcopy(plots.processors()[0])
    points = {
        "float32": {"error": 1e-7, "microseconds_per_pair": 3.0},
        "bfloat16": {"error": 2e-3, "microseconds_per_pair": 0.9},
    }
    result["rows"]["accuracy"] = {"median": 1e-7, "precisions": points}
    with plots.charts.style():
        drawn = plots.accuracy_plot([result])
    assert all(f">{name}<".encode() in drawn for name in points)


def test_processors_have_short_names(plots: Any) -> None:
    about = {"cpu": "Intel(R) Xeon(R) Processor (family 6, model 167)", "isa": "avx512amx", "letter": "B"}
    assert plots.short(about) == "B: Intel Xeon, AMX"
    about = {"cpu": "AMD EPYC (family 26, model 2)", "isa": "avx512bf16", "letter": "A"}
    assert plots.short(about) == "A: EPYC Zen 5, AVX-512"


def test_every_processor_is_drawn_under_a_name_of_its_own(plots: Any) -> None:
    results = plots.processors()
    alike = [{**results[0], "letter": letter} for letter in "AB"]
    assert plots.short(alike[0]) != plots.short(alike[1])
    with plots.charts.style():
        for draw in (plots.speed_plot, plots.scale_plot, plots.accuracy_plot):
            drawn = draw(alike).decode()
            assert all(f">{plots.short(result)}<" in drawn for result in alike)
