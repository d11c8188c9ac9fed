"""VSE∞'s functions: inner products, and ranks where an image has one caption."""

from __future__ import annotations

import numpy as np
from field_written_out import sorted_ranks

from cmsei_fast.compat import vse_infinity


def test_one_caption_an_image() -> None:
    sims = np.random.default_rng(0).standard_normal((12, 12))
    for direction in ("i2t", "t2i"):
        _, (ranks, top) = getattr(vse_infinity, direction)(12, sims, return_ranks=True, mode="f30k")
        expected = sorted_ranks(sims, 1, direction)
        np.testing.assert_array_equal(ranks, expected[0])
        np.testing.assert_array_equal(top, expected[1])


def test_compute_sim() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((15, 4))
    np.testing.assert_allclose(vse_infinity.compute_sim(a, b), [[x @ y for y in b] for x in a])
