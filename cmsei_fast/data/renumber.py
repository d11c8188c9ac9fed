"""A split renumbered to another's names: two detectors, or two files, number the same names differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .split import Split, offsets_from_counts


def renumber(split: Split, object_names: Sequence[str], predicate_names: Sequence[str]) -> Split:
    """The split with labels and predicates renumbered to these names.

    A label whose name is not among them becomes unknown (-1); a relation whose predicate is not among them is left out.
    Returns the split itself if nothing changes. Features are not read.
    """
    objects, predicates = tuple(object_names), tuple(predicate_names)
    if split.labels is not None and split.object_names != objects:
        index = {name: i for i, name in enumerate(objects)}
        new_index = np.array([*(index.get(name, -1) for name in split.object_names), -1], dtype=np.int32)
        split = replace(split, labels=new_index[split.labels], object_names=objects)
    if split.relations is None or split.relation_offsets is None or split.predicate_names == predicates:
        return split
    index = {name: i for i, name in enumerate(predicates)}
    new_index = np.array([index.get(name, -1) for name in split.predicate_names], dtype=np.int32)
    relations = split.relations.copy()
    relations[:, 1] = new_index[relations[:, 1]] if len(relations) else relations[:, 1]
    kept = relations[:, 1] >= 0
    owner = np.repeat(np.arange(len(split)), np.diff(split.relation_offsets))
    return replace(
        split,
        relations=relations[kept],
        relation_offsets=offsets_from_counts(np.bincount(owner[kept], minlength=len(split))),
        relation_scores=None if split.relation_scores is None else split.relation_scores[kept],
        predicate_names=predicates,
    )
