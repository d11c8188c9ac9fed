"""``cmsei-fast report``: its page, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from score_matrices import matrix
from training_runs import SMALL, write_splits

from cmsei_fast import cli, engines, recall_metrics
from cmsei_fast.commands.saved_scores import average_scores
from cmsei_fast.data import synthetic_scenes
from cmsei_fast.report.drawings import Drawings
from cmsei_fast.report.run_files import Run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_splits(folder)
    arguments = ["train", str(folder / "train.h5"), str(folder / "run"), "--validation", str(folder / "val.h5")]
    assert cli.main([*arguments, *SMALL]) == 0
    arguments = ["evaluate", str(folder / "val.h5"), "--model", str(folder / "run" / "best")]
    assert cli.main([*arguments, "--scores", str(folder / "scores.npy")]) == 0
    return folder


class Checked(HTMLParser):
    """Opened elements are closed in order, and every picture says what it shows."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.pictures = [], "", 0
        self.feed(text)
        assert self.open == ["html"]

    def handle_starttag(self, tag, attrs):
        if tag == "img" or (tag == "svg" and ("role", "img") in attrs):
            self.pictures += 1
            assert dict(attrs).get("alt" if tag == "img" else "aria-label")
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag != "html":
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def checked(path):
    text = path.read_text(encoding="utf-8")
    outside = re.sub(r'data:[\w/+;,=]+"', "", text)
    assert not re.search(r"(src|href)=(?!\")|https?:|url\(", outside), "the page must need nothing outside itself"
    assert all(x.startswith('src="data:') for x in re.findall(r'src="[^"]{5}', text))
    return Checked(text)


def test_of_a_run(files, capsys):
    assert cli.main(["report", str(files / "run"), "--split", str(files / "val.h5"), "--queries", "2"]) == 0
    page = checked(files / "run" / "report.html")
    metrics = recall_metrics(np.load(files / "scores.npy"), captions_per_image=2)
    assert str(metrics) in capsys.readouterr().out
    assert f"{metrics.rsum:.1f}" in page.text
    for heading in ("Ranks", "Worst", "Best", "Training", "Configuration", "The score, as learned"):
        assert heading in page.text
    assert "✓ own" in page.text
    assert page.pictures >= 2 + 4 + 4 * 5
    assert "word_width" in page.text
    saved = files / "run" / "of-scores.html"
    arguments = ["report", str(files / "run"), "--scores", str(files / "scores.npy"), "--split", str(files / "val.h5")]
    assert cli.main([*arguments, "--queries", "2", "--out", str(saved)]) == 0
    tables = [
        re.search(r'<table class="recalls">.*?</table>', x.read_text(), re.DOTALL)[0]
        for x in (saved, saved.with_name("report.html"))
    ]
    assert tables[0] == tables[1]
    again = files / "run" / "again.html"
    assert cli.main([*arguments, "--queries", "2", "--out", str(again)]) == 0
    assert again.read_bytes() == saved.read_bytes()


def test_beside_saved_scores_the_score_is_the_best_model_s(tmp_path):
    """The scores are of a model that ``evaluate`` was given, by default the best, not of what the run ended with."""
    told = [(1, 30.0, 0.1), (2, 50.0, 0.2), (3, 50.0, 0.3), (4, 40.0, 0.4)]
    records = [{"validation": {"rSum": rsum}, "step": step, "scorer": {"alignment": x}} for step, rsum, x in told]
    run = Run(tmp_path, {}, [], records)
    assert run.scorer() == {"alignment": 0.4}  # no best model was kept
    (tmp_path / "best").mkdir()
    assert run.scorer() == {"alignment": 0.2}  # of equal ones the first is kept
    assert Run(tmp_path, {}, [], []).scorer() is None


def test_the_engine_is_the_one_that_scored(files, monkeypatch):
    """What ``auto`` means hangs on the scorer and the device, and the page tells what it was."""
    monkeypatch.setattr(engines, "choose", lambda device, operator, config=None: "reference" if config else "eager")
    assert cli.main(["report", str(files / "run"), "--split", str(files / "val.h5"), "--queries", "0"]) == 0
    text = (files / "run" / "report.html").read_text()
    assert '<th scope="row">engine</th><td>reference</td>' in text
    assert '<th scope="row">precision</th><td>float32</td>' in text


def test_of_another_models_scores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores, owner = matrix()
    order = np.random.default_rng(0).permutation(len(owner))
    np.save("s.npy", scores[:, order].astype(np.float16))
    np.save("map.npy", owner[order])
    (tmp_path / "map.txt").write_text("\n".join(map(str, owner[order])))
    (tmp_path / "c.txt").write_text("".join(f"<b>caption & {j}\n" for j in range(120)))
    for name in ("map.npy", "map.txt"):
        assert cli.main(["report", "--scores", "s.npy", "--caption-to-image", name, "--captions", "c.txt"]) == 0
        page = checked(tmp_path / "report.html")
        assert re.search(r"“<b>caption & \d+”", page.text)
        assert "image 3" in page.text
        assert "Training" not in page.text
        assert "120 captions" in page.text
    assert cli.main(["report", "--scores", "s.npy", "--captions-per-image", "3", "--folds", "4"]) == 0
    page = checked(tmp_path / "report.html")
    assert re.search(r"caption \d+", page.text)
    assert "Means over 4 folds of 10 images" in page.text


@pytest.mark.parametrize("per_image", [1, 5])
def test_of_a_single_image(tmp_path, monkeypatch, per_image):
    monkeypatch.chdir(tmp_path)
    np.save("one.npy", np.random.default_rng(0).standard_normal((1, per_image)).astype(np.float16))
    assert cli.main(["report", "--scores", "one.npy", "--captions-per-image", str(per_image)]) == 0
    text = checked(tmp_path / "report.html").text
    assert "600.0" in text
    assert f"1 image, {per_image} caption" in text


def test_captions_with_other_line_ends_and_none_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores, _ = matrix(4, 2)
    np.save("s.npy", scores)
    lines = ["first\u2028of two", "", *(f"caption {j}\x85" for j in range(2, 8))]
    (tmp_path / "c.txt").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8", newline="")
    arguments = ["report", "--scores", "s.npy", "--captions-per-image", "2", "--queries", "4"]
    assert cli.main([*arguments, "--captions", "c.txt"]) == 0
    text = checked(tmp_path / "report.html").text
    assert "“first\u2028of two”" in text
    assert "(empty)" in text


def test_thumbnails(files, tmp_path):
    from PIL import Image

    for i in range(20):
        Image.new("RGB", (900, 300), (10 * i, 0, 0)).save(tmp_path / f"{_name(files, i)}.png")
    out = tmp_path / "r.html"
    arguments = ["report", "--scores", str(files / "scores.npy"), "--split", str(files / "val.h5"), "--out", str(out)]
    assert cli.main([*arguments, "--images", str(tmp_path)]) == 0
    page = checked(out)
    assert page.pictures > 20
    assert out.read_text().count("data:image/jpeg") == page.pictures - 1  # and the histogram
    (tmp_path / f"{_name(files, 7)}.png").unlink()
    with pytest.raises(FileNotFoundError, match=f"--images: expected {_name(files, 7)}"):
        Drawings(_split(files), str(tmp_path))


def _split(files):
    from cmsei_fast.data import open_split

    return open_split(files / "val.h5")


def _name(files, i):
    return _split(files).ids[i]


def test_a_file_that_the_fields_scripts_save_comes_with_the_line_that_makes_a_matrix(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scores, _ = matrix(4, 2)
    np.save("theirs.npy", {"npts": 4, "sims": scores})
    np.savetxt("theirs.txt", scores)
    torch.save(scores, "theirs.pth.tar")
    for name in ("theirs.npy", "theirs.txt", "theirs.pth.tar"):
        assert cli.main(["report", "--scores", name, "--captions-per-image", "2"]) == 2
        line = capsys.readouterr().err.rstrip("\n")
        exec(line[line.index("np.save(") :], {"np": np, "torch": torch})
        np.testing.assert_allclose(np.load("scores.npy"), scores, rtol=1e-6)
        os.remove("scores.npy")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY, but no more")
    assert cli.main(["report", "--scores", "broken.npy"]) == 2
    assert capsys.readouterr().err.endswith("got another or a pickled one\n")
    np.save("cut.npy", np.zeros((4, 8), np.float32))
    os.truncate("cut.npy", 200)
    assert cli.main(["report", "--scores", "cut.npy"]) == 2
    told = "cut.npy: expected a .npy file of one floating matrix, got a truncated one: expected 256 bytes (as its head"
    assert f"{told} tells), got 200\n" in capsys.readouterr().err


def test_several_matrices_are_their_mean(tmp_path, monkeypatch, capsys):
    """An ensemble of any models, in the width of the wider one."""
    monkeypatch.chdir(tmp_path)
    made = [matrix()[0] for _ in range(3)]
    made[1], made[2] = made[1][::-1, ::-1].copy(), np.roll(made[2], 7, axis=1).astype(np.float16)
    for name, scores in zip(("a.npy", "b.npy", "c.npy"), made, strict=True):
        np.save(name, scores)
    flags = ["--scores", "a.npy", "--scores", "b.npy", "--scores", "c.npy", "--captions-per-image", "3"]
    assert cli.main(["report", *flags]) == 0
    mean = sum(made) / 3
    np.testing.assert_allclose(average_scores(["a.npy", "b.npy", "c.npy"], None, None), mean, rtol=1e-5, atol=1e-6)
    expected = recall_metrics(mean, captions_per_image=3)
    assert capsys.readouterr().out.startswith(f"{expected}\n")
    assert expected.rsum != recall_metrics(made[2], captions_per_image=3).rsum
    page = checked(tmp_path / "report.html")
    assert "Retrieval: a.npy + b.npy + c.npy" in page.text
    assert f"mean of 3: a.npy, b.npy, c.npy, {np.result_type(*made)}" in page.text


def test_memory_that_is_short_is_no_fault_of_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("scores.npy", np.zeros((2, 4), np.float32))
    np.save("map.npy", np.array([0, 0, 1, 1]))
    real = np.load

    def exhausted(path, *rest, **options):
        if path == "map.npy":
            raise MemoryError
        return real(path, *rest, **options)

    monkeypatch.setattr(np, "load", exhausted)
    assert cli.main(["report", "--scores", "scores.npy", "--caption-to-image", "map.npy"]) == 2
    assert capsys.readouterr().err == "cmsei-fast: error: map.npy: out of memory\n"


def test_scores_of_another_split_of_that_size_are_told(files, tmp_path, capsys):
    """Their images and captions would stand on the page in place of those that were scored."""
    arguments = ["report", "--scores", str(files / "scores.npy"), "--out", str(tmp_path / "r.html"), "--split"]
    assert cli.main([*arguments, str(files / "train.h5")]) == 2
    told = f"expected the split that {files}/scores.npy is of, {files}/val.h5 (so {files}/scores.npy.split says)"
    assert f"error: --split: {told}, got {files}/train.h5 with other captions\n" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()
    assert cli.main([*arguments, str(files / "val.h5")]) == 0
    assert "assumed" not in checked(tmp_path / "r.html").text
    assert f'<th scope="row">scored by</th><td>{files}/run/best</td>' in (tmp_path / "r.html").read_text()
    assert "says its split" not in capsys.readouterr().out


def test_scores_that_nothing_says_the_split_of(files, tmp_path, capsys):
    """Another model's, or others under the name of those that the file beside them is of."""
    scores = np.load(files / "scores.npy")
    shutil.copy(files / "scores.npy", tmp_path / "alone.npy")
    shutil.copy(files / "scores.npy.split", tmp_path / "other.npy.split")
    np.save(tmp_path / "other.npy", scores + 1)
    shutil.copy(files / "scores.npy", tmp_path / "user.npy")
    (tmp_path / "user.npy.split").write_text("[1]")
    for name in ("alone", "other", "user"):
        path, out = tmp_path / f"{name}.npy", tmp_path / f"{name}.html"
        arguments = ["report", "--scores", str(path), "--out", str(out), "--split", str(files / "train.h5")]
        assert cli.main(arguments) == 0
        told = f"names and captions are those of {files}/train.h5: nothing beside {path} says its split\n"
        assert told in capsys.readouterr().out
        assert f"{files}/train.h5 (assumed: nothing beside the scores says it)" in checked(out).text


def test_scores_by_words_have_their_split_beside_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 0), ("b", 1)):
        record = [
            {"image": scene.image, "labels": scene.labels, "boxes": scene.boxes.tolist(), "relations": scene.relations}
            | {"captions": scene.captions}
            for scene in synthetic_scenes(2, seed=seed).scenes
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in record))
    assert cli.main(["evaluate", "a.jsonl", "--scores", "s.npy"]) == 0
    assert cli.main(["report", "--scores", "s.npy", "--split", "b.jsonl"]) == 2
    assert "expected the split that s.npy is of, a.jsonl (so s.npy.split says), got b.jsonl" in capsys.readouterr().err
    assert cli.main(["report", "--scores", "s.npy", "--split", "a.jsonl"]) == 0
    assert '<th scope="row">scored by</th><td>scan_t2i</td>' in (tmp_path / "report.html").read_text()


SAVED = ["--scores", "{f}/scores.npy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "RUN: expected the directory of a run, or --scores with a saved matrix, got neither"),
        (["{f}/run"], "--split: expected the split to evaluate the run on (or --scores), got none"),
        (["{f}/absent", "--split", "{f}/val.h5"], "run.json: expected the configuration of a training run"),
        (["{t}/nolog", "--split", "{f}/val.h5"], "log.jsonl: expected the log of a training run, got no such file"),
        (["{t}/empty", "--split", "{f}/val.h5"], "log.jsonl: expected at least one step with a loss, got none"),
        (["{f}/run/best", "--split", "{f}/val.h5"], "of a training run, got a model of the run {f}/run"),
        (
            ["{f}/scores.npy"],
            "RUN: expected the directory of a run, got the file {f}/scores.npy (--scores takes a matr",
        ),
        (["{f}/run", "--split", "{f}/absent.h5"], "absent.h5"),
        (["{t}/nomodel", "--split", "{f}/val.h5"], "nomodel: expected a model in best or last/, got none"),
        (
            ["--scores", "{t}/turned.npy", "--split", "{f}/val.h5"],
            "turned.npy: expected shape (20, 40) (images, captions of {f}/val.h5), got (40, 20) (its transpose has it)",
        ),
        (
            ["--scores", "{t}/turned.npy"],
            "--captions-per-image: expected 5 captions for each of 40 images (200), got ",
        ),
        (["--scores", "{t}/turned.npy", "--captions-per-image", "2"], "(80), got 20 (its transpose has it)"),
        (SAVED, "for each of 20 images (100), got 40 (--captions-per-image 2 would fit)"),
        ([*SAVED, "--captions-per-image", "3"], "(60), got 40 (--captions-per-image 2 would fit)"),
        (["--scores", "{t}/odd.npy"], "(100), got 39 (--caption-to-image or --split tells whose each is)"),
        (["--scores", "{t}/no.npy"], "--scores: expected a .npy file, got {t}/no.npy (no such file)"),
        (["--scores", "{t}"], "--scores: expected a .npy file, got {t} (a directory)"),
        (["--scores", "{t}/raw.dat"], "raw.dat: expected a .npy file of one floating matrix, got another or a pickled"),
        ([*SAVED, "--captions", "{t}/no.txt"], "--captions: expected a text file, got {t}/no.txt (no such file)"),
        ([*SAVED, "--caption-to-image", "{t}"], "--caption-to-image: expected .npy or text, got {t} (a directory)"),
        (["--scores", "{t}/nan.npy", "--captions-per-image", "2"], "scores: expected no NaN, got one at image 3, capt"),
        (
            ["--scores", "{t}/whole.npy"],
            "whole.npy: expected a floating matrix (n_image, n_caption), got int64",
        ),
        (["--scores", "{t}/pickled.npy"], "pickled.npy: expected a .npy file of one floating matrix, got another or a"),
        (["--scores", "{t}/endless.npy"], "endless.npy: expected a .npy file of one floating matrix, got another or a"),
        (
            ["--scores", "{t}/huge.npy"],
            "huge.npy: expected a .npy file of one floating matrix, got a truncated one: expected 4000000000",
        ),
        (["--scores", "{t}/a.npz"], "got an archive; this makes one: np.save('scores.npy', np.load("),
        (["--scores", "{t}/zip.npy"], "zip.npy: expected a .npy file of one floating matrix, got another or a"),
        ([*SAVED, "--caption-to-image", "{t}/endless.npy"], "endless.npy: expected an integer for each caption, got"),
        (
            ["--scores", "{t}/nan.npy", "--images", "{t}"],
            "--images: expected --split with it (the split names the images)",
        ),
        (
            [*SAVED, "--split", "{f}/val.h5", "--images", "{t}/no"],
            "--images: expected a directory",
        ),
        (
            [*SAVED, "--split", "{f}/val.h5", "--captions", "x"],
            "--captions: expected none beside",
        ),
        (
            [*SAVED, "--captions", "{t}/two.txt", "--captions-per-image", "2"],
            "--captions: expected 40",
        ),
        ([*SAVED, "--caption-to-image", "{t}/two.txt"], "two.txt: expected an integer for each"),
        (
            [*SAVED, "--captions-per-image", "2", "--folds", "3"],
            "folds: expected an integer >= 1",
        ),
        (
            [*SAVED, "--scores", "{t}/turned.npy"],
            "turned.npy: expected shape (20, 40) (as {f}/scores.npy), got (40, 20) (its transpose has it)",
        ),
        ([*SAVED, "--scores", "{t}/odd.npy"], "odd.npy: expected shape (20, 40) (as {f}/scores.npy), got (20, 39)"),
        ([*SAVED, *SAVED, "--out", "{f}/scores.npy"], "--out: expected another file than that of --scores, got"),
        ([*SAVED, "--which", "best"], "--which: expected none beside --scores"),
        ([*SAVED, "--device", "cpu"], "--device: expected none beside --scores (no model is run), got cpu"),
        ([*SAVED, "--engine", "eager"], "--engine: expected none beside --scores (no model is run), got eager"),
        ([*SAVED, "--precision", "int8"], "--precision: expected none beside --scores (no model is run), got int8"),
        ([*SAVED, "--queries", "-1"], "--queries: expected an integer >= 0, got -1"),
        (
            [*SAVED, "--captions-per-image", "2", "--out", "{t}/no/r.html"],
            "--out: expected a file",
        ),
    ],
)
def test_bad_input_gives_one_line(files, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    scores = np.load(files / "scores.npy")
    np.save("turned.npy", scores.T)
    np.save("whole.npy", scores.astype(np.int64))
    np.save("odd.npy", scores[:, 1:])
    np.savez("a.npz", sims=scores)
    scores.astype(np.float16).tofile("raw.dat")  # a memmap without its header
    np.save("pickled.npy", np.array({"sims": scores}), allow_pickle=True)
    heads = {"endless": "{'shape': ((", "huge": f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30},)}}"}
    for name, head in heads.items():
        (tmp_path / f"{name}.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode())
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04" + bytes(30))
    scores[3, 4] = np.nan
    np.save("nan.npy", scores)
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    for name in ("nolog", "empty", "nomodel"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"training": {}, "model": {}}))
    (tmp_path / "empty" / "log.jsonl").write_text("\n")
    (tmp_path / "nomodel" / "log.jsonl").write_text('{"step": 1, "epoch": 0, "loss": 1.0, "learning_rate": 0.1}\n')
    there = sorted(path.name for path in tmp_path.rglob("*"))
    names = {"f": str(files), "t": str(tmp_path)}
    assert cli.main(["report", *(x.format(**names) for x in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cmsei-fast: error: ")
    assert message.format(**names) in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == there


def test_without_matplotlib_is_one_line(files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["report", str(files / "run"), "--split", str(files / "val.h5")]) == 2
    error = capsys.readouterr().err
    assert error == (
        "cmsei-fast: error: report: expected the package matplotlib (pip install 'cmsei-fast[plot]'), got none\n"
    )
