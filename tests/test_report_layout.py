"""Labels that keep clear of each other, and relations told once."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from cmsei_fast import Attention, PairScorer
from cmsei_fast.report import explain_features, save_page
from cmsei_fast.report.canvas import place_labels, places_for_box, places_for_point, places_off_lines, strengths
from cmsei_fast.report.explanation import Edge
from cmsei_fast.report.relations import highlighted_relations, relation_text, strongest_relations


@pytest.mark.parametrize("places", [places_for_box, places_for_point])
@pytest.mark.parametrize("seed", range(4))
def test_labels_stay_on_the_canvas_and_off_each_other(places, seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 300, (30, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 100, (30, 2))], axis=1)
    boxes[5:9] = boxes[4]  # objects in one place
    anchors = boxes if places is places_for_box else boxes[:, :2]
    sizes = [(float(w), 12.0) for w in rng.uniform(20, 60, 30)]
    wanted = [(size, places(anchor.tolist(), size)) for size, anchor in zip(sizes, anchors, strict=True)]
    found = place_labels(wanted, (400.0, 400.0))
    placed = [(x, y, x + w, y + h) for (w, h), corner in zip(sizes, found, strict=True) if corner for x, y in [corner]]
    assert len(placed) >= 25
    assert found[0] is not None
    for i, a in enumerate(placed):
        assert min(a) >= 0
        assert max(a) <= 400
        assert all(a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3] for b in placed[:i])


def test_a_label_without_room_is_told():
    size = (10.0, 10.0)
    assert place_labels([(size, [(0.0, 0.0)]), (size, [(3.0, 3.0)]), (size, [(15.0, 0.0)])], (20.0, 10.0)) == [
        (0.0, 0.0),
        None,
        (10.0, 0.0),
    ]


def test_labels_keep_off_lines_where_they_can():
    size, line = (20.0, 10.0), ((0.0, 0.0), (100.0, 100.0))
    places = [(45.0, 45.0), (70.0, 20.0), (10.0, 8.0), (20.0, 70.0), (100.0, 95.0), (105.0, 105.0)]
    found = list(places_off_lines(places, size, [line], 2.0, (200.0, 200.0)))
    assert found == [(70.0, 20.0), (20.0, 70.0), (105.0, 105.0), (45.0, 45.0), (10.0, 8.0), (100.0, 95.0)]
    # On this canvas the second place would be moved onto the line.
    assert next(places_off_lines([(70.0, 20.0), (20.0, 70.0)], size, [line], 2.0, (40.0, 200.0))) == (20.0, 70.0)
    for flat in (((0.0, 50.0), (100.0, 50.0)), ((50.0, 0.0), (50.0, 100.0)), ((55.0, 52.0), (55.0, 52.0))):
        assert list(places_off_lines([(45.0, 45.0), (80.0, 80.0)], size, [flat], 0.0, (200.0, 200.0))) == [
            (80.0, 80.0),
            (45.0, 45.0),
        ]


def test_shares_are_drawn_by_their_size_and_faintly_where_they_are_even():
    for shares in ([0.0, 1.0, 0.0], [1.0], [0.0, 7.0]):
        np.testing.assert_allclose(strengths(np.array(shares)), np.array(shares) / max(shares))
    np.testing.assert_allclose(strengths(np.full(36, 1 / 36)), 0.2)
    peaked, even = (strengths(np.array(x)) for x in ([0.7, 0.2, 0.1], [0.4, 0.35, 0.25]))
    assert peaked[0] > peaked[1] > peaked[2]
    assert peaked[0] > even[0] > even[2] > 0
    assert (strengths(np.zeros(3)) == 0).all()


def explained(*edges):
    rows = np.eye(4)
    names = ["man", "hat", "dog", "tree"]
    return dataclasses.replace(explain_features(rows, rows[:2], region_names=names), edges=edges)


def test_a_relation_of_many_edges_is_told_once():
    found = explained(
        Edge("semantic", 0, 0, 1, "wearing", False, 0.3, 1.0),
        Edge("semantic", 0, 1, 0, "wearing", True, 0.8, 1.0),
        Edge("semantic", 1, 1, 0, "wearing", True, 0.1, 1.0),
        Edge("semantic", 0, 0, 1, "has", False, 0.2, 1.0),
        Edge("semantic", 0, 0, 0, "self", False, 0.9, 1.0),
        Edge("spatial", 0, 2, 3, "left, slightly above", False, 0.5, 1.0),
        Edge("spatial", 0, 3, 2, "right, slightly below", False, 0.4, 1.0),
        Edge("spatial", 0, 1, 0, "inside", False, 0.25, 1.0),
        Edge("spatial", 0, 0, 1, "covers", False, 0.05, 1.0),
        Edge("implicit", 0, 0, 1, "any", False, 0.01, 1.0),
    )
    relations = strongest_relations(found)
    # The neighbour, the tree, lies left of and slightly above the dog that gathers from it.
    assert [relation_text(found, r) for r in relations] == [
        "man 0 wearing hat 1",
        "tree 3 left of and slightly above dog 2",
        "hat 1 inside man 0",
        "man 0 has hat 1",
        "man 0 and hat 1",
    ]
    assert [r.attention for r in relations] == [0.8, 0.5, 0.25, 0.2, 0.01]
    assert [(e.layer, e.attention) for e in relations[0].gathered_by(1)] == [(0, 0.8), (1, 0.1)]
    assert [e.attention for e in relations[0].gathered_by(0)] == [0.3]
    assert sum(len(r.edges) for r in relations) == len(found.edges) - 1


def test_a_word_lights_up_the_relation_that_it_alone_reaches():
    """Each word attends to one region, half of which came along an edge."""
    edges = [
        Edge("semantic", 0, 0, 1, "wearing", False, 1.0, 1.0, 0.5),
        Edge("semantic", 0, 1, 0, "wearing", True, 1.0, 1.0, 0.25),
        Edge("semantic", 0, 2, 3, "near", False, 1.0, 1.0, 0.5),
        Edge("semantic", 0, 2, 2, "self", False, 1.0, 1.0, 0.25),
    ]
    v = 40 * np.eye(4)
    words = np.stack([v[0], v[2], v[3]])
    kept = [np.array([0.5, 0.75, 0.25, 1.0])]
    scorer = PairScorer(Attention(attend="hard"))
    found = explain_features(v, words, scorer=scorer, word_names=["on", "near", "x"], edges=edges, kept=kept)
    relations = strongest_relations(found)
    (highlighted,) = highlighted_relations(found, relations, 0)
    assert highlighted.relation.name == "wearing"
    assert highlighted.share == pytest.approx(0.5, abs=1e-6)
    assert highlighted.mean_share == pytest.approx(0.5 / 3, abs=1e-6)
    assert [one.relation.name for one in highlighted_relations(found, relations, 1)] == ["near"]
    assert [one.share for one in highlighted_relations(found, relations, 2, count=9) if one.share > 1e-6] == []
    alone = explain_features(v, words[:1], scorer=scorer, edges=edges, kept=kept)
    (only, *_) = highlighted_relations(alone, strongest_relations(alone), 0)
    assert only.share == only.mean_share == pytest.approx(0.5, abs=1e-6)
    assert highlighted_relations(explain_features(v, words), [], 0) == []


@pytest.mark.parametrize("kinds", [("semantic",), ("spatial", "semantic"), ("implicit", "spatial", "semantic")])
def test_rings_of_nodes_stay_on_the_canvas_and_off_each_other(kinds, tmp_path):
    """A region with more graphs has more rings; at the canvas's edge the outer one was cut off."""
    rng = np.random.default_rng(0)
    n, size = 12, (500.0, 375.0)
    corners = rng.uniform(0, 1, (n, 2)).round() * (np.array(size) - 10)  # all in the four corners of the canvas
    boxes = np.concatenate([corners, corners + 10], axis=1)
    edges = [Edge(kind, 0, i, j, "near", True, 0.5, 1.0) for kind in kinds for i in range(n) for j in (i, (i + 1) % n)]
    found = explain_features(np.eye(n), np.eye(n)[:2], edges=edges, boxes=boxes, size=size)
    save_page(found, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    pattern = r'class="ring [a-z]+" cx="([\d.-]+)" cy="([\d.-]+)" r="([\d.]+)"[^>]*--ring:([\d.]+)px'
    rings = np.array(re.findall(pattern, text), dtype=float)
    assert len(rings) == n * len(kinds)
    outer = rings.reshape(n, len(kinds), 4)[:, -1]
    reach = outer[:, 2] + outer[:, 3] / 2
    assert (outer[:, :2] >= reach[:, None] - 0.2).all()
    assert (outer[:, :2] <= np.array(size) - reach[:, None] + 0.2).all()
    apart = np.abs(outer[:, None, :2] - outer[None, :, :2]).max(-1) + 1e9 * np.eye(n)
    assert apart.min() >= 2 * reach.max() - 0.4
