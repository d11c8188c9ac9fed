"""``torch.set_default_device`` changes nothing: what this package makes for itself is where it needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._device import DeviceContext

from cmsei_fast import CMSEI, Encoded, ModelConfig, PairScorer, engines, evaluate, explain, pair_score, retrieve
from cmsei_fast.data import Vocabulary, split_from_scenes, synthetic_scenes

_GENERATOR = np.random.default_rng(0)
IMAGES, CAPTIONS = (_GENERATOR.standard_normal((n, 6, 8), dtype=np.float32) for n in (7, 9))
LENGTHS, OWNERS = [1, 2, 3, 4, 5, 6, 6, 1, 2], [0, 1, 2, 3, 4, 5, 6, 6, 0]
SIDES = IMAGES, CAPTIONS, LENGTHS
MAXSIM: dict[str, Any] = {"scorer": PairScorer.maxsim(), "screen": "bfloat16", "engine": "native"}


def best(**options: Any) -> list[np.ndarray]:
    found = retrieve(*SIDES, k=3, **options)
    return [found.indices, found.scores]


def gradients() -> list[np.ndarray]:
    images, captions = (torch.from_numpy(x).requires_grad_() for x in (IMAGES, CAPTIONS))
    sides = Encoded.from_padded(images), Encoded.from_padded(captions, LENGTHS)
    scores = pair_score(*sides, scorer=PairScorer.cmsei())
    return [x.detach().numpy() for x in (scores, *torch.autograd.grad(scores.sum(), (images, captions)))]


CALLS: dict[str, Callable[[], list[np.ndarray]]] = {
    "retrieve": best,
    "retrieve_candidates": lambda: best(candidates=np.tile([[4, 1, 0, 6]], (9, 1))),
    "retrieve_screened": lambda: best(**MAXSIM),
    "evaluate": lambda: [np.array(evaluate(*SIDES, caption_to_image=OWNERS).rsum)],
    "evaluate_screened": lambda: [np.array(evaluate(*SIDES, caption_to_image=OWNERS, **MAXSIM).rsum)],
    "gradients": gradients,
}


@pytest.mark.parametrize("name", CALLS)
def test_scores(name: str) -> None:
    if "screened" in name and engines.unavailable("native") is not None:
        pytest.skip("the compiled module is not here")
    expected = CALLS[name]()
    with torch.device("meta"):
        found = CALLS[name]()
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, y)


def test_where_none_is_set_nothing_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within ``torch.device``, torch calls Python for each of its functions: longer than a small tile takes."""

    def called(*_: Any) -> None:
        raise AssertionError("torch calls Python")

    monkeypatch.setattr(DeviceContext, "__torch_function__", called)
    for name in ("retrieve", "retrieve_candidates"):
        CALLS[name]()


def test_a_model() -> None:
    """Batches, their places in the model and explanations do not ask for it."""
    made = synthetic_scenes(2, width=8)
    split = split_from_scenes(made.scenes, features=made.features)
    config = ModelConfig(
        width=8, feature_width=8, predicate_names=split.predicate_names, object_names=split.object_names, word_width=8
    )
    model = CMSEI(config, Vocabulary.build(split.captions))
    found = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            rows = model.encode_images(split).rows, model.encode_captions(split.captions).rows
            parts = explain(model, split.subset([0]), split.captions[0])
        found.append([*(x.numpy() for x in rows), np.array(parts.score)])
    for x, y in zip(*found, strict=True):
        np.testing.assert_array_equal(x, y)
