"""The page of an explanation in a browser: what pointing, keys and switches do, and whether all can be read."""

from __future__ import annotations

import re

import browser
import numpy as np
import pytest
from explained import explained

from cmsei_fast import Attention, PairScorer
from cmsei_fast.report import explain_features, save_page
from cmsei_fast.report.explanation import Edge
from cmsei_fast.report.relations import highlighted_relations, relation_text, strongest_relations

pytestmark = pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))


@pytest.fixture(scope="module")
def found():
    return explained()


@pytest.fixture(scope="module")
def simple():
    """Two words, two regions of which each word attends to one, and a third of both."""
    rows = 3 * np.eye(3)
    boxes = [[0, 0, 190, 300], [210, 0, 400, 300], [40, 40, 100, 100]]
    scorer = PairScorer(Attention(temperature=2.0, steps=2), Attention(temperature=1.0))
    words = ["<b>left", "right", "small"]
    return explain_features(rows, rows, scorer=scorer, word_names=words, boxes=boxes, size=(400, 300))


STRENGTHS = """return [...document.querySelectorAll("[data-region]")]
  .sort((a, b) => a.dataset.region - b.dataset.region)
  .map((e) => [Number(getComputedStyle(e.querySelector(".fill")).fillOpacity),
               parseFloat(getComputedStyle(e.querySelector(".line")).strokeWidth)])"""
LABELS = """return [...document.querySelectorAll(".labels text")].map((e) => e.textContent.replace("\\u00a0", " "))"""
SHARES = """return [...document.querySelectorAll(".word .share")].map((e) => e.textContent)"""
SELECTED = """return [...document.querySelectorAll("[aria-selected=true]")].map((e) => e.dataset.name)"""


def percent(x):
    return f"{100 * x:.0f} %" if x >= 0.1 else f"{100 * x:.1f} %"


def test_pointing_at_a_word_highlights_its_regions_and_the_reverse(simple, window, tmp_path):
    save_page(simple, tmp_path / "a.html")
    window.open(tmp_path / "a.html")
    alpha = simple.of_words()
    for word in (1, 0):
        window.point(f"[data-word='{word}']")
        highlighted = np.array(window.run(STRENGTHS))
        assert highlighted.argmax(0).tolist() == [word, word]
        assert highlighted[word, 0] > 2 * highlighted[1 - word, 0]
        assert highlighted[word, 1] > highlighted[1 - word, 1]
        assert f"region {word}: {percent(alpha[word, word])}" in window.run(LABELS)
        assert window.run(SHARES) == ["", "", ""]
        assert window.run(SELECTED) == [simple.words[word]]
    window.point("[data-region='2']")  # the small one, which lies over the left one
    assert window.run(SELECTED) == ["region 2"]
    assert window.run(SHARES) == [percent(x) for x in alpha[:, 2]]
    before, blank = window.screenshot(), simple.find_word("right")
    window.point(f"[data-word='{blank}']")
    assert window.screenshot() != before
    assert window.complaints() == []


def test_keyboard_alone_reaches_everything(simple, window, tmp_path):
    save_page(simple, tmp_path / "a.html", word=0)
    window.open(tmp_path / "a.html")
    window.press(browser.TAB)
    focused = "return document.activeElement.dataset.name || document.activeElement.value || ''"
    assert window.run(focused) == "<b>left"
    window.press(browser.RIGHT)
    assert window.run(focused) == "right"
    assert window.run(SELECTED) == ["right"]
    assert np.array(window.run(STRENGTHS)).argmax(0).tolist() == [1, 1]
    window.press(browser.LEFT, browser.LEFT)
    assert window.run(focused) == "small"
    window.press(browser.HOME, browser.END)
    assert window.run(focused) == "small"
    said = window.run("return document.getElementById('announcement').textContent")
    assert said.startswith("Attention of “small” (relevance ")

    window.press(browser.TAB)
    assert window.run(focused) == "t2i"
    window.press(browser.TAB, browser.HOME)  # the step
    assert window.run("return document.getElementById('step').value") == "0"
    assert f"region 2: {percent(simple.of_words(0)[2, 2])}" in window.run(LABELS)
    window.press(browser.TAB, browser.END)
    assert window.run(SELECTED) == ["region 2"]
    assert window.run(SHARES) == [percent(x) for x in simple.of_words(0)[:, 2]]


def test_directions(simple, window, tmp_path):
    save_page(simple, tmp_path / "a.html", word=1)
    window.open(tmp_path / "a.html")
    shares = "return [...document.querySelectorAll('#shares .share')].map((e) => e.textContent)"
    window.run("document.querySelector('[value=i2t]').click()")
    assert window.run("return document.getElementById('step').disabled")  # it has one step
    assert window.run(shares) == [percent(x) for x in sorted(simple.of_regions()[:, 1], reverse=True)]
    title = "return document.getElementById('shares-title').textContent"
    assert window.run(title) == "Attention of regions to “right”"
    window.run("document.querySelector('[value=levels]').click()")
    assert window.run(SHARES) == [percent(x) for x in simple.word_weights]
    assert window.run(shares) == [percent(x) for x in sorted(simple.region_weights, reverse=True)]
    assert window.run(SELECTED) == []
    assert window.run(title) == "Attention of the sentence (p)"


@pytest.fixture(scope="module")
def related():
    """Left took half of itself from right, right a quarter from small; a region keeps the rest."""
    rows = 3 * np.eye(3)
    edges = [
        Edge("semantic", 0, 0, 1, "near", False, 0.8, 1.0, 0.5),
        Edge("semantic", 0, 0, 0, "self", False, 0.2, 1.0, 0.1),
        Edge("spatial", 0, 1, 2, "covers", False, 1.0, 1.0, 0.25),
    ]
    boxes = [[0, 0, 190, 300], [210, 0, 400, 300], [240, 40, 300, 100]]
    return explain_features(
        rows,
        rows,
        scorer=PairScorer(Attention(temperature=2.0, steps=2), Attention(temperature=1.0)),
        word_names=["left", "right", "small"],
        region_names=["left", "right", "small"],
        boxes=boxes,
        size=(400, 300),
        edges=edges,
        kept=[np.array([0.4, 0.75, 1.0])],
    )


def test_through_the_graph_by_keyboard(related, window, tmp_path):
    save_page(related, tmp_path / "a.html", word="left", step=0)
    window.open(tmp_path / "a.html")
    through = related.of_words(0, through_graph=True)
    assert abs(through[0, 1] - related.of_words(0)[0, 1]) > 0.1
    assert f"right 1: {percent(related.of_words(0)[0, 1])}" in window.run(LABELS)
    window.press(browser.TAB, browser.TAB, browser.TAB, browser.TAB)  # the word, the direction, the step, the switch
    assert window.run("return document.activeElement.name") == "through"
    window.press(browser.RIGHT)
    assert f"right 1: {percent(through[0, 1])}" in window.run(LABELS)
    assert "through the graph" in window.run("return document.getElementById('shares-title').textContent")
    for name, expected in (("t2i", through), ("i2t", related.of_regions(0, through_graph=True).T)):
        window.run(f"document.querySelector('[value={name}]').click()")
        window.point("[data-region='1']")
        assert window.run(SHARES) == [percent(x) for x in expected[:, 1]]
        window.point("[data-word='0']")
    window.run("document.querySelector('[value=levels]').click()")
    shares = "return [...document.querySelectorAll('#shares .share')].map((e) => e.textContent)"
    expected = related.region_weights @ related.rollout()
    assert window.run(shares) == [percent(x) for x in sorted(expected, reverse=True)]
    assert window.complaints() == []


def test_a_word_highlights_its_relations_and_a_region_its_own(related, window, tmp_path):
    save_page(related, tmp_path / "a.html", word="left", step=0)
    window.open(tmp_path / "a.html")
    listed = "return [...document.querySelectorAll('#highlighted-relations li')].map((e) => e.textContent)"
    relation_numbers = "[...document.querySelectorAll('[data-relation].highlighted')].map((e) => e.dataset.relation)"
    highlighted = f"return [...new Set({relation_numbers})]"
    relations = strongest_relations(related)
    for word in range(3):
        window.point(f"[data-word='{word}']")
        expected = highlighted_relations(related, relations, word, 0)
        assert window.run(listed) == [
            f"{relation_text(related, one.relation)}: {percent(one.share)} ({one.share / one.mean_share:.1f} ×)"
            for one in expected
        ]
        heading = window.run("return document.querySelector('#highlighted-relations h3').textContent")
        assert heading == f"Attention of “{related.words[word]}” that came along relations (× mean of the words)"
        assert sorted(map(int, window.run(highlighted))) == sorted(relations.index(one.relation) for one in expected)
    window.point("[data-region='2']")
    assert [int(k) for k in window.run(highlighted)] == [
        k for k, one in enumerate(relations) if 2 in (one.subject, one.target)
    ]
    assert not window.run(
        "return document.getElementById('highlighted-relations').checkVisibility({visibilityProperty: true})"
    )
    ring = "return document.querySelector('[data-node=\"0\"] .ring').getAttribute('stroke-dasharray')"
    assert window.run(ring) == "20.0 100"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_legible_at_every_width(found, window, tmp_path, width, dark):
    """Labels lie within the picture and clear of each other, nothing is cut off, texts stand out from what is below."""
    save_page(found, tmp_path / "a.html")
    window.open(tmp_path / "a.html", width=width, dark=dark)
    assert window.run("return document.documentElement.scrollWidth") <= width
    window.point("[data-word='2']")
    boxes = window.run("""return [...document.querySelectorAll(".labels rect")].map((e) => {
      const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom] })""")
    assert len(boxes) >= 4
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[0] >= b[2] - 0.5 or b[0] >= a[2] - 0.5 or a[1] >= b[3] - 0.5 or b[1] >= a[3] - 0.5
    outer = window.run("const r = document.getElementById('picture').getBoundingClientRect(); return [r.left, r.right]")
    assert all(outer[0] - 1 <= a[0] and a[2] <= outer[1] + 1 for a in boxes)
    colour = "return getComputedStyle(document.{}).{}"
    ink, paper = (window.run(colour.format("body", name)) for name in ("color", "backgroundColor"))
    quiet = window.run(colour.format("querySelector('.hint')", "color"))
    assert contrast(ink, paper) > 10
    assert contrast(quiet, paper) > 4.5
    assert (luminance(paper) < 0.1) == dark
    assert window.complaints() == []


def luminance(colour):
    """Of the WCAG."""
    parts = [int(x) / 255 for x in re.findall(r"\d+", colour)[:3]]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
