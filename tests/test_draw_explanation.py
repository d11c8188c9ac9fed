"""Pictures of explanations: shaded as the attention says, of the kind that the name asks for, whole or not at all."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from training_runs import tiny_model, tiny_split

from cmsei_fast import cli, explain
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
    """One word looks at the left half alone, the other at the right: the shades swap with the word."""
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
    told = re.findall("<!-- (.*?) -->", (tmp_path / "a.svg").read_text(encoding="utf-8"))  # what each text says
    assert {"where “$x” looks, step 2 of 2", "▸ $x", "y$_{", *(f"$\\frac {i}" for i in range(5))} <= set(told)
    assert layout(found)[1] == (300.0, 200.0)


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
