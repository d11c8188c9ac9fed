"""Explanations: the terms sum to the score, and every map is what the operators themselves say."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from training_runs import tiny_model, tiny_split

import cmsei_fast
from cmsei_fast import Attention, PairScorer, explain, relation_attention, score_matrix
from cmsei_fast.model.graph_reasoning import ReasoningLayer
from cmsei_fast.nn import RelationAttention
from cmsei_fast.report import explain_features
from cmsei_fast.report.mixing import mixing

SPLIT = tiny_split(2)
ALL = ("implicit", "spatial", "semantic")
SCORERS = {
    "cmsei": PairScorer.cmsei(),
    "scan_t2i": PairScorer.scan_t2i(),
    "scan_i2t": PairScorer.scan_i2t("mean"),
    "deep": PairScorer(
        Attention(0.7, 5.0, "softmax", "max", steps=3, gates=((1.0, 0.5), (3.0, -2.0))),
        Attention(1.3, 3.0, "l1norm", "sum", steps=2),
        0.25,
        2.0,
        0.5,
        3.0,
    ),
    "levels": PairScorer(object_sentence=1.0, word_image=0.5, guide_temperature=2.0),
}


def pair(n_region=7, n_word=5, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_region, width, generator=generator), torch.randn(n_word, width, generator=generator)


@pytest.fixture(scope="module")
def model():
    made = tiny_model(SPLIT, relations=ALL, layers=2).eval()
    with torch.no_grad():
        made.score.log_scale += 0.3 * torch.randn(made.score.log_scale.shape)
    return made


@pytest.mark.parametrize("name", SCORERS)
def test_terms_sum_to_the_score_of_the_operator(name):
    v, w = pair()
    found = explain_features(v, w, scorer=SCORERS[name])
    assert abs(sum(term.contribution for term in found.terms) - found.score) <= 1e-6
    for engine, precision, bound in (("eager", "float64", 1e-12), ("auto", "float32", 1e-5)):
        score = score_matrix(v[None], w[None], scorer=SCORERS[name], engine=engine, precision=precision)
        assert abs(float(score) - found.score) <= bound * max(1, abs(found.score))


@pytest.mark.parametrize("name", SCORERS)
def test_each_term_alone_is_the_score_of_a_scorer_with_it_alone(name):
    v, w = pair(seed=1)
    scorer = SCORERS[name]
    none = {"t2i": None, "i2t": None, "object_sentence": 0.0, "word_image": 0.0, "alignment": 0.0}
    found = explain_features(v, w, scorer=scorer)
    assert found.terms
    for term in found.terms:
        kept = {**none, term.name: getattr(scorer, term.name)}
        alone = score_matrix(v[None], w[None], scorer=dataclasses.replace(scorer, **kept), precision="float64")
        assert abs(term.contribution - float(alone)) <= 1e-6


def test_scan_attention_is_its_formula_in_numpy():
    v, w = (x.double().numpy() for x in pair(seed=2))
    found = explain_features(v, w, scorer=PairScorer.scan_t2i("mean"))
    a = w @ v.T
    a = np.where(a > 0, a, 0.1 * a)
    logits = 9 * a / (np.sqrt((a**2).sum(0)) + 1e-8)
    alpha = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(found.of_words(), alpha, atol=1e-12)
    np.testing.assert_allclose(found.of_regions(), alpha.T, atol=1e-12)
    u = alpha @ v
    relevance = (w * u).sum(1) / np.linalg.norm(w, axis=1) / np.linalg.norm(u, axis=1)
    np.testing.assert_allclose(found.t2i[0].relevance, relevance, atol=1e-12)
    assert found.t2i[0].gate is None
    assert abs(found.score - relevance.mean()) <= 1e-12
    image = v.mean(0) / np.linalg.norm(v.mean(0))
    omega = np.exp(5 * (w @ image) / np.linalg.norm(w, axis=1))
    np.testing.assert_allclose(found.word_weights, omega / omega.sum(), atol=1e-12)


def test_steps_are_probabilities_and_their_mean_is_the_term():
    found = explain_features(*pair(seed=3), scorer=SCORERS["deep"])
    assert (len(found.t2i), len(found.i2t), found.n_steps) == (3, 2, 3)
    for steps, shape in ((found.t2i, (5, 7)), (found.i2t, (7, 5))):
        for i, step in enumerate(steps):
            assert step.attention.shape == shape
            np.testing.assert_allclose(step.attention.sum(1), 1, atol=1e-12)
            assert (step.gate is None) == (i == len(steps) - 1)
    by_name = {term.name: term for term in found.terms}
    assert abs(by_name["t2i"].value - np.mean([step.score for step in found.t2i])) <= 1e-12
    np.testing.assert_array_equal(found.of_regions(2), found.i2t[1].attention)
    assert found.region_weights.shape == (7,)
    assert abs(found.region_weights.sum() - 1) <= 1e-12


def test_a_scorer_without_directions_has_the_levels_to_show():
    found = explain_features(*pair(), scorer=SCORERS["levels"])
    assert found.n_steps == 0
    assert (found.of_words() == found.region_weights).all()
    assert (found.of_regions() == found.word_weights).all()


def test_a_model_explains_the_score_that_it_gives(model):
    caption = SPLIT.captions[3]
    found = explain(model, SPLIT.subset([5]), caption)
    images, captions = model.encode_images(SPLIT, [5]), model.encode_captions([caption])
    score = float(score_matrix(images, captions, scorer=model.scorer))
    assert abs(found.score - score) <= 1e-5
    assert abs(sum(term.contribution for term in found.terms) - found.score) <= 1e-6
    assert len(found.terms) == 5
    assert found.words == tuple(caption.replace(";", "").rstrip(".").split())
    assert all(found.known)
    assert len(found.regions) == len(found.boxes) == int(SPLIT.offsets[6] - SPLIT.offsets[5])
    assert found.image == SPLIT.ids[5]
    assert found.size == (500, 375)


def test_edges_carry_what_the_operator_gathers(model, monkeypatch):
    """Attention of an operator whose values are the places themselves is its output."""
    gathered = {}
    forward = RelationAttention.forward

    def watched(self, nodes, labels, confidence=None, label_value=None):
        q, k = (p(nodes).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.query, self.key))
        places = torch.eye(nodes.shape[1]).expand(1, self.heads, -1, -1)
        columns = [
            relation_attention(
                q,
                k,
                torch.nn.functional.pad(part, (0, q.shape[-1] - part.shape[-1])),
                labels,
                self.label_bias,
                None,
                confidence,
            )[..., : part.shape[-1]]
            for part in places.split(q.shape[-1], -1)
        ]
        gathered[id(self)] = torch.cat(columns, -1).mean(1)[0]
        return forward(self, nodes, labels, confidence, label_value)

    monkeypatch.setattr(RelationAttention, "forward", watched)
    found = explain(model, SPLIT.subset([2]), "a dog")
    monkeypatch.undo()
    assert {(edge.kind, edge.layer) for edge in found.edges} == {(kind, layer) for kind in ALL for layer in (0, 1)}
    for number, layer in enumerate(model.reasoning.layers):
        assert isinstance(layer, ReasoningLayer)
        for kind, module in layer.attention.items():
            own = [edge for edge in found.edges if (edge.kind, edge.layer) == (kind, number)]
            expected = gathered[id(module)].detach().numpy()
            for edge in own:
                assert abs(edge.attention - expected[edge.region, edge.neighbour]) <= 1e-6
            sums = np.bincount([e.region for e in own], [e.attention for e in own], len(found.regions))
            np.testing.assert_allclose(sums, (expected.sum(1) > 0).astype(float), atol=1e-5)


def test_semantic_edges_are_the_triplets_in_both_directions(model):
    found = explain(model, SPLIT.subset([1]), "a dog")
    edges = {
        (e.region, e.neighbour, e.name, e.reverse) for e in found.edges if e.kind == "semantic" and e.name != "self"
    }
    image = SPLIT.subset([1])
    forwards = {(s, o, image.predicate_names[p], False) for s, p, o in image.relations.tolist()}
    assert edges == forwards | {(o, s, name, True) for s, o, name, _ in forwards}
    assert all(e.name == "self" for e in found.edges if e.region == e.neighbour and e.kind != "implicit")
    assert not model.reasoning.layers[0]._forward_pre_hooks


def test_parts_of_a_state_are_what_the_layer_adds_up(model):
    """Region and edges sum to what the layer normalises, and the shares are the parts' lengths after it."""
    layer = model.reasoning.layers[1]
    graphs = graphs_of(model, 3)
    nodes = torch.randn(1, len(graphs["spatial"][0][0]), 32, generator=torch.Generator().manual_seed(4))
    predicates = model.reasoning.predicates(model.words.names(model.reasoning.name_tokens))
    with torch.no_grad():
        parts = {
            kind: module.contributions(nodes, *graphs[kind], layer.value(kind, predicates))
            for kind, module in layer.attention.items()
        }
        for kind, module in layer.attention.items():
            whole = module(nodes, *graphs[kind], layer.value(kind, predicates))
            torch.testing.assert_close(parts[kind].sum(2), whole, atol=1e-5, rtol=1e-4)
        whole = layer.norm(nodes + sum(x.sum(2) for x in parts.values()))
        torch.testing.assert_close(whole, layer(nodes, graphs, predicates), atol=1e-5, rtol=1e-4)
        layer.norm.weight.mul_(torch.rand(32) + 0.5)
        found = mixing(layer, nodes, graphs, predicates)
    scale = layer.norm.weight.detach().double().numpy()
    own = [nodes[0].double().numpy(), *(parts[kind][0].double().numpy() for kind in ALL)]
    sizes = [np.sqrt(((scale * (x - x.mean(-1, keepdims=True))) ** 2).sum(-1)) for x in own]
    total = sizes[0] + sum(x.sum(1) for x in sizes[1:])
    np.testing.assert_allclose(found.kept.numpy(), sizes[0] / total, rtol=1e-6)
    for kind, size in zip(ALL, sizes[1:], strict=True):
        np.testing.assert_allclose(found.edge_shares[kind].numpy(), size / total[:, None], rtol=1e-6)
        assert ((found.edge_shares[kind] > 0) <= (graphs[kind][0][0] > 0)).all()


def graphs_of(model, image):
    from cmsei_fast.data.batches import image_batch

    batch = image_batch(model.aligned(SPLIT), np.array([image]))
    return model.reasoning.graphs(batch, batch.mask(torch.device("cpu")))


def test_attention_through_the_graph_is_the_product_of_the_layers(model):
    found = explain(model, SPLIT.subset([2]), SPLIT.captions[4])
    n = len(found.regions)
    layers = [np.diag(x) for x in found.kept]
    assert len(layers) == 2
    for edge in found.edges:
        layers[edge.layer][edge.region, edge.neighbour] += edge.share
    for layer in layers:
        np.testing.assert_allclose(layer.sum(1), 1, atol=1e-9)
        assert layer.min() >= 0
        assert (np.diag(layer) < 1).any()
    np.testing.assert_allclose(found.rollout(), layers[1] @ layers[0], atol=1e-12)
    np.testing.assert_allclose(found.rollout(1), layers[1], atol=1e-12)
    np.testing.assert_array_equal(found.rollout(2), np.eye(n))
    for step in (0, 1):
        words = found.of_words(step, through_graph=True)
        np.testing.assert_allclose(words, found.of_words(step) @ layers[1] @ layers[0], atol=1e-12)
        np.testing.assert_allclose(words.sum(1), 1, atol=1e-9)
        regions = found.of_regions(step, through_graph=True)
        np.testing.assert_allclose(regions.sum(1), 1, atol=1e-9)
        whole = layers[1] @ layers[0]
        expected = [np.average(found.of_regions(step), axis=0, weights=whole[:, j]) for j in range(n)]
        np.testing.assert_allclose(regions, expected, atol=1e-12)
        along = found.along_edges(step)
        for number, before in ((0, found.of_words(step) @ layers[1]), (1, found.of_words(step))):
            own = np.array([edge.layer == number for edge in found.edges])
            np.testing.assert_allclose(along[:, own].sum(1) + before @ found.kept[number], 1, atol=1e-9)


def test_without_graphs_attention_is_what_it_is():
    found = explain_features(*pair())
    np.testing.assert_array_equal(found.of_words(through_graph=True), found.of_words())
    np.testing.assert_allclose(found.of_regions(through_graph=True), found.of_regions(), atol=1e-12)
    assert found.along_edges().shape == (5, 0)


def test_words_are_the_captions_own_and_unknown_ones_are_told(model):
    known = model.vocabulary.words[5]
    found = explain(model, SPLIT.subset([0]), f"Zorblax's {known.upper()}, ÉTÉ  {known}!")
    assert found.words == ("Zorblax's", known.upper(), "ÉTÉ", known)
    assert found.known == (False, True, False, True)
    assert found.find_word(known) == 1
    assert found.known[found.telling_word()]
    for caption, words in (("zorblax quux", ("zorblax", "quux")), ("...", ("<unk>",)), ("", ("<unk>",))):
        found = explain(model, SPLIT.subset([0]), caption)
        assert found.words == words
        assert not any(found.known)
        assert math.isfinite(found.score)


def test_a_model_without_graphs_and_an_image_without_boxes():
    plain = tiny_model(SPLIT, relations=(), boxes=False)
    bare = dataclasses.replace(SPLIT.subset([0]), boxes=None, sizes=None, labels=None)
    found = explain(plain, bare, "a dog")
    assert found.edges == ()
    assert found.boxes is None
    assert set(found.regions) == {"region"}
    assert plain.training  # as it was


def test_json(model, tmp_path):
    found = explain(model, SPLIT.subset([0]), SPLIT.captions[0])
    found.save(tmp_path / "pair.json")
    read = json.loads((tmp_path / "pair.json").read_text(encoding="utf-8"))
    assert read == found.to_dict()
    assert abs(sum(term["contribution"] for term in read["terms"]) - read["score"]) <= 1e-6
    np.testing.assert_array_equal(read["i2t"][1]["attention"], found.i2t[1].attention)
    assert read["edges"][0].keys() == {f.name for f in dataclasses.fields(found.edges[0])}


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda m: explain(m.score, SPLIT.subset([0]), "a"), TypeError, "model: expected a CMSEI .*, got PairScore"),
        (lambda m: explain(m, 3, "a"), TypeError, "image: expected a Split of one image, got int"),
        (lambda m: explain(m, SPLIT, "a"), ValueError, r"image: expected a Split of one image, .*, got one of 8"),
        (lambda m: explain(m, SPLIT.subset([99]), "a"), ValueError, r"images\[0\]: expected an index from 0 to 7"),
        (lambda m: explain(m, SPLIT.subset([0]), ["a"]), TypeError, "caption: expected a string, got list"),
        (
            lambda m: explain(m, dataclasses.replace(SPLIT.subset([0]), boxes=None), "a"),
            ValueError,
            "boxes: expected images with boxes",
        ),
        (lambda m: explain_features([[1.0]], [[1.0]]), TypeError, "image_features: expected a numpy array, .*got list"),
        (lambda m: explain_features(*(x[None] for x in pair())), ValueError, r"image_features: expected shape \(rows"),
        (
            lambda m: explain_features(pair()[0], pair(width=4)[1]),
            ValueError,
            r"caption_features: expected a width of 16 \(as image_features\), got 4",
        ),
        (lambda m: explain_features(pair()[0] / 0, pair()[1]), ValueError, "image_features: expected finite features"),
        (lambda m: explain_features(*pair(), scorer="scan"), TypeError, "scorer: expected a PairScorer or None"),
        (lambda m: explain_features(*pair(), word_names=["a"]), ValueError, "word_names: expected 5 of them, got 1"),
        (lambda m: explain_features(*pair(), kept=[np.ones(3)]), ValueError, r"kept: expected shape \(7,\) for each"),
        (lambda m: explain_features(*pair(), kept=[np.full(7, 0.5)]), ValueError, "kept: .* sum to 1 .*, got 0.5 in"),
        (lambda m: explain_features(*pair(), boxes=np.ones((3, 4))), ValueError, r"boxes: expected .* \(7, 4\)"),
        (lambda m: explain_features(*pair(), boxes=np.ones((7, 4)), size=(0, 3)), ValueError, "size: expected width"),
        (
            lambda m: explain(m, SPLIT.subset([0]), "a dog").find_word("cat"),
            ValueError,
            r"word: .* \(a, dog\), got 'cat",
        ),
        (
            lambda m: explain(m, SPLIT.subset([0]), "a dog").find_word(2),
            ValueError,
            "word: expected an index from 0 to 1",
        ),
    ],
)
def test_bad_input(model, call, kind, message):
    with pytest.raises(kind, match=message):
        call(model)


def test_public_names():
    assert "explain" in cmsei_fast.__all__
    assert cmsei_fast.report.explain is explain
