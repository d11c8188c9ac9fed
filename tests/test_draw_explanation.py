"""Pictures of explanations: shaded as the attention says, of the kind that the name asks for, whole or not at all."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from training_runs import tiny_model, tiny_split

from cmsei_fast import PairScorer, cli, explain
from cmsei_fast.data import write_split
from cmsei_fast.report import draw, explain_features
from cmsei_fast.report.canvas import layout

pytest.importorskip("matplotlib", reason="pictures need matplotlib (extra plot)")
Image = pytest.importorskip("PIL.Image", reason="pictures are read by Pillow (extra plot)")

SPLIT = tiny_split(1)


@pytest.fixture(scope="module")
def found():
    return explain(tiny_model(SPLIT).eval(), SPLIT.subset([1]), SPLIT.captions[2])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("draw")
    write_split(folder / "s.h5", SPLIT)
    tiny_model(SPLIT).eval().save_pretrained(folder / "model")
    return folder


def drawn(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_png_and_svg_by_the_suffix(found, tmp_path):
    draw(found, tmp_path / "a.png")
    assert drawn(tmp_path / "a.png").std() > 10
    draw(found, tmp_path / "a.svg")
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("}svg")
    draw(found, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


def test_shades_follow_the_attention(tmp_path):
    """One word attends to the left half alone, the other at the right: the shades swap with the word."""
    rows = 40 * np.eye(2)
    boxes = [[0, 0, 100, 100], [100, 0, 200, 100]]
    found = explain_features(rows, rows, word_names=["left", "right"], boxes=boxes, size=(200, 100))
    assert (found.of_words() > 0.99).tolist() == [[True, False], [False, True]]
    pixels = []
    for word in ("left", "right"):
        draw(found, tmp_path / f"{word}.png", word)
        pixels.append(drawn(tmp_path / f"{word}.png"))
    canvas = pixels[0].shape[1] * 2 // 5
    orange = [np.nonzero((p[:, :canvas, 0] - p[:, :canvas, 2]) > 60)[1] for p in pixels]
    assert min(len(x) for x in orange) > 2000
    assert np.median(orange[0]) + 50 < np.median(orange[1])


def test_steps_differ_and_the_last_is_shown_unless_another_is_chosen(found, tmp_path):
    pictures = []
    for step in (-1, 1, 0):
        draw(found, tmp_path / "a.svg", 1, step=step)
        pictures.append((tmp_path / "a.svg").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_an_image_lies_under_the_boxes(found, tmp_path):
    Image.new("RGB", (50, 40), (0, 200, 0)).save(tmp_path / "green.png")
    draw(found, tmp_path / "a.png", image=tmp_path / "green.png")
    green = drawn(tmp_path / "a.png")
    assert ((green[..., 1] - green[..., 0]) > 100).sum() > 5000


def test_names_are_text_and_regions_without_boxes_are_tiles(tmp_path):
    v = np.random.default_rng(0).normal(size=(5, 8))
    found = explain_features(v, v[:2], word_names=["$x", "y$_{"], region_names=["$\\frac"] * 5, image="<&>")
    draw(found, tmp_path / "a.svg", "$x")
    ElementTree.parse(tmp_path / "a.svg")
    assert {"attention of “$x”, step 2 of 2", "▸ $x", "y$_{", *(f"$\\frac {i}" for i in range(5))} <= set(
        texts_of(tmp_path / "a.svg")
    )
    assert layout(found)[1] == (300.0, 200.0)


def texts_of(path):
    """What each text of an SVG says."""
    return re.findall("<!-- (.*?) -->", path.read_text(encoding="utf-8"))


def panels(path):
    """Width and height of each panel of an SVG, in inches."""
    out = []
    for corners in re.findall(r'<g id="axes_\d+">\s*<g id="patch_\d+">\s*<path d="([^"]*)"', path.read_text("utf-8")):
        x, y = np.array(re.findall(r"[ML] (\S+) (\S+)", corners), float).T / 72
        out.append((np.ptp(x), np.ptp(y)))
    return out


def pair_features(n_word, n_region=36):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n_region, 16)), rng.normal(size=(n_word, 16))


def test_without_relations_the_other_panels_have_the_room(found, tmp_path):
    """SCAN's features have no graphs: an empty panel of relations would take a quarter."""
    draw(found, tmp_path / "a.svg")
    assert len(panels(tmp_path / "a.svg")) == 5  # boxes, heat map, its colours, relations, terms
    assert "relations of the graphs" in texts_of(tmp_path / "a.svg")
    for scorer, n_term in ((PairScorer.scan_t2i(), 1), (PairScorer.cmsei(), 5)):
        draw(explain_features(*pair_features(20), scorer=scorer), tmp_path / "b.svg")
        boxes, heat_map, _, terms = panels(tmp_path / "b.svg")
        assert min(boxes[1], heat_map[1]) > 5
        assert terms[0] > 12
        assert 0.25 < terms[1] / n_term < 0.4
        assert not any("relations" in text for text in texts_of(tmp_path / "b.svg"))


def test_an_image_without_a_name_leaves_the_title_to_the_caption(tmp_path):
    for name, title in (("", "a dog"), ("7.jpg", "7.jpg: a dog")):
        options = {"word_names": ["a", "dog"], "caption": "a dog"}
        draw(explain_features(*pair_features(2, 4), image=name, **options), tmp_path / "a.svg")
        assert title in texts_of(tmp_path / "a.svg")
    assert explain_features(*pair_features(2), **options).title == "a dog"


def test_titles_say_whose_attention_is_drawn(tmp_path):
    for scorer, titles in (
        (PairScorer.scan_t2i(), ("of “b”, step 1 of 1", "of words (rows) to regions, step 1 of 1")),
        (PairScorer.scan_i2t(), ("of regions to “b”, step 1 of 1", "of regions to words (rows), step 1 of 1")),
        (PairScorer(alignment=1.0), ("of the sentence (p)", "of the sentence (p), the same for each word")),
    ):
        draw(explain_features(*pair_features(2, 4), scorer=scorer, word_names=["a", "b"]), tmp_path / "a.svg", "b")
        assert {f"attention {title}" for title in titles} <= set(texts_of(tmp_path / "a.svg"))


@pytest.mark.parametrize("n_word", [1, 20])
def test_nothing_is_cut_off(n_word, tmp_path):
    options = {"region_names": ["traffic light"] * 36, "caption": " ".join(["bicycle"] * 40)}
    draw(explain_features(*pair_features(n_word), **options), tmp_path / "a.png")
    pixels = drawn(tmp_path / "a.png")
    for edge in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
        assert (edge == 255).all()


def test_command(files, tmp_path, capsys):
    out = tmp_path / "pair.png"
    word = SPLIT.captions[0].split()[1]
    arguments = ["explain", str(files / "s.h5"), "--model", str(files / "model"), "--image", "0"]
    assert cli.main([*arguments, "--picture", str(out), "--word", word]) == 0
    assert drawn(out).std() > 10


def test_without_matplotlib(found, files, tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        draw(found, tmp_path / "a.png")
    arguments = ["explain", str(files / "s.h5"), "--model", str(files / "model"), "--image", "0"]
    assert cli.main([*arguments, "--picture", str(tmp_path / "a.png")]) == 2
    assert "--picture: expected the package matplotlib (pip install" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_types(found, tmp_path):
    with pytest.raises(TypeError, match="explanation: expected an Explanation, got dict"):
        draw(found.to_dict(), tmp_path / "a.png")
    with pytest.raises(ValueError, match="word: expected an index from 0"):
        draw(found, tmp_path / "a.png", 99)
    for step in (2, -2, 0.0, True):
        with pytest.raises(ValueError, match="step: expected an index from 0 to 1, or -1 for the last"):
            draw(found, tmp_path / "a.png", step=step)
