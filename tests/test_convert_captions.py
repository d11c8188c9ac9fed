"""Captions of images that come from elsewhere: their files, and how names are matched."""

from __future__ import annotations

import json

import pytest

from cmsei_fast.data.convert import caption_lines, caption_table, coco_captions, first_captions, karpathy_captions
from cmsei_fast.data.convert.matching import image_key, match_images


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("1000092795.jpg", "1000092795"),
        ("1000092795", "1000092795"),
        ("COCO_val2014_000000391895.jpg", "391895"),
        ("000000391895.npz", "391895"),
        ("images\\a/b.c.PNG", "b.c"),
        ("synthetic-0-1", "synthetic-0-1"),
        ("00", "0"),
    ],
)
def test_keys(name, key):
    assert image_key(name) == key


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_lines_with_a_name_each_caption(tmp_path):
    caps, ids = write(tmp_path / "c.txt", " One. \nTwo\r\nThrée"), write(tmp_path / "i.txt", "b\na\nb\n")
    got = caption_lines(caps, ids)
    assert got.images == ("b", "a")
    assert got.captions == ("One.", "Two", "Thrée")
    assert got.caption_to_image.tolist() == [0, 1, 0]


def test_lines_with_a_name_each_image(tmp_path):
    caps, ids = write(tmp_path / "c.txt", "1\n2\n3\n4\n"), write(tmp_path / "i.txt", "\ufeffb\na\n")
    got = caption_lines(caps, ids)
    assert got.images == ("b", "a")
    assert got.caption_to_image.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("caps", "ids", "message"),
    [
        ("1\n2\n3\n", "a\nb\n", "i.txt: expected one line for each of 3 captions or a divisor, got 2"),
        (
            "1\n\n2\n\n",
            "a\nb\n",
            "i.txt: expected one line for each of 3 captions (line 2 is blank) or a divisor, got 2",
        ),
        ("1\n", "a\nb\n", "i.txt: expected one line for each of 1 captions or a divisor, got 2"),
        ("1\n2\n3\n4\n", "a\na\n", "i.txt: expected one line per image, each name once, got 'a' twice"),
        ("", "a\n", "c.txt: expected at least one line, got an empty file"),
        (b"ok\n\xe9t\xe9\n", "a\n", "c.txt, line 2: expected UTF-8 text, got byte 0xe9 at column 1"),
        ("ok\na\0b\n", "a\n", r"c.txt, line 2: expected text without NUL and lone surrogates, got 'a\x00b'"),
        ("1\n2\n", "a\n\0\n", r"i.txt, line 2: expected text without NUL and lone surrogates, got '\x00'"),
    ],
)
def test_bad_lines(tmp_path, caps, ids, message):
    with pytest.raises(ValueError, match="expected") as caught:
        caption_lines(write(tmp_path / "c.txt", caps), write(tmp_path / "i.txt", ids))
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_first_captions(tmp_path):
    table = caption_table(write(tmp_path / "r.token", "b\t1\na\t2\nb\t3\nb\t4\na\t5\n"))
    got = first_captions(table, 2)
    assert (got.images, got.captions) == (("b", "a"), ("1", "2", "3", "5"))
    assert got.caption_to_image.tolist() == [0, 1, 0, 1]
    assert first_captions(table, 3).captions == table.captions


def test_token_table(tmp_path):
    got = caption_table(write(tmp_path / "r.token", "10.jpg#0\tA dog .\n10.jpg#1\tTwo\tdogs\n9.jpg#0\tNone\n\n"))
    assert got.images == ("10.jpg", "9.jpg")
    assert got.captions == ("A dog .", "Two\tdogs", "None")
    assert got.caption_to_image.tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match=r"t\.txt, line 2: expected an image's name, a tab and a caption, got 'b c'"):
        caption_table(write(tmp_path / "t.txt", "a\tb\nb c\n"))
    with pytest.raises(ValueError, match=r"t\.txt, line 2: expected text without NUL and lone surrogates, got"):
        caption_table(write(tmp_path / "t.txt", "a\tb\nb\tc\0\n"))


def dataset(tmp_path, *images):
    return write(tmp_path / "dataset_coco.json", json.dumps({"images": images, "dataset": "coco"}))


def image(name, split, *raw):
    return {"filename": name, "split": split, "imgid": 0, "sentences": [{"raw": text, "tokens": []} for text in raw]}


def test_karpathy(tmp_path):
    images = image("1.jpg", "train", "a", "b"), image("2.jpg", "test", "c\n"), image("3.jpg", "restval", "d  e")
    path = dataset(tmp_path, *images)
    got = karpathy_captions(path, ["train", "restval"])
    assert got.images == ("1.jpg", "3.jpg")
    assert got.captions == ("a", "b", "d e")
    assert got.caption_to_image.tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="expected images of split 'val', got splits restval, test, train"):
        karpathy_captions(path, ["val"])
    twice = dataset(tmp_path, *images, image("1.jpg", "test", "f"), image("1.jpg", "train", "g"))
    assert karpathy_captions(twice, ["test"]).images == ("2.jpg", "1.jpg")
    with pytest.raises(ValueError, match=r"images\[4\]: expected each filename once, got '1.jpg' as in images\[0\]"):
        karpathy_captions(twice, ["train"])


@pytest.mark.parametrize(
    "bad",
    [
        {},
        3,
        image("1.jpg", "test"),
        image(1, "test", "a"),
        {"filename": "a", "split": "test", "sentences": [{"raw": 3}]},
    ],
)
def test_bad_karpathy_images(tmp_path, bad):
    with pytest.raises(ValueError, match=r"images\[1\]: expected an object with filename, split and at least one of"):
        karpathy_captions(dataset(tmp_path, image("1.jpg", "test", "a"), bad), ["test"])


@pytest.mark.parametrize(
    ("bad", "place"),
    [(image("2.jpg", "test", "a", "b\0"), r"sentences\[1\]"), (image("\0", "test", "a"), "filename")],
)
def test_karpathy_text_that_no_split_can_hold(tmp_path, bad, place):
    path = dataset(tmp_path, image("1.jpg", "test", "a"), bad)
    with pytest.raises(ValueError, match=rf"dataset_coco\.json: images\[1\]: {place}: expected text without NUL"):
        karpathy_captions(path, ["test"])


@pytest.mark.parametrize("text", ["{", "[]", '{"images": {}}', "[" * 100000, b"\xff"])
def test_bad_karpathy_files(tmp_path, text):
    with pytest.raises(ValueError, match=r"dataset_coco\.json: "):
        karpathy_captions(write(tmp_path / "dataset_coco.json", text), ["test"])


def annotations(tmp_path, **parts):
    images = [{"id": 9, "file_name": "COCO_val2014_000000000009.jpg"}, {"id": 4, "file_name": "4.jpg"}]
    images.append({"id": 7, "file_name": "7.jpg"})
    notes = [(4, "b\n"), (9, "a  dog"), (4, "c")]
    record = {"images": images, "annotations": [{"image_id": i, "id": 0, "caption": text} for i, text in notes]}
    return write(tmp_path / "captions_val2014.json", json.dumps(record | parts))


def test_coco(tmp_path):
    got = coco_captions(annotations(tmp_path))
    assert got.images == ("COCO_val2014_000000000009.jpg", "4.jpg")
    assert got.captions == ("a dog", "b", "c")
    assert got.caption_to_image.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"images": None}, r"images: expected a list, got None"),
        ({"images": [{"id": 9}]}, r"images\[0\]: expected file_name and an id of its own, got {'id': 9}"),
        ({"images": [{"id": 9, "file_name": "a"}] * 2}, r"images\[1\]: expected file_name and an id of its own, got"),
        (
            {"images": [{"id": i, "file_name": "a"} for i in (1, 2)]},
            r"images\[1\]: expected each file_name once, got 'a' as in images\[0\]",
        ),
        ({"annotations": [3]}, r"annotations\[0\]: expected the image_id of one of images and a caption, got 3"),
        ({"annotations": [{"image_id": 5, "caption": "a"}]}, r"annotations\[0\]: expected the image_id of one of"),
        ({"annotations": [{"image_id": 4, "bbox": []}]}, r"annotations\[0\]: expected .* and a caption, got"),
        ({"annotations": [{"image_id": 4, "caption": "\0"}]}, r"annotations\[0\]: caption: expected text without NUL"),
        ({"images": [{"id": 4, "file_name": "\0"}]}, r"images\[0\]: file_name: expected text without NUL"),
    ],
)
def test_bad_coco(tmp_path, parts, message):
    with pytest.raises(ValueError, match=rf"captions_val2014\.json: {message}"):
        coco_captions(annotations(tmp_path, **parts))


def test_one_kind_of_json_in_place_of_the_other(tmp_path):
    with pytest.raises(ValueError, match=r"expected images with their split, got MS-COCO's annotations \(without --sp"):
        karpathy_captions(annotations(tmp_path), ["val"])
    with pytest.raises(ValueError, match=r"a dataset_\*\.json goes with --split\), got images, dataset$"):
        coco_captions(dataset(tmp_path, image("1.jpg", "test", "a")))


def test_choice_of_images(tmp_path):
    captions = caption_table(write(tmp_path / "t.txt", "COCO_val2014_000000000012.jpg\ta\n7.jpg\tb\n"))
    got = match_images(["7", "3", "12"], "s.tsv", captions)
    assert got.order == (2, 0)
    assert got.ids == ("COCO_val2014_000000000012.jpg", "7.jpg")
    assert match_images(["7", "3"], "s.tsv", None).order == (0, 1)
    with pytest.raises(
        ValueError, match=r"s\.tsv: expected the 2 images of .*t\.txt, 1 are missing, '7.jpg' the first"
    ):
        match_images(["12"], "s.tsv", captions)
    with pytest.raises(ValueError, match=r"s\.tsv: expected each image once, got '12' and '012' \(line 1 and line 2\)"):
        match_images(["12", "012"], "s.tsv", None, ["line 1", "line 2"])
    twice = caption_table(write(tmp_path / "t.txt", "12.jpg\ta\n012.jpg\tb\n"))
    with pytest.raises(ValueError, match=r"expected one name per image, got '12\.jpg' under another name too"):
        match_images(["12"], "s.tsv", twice)
