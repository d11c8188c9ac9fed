"""The page of an explanation: what it says without a browser, and what it does in one."""

from __future__ import annotations

import importlib.util
import json
import re
from html.parser import HTMLParser

import browser
import numpy as np
import pytest
from training_runs import tiny_model, tiny_split

from cmsei_fast import Attention, PairScorer, cli, explain
from cmsei_fast.data import write_split
from cmsei_fast.report import explain_features, save_page
from cmsei_fast.report.explanation import TERM_TITLES, Edge
from cmsei_fast.report.relations import lit_relations, said, strongest_relations

SPLIT = tiny_split(1)
NASTY = "</script><script>alert(1)</script> \"quotes\" 'n' <b>&amp; dog"
VOID = {"meta", "img", "input", "br"}


class Parsed(HTMLParser):
    """Elements (tag, attributes, text of their own); fails where tags do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, **dict(attrs), "text": ""}
        assert len(attrs) == len(dict(attrs)), (tag, attrs)
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, **dict(attrs), "text": ""})

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        if self._open:
            self._open[-1]["text"] += data

    def having(self, name, value=None):
        return [e for e in self.elements if name in e and value in (None, e[name])]


def parsed(folder, found, **options):
    save_page(found, folder / "page.html", **options)
    return Parsed((folder / "page.html").read_text(encoding="utf-8"))


def numbers(page):
    return json.loads(page.having("id", "pair")[0]["text"])


@pytest.fixture(scope="module")
def found():
    model = tiny_model(SPLIT, relations=("implicit", "spatial", "semantic"), layers=2).eval()
    return explain(model, SPLIT.subset([1]), f"{SPLIT.captions[2]} {NASTY}")


def test_it_is_whole_and_needs_nothing_outside_itself(found, tmp_path):
    page = parsed(tmp_path, found)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert not any(e.get("src") or (e.get("href") or "").startswith(("/", "h")) for e in page.elements)
    ids = [e["id"] for e in page.having("id")]
    assert len(ids) == len(set(ids))
    assert [e["tag"] for e in page.elements].count("script") == 2  # the numbers and the page's own: none of the caption
    assert not page.having("tag", "b")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_words_and_regions_are_options_with_names(found, tmp_path):
    page = parsed(tmp_path, found)
    words, regions = page.having("data-word"), page.having("data-region")
    assert [int(e["data-word"]) for e in words] == list(range(len(found.words)))
    assert [e["text"] for e in page.having("class", "text")] == list(found.words)
    assert sorted(int(e["data-region"]) for e in regions) == list(range(len(found.regions)))
    assert all(e["role"] == "option" and "tabindex" in e for e in [*words, *regions])
    assert {e["aria-label"] for e in regions} == {f"{name} {i}" for i, name in enumerate(found.regions)}
    assert [e["class"] == "word" for e in words] == list(found.known)
    area = [(b[2] - b[0]) * (b[3] - b[1]) for b in (found.boxes[int(e["data-region"])] for e in regions)]
    assert area == sorted(area, reverse=True), "a large box over a small one would keep the pointer from it"


def test_the_numbers_are_the_explanations_own(found, tmp_path):
    page = numbers(parsed(tmp_path, found, word=3))
    assert page["words"] == list(found.words)
    assert page["regions"] == list(found.regions)
    assert page["word"] == 3
    assert len(page["views"]["t2i"]) == len(page["views"]["i2t"]) == 2
    for step in (0, 1):
        alpha, beta = (np.array(page["views"][name][step]["attention"]) for name in ("t2i", "i2t"))
        np.testing.assert_allclose(alpha, found.of_words(step), atol=1e-5)
        np.testing.assert_allclose(beta.T, found.of_regions(step), atol=1e-5)
    np.testing.assert_allclose(page["region_weights"], found.region_weights, atol=1e-5)
    np.testing.assert_allclose(page["word_weights"], found.word_weights, atol=1e-5)


@pytest.mark.parametrize("scorer", [PairScorer.cmsei(), PairScorer.scan_i2t(), PairScorer(alignment=2.0)])
def test_five_terms_that_sum_to_the_score(scorer, tmp_path):
    rng = np.random.default_rng(0)
    found = explain_features(rng.normal(size=(6, 8)), rng.normal(size=(4, 8)), scorer=scorer)
    page = parsed(tmp_path, found)
    (start,) = (i for i, e in enumerate(page.elements) if e.get("class") == "terms")
    texts = [e["text"] for e in page.elements[start:] if e["tag"] in ("th", "td", "small")]
    titles = [*TERM_TITLES.values(), "score"]
    shown = {title: texts[texts.index(title) + 1 :] for title in titles}
    own = {term.name: term for term in found.terms}
    for name, title in TERM_TITLES.items():
        if name in own:
            assert f"{own[name].weight:.4f}" == shown[title][0]
            assert f"{own[name].contribution:.4f}" in shown[title][:4]
        else:
            assert shown[title][0] == "none"
    total = sum(float(f"{term.contribution:.4f}") for term in found.terms)
    assert abs(total - float(next(x for x in shown["score"] if x))) < 4e-4
    views = [e["value"] for e in page.having("name", "view")]
    assert views == [*(name for name in ("t2i", "i2t") if getattr(scorer, name)), "levels"]


def test_every_relation_once_with_the_attention_of_its_edges(found, tmp_path):
    page = parsed(tmp_path, found)
    rows = [e for e in page.having("data-ends") if e["tag"] == "span"]
    assert len({e["text"] for e in rows}) == len(rows)
    between = [e for e in found.edges if e.region != e.neighbour]
    triplets = {frozenset((e.region, e.neighbour)) for e in between if e.kind == "semantic"}
    assert len(rows) == len(triplets) + sum(
        len({frozenset((e.region, e.neighbour)) for e in between if e.kind == kind}) for kind in ("spatial", "implicit")
    )
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    for edge in [max(between, key=lambda e: e.attention), min(between, key=lambda e: e.attention)]:
        assert f"{edge.attention:.3f}" in text
    arrows = [e for e in page.having("data-ends") if e["tag"] == "g"]
    assert [int(e["data-relation"]) for e in arrows if "spare" not in e["class"]] == list(range(12))[::-1]
    assert len(page.having("data-self")) == len(found.regions)
    for i, own in enumerate(found.kept[1]):
        (first,) = page.having("data-self", str(i))
        cells = page.elements[page.elements.index(first) :][1:5]
        assert cells[-1]["text"].endswith(f"{own:.3f}")
        for kind, cell in zip(dict.fromkeys(e.kind for e in found.edges), cells, strict=False):
            inside = [e.attention for e in found.edges if e.kind == kind and e.region == e.neighbour == i]
            assert cell["text"] == ", ".join(f"{x:.3f}" for x in inside)


def test_without_graphs_or_boxes(tmp_path):
    rng = np.random.default_rng(0)
    found = explain_features(rng.normal(size=(5, 8)), rng.normal(size=(3, 8)), image="<&>")
    page = parsed(tmp_path, found)
    assert not page.having("data-ends")
    assert len(page.having("data-region")) == 5


def test_the_image_is_in_the_page(found, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="images are read by Pillow (extra plot)")
    image.new("RGB", (3000, 40), (0, 200, 0)).save(tmp_path / "green.png")
    (own,) = parsed(tmp_path, found, image=tmp_path / "green.png").having("href")
    assert own["tag"] == "image"
    assert own["href"].startswith("data:image/jpeg;base64,")
    assert len(own["href"]) < 10_000


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_split(folder / "s.h5", SPLIT)
    tiny_model(SPLIT).eval().save_pretrained(folder / "model")
    return folder


def test_command(files, tmp_path, capsys):
    out = tmp_path / "pair.html"
    arguments = ["explain", str(files / "s.h5"), "--model", str(files / "model"), "--image", "0", "--page", str(out)]
    assert cli.main([*arguments, "--caption", "a dog on a bench", "--word", "bench", "--step", "1"]) == 0
    page = Parsed(out.read_text(encoding="utf-8"))
    assert numbers(page)["word"] == 4
    assert [e["value"] for e in page.having("selected")] == ["0"]
    first = explain(tiny_model(SPLIT).eval(), SPLIT.subset([0]), "a dog on a bench").of_words(0)[4]
    (told,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("bench"))
    assert f": {first.max():.2f}," in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--page", "no/x.html"], "--page: expected a file in an existing directory"),
        (["--page", "x.html", "--word", "zorblax"], "word: expected one of the caption's words"),
        (["--page", "x.html", "--step", "3"], "--step: expected a step from 1 to 2, got 3"),
        (["--step", "0"], "--step: expected a step from 1 to 2, got 0"),
        (["--page", "x.html", "--image-file", "no.jpg"], "--image-file: expected an image file, got no.jpg"),
    ],
)
def test_bad_input(files, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    arguments = ["explain", str(files / "s.h5"), "--model", str(files / "model"), "--image", "0"]
    assert cli.main([*arguments, *options]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_refusals(found, tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="explanation: expected an Explanation, got dict"):
        save_page(found.to_dict(), tmp_path / "a.html")
    with pytest.raises(ValueError, match="step: expected a place from 0 to 1, or -1 for the last, got 2"):
        save_page(found, tmp_path / "a.html", step=2)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "PIL" else find(name, *a))
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        save_page(found, tmp_path / "a.html", image="x.png")
    assert list(tmp_path.iterdir()) == []


# In the browser: two words, two regions of which each word looks at one, and a third of both.

needs_browser = pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser.browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def simple():
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


@needs_browser
def test_pointing_at_a_word_lights_its_regions_and_the_reverse(simple, window, tmp_path):
    save_page(simple, tmp_path / "a.html")
    window.open(tmp_path / "a.html")
    alpha = simple.of_words()
    for word in (1, 0):
        window.point(f"[data-word='{word}']")
        lit = np.array(window.run(STRENGTHS))
        assert lit.argmax(0).tolist() == [word, word]
        assert lit[word, 0] > 2 * lit[1 - word, 0]
        assert lit[word, 1] > lit[1 - word, 1]
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


@needs_browser
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
    assert "looks at" in window.run("return document.getElementById('said').textContent")

    window.press(browser.TAB)
    assert window.run(focused) == "t2i"
    window.press(browser.TAB, browser.HOME)  # the step
    assert window.run("return document.getElementById('step').value") == "0"
    assert f"region 2: {percent(simple.of_words(0)[2, 2])}" in window.run(LABELS)
    window.press(browser.TAB, browser.END)
    assert window.run(SELECTED) == ["region 2"]
    assert window.run(SHARES) == [percent(x) for x in simple.of_words(0)[:, 2]]


@needs_browser
def test_directions(simple, window, tmp_path):
    save_page(simple, tmp_path / "a.html", word=1)
    window.open(tmp_path / "a.html")
    shares = "return [...document.querySelectorAll('#shares .share')].map((e) => e.textContent)"
    window.run("document.querySelector('[value=i2t]').click()")
    assert window.run("return document.getElementById('step').disabled")  # it has one step
    assert window.run(shares) == [percent(x) for x in sorted(simple.of_regions()[:, 1], reverse=True)]
    window.run("document.querySelector('[value=levels]').click()")
    assert window.run(SHARES) == [percent(x) for x in simple.word_weights]
    assert window.run(shares) == [percent(x) for x in sorted(simple.region_weights, reverse=True)]
    assert window.run(SELECTED) == []


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


@needs_browser
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
    assert "through the graph" in window.run("return document.getElementById('told').textContent")
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


@needs_browser
def test_a_word_lights_up_its_relations_and_a_region_its_own(related, window, tmp_path):
    save_page(related, tmp_path / "a.html", word="left", step=0)
    window.open(tmp_path / "a.html")
    listed = "return [...document.querySelectorAll('#lit li')].map((e) => e.textContent)"
    lit = "return [...new Set([...document.querySelectorAll('[data-relation].lit')].map((e) => e.dataset.relation))]"
    relations = strongest_relations(related)
    for word in range(3):
        window.point(f"[data-word='{word}']")
        expected = lit_relations(related, relations, word, 0)
        assert window.run(listed) == [
            f"{said(related, one.relation)}: {percent(one.share)} ({one.share / one.usual:.1f} ×)" for one in expected
        ]
        assert sorted(map(int, window.run(lit))) == sorted(relations.index(one.relation) for one in expected)
    window.point("[data-region='2']")
    assert [int(k) for k in window.run(lit)] == [k for k, one in enumerate(relations) if 2 in (one.subject, one.target)]
    assert not window.run("return document.getElementById('lit').checkVisibility({visibilityProperty: true})")
    ring = "return document.querySelector('[data-node=\"0\"] .ring').getAttribute('stroke-dasharray')"
    assert window.run(ring) == "20.0 100"


@needs_browser
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
