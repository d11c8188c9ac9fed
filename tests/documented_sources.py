"""Small files under the names that the command lines of README and docs read, in the field's formats."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import documents
import numpy as np
from training_runs import tiny_model

from cmsei_fast.data import Split, split_from_scenes, synthetic_scenes, write_split

WIDTH = 16
BOXES = np.array([[0, 0, 60, 60], [120, 0, 300, 240], [10, 20, 499, 374]], np.float32)


@cache
def made_split() -> Split:
    """Twenty images with boxes, scene graphs and five captions each."""
    made = synthetic_scenes(5, width=WIDTH, captions_per_image=5)
    return split_from_scenes(made.scenes, features=made.features)


def _split(path: Path) -> None:
    write_split(path, made_split())


def _model(path: Path) -> None:
    tiny_model(made_split()).save_pretrained(path)


def _precomp(folder: Path) -> None:
    """SCAN's folder: features and captions, no boxes."""
    folder.mkdir()
    split = made_split()
    assert split.features is not None
    for name, count in (("train", 4), ("dev", 8), ("test", 20), ("testall", 20)):
        np.save(folder / f"{name}_ims.npy", split.features[: split.offsets[count]].reshape(count, -1, WIDTH))
        (folder / f"{name}_caps.txt").write_text("\n".join(split.captions[: 5 * count]) + "\n", encoding="utf-8")


def _scores(path: Path) -> None:
    split = made_split()
    np.save(path, np.random.default_rng(0).standard_normal((len(split), len(split.captions)), dtype=np.float32))


def _vectors(path: Path) -> None:
    lines = (" ".join([word, *[str(i % 7)] * 300]) for i, word in enumerate(("a", "man", "wearing", "hat", "is"), 1))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _tsv(path: Path) -> None:
    """One image of bottom-up attention a file; its name is that of the file's last digit."""
    numbers = [base64.b64encode(x).decode() for x in (BOXES, np.ones((3, WIDTH), np.float32))]
    path.write_text("\t".join([path.name[-1], "500", "375", "3", *numbers]) + "\n", encoding="utf-8")


def _npz(folder: Path) -> None:
    folder.mkdir()
    for name in "01":
        entries = {"x": np.ones((3, WIDTH), np.float32), "bbox": BOXES, "num_bbox": 3}
        np.savez(folder / f"{name}.npz", image_h=375, image_w=500, **entries)


def _karpathy(split: str) -> Callable[[Path], None]:
    images = [{"filename": f"{i}.jpg", "split": split, "sentences": [{"raw": "A dog."}]} for i in range(2)]
    return lambda path: _json(path, {"images": images})


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _names(path: Path) -> None:
    split = made_split()
    _json(path, {"objects": split.object_names, "predicates": split.predicate_names})


def _scenes(path: Path) -> None:
    import gzip

    scenes = synthetic_scenes(5, width=WIDTH).scenes
    names = ("image", "labels", "relations", "captions")
    lines = ({x: getattr(s, x) for x in names} | {"boxes": s.boxes.tolist()} for s in scenes)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _prediction(path: Path) -> None:
    """Scene-Graph-Benchmark's of the twenty images, two boxes each."""
    boxes = {"bbox": [[0, 0, 60, 60], [120, 0, 300, 240]], "bbox_labels": [1, 2], "bbox_scores": [0.9, 0.8]}
    relations = {"rel_pairs": [[0, 1]], "rel_labels": [1], "rel_scores": [0.9]}
    _json(path, {str(i): boxes | relations for i in range(20)})


def _information(path: Path) -> None:
    names = {"ind_to_classes": ["__background__", "dog", "fence"], "ind_to_predicates": ["__background__", "near"]}
    _json(path, {"idx_to_files": [f"/images/{name}" for name in made_split().ids], **names})


def _tokens(path: Path) -> None:
    path.write_text("".join(f"{name}#0\tA dog.\n" for name in made_split().ids), encoding="utf-8")


def _settings(path: Path) -> None:
    """As docs/ablation.md prints them."""
    (text,) = (text for name, text in documents.blocks("json") if name == "ablation.md")
    path.write_text(text, encoding="utf-8")


def _image(path: Path) -> None:
    """A grey PNG, whatever the ending of its name."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 500, 375, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + b"\x80" * 500 for _ in range(375)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


SOURCES: dict[str, Callable[[Path], None]] = {
    "train.h5": _split,
    "dev.h5": _split,
    "test.h5": _split,
    "f30k_test.h5": _split,
    "runs/f30k/best": _model,
    "data/f30k_precomp": _precomp,
    "data/coco_precomp": _precomp,
    "coco_test.h5": _split,
    "coco.npy": _scores,
    "t2i.npy": _scores,
    "i2t.npy": _scores,
    "own.h5": _split,
    "runs/coco/best": _model,
    "glove.6B.300d.txt": _vectors,
    "trainval.tsv.0": _tsv,
    "trainval.tsv.1": _tsv,
    "dataset_coco.json": _karpathy("val"),
    "dataset_flickr30k.json": _karpathy("test"),
    "features/": _npz,
    "custom_prediction.json": _prediction,
    "custom_data_info.json": _information,
    "c.token": _tokens,
    "test.jsonl.gz": _scenes,
    "labels.json": _names,
    "17.jpg": _image,
    "settings.json": _settings,
}
