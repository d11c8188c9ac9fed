"""The pages of demo, report and retrieval in a browser: nothing is cut off on a phone or fails, names keep apart."""

from __future__ import annotations

import io

import browser
import numpy as np
import pytest
from training_runs import tiny_model

from cmsei_fast import cli
from cmsei_fast.data import Split, split_from_scenes, synthetic_scenes, write_split
from cmsei_fast.report.drawings import Drawings
from cmsei_fast.report.html import page

pytestmark = pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))

OVERLAPS = """
const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
const found = [];
for (const svg of document.querySelectorAll("svg")) {
  const names = [...svg.querySelectorAll(".name")];
  const at = names.map((e) => e.getBoundingClientRect());
  const room = svg.getBoundingClientRect();
  names.forEach((e, i) => {
    for (let j = 0; j < i; j++) if (meet(at[i], at[j])) found.push([e.textContent, names[j].textContent]);
    if (at[i].left < room.left - 1 || at[i].right > room.right + 1) found.push([e.textContent, "cut off"]);
  });
}
return [document.querySelectorAll(".name").length, found]"""


ON_ARROWS = """
const found = [];
for (const svg of document.querySelectorAll("svg")) {
  for (const line of svg.querySelectorAll("line")) {
    const at = line.getScreenCTM();
    for (const name of svg.querySelectorAll(".name[font-weight=bold]")) {
      const box = name.getBoundingClientRect();
      for (let k = 0; k <= 50; k++) {
        const point = line.getPointAtLength((line.getTotalLength() * k) / 50).matrixTransform(at);
        if (point.x > box.left && point.x < box.right && point.y > box.top && point.y < box.bottom) {
          found.push(name.textContent);
          break;
        }
      }
    }
  }
}
return [document.querySelectorAll("svg line").length, found]"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    pytest.importorskip("matplotlib", reason="reports need matplotlib (extra plot)")
    folder = tmp_path_factory.mktemp("pages")
    assert cli.main(["demo", "--groups", "8", "--epochs", "1", "--page", str(folder / "demo.html")]) == 0
    made = synthetic_scenes(10, width=16, captions_per_image=2)
    split = split_from_scenes(made.scenes, features=made.features, size=(500, 375))
    write_split(folder / "s.h5", split)
    scores = np.random.default_rng(0).standard_normal((len(split), split.n_captions), dtype=np.float32)
    np.save(folder / "scores.npy", scores)
    saved = ["--scores", str(folder / "scores.npy"), "--split", str(folder / "s.h5")]
    assert cli.main(["report", *saved, "--out", str(folder / "report.html")]) == 0
    tiny_model(split).save_pretrained(folder / ("model" * 20))
    asks = [
        "--caption",
        "a zorblax horse",
        "--caption",
        "quux" * 30,
        "--image",
        "3",
        "--model",
        f"{folder}/{'model' * 20}",
    ]
    assert cli.main(["retrieve", f"{folder}/s.h5", *asks, "--page", str(folder / "retrieval.html")]) == 0
    return folder


@pytest.mark.parametrize("name", ["demo", "report", "retrieval"])
def test_wide_and_narrow(pages, window, name):
    for width in (1280, 390):
        window.open(pages / f"{name}.html", width=width)
        assert window.run("return document.documentElement.scrollWidth") <= width
        count, wrong = window.run(OVERLAPS)
        assert count > 40
        assert wrong == []
        assert window.complaints() == []


def test_names_of_wide_letters_are_not_cut_off(window, tmp_path):
    """Boxes at the right edge: their names are moved in by the room that they take."""
    names = ("woman", "women", "swimmer", "MOMMY", "雪山和冰湖", "wwwmmm")
    n = len(names)
    tops = np.arange(n, dtype=np.float32) * 60
    boxes = np.stack([np.full(n, 390), tops, np.full(n, 400), tops + 10], axis=1).astype(np.float32)
    split = Split(
        ids=("a.jpg",),
        offsets=np.array([0, n]),
        captions=(),
        caption_to_image=np.zeros(0, dtype=np.int64),
        boxes=boxes,
        sizes=np.array([[400, 400]], dtype=np.float32),
        labels=np.arange(n, dtype=np.int32),
        object_names=names,
    )
    (tmp_path / "a.html").write_text(page("names", Drawings(split).draw(0)), encoding="utf-8")
    window.open(tmp_path / "a.html")
    assert window.run(OVERLAPS) == [n, []]


def test_the_name_of_an_action_stands_beside_its_arrow(pages, window):
    for width in (1280, 390):
        window.open(pages / "demo.html", width=width)
        count, wrong = window.run(ON_ARROWS)
        assert count >= 8
        assert wrong == []


def test_intervals_of_large_ranks_fit_a_phone(pages, window):
    window.open(pages / "report.html", width=390)
    widths = window.run("""
      document.querySelectorAll(".recalls td:last-child small").forEach((e) => { e.textContent = "181.1–1206.8" });
      const box = document.querySelector(".recalls").parentElement;
      return [box.scrollWidth, box.clientWidth]""")
    assert widths[0] <= widths[1]


def test_charts_are_dark_where_the_page_is(pages, window):
    """They are drawn on white, which the page turns around: a white block on a dark page hurts."""
    image = pytest.importorskip("PIL.Image", reason="a screenshot is read by Pillow (extra plot)")
    brightness = []
    for dark in (False, True):
        window.open(pages / "report.html", dark=dark)
        corner = (
            "const r = document.querySelector('.chart img').getBoundingClientRect(); return [r.left + 3, r.top + 3]"
        )
        at = window.run(corner)
        with image.open(io.BytesIO(window.screenshot())) as shot:
            brightness.append(sum(shot.convert("RGB").getpixel(tuple(map(int, at)))) / 3)
    assert brightness[0] == 255
    assert brightness[1] < 40
