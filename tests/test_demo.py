"""The demonstration: its table, its page, and what it is there to show."""

from __future__ import annotations

import os
import re

import pytest

from cmsei_fast import CMSEI, cli, explain
from cmsei_fast.commands import demo
from cmsei_fast.data import synthetic_scenes


def test_prints_a_row_for_each_model_and_writes_a_page(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--groups", "16", "--epochs", "1", "--page", "page.html", "--directory", "runs"]) == 0
    printed = capsys.readouterr().out
    for title, _, _ in demo.MODELS:
        row = next(line for line in printed.splitlines() if re.match(rf"{re.escape(title)}  ", line))
        figures = [float(x) for x in re.findall(r"\d+\.\d", row)]
        assert len(figures) == 4
        assert all(0 <= x <= 100 for x in figures[:3])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(f'<th scope="row">{title}</th>' in page for title, _, _ in demo.MODELS)
    assert page.count("<svg") >= 4
    assert not re.search(r"(src|href)=|https?:|url\((?!#)", page), "the page must need nothing outside itself"
    assert sorted(os.listdir(tmp_path)) == ["page.html", "runs"]
    assert len(os.listdir(tmp_path / "runs")) == len(demo.MODELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "-1"], "--seed: expected an integer >= 0, got -1"),
        (["--groups", "0"], "--groups: expected an integer >= 1, got 0"),
        (["--epochs", "0"], "--epochs: expected an integer >= 1, got 0"),
        (["--page", "absent/page.html"], "--page: expected a file in an existing directory, got absent/page.html"),
    ],
)
def test_bad_options(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", *options]) == 2
    assert capsys.readouterr().err == f"cmsei-fast: error: {message}\n"
    assert os.listdir(tmp_path) == []


def _looks_at_an_end_of_the_relation(model, test, n_caption):
    """Share of captions whose action's word gives most of its attention to its subject or its object."""
    split = demo._split(test)
    right = []
    for j in range(n_caption):
        image = int(split.caption_to_image[j])
        ((subject, action, target),) = test.scenes[image].relations
        found = explain(model, split.subset([image]), split.captions[j])
        right.append(int(found.of_words(0)[found.find_word(action)].argmax()) in (subject, target))
    return sum(right) / len(right)


def test_only_the_graphs_tell_the_images_of_a_group_apart(tmp_path):
    options = {"epochs": 4, "seed": 0}
    captions = {"captions_per_image": demo.CAPTIONS_PER_IMAGE}
    training, test = synthetic_scenes(700, seed=0, **captions), synthetic_scenes(demo.TEST_GROUPS, seed=1, **captions)
    full = demo.train_and_test(demo.MODELS[-1], training, test, tmp_path / "full", **options)
    assert full.group >= 80
    assert full.rsum > 500
    assert _looks_at_an_end_of_the_relation(CMSEI.from_pretrained(tmp_path / "full" / "last"), test, 60) > 0.8
    few = synthetic_scenes(100, seed=0, **captions)
    for model in demo.MODELS[:2]:
        blind = demo.train_and_test(model, few, test, tmp_path / model[1], **options)
        # 720 captions: the standard deviation of a guess among four is 1.6 percent, between two 1.9.
        assert abs(blind.group - 25) < 6
        assert abs(blind.story - 50) < 7
        assert abs(blind.place - 50) < 7
        assert blind.rsum > 100  # chance is 13: objects are known all the same
