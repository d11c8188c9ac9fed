"""A split: its consistency checks, the choice of images, and splits from scene graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from splits import assert_same, random_split

from cmsei_fast.data import Scene, SceneSet, Split, split_from_scenes, synthetic_scenes


def changed(name, index, value):
    def change(parts):
        array = parts[name].copy()
        array[index] = value
        return {name: array}

    return change


def setting(**parts):
    return lambda _: parts


BAD = {
    "list of ids": (setting(ids=["0.jpg"]), TypeError, "ids: expected a tuple of strings, got list; tuple(ids) is one"),
    "array of captions": (
        lambda p: {"captions": np.array(p["captions"])},
        TypeError,
        "captions: expected a tuple of strings, got ndarray; tuple(captions.tolist()) is one",
    ),
    "number as id": (setting(ids=(1,)), TypeError, "ids[0]: expected a string, got int"),
    "no image": (setting(ids=()), ValueError, "ids: expected at least one image, got none"),
    "offsets int32": (
        lambda p: {"offsets": p["offsets"].astype(np.int32)},
        TypeError,
        "offsets: expected a numpy array of int64, got one of int32; offsets.astype(numpy.int64) is one",
    ),
    "offsets list": (
        lambda p: {"offsets": p["offsets"].tolist()},
        TypeError,
        "offsets: expected a numpy array of int64, got list; numpy.array(offsets, numpy.int64) is one",
    ),
    "offsets tensor": (
        lambda p: {"offsets": torch.tensor(p["offsets"])},
        TypeError,
        "offsets: expected a numpy array of int64, got Tensor; offsets.numpy() is an array",
    ),
    "map of floats": (
        lambda p: {"caption_to_image": p["caption_to_image"] + 0.5},
        TypeError,
        "caption_to_image: expected a numpy array of int64, got one of float64",
    ),
    "boxes float16": (
        lambda p: {"boxes": p["boxes"].astype(np.float16)},
        TypeError,
        "boxes: expected a numpy array of float32, got one of float16; boxes.astype(numpy.float32) is one",
    ),
    "offsets short": (lambda p: {"offsets": p["offsets"][:-1]}, ValueError, "offsets: expected shape (6,), got (5,)"),
    "offsets begin": (changed("offsets", 0, 1), ValueError, "offsets[0]: expected 0, got 1"),
    "empty image": (changed("offsets", 1, 0), ValueError, "offsets[1]: expected at least 1, got 0"),
    "caption of no image": (
        changed("caption_to_image", 3, 5),
        ValueError,
        "caption_to_image[3]: expected an index from 0 to 4, got 5",
    ),
    "captions": (setting(captions=()), ValueError, "caption_to_image: expected shape (0,), got (10,)"),
    "features float64": (
        lambda p: {"features": p["features"].astype(float)},
        TypeError,
        "features: expected float16 or float32, got float64; features.astype(numpy.float32) has it",
    ),
    "features tensor": (
        lambda p: {"features": torch.from_numpy(np.array(p["features"]))},
        TypeError,
        "features: expected a numpy array or the like, got a tensor; features.numpy() is an array",
    ),
    "features rank": (lambda p: {"features": p["features"][None]}, ValueError, "features: expected shape ("),
    "features type": (
        setting(features=[1.0]),
        TypeError,
        "features: expected an array of float16 or float32, got list",
    ),
    "features of each image": (
        lambda p: {"features": np.split(np.array(p["features"]), p["offsets"][1:-1])},
        TypeError,
        "features: expected an array of float16 or float32, got list; numpy.concatenate puts those of all images "
        "one behind another",
    ),
    "boxes shape": (lambda p: {"boxes": p["boxes"][:, :3]}, ValueError, "boxes: expected shape ("),
    "boxes nan": (changed("boxes", (2, 1), np.nan), ValueError, "boxes[2]: expected finite pixels with x1 <= x2"),
    "boxes inside out": (changed("boxes", (1, 0), 900), ValueError, "boxes[1]: expected finite pixels with x1 <= x2"),
    "sizes": (changed("sizes", (4, 1), 0), ValueError, "sizes[4]: expected finite pixels > 0, got ["),
    "label": (changed("labels", 2, 4), ValueError, "labels[2]: expected an index from -1 to 3, got 4"),
    "labels without names": (
        lambda p: {"object_names": (), "labels": np.where(np.arange(len(p["labels"])) < 2, -1, 3).astype(np.int32)},
        ValueError,
        "object_names: expected the names that labels index, got none, and labels[2] is 3",
    ),
    "relations without names": (
        setting(predicate_names=()),
        ValueError,
        "predicate_names: expected the names of the predicates of relations, got none",
    ),
    "label scores": (
        changed("label_scores", 2, np.inf),
        ValueError,
        "label_scores[2]: expected a finite number, got inf",
    ),
    "no relation offsets": (
        setting(relation_offsets=None),
        ValueError,
        "relation_offsets: expected the relations before each image, got None",
    ),
    "no relations": (setting(relations=None), ValueError, "relation_offsets: expected None (there are no relations)"),
    "relation region": (
        changed("relations", (0, 2), 5),
        ValueError,
        "relations[0]: expected subject and object regions of the relation's image, got [",
    ),
    "predicate": (
        changed("relations", (0, 1), 2),
        ValueError,
        "relations[0]: expected a predicate from 0 to 1 (predicate_names) in the middle, got [",
    ),
    "relation score": (
        changed("relation_scores", 1, 0),
        ValueError,
        "relation_scores[1]: expected a confidence > 0 and <= 1, got 0.0",
    ),
}


@pytest.mark.parametrize(("change", "kind", "message"), BAD.values(), ids=BAD)
def test_bad_parts(change, kind, message):
    good = random_split().__dict__
    with pytest.raises(kind, match="expected") as caught:
        Split(**(good | change(good)))
    assert str(caught.value).startswith(message)


def test_least_and_counts():
    split = Split(("a",), np.array([0, 2]), (), np.zeros(0, np.int64))
    assert (len(split), split.n_captions, split.features) == (1, 0, None)
    assert (len(random_split()), random_split().n_captions) == (5, 10)


def test_subset_agrees_with_a_search():
    split = random_split(8, seed=3)
    images = np.array([5, 0, 6, 5])
    got = split.subset(images)
    assert got.ids == ("5.jpg", "0.jpg", "6.jpg", "5.jpg")
    for new, old in enumerate(images):
        rows, new_rows = (slice(s.offsets[i], s.offsets[i + 1]) for s, i in ((split, old), (got, new)))
        for name in ("features", "boxes", "labels", "label_scores"):
            np.testing.assert_array_equal(getattr(got, name)[new_rows], getattr(split, name)[rows])
        edges, new_edges = (
            slice(s.relation_offsets[i], s.relation_offsets[i + 1]) for s, i in ((split, old), (got, new))
        )
        np.testing.assert_array_equal(got.relations[new_edges], split.relations[edges])
        np.testing.assert_array_equal(got.relation_scores[new_edges], split.relation_scores[edges])
        np.testing.assert_array_equal(got.sizes[new], split.sizes[old])
        assert [c for c, i in zip(got.captions, got.caption_to_image, strict=True) if i == new] == [
            c for c, i in zip(split.captions, split.caption_to_image, strict=True) if i == old
        ]
    assert (np.diff(got.caption_to_image) >= 0).all()


def test_subset_of_all_is_the_split():
    split = random_split()
    assert_same(split.subset(np.arange(5)), split)


@pytest.mark.parametrize(
    ("images", "kind", "message"),
    [
        ([], ValueError, "images: expected (n,) integers with n >= 1, got shape (0,)"),
        ([0, 5], ValueError, "images[1]: expected an index from 0 to 4, got 5"),
        ([True] * 5, TypeError, "images: expected integers, got bool"),
    ],
)
def test_subset_bad_images(images, kind, message):
    with pytest.raises(kind, match="expected") as caught:
        random_split().subset(np.array(images))
    assert str(caught.value) == message


def scene(name="1.jpg", labels=("dog", "tree"), relations=((0, "near", 1),), size=None):
    boxes = np.array([[0, 0, 10, 20], [5, 5, 30, 8]], dtype=np.float32)[: len(labels)]
    return Scene(name, labels, boxes, relations, ("A dog.", "A tree."), size)


def test_split_from_scenes():
    scenes = SceneSet((scene(), scene("2.jpg", ("ant",), ((0, "above", 0),), size=(64.0, 48.0))))
    split = split_from_scenes(scenes)
    assert split.ids == ("1.jpg", "2.jpg")
    assert split.offsets.tolist() == [0, 2, 3]
    assert split.captions == ("A dog.", "A tree.") * 2
    assert split.caption_to_image.tolist() == [0, 0, 1, 1]
    assert split.object_names == ("ant", "dog", "tree")
    assert split.predicate_names == ("above", "near")
    assert split.labels.tolist() == [1, 2, 0]
    assert split.relations.tolist() == [[0, 1, 1], [0, 0, 0]]
    assert split.relation_offsets.tolist() == [0, 1, 2]
    assert split.sizes.tolist() == [[30, 20], [64, 48]]
    assert split.boxes.tolist() == [[0, 0, 10, 20], [5, 5, 30, 8], [0, 0, 10, 20]]


def test_split_from_scenes_with_other_names():
    split = split_from_scenes(SceneSet((scene(),)), object_names=["tree"], predicate_names=["on"], size=(40, 30))
    assert split.labels.tolist() == [-1, 0]
    assert split.relations.shape == (0, 3)
    assert split.sizes.tolist() == [[40, 30]]


def test_split_from_synthetic_scenes():
    made = synthetic_scenes(2, 3, regions=5, width=8)
    split = split_from_scenes(made.scenes, features=made.features, size=(500, 375))
    np.testing.assert_array_equal(split.features, np.concatenate(list(made.features)))
    np.testing.assert_array_equal(split.features[split.offsets[1] : split.offsets[2]], made.features[1])
    assert split.captions == tuple(made.scenes.captions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"object_names": ["a", "b", "a"]}, "object_names: expected each name once, got 'a' twice"),
        ({"size": (1, 2, 3)}, "size: expected width and height, or (1, 2) of them, got shape (3,)"),
        (
            {"features": np.zeros((1, 3, 4), np.float32)},
            "features: expected shape (1, R, Dx) with 2 regions in all, got",
        ),
        (
            {"features": np.zeros((3, 4), np.float32)},
            "features: expected shape (2, Dx), one row per region, got (3, 4)",
        ),
    ],
)
def test_split_from_scenes_bad_options(options, message):
    with pytest.raises(ValueError, match="expected") as caught:
        split_from_scenes(SceneSet((scene(),)), **options)
    assert str(caught.value).startswith(message)


def test_split_from_scenes_takes_arrays():
    with pytest.raises(TypeError, match=r"^features: expected an array of float16 or float32, got list$"):
        split_from_scenes(SceneSet((scene(),)), features=[[1.0]])


def test_a_split_is_shown_in_one_line():
    split = split_from_scenes(synthetic_scenes(2, width=16).scenes)
    assert str(split).startswith(f"{len(split)} images of ")
    assert f", {split.n_captions} captions; boxes; labels of {len(split.labels)} of {len(split.labels)} " in str(split)
    assert repr(split) == f"Split({split})"
    assert len(repr(split)) < 200
