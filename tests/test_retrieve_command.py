"""``cmsei-fast retrieve``: the best that the whole matrix has, what it prints and writes, errors before any work."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import re
import sys

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from training_runs import tiny_model, tiny_split

from cmsei_fast import CMSEI, cli, encoded_file, engines, retrieve, score_matrix
from cmsei_fast.data import write_split
from cmsei_fast.report.drawings import Drawings
from cmsei_fast.report.retrieval_page import closest_first

SPLIT = tiny_split(3)
SENTENCES = ["the robot touching the pink horse", "zorblax horse of quux"]


def models():
    return [tiny_model(SPLIT).eval(), tiny_model(SPLIT, width=16).eval()]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrieve")
    write_split(folder / "s.h5", SPLIT)
    empty = np.zeros(0, dtype=np.int64)
    write_split(folder / "mute.h5", dataclasses.replace(SPLIT, captions=(), caption_to_image=empty))
    write_split(folder / "bare.h5", dataclasses.replace(SPLIT, boxes=None, sizes=None))
    for name, model in zip(("a", "b"), models(), strict=True):
        model.save_pretrained(folder / name)
    (folder / "queries.txt").write_text("".join(f"{x}\n" for x in SENTENCES), encoding="utf-8")
    return folder


def run(files, *options, models=("a",), split="s.h5"):
    named = [x for name in models for x in ("--model", str(files / name))]
    return cli.main(["retrieve", str(files / split), *named, "--device", "cpu", *map(str, options)])


def test_one_model_finds_what_the_function_finds(files, tmp_path, capsys):
    out = tmp_path / "found.json"
    asks = ["--caption", SENTENCES[0], "--caption", SENTENCES[1], "--image", 5, "--image", SPLIT.ids[2]]
    assert run(files, *asks, "--top", 4, "--out", out) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    model = models()[0]
    images = model.encode_images(SPLIT)
    best = retrieve(images, model.encode_captions(SENTENCES), scorer=model.scorer, k=4)
    assert [[x["image"] for x in query["images"]] for query in found["captions"]] == best.indices.tolist()
    assert [[x["score"] for x in query["images"]] for query in found["captions"]] == best.scores.tolist()
    some = model.encode_images(SPLIT, [5, 2])
    best = retrieve(some, model.encode_captions(SPLIT.captions), scorer=model.scorer, k=4, query="image")
    assert [query["image"] for query in found["images"]] == [5, 2]
    assert [[x["caption"] for x in query["captions"]] for query in found["images"]] == best.indices.tolist()
    assert [[x["score"] for x in query["captions"]] for query in found["images"]] == best.scores.tolist()
    for query in found["captions"]:
        for rank, x in enumerate(query["images"], start=1):
            own = [text for text, i in zip(SPLIT.captions, SPLIT.caption_to_image, strict=True) if i == x["image"]]
            assert (x["rank"], x["name"], x["captions"]) == (rank, SPLIT.ids[x["image"]], own)
            assert x["own"] == (query["caption"] in own)
    for query in found["images"]:
        for x in query["captions"]:
            assert x["text"] == SPLIT.captions[x["caption"]]
            assert x["image"] == SPLIT.caption_to_image[x["caption"]]
            assert x["own"] == (x["image"] == query["image"])
    assert [x["unknown"] for x in found["captions"]] == [{}, {str(files / "a"): ["zorblax", "quux"]}]
    assert (found["engine"], found["precision"]) == (
        engines.choose("cpu", "pair_score", model.scorer.config()),
        "float32",
    )

    first, second, third, _ = capsys.readouterr().out.split("\n\n")
    lines = first.splitlines()
    assert lines[0] == f"“{SENTENCES[0]}”"
    assert lines[1].split() == ["rank", "score", "image", "name", "closest", "caption"]
    top = found["captions"][0]["images"][0]
    assert lines[2].split(maxsplit=4)[:4] == ["1", f"{top['score']:.4f}", str(top["image"]), top["name"]]
    assert lines[2].endswith(f"{closest_first(SENTENCES[0], top['captions'])[0]} (and 1 more)")
    assert len(lines) == 2 + 4
    assert second.splitlines()[1] == f"{files / 'a'} reads as unknown: zorblax, quux"
    assert third.startswith(f"image 5, {SPLIT.ids[5]}\n")
    assert third.count("(its own)") == sum(x["own"] for x in found["images"][0]["captions"])


def test_a_sentence_is_shown_what_is_closest_to_it_and_what_is_its_own(files, tmp_path, capsys):
    assert closest_first("a red dog runs", ["a cat", "the dog runs", "A red dog", "a red dog runs"]) == [
        "a red dog runs",
        "A red dog",
        "the dog runs",
        "a cat",
    ]
    assert closest_first("", ["a", "b"]) == ["a", "b"]
    own = SPLIT.captions[1]  # not the first one of its image
    page = tmp_path / "x.html"
    assert run(files, "--caption", own, "--top", 99, "--page", page) == 0
    owners = {i for text, i in zip(SPLIT.captions, SPLIT.caption_to_image.tolist(), strict=True) if text == own}
    lines = capsys.readouterr().out.splitlines()[2:]
    assert {int(line.split()[2]) for line in lines if line.endswith(f"{own} (its own, and 1 more)")} == owners
    assert page.read_text(encoding="utf-8").count("✓ own") == len(owners)


def test_an_encoded_split_is_kept_and_not_encoded_again(files, tmp_path, monkeypatch):
    kept, out = tmp_path / "kept.safetensors", tmp_path / "x.json"
    encoded = []

    def noting(real):
        def note(self, what, *rest, **options):
            encoded.append(len(what))
            return real(self, what, *rest, **options)

        return note

    for name in ("encode_images", "encode_captions"):
        monkeypatch.setattr(CMSEI, name, noting(getattr(CMSEI, name)))

    def found(*options):
        encoded.clear()
        assert run(files, *options, "--out", out, models=("a", "b")) == 0
        return json.loads(out.read_text(encoding="utf-8"))

    by_sentence, by_image = ["--caption", SENTENCES[0]], ["--image", 3, "--image", 0]
    expected = found(*by_sentence, *by_image)
    assert found(*by_sentence, "--encoded", kept)["captions"] == expected["captions"]
    assert encoded == [len(SPLIT), 1] * 2
    first = kept.read_bytes()
    assert found(*by_sentence, "--encoded", kept)["captions"] == expected["captions"]
    assert encoded == [1, 1]  # the sentence by two models
    assert kept.read_bytes() == first
    assert found(*by_image, "--encoded", kept)["images"][0]["name"] == SPLIT.ids[3]
    assert encoded == [len(SPLIT.captions)] * 2
    again = found(*by_sentence, *by_image, "--encoded", kept)
    assert encoded == [1, 1]
    assert again["captions"] == expected["captions"]
    for a, b in zip(again["images"], expected["images"], strict=True):
        assert [x["caption"] for x in a["captions"]] == [x["caption"] for x in b["captions"]]
        np.testing.assert_allclose(*([x["score"] for x in y["captions"]] for y in (a, b)), rtol=1e-5, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.safetensors", "x.json"]


def test_what_a_caption_would_do_to_a_terminal_is_told(files, tmp_path, capsys):
    """A colour, a return to the line's beginning, a line's end, the other direction; an emoji's joiner stays."""
    strange = "a\x1b[31m horse\r\u2028\u202eon\x85 \N{WOMAN}\u200d\N{EAR OF RICE}"
    write_split(tmp_path / "s.h5", dataclasses.replace(SPLIT, captions=(strange, *SPLIT.captions[1:])))
    command = [tmp_path / "s.h5", "--model", files / "a", "--image", "0"]
    capsys.readouterr()
    told = r"a\x1b[31m horse\r\u2028\u202eon\x85 " + "\N{WOMAN}\u200d\N{EAR OF RICE}"
    for name, options in (("retrieve", ["--caption", strange, "--top", "99"]), ("explain", ["--caption", strange])):
        assert cli.main([name, *map(str, command), *options]) == 0
        out = capsys.readouterr().out
        assert out.count(told) >= (2 if name == "retrieve" else 1)
        assert not {*out} & {*"\x1b\r\u2028\u202e\x85"}


def test_an_encoded_split_of_something_else_is_refused(files, tmp_path, capsys):
    kept = tmp_path / "kept.safetensors"
    assert run(files, "--caption", "a horse", "--encoded", kept) == 0
    other = tmp_path / "other.h5"
    write_split(other, SPLIT.subset(np.arange(len(SPLIT))[::-1]))
    (tmp_path / "text").write_text("no safetensors, which begin with eight bytes of a length", encoding="utf-8")
    head = {"format": encoded_file.FORMAT, "version": encoded_file.VERSION}
    save_file({"x": torch.zeros(1)}, tmp_path / "untold", head)
    save_file({"x": torch.zeros(1)}, tmp_path / "mistold", head | {"fingerprint": "{"})
    capsys.readouterr()
    for options, change, message in (
        (tmp_path / "untold", {}, "untold: expected to be told of which models, got a damaged file"),
        (tmp_path / "mistold", {}, "mistold: expected to be told of which models, got a damaged file"),
        (kept, {"models": ("b",)}, "got what other models encode"),
        (kept, {"models": ("a", "b")}, "got what other models encode"),
        (kept, {"split": other}, "got that of other images"),
        (tmp_path / "text", {}, "expected a cmsei_fast encoded split, got another or a damaged file"),
        (files / "a" / "model.safetensors", {}, "expected a cmsei_fast encoded split of version 2, got another file"),
        (tmp_path, {}, "--encoded: expected the name of a file, got the directory"),
        (files / "s.h5", {}, "--encoded: expected another file than that of path"),
    ):
        before = kept.read_bytes()
        assert run(files, "--caption", "a horse", "--encoded", options, **change) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert kept.read_bytes() == before


class Gone(io.StringIO):
    """Standard output whose reader has left."""

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def fileno(self):
        return os.open(os.devnull, os.O_WRONLY)


ASKS = {"retrieve": ["--caption", "a horse"], "evaluate": ["--device", "cpu"], "explain": ["--image", "0"]}


def write_json(command, files, out):
    return cli.main([command, str(files / "s.h5"), "--model", str(files / "a"), *ASKS[command], "--json", str(out)])


@pytest.mark.parametrize("command", ASKS)
def test_files_are_written_though_nobody_reads_what_is_printed(files, tmp_path, monkeypatch, command):
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Gone())
        assert write_json(command, files, tmp_path / "x.json") == 0
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", ASKS)
def test_what_was_found_is_printed_though_the_disk_is_full(files, tmp_path, monkeypatch, capsys, command):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    assert write_json(command, files, tmp_path / "x.json") == 2
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) > 3
    assert "No space left on device" in printed.err


def test_an_ensemble_finds_by_the_mean_and_a_file_asks_as_flags_do(files, tmp_path, capsys):
    asked = []
    for asks in (["--captions-file", files / "queries.txt"], ["--caption", SENTENCES[0], "--caption", SENTENCES[1]]):
        assert run(files, *asks, "--top", 99, "--out", tmp_path / "x.json", models=("a", "b")) == 0
        asked.append((json.loads((tmp_path / "x.json").read_text()), capsys.readouterr().out))
    assert asked[0] == asked[1]
    scores = [
        score_matrix(m.encode_images(SPLIT), m.encode_captions(SENTENCES), scorer=m.scorer).numpy() for m in models()
    ]
    mean = (scores[0] + scores[1]) / 2
    for query, column in zip(asked[0][0]["captions"], mean.T, strict=True):
        order = np.argsort(-column, kind="stable")
        assert [x["image"] for x in query["images"]] == order.tolist()  # all, where there are fewer than asked for
        np.testing.assert_array_equal([x["score"] for x in query["images"]], column[order].astype(float))
    assert asked[0][1].count(" reads as unknown: zorblax, quux") == 2


def test_boxes_that_the_sentence_names_stand_out():
    names = ["traffic light", "dog", "man", "dog", "lady,woman", *(f"thing{i}" for i in range(8))]
    n = len(names)
    corners = np.stack(np.divmod(np.arange(n), 4), axis=1) * 90
    objects = tuple(dict.fromkeys(names))
    split = dataclasses.replace(
        SPLIT.subset([0]),
        features=None,
        offsets=np.array([0, n]),
        boxes=np.concatenate([corners, corners + 80 - np.arange(n)[::-1, None]], axis=1).astype(np.float32),
        sizes=np.array([[400, 400]], dtype=np.float32),
        labels=np.array([objects.index(name) for name in names], dtype=np.int32),
        object_names=objects,
        relations=None,
        relation_offsets=None,
        relation_scores=None,
        predicate_names=(),
    )
    bold = re.compile(r'font-weight="bold">([^<]*)<')
    drawn = Drawings(split).draw(0, "Two DOGS at a traffic light , a woman")
    # Though smaller than the eight that have names without it.
    assert bold.findall(drawn) == ["lady,woman", "dog", "traffic light"]
    assert drawn.count('stroke-width="2"') == 4
    assert bold.findall(Drawings(split).draw(0)) == bold.findall(Drawings(split).draw(0, "light")) == []


def test_a_sentence_without_words_is_told_as_that(files, tmp_path, capsys):
    found, page = tmp_path / "x.json", tmp_path / "x.html"
    assert run(files, "--caption", " … ", "--top", 1, "--out", found, "--page", page) == 0
    told = f"{files / 'a'} finds no word in it and reads one unknown word"
    assert capsys.readouterr().out.splitlines()[1] == told
    assert told in page.read_text(encoding="utf-8")
    assert json.loads(found.read_text())["captions"][0]["unknown"] == {str(files / "a"): ["<unk>"]}


def test_the_page_needs_nothing_outside_itself(files, tmp_path):
    page = tmp_path / "x.html"
    assert run(files, "--caption", "a <b>zorblax</b> horse", "--image", 1, "--top", 3, "--page", page) == 0
    text = page.read_text(encoding="utf-8")
    assert "a &lt;b&gt;zorblax&lt;/b&gt; horse" in text
    assert "reads as unknown: " in text
    assert text.count("<svg ") == 3 + 1
    assert text.count("<li>") == 3
    assert not re.search(r"(src|href)=(?!\")|https?:|url\(|<b>zorblax", text)


def test_a_split_without_captions_is_asked_by_sentences(files, capsys):
    assert run(files, "--caption", SENTENCES[0], "--top", 2, split="mute.h5") == 0
    assert capsys.readouterr().out.count(SPLIT.ids[0][:9]) == 2


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("s.h5", [], "--caption: expected a sentence (or one of --captions-file and --image), got none"),
        (
            "s.h5",
            ["--captions-file", "empty.txt"],
            "empty.txt: expected a sentence a line, got an empty file",
        ),
        ("s.h5", ["--captions-file", "no.txt"], "--captions-file: expected a text file, got no.txt (no such file)"),
        ("s.h5", ["--caption", "x", "--top", "0"], "--top: expected an integer >= 1, got 0"),
        ("s.h5", ["--caption", "x", "--out", "no/x.json"], "--out: expected a file in an existing directory"),
        ("s.h5", ["--caption", "x", "--page", "no/x.html"], "--page: expected a file in an existing directory"),
        (
            "s.h5",
            ["--caption", "x", "--images", "."],
            "--page: expected a file (--images needs one), got none",
        ),
        ("s.h5", ["--caption", "a\0b"], "--caption: expected text without NUL and lone surrogates"),
        (
            "s.h5",
            ["--image", "12"],
            f"--image: expected a name in the split ({SPLIT.ids[0]} is the first) or an index from 0 to 11, got 12",
        ),
        ("s.h5", ["--caption", "x", "--engine", "warp"], "engine: expected"),
        ("s.h5", ["--caption", "x", "--precision", "int3"], "precision: expected None or one of"),
        ("s.h5", ["--caption", "x", "--device", "warp"], "device: expected"),
        ("mute.h5", ["--image", "0"], "--image: expected a split with captions to search, got one without"),
        ("bare.h5", ["--caption", "x"], "/a: boxes: expected images with boxes"),
    ],
)
def test_bad_input(files, tmp_path, capsys, monkeypatch, split, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    assert run(files, *options, split=split) == 2
    out, error = capsys.readouterr()
    assert error.startswith("cmsei-fast: error: ")
    assert message in error
    assert (error.count("\n"), out) == (1, "")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


def test_an_image_and_a_sentence_without_finite_features_are_named(files, tmp_path, capsys):
    """By their places in the split and among the sentences, not by those among what is encoded."""
    holed = dataclasses.replace(SPLIT, features=SPLIT.features.copy())
    write_split(tmp_path / "s.h5", holed)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file["features"][int(SPLIT.offsets[5]) + 1] = np.nan
    told = f"images: expected finite features, got NaN or an infinity in image 5, {SPLIT.ids[5]}\n"
    for asks in (["--image", 5], ["--image", 2, "--image", SPLIT.ids[5]], ["--caption", SENTENCES[0]]):
        assert run(files, *asks, split=tmp_path / "s.h5") == 2
        assert told in capsys.readouterr().err
    model = models()[0]
    with torch.no_grad():
        model.words.trained[model.vocabulary.index["horse"]] = torch.nan
    model.save_pretrained(tmp_path / "model")
    assert run(files, "--caption", "a robot", "--caption", SENTENCES[0], models=[tmp_path / "model"]) == 2
    told = f"captions: expected finite features, got NaN or an infinity in caption 1, “{SENTENCES[0]}”\n"
    assert told in capsys.readouterr().err
