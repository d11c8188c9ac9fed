"""Makes a split of scene graphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .scenes import SceneSet
from .split import Split, offsets_from_counts


def split_from_scenes(
    scenes: SceneSet,
    *,
    features: Any = None,
    object_names: Sequence[str] | None = None,
    predicate_names: Sequence[str] | None = None,
    size: Any = None,
) -> Split:
    """The split of N scenes with ΣR regions.

    Args:
        scenes: the scenes.
        features: (ΣR, Dx) rows or, if all scenes have R regions, (N, R, Dx); float16 or float32.
        object_names: the names that labels index; None: the sorted names that occur. A label not among them is unknown
            (-1).
        predicate_names: the same for predicates; a relation whose predicate is not among them is left out.
        size: width and height of all images in pixels, or (N, 2) of each. None: a scene's own size if it has one, else
            the largest corner of its boxes.

    Raises:
        TypeError, ValueError: as :class:`Split` does; TypeError: if ``scenes`` is not a :class:`SceneSet`.
        ValueError: a name is given twice; ``size`` or ``features`` has a wrong shape.
    """
    if not isinstance(scenes, SceneSet):
        holds_set = isinstance(getattr(scenes, "scenes", None), SceneSet)
        way = "its .scenes are one" if holds_set else "read_scenes reads one, SceneSet(tuple(scenes)) makes one"
        raise TypeError(f"scenes: expected a SceneSet, got {type(scenes).__name__}; {way}")
    labels = [label for scene in scenes for label in scene.labels]
    triplets = [triplet for scene in scenes for triplet in scene.relations]
    objects, number = _names("object_names", object_names, labels)
    predicates, place = _names("predicate_names", predicate_names, (predicate for _, predicate, _ in triplets))
    relations = [[(s, place[p], o) for s, p, o in scene.relations if p in place] for scene in scenes]
    flat = [triplet for image_relations in relations for triplet in image_relations]
    if len(getattr(features, "shape", ())) == 3:
        if features.shape[:2] != (len(scenes), len(labels) // len(scenes)):
            expected = f"({len(scenes)}, R, Dx) with {len(labels)} regions in all"
            raise ValueError(f"features: expected shape {expected}, got {tuple(features.shape)}")
        features = features.reshape(-1, features.shape[2])
    return Split(
        ids=tuple(scene.image for scene in scenes),
        offsets=offsets_from_counts([len(scene.labels) for scene in scenes]),
        captions=tuple(scenes.captions),
        caption_to_image=scenes.caption_to_image.astype(np.int64),
        features=features,
        boxes=np.concatenate([scene.boxes for scene in scenes]),
        sizes=_sizes(scenes, size),
        labels=np.array([number.get(label, -1) for label in labels], dtype=np.int32),
        object_names=objects,
        relations=np.array(flat, dtype=np.int32).reshape(-1, 3),
        relation_offsets=offsets_from_counts([len(image_relations) for image_relations in relations]),
        predicate_names=predicates,
    )


def _names(name: str, given: Sequence[str] | None, occurring: Iterable[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    names = tuple(sorted(set(occurring)) if given is None else given)
    index = {value: i for i, value in enumerate(names)}
    if len(index) != len(names):
        twice = next(value for i, value in enumerate(names) if index[value] != i)
        raise ValueError(f"{name}: expected each name once, got {twice!r} twice")
    return names, index


def _sizes(scenes: SceneSet, size: Any) -> np.ndarray:
    """(N, 2) float32."""
    if size is None:
        found = [scene.size or np.maximum(scene.boxes[:, 2:].max(0), 1) for scene in scenes]
        return np.array(found, dtype=np.float32)
    sizes = np.asarray(size, dtype=np.float32)
    if sizes.shape not in ((2,), (len(scenes), 2)):
        raise ValueError(f"size: expected width and height, or ({len(scenes)}, 2) of them, got shape {sizes.shape}")
    return np.broadcast_to(sizes, (len(scenes), 2)).copy()
