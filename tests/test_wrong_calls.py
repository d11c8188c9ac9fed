"""Calls that are plausible and wrong: each is told by its argument, and most with what to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import config, tiny_model, tiny_split

from cmsei_fast import CMSEI, PairScorer, evaluate, recall_metrics, retrieve, score_matrix
from cmsei_fast.data import Vocabulary, split_from_scenes, synthetic_scenes, write_split
from cmsei_fast.model import ModelConfig
from cmsei_fast.training import train

SPLIT = tiny_split(1)
MADE = synthetic_scenes(1)
V, W = np.ones((2, 3, 4), np.float32), np.ones((10, 3, 4), np.float32)
KINDS = "expected a numpy array, a torch tensor or an h5py dataset, got"
INTEGERS = "expected a list, array or tensor of integers, got"
PRECISIONS = "expected None or one of float32, bfloat16, float16, float64, float8, int8, got"


def model() -> CMSEI:
    return tiny_model(SPLIT).eval()


CALLS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "sentences as features": (
        lambda: score_matrix(V, SPLIT.captions),
        TypeError,
        f"captions: {KINDS} tuple; a model's encode_captions makes features of sentences",
    ),
    "a split as features": (
        lambda: score_matrix(SPLIT, W),
        TypeError,
        f"images: {KINDS} Split; a model's encode_images makes features of a split",
    ),
    "the model first": (
        lambda: evaluate(model(), model().encode_images(SPLIT), model().encode_captions(SPLIT.captions)),
        TypeError,
        f"images: {KINDS} CMSEI",
    ),
    "a map by name": (
        lambda: evaluate(V, W, caption_to_image={0: 1}),
        TypeError,
        f"caption_to_image: {INTEGERS} dict",
    ),
    "what another search found": (
        lambda: retrieve(V, W, candidates=retrieve(V, W, k=2)),
        TypeError,
        f"candidates: {INTEGERS} Retrieved; its .indices are one",
    ),
    "a list of rows": (
        lambda: recall_metrics([[1.0, 0.0]]),
        TypeError,
        "scores: expected a numpy array or a torch tensor, got list; numpy.asarray makes one",
    ),
    "torch's dtype": (
        lambda: score_matrix(V, W, precision=torch.bfloat16),  # type: ignore[arg-type]
        ValueError,
        f"precision: {PRECISIONS} torch.bfloat16; 'bfloat16' is its name",
    ),
    "numpy's dtype": (
        lambda: score_matrix(V, W, precision=np.float16),  # type: ignore[arg-type]
        ValueError,
        f"precision: {PRECISIONS} <class 'numpy.float16'>; 'float16' is its name",
    ),
    "a short name": (
        lambda: score_matrix(V, W, precision="fp16"),
        ValueError,
        f"precision: {PRECISIONS} 'fp16'; 'float16' is its name",
    ),
    "captions of images": (
        lambda: Vocabulary.build([["a dog"], ["a cat"]]),  # type: ignore[list-item]
        TypeError,
        "captions[0]: expected a sentence, got list",
    ),
    "words of a caption": (
        lambda: Vocabulary.build(SPLIT.captions).encode(["a", "dog"]),  # type: ignore[arg-type]
        TypeError,
        "caption: expected a sentence, got list",
    ),
    "one image": (
        lambda: SPLIT.subset(2),  # type: ignore[arg-type]
        TypeError,
        "images: expected (n,) integers, such as [0], got 2",
    ),
    "a slice of images": (
        lambda: SPLIT.subset(slice(0, 2)),  # type: ignore[arg-type]
        TypeError,
        "images: expected (n,) integers, such as [0], got slice(0, 2, None)",
    ),
    "a list of scenes": (
        lambda: split_from_scenes(list(MADE.scenes)),  # type: ignore[arg-type]
        TypeError,
        "scenes: expected a SceneSet, got list; read_scenes reads one, SceneSet(tuple(scenes)) makes one",
    ),
    "generated scenes": (
        lambda: split_from_scenes(MADE),  # type: ignore[arg-type]
        TypeError,
        "scenes: expected a SceneSet, got SyntheticScenes; its .scenes are one",
    ),
    "scenes to write": (
        lambda: write_split("x.h5", MADE.scenes),  # type: ignore[arg-type]
        TypeError,
        "split: expected a Split, got SceneSet",
    ),
    "a split and its name": (
        lambda: write_split(SPLIT, "x.h5"),  # type: ignore[arg-type]
        TypeError,
        "path: expected the name of a file, got Split",
    ),
    "a graph's name": (
        lambda: ModelConfig(relations="spatial"),  # type: ignore[arg-type]
        TypeError,
        "relations: expected a tuple of strings, got one string 'spatial'",
    ),
    "a preset's name": (
        lambda: ModelConfig(relations=(), scorer="cmsei"),  # type: ignore[arg-type]
        TypeError,
        "scorer: expected a PairScorer, got str; PairScorer.cmsei() is one",
    ),
    "a preset that is not called": (
        lambda: ModelConfig(relations=(), scorer=PairScorer.cmsei),  # type: ignore[arg-type]
        TypeError,
        "scorer: expected a PairScorer, got method; PairScorer.cmsei() is one",
    ),
    "a saved model's name": (
        lambda: train("runs/best", SPLIT, None, "run", config()),  # type: ignore[arg-type]
        TypeError,
        "model: expected a CMSEI, got str",
    ),
    "features to the model": (
        lambda: model()(torch.ones(2, 3, 4), torch.ones(2, 3, 4)),
        TypeError,
        "batch: expected an ImageBatch, got Tensor; encode_images takes a split",
    ),
    "sentences to the model": (
        lambda: model().embed_captions(["a dog"]),  # type: ignore[arg-type]
        TypeError,
        "batch: expected a CaptionBatch, got list; encode_captions takes sentences",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_is_told_by_its_argument(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call, kind, message = CALLS[name]
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []
