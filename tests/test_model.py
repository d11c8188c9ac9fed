"""The model: what goes in, what may not change a result, and its gradients."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from splits import random_split
from training_runs import tiny_model, tiny_split

from cmsei_fast import PairScorer, nn, score_matrix
from cmsei_fast.data.batches import caption_batch, image_batch
from cmsei_fast.data.vocabulary import Vocabulary
from cmsei_fast.model import CMSEI, ModelConfig
from cmsei_fast.model.region_dropout import kept_regions, without_regions

SPLIT = random_split(7, seed=3)  # images of 1 to 5 regions, unknown labels among them
CAPTIONS = ["dog", "a dog near the fence", "tree on a fence", ""]
NAMED = {"object_names": SPLIT.object_names, "predicate_names": SPLIT.predicate_names}
ALL = ("implicit", "spatial", "semantic")
CONFIGS = {
    "everything": {"feature_width": 6, "relations": ALL, "layers": 2, "word_residual": True, **NAMED},
    "features": {"feature_width": 6, "boxes": False, "relations": ()},
    "labels": {"boxes": False, "relations": ("semantic",), **NAMED},
    "boxes": {"relations": ("spatial",)},
    "implicit": {"feature_width": 6, "boxes": False, "relations": ("implicit",)},
    "scan": {"feature_width": 6, "relations": (), "scorer": PairScorer.scan_t2i()},
    "fixed_words": {"trained_words": 5, "relations": (), **NAMED},
}


def build(name: str = "everything", **changes) -> CMSEI:
    torch.manual_seed(0)
    config = ModelConfig(**({"width": 32, "heads": 4, "word_width": 12} | CONFIGS[name] | changes))
    return CMSEI(config, Vocabulary.build([*CAPTIONS, *SPLIT.object_names, *SPLIT.predicate_names]))


def batches(model: CMSEI):
    return image_batch(SPLIT, range(len(SPLIT))), caption_batch([model.text.tokenize(c) for c in CAPTIONS])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_matrix_of_encoded_items_is_the_models_forward(name):
    model = build(name).eval()
    images, captions = model.encode_images(SPLIT, batch_size=3), model.encode_captions(CAPTIONS, batch_size=2)
    assert images.rows.shape == (SPLIT.offsets[-1], 32)
    assert captions.lengths.tolist() == [1, 5, 4, 1]
    expected = model(*batches(model))
    actual = score_matrix(images, captions, scorer=model.scorer)
    assert torch.isfinite(expected).all()
    assert expected.std() > 1e-4
    torch.testing.assert_close(actual, expected.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_item_alone_is_encoded_as_among_others(name):
    model = build(name)
    together = model.encode_images(SPLIT).rows.split(np.diff(SPLIT.offsets).tolist())
    for i, rows in enumerate(together):
        torch.testing.assert_close(model.encode_images(SPLIT, [i]).rows, rows, atol=1e-5, rtol=0)
    captions = model.encode_captions(CAPTIONS)
    for caption, rows in zip(CAPTIONS, captions.rows.split(captions.lengths.tolist()), strict=True):
        torch.testing.assert_close(model.encode_captions([caption]).rows, rows, atol=1e-5, rtol=0)
    assert model.training


def test_gradients_agree_with_the_reference_engine():
    model = build()
    exact = build().double()
    assert any(isinstance(m, nn.RelationAttention) for m in exact.modules())
    for module in exact.modules():
        if isinstance(module, nn.PairScore | nn.RelationAttention):
            module.engine = "reference"
    images, captions = batches(model)
    upstream = torch.randn(len(SPLIT), len(CAPTIONS), generator=torch.Generator().manual_seed(2))
    double = dataclasses.replace(images, **{n: getattr(images, n).double() for n in ("features", "boxes", "sizes")})
    (model(images, captions) * upstream).sum().backward()
    (exact(double, captions) * upstream).sum().backward()
    expected = dict(exact.named_parameters())
    for name, p in model.named_parameters():
        reference = expected[name].grad
        assert (p.grad is None) == (reference is None), name
        if reference is not None and reference.numel():
            assert torch.isfinite(p.grad).all(), name
            assert (p.grad - reference).abs().max() <= 1e-4 * max(1.0, reference.abs().max().item()), name


@pytest.mark.parametrize("kind", ALL)
def test_each_relation_says_something(kind):
    model, without = build().eval(), build().eval()
    assert model.encode_images(SPLIT).rows.equal(without.encode_images(SPLIT).rows)
    for layer in without.reasoning.layers:
        layer.kinds = tuple(x for x in layer.kinds if x != kind)
    assert (model.encode_images(SPLIT).rows - without.encode_images(SPLIT).rows).abs().max() > 1e-4


def test_a_seed_makes_training_deterministic():
    changes = {"dropout": 0.3, "word_dropout": 0.3, "region_dropout": 0.3}
    model = build(**changes)
    scores = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        scores.append(model(*batches(model)))
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])
    model.eval()
    assert torch.equal(model(*batches(model)), model(*batches(model)))


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_region_dropout_keeps_a_region_and_its_relations(chance):
    batch = image_batch(SPLIT, range(len(SPLIT)))
    batch = dataclasses.replace(batch, features=torch.arange(len(batch.features))[:, None].float())  # rows by number
    torch.manual_seed(0)
    left = without_regions(batch, kept_regions(batch.lengths, chance))
    assert (left.lengths >= 1).all()
    kept = left.features[:, 0].long()
    starts = batch.lengths.cumsum(0) - batch.lengths
    counted = [((kept >= s) & (kept < s + n)).sum() for s, n in zip(starts, batch.lengths, strict=True)]
    assert left.lengths.tolist() == [int(n) for n in counted]
    assert torch.equal(left.labels, batch.labels[kept])
    assert torch.equal(left.boxes, batch.boxes[kept])
    row = {int(old): new for new, old in enumerate(kept)}
    new_starts = left.lengths.cumsum(0) - left.lengths
    expected = [
        (int(image), row[int(a)] - int(new_starts[image]), int(p), row[int(b)] - int(new_starts[image]), float(score))
        for image, (s, p, o), score in zip(batch.owners, batch.triplets, batch.scores, strict=True)
        if (a := starts[image] + s) in kept and (b := starts[image] + o) in kept
    ]
    actual = [(int(w), *t.tolist(), float(c)) for w, t, c in zip(left.owners, left.triplets, left.scores, strict=True)]
    assert actual == expected
    assert chance > 0 or len(actual) == len(batch.owners) > 0


@pytest.mark.parametrize(
    ("name", "lacking", "message"),
    [
        ("features", ("features",), "features: expected images with features (the model is built on them), got"),
        ("labels", ("labels",), "labels: expected images with labels (the model is built on them), got"),
        ("boxes", ("boxes",), "boxes: expected images with boxes (the model is built on them), got"),
        (
            "labels",
            ("relations", "relation_offsets", "relation_scores"),
            "relations: expected images with relations (the model is built on them), got",
        ),
    ],
    ids=["features", "labels", "boxes", "relations"],
)
def test_a_split_that_lacks_a_part(name, lacking, message):
    split = dataclasses.replace(SPLIT, **dict.fromkeys(lacking))
    with pytest.raises(ValueError, match="a split without") as caught:
        build(name).encode_images(split)
    assert str(caught.value) == f"{message} a split without"


def test_features_of_another_width():
    split = dataclasses.replace(SPLIT, features=SPLIT.features[:, 1:])
    width = SPLIT.features.shape[1]
    told = f"^features: expected width {width} \\(the model is built on it\\), got {width - 1}$"
    with pytest.raises(ValueError, match=told):
        build("features").encode_images(split)


BAD = {
    "width": ({"width": 30}, "width: expected a multiple of heads = 4, got 30"),
    "kind": ({"relations": ("near",)}, "relations: expected any of implicit, spatial, semantic, got 'near'"),
    "twice": ({"relations": ("spatial",) * 2}, "relations: expected each kind once, got spatial, spatial"),
    "predicates": ({}, "predicate_names: expected the predicates of relations='semantic', got none"),
    "names": ({"object_names": 3}, "object_names: expected a tuple of strings, got 3"),
    "dropout": ({"dropout": 1.0, "relations": ()}, "dropout: expected a number in [0, 1), got 1.0"),
    "threshold": (
        {"confidence_threshold": "high", "relations": ()},
        "confidence_threshold: expected a number in [0, 1], got 'high'",
    ),
    "words of a transformer": (
        {"transformer": "bert", "word_dropout": 0.1, "relations": ()},
        "word_dropout: expected 0 with a transformer (it is the GRU's), got 0.1",
    ),
    "nothing": (
        {"boxes": False, "relations": ()},
        "feature_width: expected region features, object_names or boxes, got none of them",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_configurations(case):
    changes, message = BAD[case]
    with pytest.raises((TypeError, ValueError)) as caught:
        ModelConfig(**({"width": 32, "heads": 4} | changes))
    assert str(caught.value) == message


def test_numbers_of_numpy_in_a_configuration_are_plain_ones():
    settings = {"width": 16, "heads": 2, "boxes": True, "dropout": 0.5, "confidence_threshold": 0.25, "relations": ()}
    kinds = {int: np.int64, bool: np.bool_, float: np.float32, tuple: tuple}
    made = ModelConfig(**{name: kinds[type(x)](x) for name, x in settings.items()})
    assert made == ModelConfig(**settings)
    assert json.dumps(made.to_dict()) == json.dumps(ModelConfig(**settings).to_dict())


def test_a_configuration_survives_json():
    config = build().config
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match=r"^model configuration: expected any of .*, got 'depth'$"):
        ModelConfig.from_dict({"depth": 3})


def test_what_cannot_be_encoded():
    model = build()
    with pytest.raises(TypeError, match=r"^captions: expected a sequence of sentences, got one string 'a dog'$"):
        model.encode_captions("a dog")
    with pytest.raises(TypeError, match=r"^captions: expected a sequence of sentences, got NoneType$"):
        model.encode_captions(None)
    for wrong in ([-1], [7]):
        with pytest.raises(ValueError, match=rf"^indices: expected images from 0 to 6, got {wrong[0]} to {wrong[0]}$"):
            model.encode_images(SPLIT, wrong)
    with pytest.raises(TypeError, match=r"^indices: expected integers, got bool$"):
        model.encode_images(SPLIT, np.arange(7) == 3)
    with pytest.raises(ValueError, match=r"^indices: expected \(n,\) integers, got shape \(\)$"):
        model.encode_images(SPLIT, 3)
    assert len(model.encode_images(SPLIT, [])) == 0
    with pytest.raises(TypeError, match=r"^captions\[1\]: expected a sentence, got NoneType$"):
        model.encode_captions(["a dog", None])
    with pytest.raises(TypeError, match=r"^split: expected a Split \(open_split reads one\), got str$"):
        model.encode_images("test.h5")
    for encode, items in ((model.encode_images, SPLIT), (model.encode_captions, ["a dog"])):
        with pytest.raises(ValueError, match=r"^batch_size: expected an integer >= 1, got 0$"):
            encode(items, batch_size=0)
    assert len(model.encode_captions([])) == 0
    assert len(model.encode_images(SPLIT, [])) == 0


def test_no_relation_in_any_image():
    split = tiny_split(1)
    bare = dataclasses.replace(split, relations=split.relations[:0], relation_offsets=split.relation_offsets * 0)
    assert torch.isfinite(tiny_model(split).encode_images(bare).rows).all()


def test_a_label_has_one_vector_whichever_of_names_and_regions_are_fewer():
    model = build(relations=(), boxes=False, feature_width=0).eval()
    small = int(np.flatnonzero(np.diff(SPLIT.offsets) == 2)[0])
    few, all_ = (image_batch(SPLIT, images) for images in ([small], range(len(SPLIT))))
    assert len(few.labels) < len(model.regions.name_tokens) + 1 < len(all_.labels)
    for batch in (few, all_):
        batch.labels[1] = -1  # an unknown object
        rows = model.regions(batch, model.words)
        names = torch.cat([model.words.names(model.regions.name_tokens), torch.zeros(1, model.words.width)])
        expected = names[batch.labels] @ model.words.project.weight.T
        torch.testing.assert_close(rows, expected, atol=1e-6, rtol=1e-5)
        found, wanted = (torch.autograd.grad(x.square().sum(), [*model.words.parameters()]) for x in (rows, expected))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
