"""Splits for the tests: seeded ones with every part, and the comparison of two."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from cmsei_fast.data import Split
from cmsei_fast.data.split import offsets_from_counts


def random_split(n_image=5, *, seed=0, width=6, fixed=None, dtype=np.float32, **changes) -> Split:
    """Every part is there; images have 1 to 5 regions (or ``fixed``), 0 to 3 captions and 0 to 4 relations."""
    rng = np.random.default_rng(seed)
    counts = np.full(n_image, fixed) if fixed else rng.integers(1, 6, n_image)
    n_region = int(counts.sum())
    edges = rng.integers(0, 5, n_image)
    low = rng.uniform(0, 50, (n_region, 2))
    parts = {
        "ids": tuple(f"{i}.jpg" for i in range(n_image)),
        "offsets": offsets_from_counts(counts),
        "features": rng.standard_normal((n_region, width)).astype(dtype),
        "boxes": np.concatenate([low, low + rng.uniform(0, 50, (n_region, 2))], axis=1).astype(np.float32),
        "sizes": rng.uniform(100, 500, (n_image, 2)).astype(np.float32),
        "labels": rng.integers(-1, 4, n_region).astype(np.int32),
        "object_names": ("dog", "fence", "tree", "Straße"),
        "label_scores": rng.uniform(0, 1, n_region).astype(np.float32),
        "relations": np.array(
            [
                (rng.integers(regions), rng.integers(2), rng.integers(regions))
                for regions, n in zip(counts, edges, strict=True)
                for _ in range(n)
            ],
            dtype=np.int32,
        ).reshape(-1, 3),
        "relation_offsets": offsets_from_counts(edges),
        "predicate_names": ("near", "on"),
        "relation_scores": rng.uniform(0.1, 1, edges.sum()).astype(np.float32),
    }
    of_image = np.sort(rng.integers(0, n_image, 2 * n_image))
    parts |= {"captions": tuple(f"caption {i} ☃" for i in range(2 * n_image)), "caption_to_image": of_image}
    return Split(**(parts | changes))


def assert_same(got: Split, expected: Split) -> None:
    """Equal in every part, dtypes included."""
    for field in dataclasses.fields(Split):
        a, b = getattr(got, field.name), getattr(expected, field.name)
        if b is None or isinstance(b, tuple):
            assert a == b, field.name
        else:
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a[0 : len(a)], b[0 : len(b)], err_msg=field.name)


def files_in(directory) -> list[str]:
    """All names, hidden ones too."""
    return sorted(os.listdir(directory))
