"""The demonstration: its table, its page, and what it is there to show."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from typing import Any

import beside
import pytest

from cmsei_fast import cli
from cmsei_fast.commands import demo


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
    assert cli.main(["demo", "--directory", "runs"]) == 2
    told = "--directory: expected one without the runs of a demo, got runs with 0-scan-t2i"
    assert capsys.readouterr() == ("", f"cmsei-fast: error: {told}\n")


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


TRAINED = """
import json
import sys
from pathlib import Path

from cmsei_fast import CMSEI, explain
from cmsei_fast.commands import demo
from cmsei_fast.data import synthetic_scenes


def looks_at_an_end_of_the_relation(model, test, n_caption):
    split = demo._split(test)
    right = []
    for j in range(n_caption):
        image = int(split.caption_to_image[j])
        ((subject, action, target),) = test.scenes[image].relations
        found = explain(model, split.subset([image]), split.captions[j])
        right.append(int(found.of_words(0)[found.find_word(action)].argmax()) in (subject, target))
    return sum(right) / len(right)


folder, captions = Path(sys.argv[1]), {"captions_per_image": demo.CAPTIONS_PER_IMAGE}
test = synthetic_scenes(demo.TEST_GROUPS, seed=1, **captions)
out = {}
for model, groups in ((demo.MODELS[-1], demo.GROUPS), (demo.MODELS[0], 100), (demo.MODELS[1], 100)):
    training = synthetic_scenes(groups, seed=0, **captions)
    row = demo.train_and_test(model, training, test, folder / model[0], epochs=demo.EPOCHS, seed=0)
    out[row.title] = {name: float(getattr(row, name)) for name in ("group", "story", "place", "rsum")}
full = CMSEI.from_pretrained(folder / demo.MODELS[-1][0] / "last")
out["looks"] = looks_at_an_end_of_the_relation(full, test, 60)
print(json.dumps(out))
"""


def trained() -> dict[str, Any]:
    """How the full model and two without graphs do, and in what share of captions the action's word gives most of its
    attention to its subject or its object.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = beside.run([sys.executable, "-c", TRAINED, folder], 900, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


@pytest.mark.beside(work=trained)
def test_only_the_graphs_tell_the_images_of_a_group_apart(outcome):
    full = outcome["CMSEI"]
    assert full["group"] >= 80
    assert full["rsum"] > 500
    assert outcome["looks"] > 0.8
    for title, *_ in demo.MODELS[:2]:
        blind = outcome[title]
        # 720 captions: the standard deviation of a guess among four is 1.6 percent, between two 1.9.
        assert abs(blind["group"] - 25) < 6
        assert abs(blind["story"] - 50) < 7
        assert abs(blind["place"] - 50) < 7
        assert blind["rsum"] > 100  # chance is 13: objects are known all the same
