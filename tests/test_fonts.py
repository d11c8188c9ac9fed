"""Fonts of pictures: characters that matplotlib's own font lacks come of another, or are boxes without a word."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from cmsei_fast.report import draw, draw_explanation, explain_features
from cmsei_fast.report.explanation import Edge
from cmsei_fast.report.fonts import _characters, families

matplotlib = pytest.importorskip("matplotlib", reason="pictures need matplotlib (extra plot)")
ABSENT = "\U000f1234"  # of a private plane


def test_another_font_is_taken_for_what_the_usual_one_lacks():
    from matplotlib import font_manager

    usual = list(matplotlib.rcParams["font.family"])
    assert families("a man, Straße, naïve") == usual
    other = font_manager.findfont("DejaVu Serif")
    only = min(_characters(other) - _characters(font_manager.findfont("DejaVu Sans")))
    found = families(f"a man {chr(only)}")
    assert found[: len(usual)] == usual
    assert len(found) == len(usual) + 1
    assert only in _characters(font_manager.findfont(found[-1]))
    assert families(ABSENT) == usual


def test_a_file_that_is_no_font_has_no_characters(tmp_path):
    (tmp_path / "a.ttf").write_bytes(b"none")
    assert _characters(str(tmp_path / "a.ttf")) == set()


def test_a_character_of_no_font_is_a_box_and_no_warning(tmp_path, caplog):
    found = explain_features(np.eye(3), np.eye(3)[:2], word_names=["a", ABSENT])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(found, tmp_path / "a.png")
    assert caplog.records == []
    assert (tmp_path / "a.png").stat().st_size > 0


def test_fonts_are_sought_for_all_text_of_the_picture(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(draw_explanation, "families", lambda text: asked.append(text) or families(text))
    edge = Edge("semantic", 0, 0, 1, "骑", False, 0.5, 1.0)
    found = explain_features(
        np.eye(3),
        np.eye(3)[:2],
        image="图",
        caption="人骑马",
        word_names=["骑着", "马儿"],
        region_names=["男", "女", "狗"],
        edges=[edge],
    )
    draw(found, tmp_path / "a.png")
    assert set(asked[0]) == set("图人骑马着儿男女狗")
