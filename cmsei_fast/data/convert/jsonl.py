"""Scene graphs as JSON lines, with the file of the objects' and predicates' names."""

from __future__ import annotations

import os

from ..from_scenes import split_from_scenes
from ..json_object import read_json, string_list
from ..scenes import read_scenes
from ..split import Split
from .boxes import check_inside


def jsonl_split(path: str | os.PathLike[str], names: str | os.PathLike[str] | None = None) -> Split:
    """The split of a ``.jsonl`` or ``.jsonl.gz`` file as :func:`read_scenes` takes it.

    Args:
        path: the scenes.
        names: a JSON file with ``objects`` and ``predicates``, two lists of names; those that occur, sorted, if None.

    Raises:
        OSError: a file cannot be opened.
        ValueError: naming the file; a label or predicate is not among the names, or a box outside of its image's size.
    """
    scenes = read_scenes(path)
    for scene in scenes:
        if scene.size is not None:
            check_inside(f"{path}: image {scene.image}: boxes", scene.boxes, *scene.size)
    if names is None:
        return split_from_scenes(scenes)
    record = read_json(names)
    objects, predicates = string_list(names, record, "objects"), string_list(names, record, "predicates")
    for key, values in (("objects", objects), ("predicates", predicates)):
        if len(set(values)) < len(values):
            twice = next(name for name in values if values.count(name) > 1)
            raise ValueError(f"{os.fspath(names)}: {key}: expected each name once, got {twice!r} twice")
    for scene in scenes:
        unknown = sorted(set(scene.labels) - set(objects)) or sorted(
            {p for _, p, _ in scene.relations} - set(predicates)
        )
        if unknown:
            raise ValueError(f"{path}: image {scene.image}: expected names of {os.fspath(names)}, got {unknown[0]!r}")
    return split_from_scenes(scenes, object_names=objects, predicate_names=predicates)
