"""The page of an explanation without a browser: what it says, the command that writes it, what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from explained import SPLIT, explained
from training_runs import tiny_model

from cmsei_fast import PairScorer, cli, explain, report
from cmsei_fast.data import write_split
from cmsei_fast.report import explain_features, save_page
from cmsei_fast.report.explanation import TERM_TITLES

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
    return explained()


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
    directions = [name for name in ("t2i", "i2t") if getattr(scorer, name)]
    assert views == [*directions, "levels"]
    labels = [e["text"] for e in page.elements if e["tag"] == "label"][: len(views)]
    assert labels == [*({"t2i": "t2i (α)", "i2t": "i2t (β)"}[name] for name in directions), "cross-level (p, ω)"]
    (hint,) = page.having("class", "hint")
    assert [name for name in ("t2i", "i2t") if f"({name})" in hint["text"]] == directions
    assert "the sentence (p) and the image (ω) sums to 100\u00a0%" in hint["text"]


PRIVATE = r"\b(asks?|answers?|looks?|lights?|lit|told|telling)\b"


def test_it_speaks_of_attention_in_the_words_of_the_field(found, tmp_path):
    page = parsed(tmp_path, found)
    own = "\n".join(e["text"] for e in page.elements if e["tag"] not in ("script", "style"))
    assert not re.search(PRIVATE, own, re.IGNORECASE)
    script = (Path(report.__file__).parent / "explanation_page.js").read_text(encoding="utf-8")
    assert not re.search(PRIVATE, script, re.IGNORECASE)
    for title in ("t2i: words attend to regions", "i2t: regions attend to words", "object–sentence", "word–image"):
        assert title in own
    assert [e["text"] for e in page.elements if e["tag"] == "th"].count("alignment") == 1


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
    nameless = parsed(tmp_path, explain_features(rng.normal(size=(5, 8)), rng.normal(size=(3, 8)), caption="a b c"))
    assert [e["text"] for e in nameless.elements if e["tag"] == "title"] == ["a b c"]
    assert "p" not in [e["tag"] for e in nameless.elements[: nameless.elements.index(*nameless.having("id", "words"))]]
    assert nameless.having("id", "picture")[0]["aria-label"] == "image"
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


def test_refusals(found, tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="explanation: expected an Explanation, got dict"):
        save_page(found.to_dict(), tmp_path / "a.html")
    with pytest.raises(ValueError, match="step: expected an index from 0 to 1, or -1 for the last, got 2"):
        save_page(found, tmp_path / "a.html", step=2)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "PIL" else find(name, *a))
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        save_page(found, tmp_path / "a.html", image="x.png")
    assert list(tmp_path.iterdir()) == []
