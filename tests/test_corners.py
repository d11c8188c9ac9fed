"""Boxes given as x, y, width, height are told as that, by the library and by every converter."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from cmsei_fast import cli
from cmsei_fast.data import Split
from cmsei_fast.data.corners import instead_of_corners
from cmsei_fast.report import explain_features

# Of an image of 64 × 48 pixels, the first two inside out as corners.
SIZES = [[30, 20, 10, 25], [50, 2, 14, 46], [0, 0, 64, 48]]
TOLD = "; they look like x, y, width, height: x + width and y + height are x2 and y2"


def split(boxes: Any, sizes: Any = ((64, 48),)) -> Split:
    return Split(
        ids=("a.jpg",),
        offsets=np.array([0, len(boxes)]),
        captions=("A dog .",),
        caption_to_image=np.array([0]),
        boxes=np.array(boxes, dtype=np.float32),
        sizes=None if sizes is None else np.array(sizes, dtype=np.float32),
    )


@pytest.mark.parametrize("sizes", [((64, 48),), None])
def test_a_split_of_sizes(sizes: Any) -> None:
    with pytest.raises(ValueError, match=r"^boxes\[0\]: expected .* x1 <= x2 .*, got \[30.0, 20.0, 10.0,") as told:
        split(SIZES, sizes)
    assert str(told.value).endswith(TOLD)


@pytest.mark.parametrize(
    "boxes",
    [
        [[30, 20, 10, 25], [20, 10, 60, 40]],  # corners, one of them wrong: as sizes the second would be outside
        [[30, 20, -10, 25], [0, 0, 1, 1]],
        [[30, 20, 10, np.nan], [0, 0, 1, 1]],
        [[0, 0, 1, 1], [2, 2, 3, 3]],
    ],
)
def test_boxes_that_do_not_look_like_sizes(boxes: Any) -> None:
    assert instead_of_corners(boxes, (64, 48)) == ""


def test_an_explanation_is_not_drawn_of_sizes() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((3, 8)), rng.standard_normal((4, 8))
    for size in (None, (64, 48)):
        with pytest.raises(ValueError, match=r"^boxes\[0\]: expected .* x1 <= x2 and y1 <= y2, got .*\]") as told:
            explain_features(*features, boxes=SIZES, size=size)
        assert str(told.value).endswith(TOLD)
    with pytest.raises(ValueError, match=r"^boxes\[2\]: expected finite pixels .*, got \[0.0, 0.0, nan, 1.0\]$"):
        explain_features(*features, boxes=[[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, np.nan, 1]])


def write_npz(folder: Any) -> list[str]:
    features = np.ones((3, 4), dtype=np.float32)
    of_image = {"x": features, "bbox": np.float32(SIZES), "num_bbox": 3, "image_w": 64, "image_h": 48}
    (folder / "npz").mkdir()
    np.savez(folder / "npz" / "a.npz", **of_image)
    return ["npz", str(folder / "npz")]


def write_scan(folder: Any) -> list[str]:
    np.save(folder / "test_ims.npy", np.ones((1, 3, 4), dtype=np.float32))
    np.save(folder / "test_ims_bbx.npy", np.float32([SIZES]))
    np.save(folder / "test_ims_size.npy", np.float32([[64, 48]]))
    (folder / "test_caps.txt").write_text("A dog .\n" * 5)
    return ["scan", str(folder), "--split", "test"]


def write_jsonl(folder: Any) -> list[str]:
    record = {"image": "a.jpg", "labels": ["dog"] * 3, "boxes": SIZES, "relations": [], "captions": ["A dog ."]}
    (folder / "s.jsonl").write_text(json.dumps(record) + "\n")
    return ["jsonl", str(folder / "s.jsonl")]


def write_graph(folder: Any) -> list[str]:
    graph = {"bbox": SIZES, "bbox_labels": [1, 1, 1], "bbox_scores": [1, 1, 1], "rel_pairs": [[0, 1]]}
    graph |= {"rel_labels": [1], "rel_scores": [0.5]}
    info = {"idx_to_files": ["a.jpg"], "ind_to_classes": ["dog"], "ind_to_predicates": ["on"]}
    for name, record in (("custom_prediction", {"0": graph}), ("custom_data_info", info)):
        (folder / f"{name}.json").write_text(json.dumps(record))
    return ["scene-graph", str(folder / "custom_prediction.json"), str(folder / "custom_data_info.json")]


@pytest.mark.parametrize("write", [write_npz, write_scan, write_jsonl, write_graph])
def test_sizes_are_not_converted(write: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", *write(tmp_path), "--out", str(tmp_path / "o.h5")]) == 2
    err = capsys.readouterr().err
    assert "expected" in err
    assert "x1 <= x2" in err
    assert err.endswith(f"{TOLD}\n")
    assert not (tmp_path / "o.h5").exists()
