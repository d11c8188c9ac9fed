"""``cmsei-fast explain``: what it prints and writes, and errors that name what is wrong."""

from __future__ import annotations

import dataclasses
import json

import h5py
import numpy as np
import pytest
import torch
from training_runs import tiny_model, tiny_split

from cmsei_fast import CMSEI, cli, explain
from cmsei_fast.data import write_split
from cmsei_fast.devices import process_device

SPLIT = tiny_split(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    write_split(folder / "s.h5", SPLIT)
    write_split(folder / "bare.h5", dataclasses.replace(SPLIT, boxes=None, sizes=None))
    tiny_model(SPLIT).eval().save_pretrained(folder / "model")
    return folder


@pytest.mark.parametrize("image", ["2", SPLIT.ids[2]])
def test_prints_terms_and_words_and_writes_the_numbers(files, tmp_path, capsys, image):
    out = tmp_path / "pair.json"
    arguments = ["explain", str(files / "s.h5"), "--model", str(files / "model"), "--image", image]
    assert cli.main([*arguments, "--json", str(out)]) == 0
    image = SPLIT.subset([2])
    expected = explain(tiny_model(SPLIT), image, image.captions[0])
    assert json.loads(out.read_text(encoding="utf-8")) == expected.to_dict()
    printed = capsys.readouterr().out
    assert f"{expected.score:.3f}" in printed
    for title in ("t2i: words attend to regions", "i2t: regions attend to words", "object–sentence", "alignment"):
        assert any(line.startswith(f"{title}  ") for line in printed.splitlines()), title
    for word in expected.words:
        assert any(line.startswith(word) for line in printed.splitlines())


@pytest.mark.parametrize(("options", "expected"), [(["--device", "cpu"], "cpu"), ([], None)])
def test_the_model_runs_on_the_device_that_is_asked_for(files, monkeypatch, options, expected):
    """Without the flag on the GPU if there is one, as train, evaluate and retrieve do."""
    seen = []
    load = CMSEI.from_pretrained

    def note(directory, device):
        seen.append(device)
        return load(directory, device)

    monkeypatch.setattr(CMSEI, "from_pretrained", note)
    arguments = ["explain", str(files / "s.h5"), "--model", str(files / "model"), "--image", "0"]
    assert cli.main([*arguments, *options]) == 0
    assert seen == [process_device(expected)]


def test_a_sentence_of_no_known_word_is_told(files, capsys):
    arguments = ["explain", str(files / "s.h5"), "--model", str(files / "model"), "--image", "0"]
    assert cli.main([*arguments, "--caption", "zorblax quux"]) == 0
    assert capsys.readouterr().out.count("(unknown)") == 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "s.h5",
            "--image 4",
            f"--image: expected a name in the split ({SPLIT.ids[0]} is the first) or an index from 0 to 3, got 4",
        ),
        ("s.h5", "--image -1", "or an index from 0 to 3, got -1"),
        ("s.h5", "--image 0 --json no/x.json", "--json: expected a file in an existing directory"),
        ("bare.h5", "--image 0", "boxes: expected images with boxes"),
        ("s.h5", "--image 0 --device cuda:77", "device: expected an available device (GPUs that torch can"),
        ("s.h5", "--image 0 --picture x.gif", "--picture: expected a file that ends in .png or .svg, got x.gif"),
        ("s.h5", "--image 0 --picture no/x.png", "--picture: expected a file in an existing directory"),
        ("s.h5", "--image 0 --picture x.png --image-file no.jpg", "--image-file: expected an image file, got no.jpg"),
        ("s.h5", "--image 0 --picture x.png --word zorblax", "word: expected one of the caption's words"),
        ("s.h5", "--image 0 --picture x.png --step 3", "--step: expected a step from 1 to 2, got 3"),
        ("s.h5", "--image 0 --word a", "--picture or --page: expected a file (--word needs one), got none"),
        ("s.h5", "--image 0 --page no/x.html", "--page: expected a file in an existing directory"),
        ("s.h5", "--image 0 --page x.html --word zorblax", "word: expected one of the caption's words"),
        ("s.h5", "--image 0 --page x.html --step 3", "--step: expected a step from 1 to 2, got 3"),
        ("s.h5", "--image 0 --caption M\udcc3dchen", "--caption: expected text without NUL and lone surrogates, got "),
        ("s.h5", "--image 0 --page x.html --word M\udcc3d", "--word: expected text without NUL and lone surrogates"),
        ("s.h5", "--image 0 --step 0", "--step: expected a step from 1 to 2, got 0"),
        ("s.h5", "--image 0 --page x.html --image-file no.jpg", "--image-file: expected an image file, got no.jpg"),
    ],
)
def test_bad_input(files, tmp_path, capsys, monkeypatch, name, options, message):
    if "--picture" in options or "--image-file" in options:
        pytest.importorskip("matplotlib", reason="pictures need matplotlib (extra plot)")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["explain", str(files / name), "--model", str(files / "model"), *options.split()]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("cmsei-fast: error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("flag", "value"), [("--model", "m"), ("--image", "1"), ("--caption", "a")])
def test_one_pair_is_explained(capsys, flag, value):
    """Where ``retrieve`` takes several, of two the first would be left out without a word."""
    arguments = ["explain", "s.h5", "--model", "m", "--image", "1", "--caption", "a"]
    with pytest.raises(SystemExit):
        cli.main([*arguments, flag, "other"])
    assert f"argument {flag}: expected one, got {value} and other (" in capsys.readouterr().err


def test_an_image_and_a_sentence_without_finite_features_are_named(files, tmp_path, capsys):
    write_split(tmp_path / "s.h5", SPLIT)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file["features"][int(SPLIT.offsets[2])] = np.nan
    arguments = ["explain", str(tmp_path / "s.h5"), "--image", "2", "--model"]
    assert cli.main([*arguments, str(files / "model")]) == 2
    told = "expected what the model encodes as finite features, got NaN or an infinity of"
    assert f"error: image: {told} {SPLIT.ids[2]}\n" in capsys.readouterr().err
    model = tiny_model(SPLIT)
    with torch.no_grad():
        model.words.trained[model.vocabulary.index["horse"]] = torch.nan
    model.save_pretrained(tmp_path / "model")
    arguments = ["explain", str(files / "s.h5"), "--image", "2", "--caption", "a horse", "--model"]
    assert cli.main([*arguments, str(tmp_path / "model")]) == 2
    assert f"error: caption: {told} “a horse”\n" in capsys.readouterr().err
