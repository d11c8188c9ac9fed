"""One split of a data set: images as regions with boxes, labels and relations, and their captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .corners import instead_of_corners


@dataclass(frozen=True, eq=False)
class Split:
    """N images with ΣR regions, E relations and M captions, all packed: no padding anywhere.

    Args:
        ids: N image names.
        offsets: (N + 1,) int64, regions before each image; each image has at least one.
        captions: M sentences.
        caption_to_image: (M,) int64, the image of each caption.
        features: (ΣR, Dx) float16 or float32; anything with ``shape`` and ``dtype`` that gives an array when sliced by
            rows, such as an array or a file's :class:`~cmsei_fast.data.MappedRows`.
        boxes: (ΣR, 4) float32, xyxy pixels.
        sizes: (N, 2) float32, width and height of the image in pixels.
        labels: (ΣR,) int32, index into ``object_names``, -1 for an unknown object.
        object_names: the names of the objects.
        label_scores: (ΣR,) float32, the detector's confidence.
        relations: (E, 3) int32, subject region (counted within its image), predicate, object region.
        relation_offsets: (N + 1,) int64, relations before each image.
        relation_scores: (E,) float32 in (0, 1].
        predicate_names: the names of the predicates.

    Raises:
        TypeError: for a type or dtype other than the above.
        ValueError: for parts that do not fit each other, and for numbers out of range.
    """

    ids: tuple[str, ...]
    offsets: np.ndarray
    captions: tuple[str, ...]
    caption_to_image: np.ndarray
    features: Any = None
    boxes: np.ndarray | None = None
    sizes: np.ndarray | None = None
    labels: np.ndarray | None = None
    object_names: tuple[str, ...] = ()
    label_scores: np.ndarray | None = None
    relations: np.ndarray | None = None
    relation_offsets: np.ndarray | None = None
    relation_scores: np.ndarray | None = None
    predicate_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("ids", "captions", "object_names", "predicate_names"):
            _check_strings(name, getattr(self, name))
        if not self.ids:
            raise ValueError("ids: expected at least one image, got none")
        n_image = len(self.ids)
        _check_array("offsets", self.offsets, "int64", (n_image + 1,))
        _check_offsets("offsets", self.offsets, least=1)
        n_region = int(self.offsets[-1])
        _check_array("caption_to_image", self.caption_to_image, "int64", (len(self.captions),))
        _check_range("caption_to_image", self.caption_to_image, 0, n_image - 1)
        if self.features is not None:
            _check_features(self.features, n_region)
        if self.boxes is not None:
            _check_array("boxes", self.boxes, "float32", (n_region, 4))
            self._check_boxes(self.boxes)
        if self.sizes is not None:
            _check_array("sizes", self.sizes, "float32", (n_image, 2))
            _check_rows("sizes", self.sizes, (np.isfinite(self.sizes) & (self.sizes > 0)).all(1), "finite pixels > 0")
        if self.labels is not None:
            _check_array("labels", self.labels, "int32", (n_region,))
            if not self.object_names and len(known := np.nonzero(self.labels != -1)[0]):
                got = f"none, and labels[{known[0]}] is {self.labels[known[0]]}"
                raise ValueError(f"object_names: expected the names that labels index, got {got}")
            _check_range("labels", self.labels, -1, len(self.object_names) - 1)
        if self.label_scores is not None:
            _check_array("label_scores", self.label_scores, "float32", (n_region,))
            _check_rows("label_scores", self.label_scores, np.isfinite(self.label_scores), "a finite number")
        if self.relations is not None:
            self._check_relations(self.relations)
        elif self.relation_offsets is not None or self.relation_scores is not None:
            name = "relation_offsets" if self.relation_offsets is not None else "relation_scores"
            raise ValueError(f"{name}: expected None (there are no relations), got an array")

    def _check_boxes(self, boxes: np.ndarray) -> None:
        good = np.isfinite(boxes).all(1) & (boxes[:, :2] <= boxes[:, 2:]).all(1)
        if good.all():
            return
        sizes = self.sizes
        if sizes is not None:
            fits = isinstance(sizes, np.ndarray) and sizes.shape == (len(self.ids), 2)
            sizes = np.repeat(sizes, np.diff(self.offsets), axis=0) if fits else None
        way = instead_of_corners(boxes, sizes)
        _check_rows("boxes", boxes, good, "finite pixels with x1 <= x2 and y1 <= y2", way)

    def _check_relations(self, relations: np.ndarray) -> None:
        if self.relation_offsets is None:
            raise ValueError("relation_offsets: expected the relations before each image, got None")
        _check_array("relation_offsets", self.relation_offsets, "int64", (len(self.ids) + 1,))
        _check_offsets("relation_offsets", self.relation_offsets, least=0)
        _check_array("relations", relations, "int32", (int(self.relation_offsets[-1]), 3))
        regions = np.repeat(np.diff(self.offsets), np.diff(self.relation_offsets))
        ends = relations[:, ::2]
        _check_rows(
            "relations",
            relations,
            ((ends >= 0) & (ends < regions[:, None])).all(1),
            "subject and object regions of the relation's image",
        )
        predicates, count = relations[:, 1], len(self.predicate_names)
        if len(relations) and not count:
            raise ValueError("predicate_names: expected the names of the predicates of relations, got none")
        expected = f"a predicate from 0 to {count - 1} (predicate_names) in the middle"
        _check_rows("relations", relations, (predicates >= 0) & (predicates < count), expected)
        if self.relation_scores is not None:
            scores = self.relation_scores
            _check_array("relation_scores", scores, "float32", (len(relations),))
            _check_rows("relation_scores", scores, (scores > 0) & (scores <= 1), "a confidence > 0 and <= 1")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Split({self})"

    def __str__(self) -> str:
        """A one-line summary: all names and captions of a training split would be megabytes."""
        regions = sorted(set((self.offsets[1:] - self.offsets[:-1]).tolist()))
        each = f"{regions[0]}" if len(regions) == 1 else f"{regions[0]} to {regions[-1]}"
        counted = f"image{'s' * (len(self) > 1)} of {each} region{'s' * (regions != [1])}"
        parts = [f"{len(self)} {counted}, {self.n_captions} caption{'s' * (self.n_captions != 1)}"]
        if self.features is not None:
            parts.append(f"features {self.features.shape[0]} × {self.features.shape[1]} {self.features.dtype}")
        if self.boxes is not None:
            parts.append("boxes")
        if self.labels is not None:
            known = int((self.labels >= 0).sum())
            parts.append(f"labels of {known} of {len(self.labels)} regions ({len(self.object_names)} names)")
        if self.relations is not None:
            parts.append(f"{len(self.relations)} relations ({len(self.predicate_names)} predicates)")
        return "; ".join(parts)

    @property
    def n_captions(self) -> int:
        """M."""
        return len(self.captions)

    def subset(self, images: np.ndarray) -> Split:
        """A split of these images in this order, with their captions image by image, held in memory.

        Args:
            images: (n,) integers, at least one.

        Raises:
            TypeError: if they are not integers, or a single integer.
            ValueError: if there is none, or one is out of range.
        """
        if np.ndim(images) == 0:
            raise TypeError(f"images: expected (n,) integers, such as [0], got {images!r:.60}")
        images = np.asarray(images)
        if images.ndim != 1 or len(images) == 0:
            raise ValueError(f"images: expected (n,) integers with n >= 1, got shape {images.shape}")
        if images.dtype.kind not in "iu":
            raise TypeError(f"images: expected integers, got {images.dtype}")
        _check_range("images", images, 0, len(self) - 1)
        images = images.astype(np.int64)
        regions, offsets = gather(self.offsets, images)
        by_image = np.argsort(self.caption_to_image, kind="stable")
        counts = np.bincount(self.caption_to_image, minlength=len(self))
        captions, caption_offsets = gather(offsets_from_counts(counts), images)
        captions = by_image[captions]
        relations = relation_offsets = None
        if self.relations is not None and self.relation_offsets is not None:
            relations, relation_offsets = gather(self.relation_offsets, images)

        def take(array: np.ndarray | None, rows: np.ndarray | None) -> np.ndarray | None:
            return None if array is None or rows is None else array[rows]

        features = self.features
        if features is not None:
            pieces = [np.asarray(features[self.offsets[i] : self.offsets[i + 1]]) for i in images]
            features = np.concatenate(pieces)
        return Split(
            ids=tuple(self.ids[i] for i in images),
            offsets=offsets,
            captions=tuple(self.captions[i] for i in captions),
            caption_to_image=np.repeat(np.arange(len(images)), np.diff(caption_offsets)),
            features=features,
            boxes=take(self.boxes, regions),
            sizes=take(self.sizes, images),
            labels=take(self.labels, regions),
            object_names=self.object_names,
            label_scores=take(self.label_scores, regions),
            relations=take(self.relations, relations),
            relation_offsets=relation_offsets,
            relation_scores=take(self.relation_scores, relations),
            predicate_names=self.predicate_names,
        )


def offsets_from_counts(counts: Any) -> np.ndarray:
    """Turns counts (n,) into offsets (n + 1,) int64: the sum before each, and the total."""
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def gather(offsets: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (T,) of some items (n,) of a packed array with offsets (N + 1,), and their own offsets (n + 1,); int64."""
    chosen = offsets_from_counts(offsets[items + 1] - offsets[items])
    rows = np.repeat(offsets[items] - chosen[:-1], np.diff(chosen)) + np.arange(chosen[-1])
    return rows, chosen


def _check_strings(name: str, values: Any) -> None:
    if not isinstance(values, tuple):
        way = ""
        if isinstance(values, list):
            way = f"; tuple({name}) is one"
        elif isinstance(values, np.ndarray) and values.ndim == 1:
            way = f"; tuple({name}.tolist()) is one"
        raise TypeError(f"{name}: expected a tuple of strings, got {type(values).__name__}{way}")
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise TypeError(f"{name}[{i}]: expected a string, got {type(value).__name__}")


def _check_array(name: str, value: Any, dtype: str, shape: tuple[int, ...]) -> None:
    if not isinstance(value, np.ndarray) or value.dtype != dtype:
        got = f"one of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{name}: expected a numpy array of {dtype}, got {got}{_to_array(name, value, dtype)}")
    if value.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {value.shape}")


def _to_array(name: str, value: Any, dtype: str) -> str:
    """Shows, for an error, how to convert the value to an array of the dtype; "" if that could lose numbers."""
    if isinstance(value, np.ndarray):
        fits = value.dtype.kind in ("iu" if np.dtype(dtype).kind == "i" else "fiu")
        return f"; {name}.astype(numpy.{dtype}) is one" if fits else ""
    if isinstance(value, (list, tuple)):
        return f"; numpy.array({name}, numpy.{dtype}) is one"
    return f"; {name}.numpy() is an array" if hasattr(value, "numpy") else ""


def _check_features(features: Any, n_region: int) -> None:
    if not all(hasattr(features, name) for name in ("shape", "dtype", "__getitem__")):
        is_list_of_arrays = isinstance(features, (list, tuple)) and len(features) > 0 and hasattr(features[0], "shape")
        way = "; numpy.concatenate puts those of all images one behind another" if is_list_of_arrays else ""
        raise TypeError(f"features: expected an array of float16 or float32, got {type(features).__name__}{way}")
    if hasattr(features, "numpy"):
        raise TypeError("features: expected a numpy array or the like, got a tensor; features.numpy() is an array")
    if features.dtype not in (np.float16, np.float32):
        way = "; features.astype(numpy.float32) has it" if features.dtype == np.float64 else ""
        raise TypeError(f"features: expected float16 or float32, got {features.dtype}{way}")
    shape = tuple(features.shape)
    if len(shape) != 2 or shape[0] != n_region or shape[1] < 1:
        raise ValueError(f"features: expected shape ({n_region}, Dx), one row per region, got {shape}")


def _check_offsets(name: str, offsets: np.ndarray, least: int) -> None:
    if offsets[0] != 0:
        raise ValueError(f"{name}[0]: expected 0, got {offsets[0]}")
    short = np.nonzero(np.diff(offsets) < least)[0]
    if len(short):
        i = short[0]
        raise ValueError(f"{name}[{i + 1}]: expected at least {offsets[i] + least}, got {offsets[i + 1]}")


def _check_range(name: str, values: np.ndarray, low: int, high: int) -> None:
    wrong = np.nonzero((values < low) | (values > high))[0]
    if len(wrong):
        raise ValueError(f"{name}[{wrong[0]}]: expected an index from {low} to {high}, got {values[wrong[0]]}")


def _check_rows(name: str, values: np.ndarray, good: Any, expected: str, way: str = "") -> None:
    if not good.all():
        i = int(np.argmin(good))
        raise ValueError(f"{name}[{i}]: expected {expected}, got {values[i].tolist()}{way}")
