"""Words of relations look at both ends: which relation a word means, the loss, its gradient, and what it does."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import training_runs
from training_runs import NOISY, losses

from cmsei_fast import Attention, Encoded, PairScorer, explain, nn
from cmsei_fast.data import Split
from cmsei_fast.data.mentions import Mentions, stem, verbs
from cmsei_fast.engines import reference
from cmsei_fast.engines.terms import read_terms
from cmsei_fast.training import TrainConfig, grounding_loss, train
from cmsei_fast.training.grounding import ends_of, word_attention
from cmsei_fast.training.mentions import MentionBatch, find_mentions, mention_batch

OBJECTS = ("man", "woman", "hat", "tennis racket", "bench", "dog")
PREDICATES = ("wearing", "wears", "sitting on", "in front of", "holding")
MAN, WOMAN, HAT, OTHER_HAT, RACKET, BENCH, UNKNOWN = range(7)
RELATIONS = (
    (MAN, 0, HAT),
    (WOMAN, 1, OTHER_HAT),
    (WOMAN, 4, RACKET),
    (MAN, 2, BENCH),
    (BENCH, 3, WOMAN),
    (WOMAN, 4, UNKNOWN),
    (MAN, 4, MAN),
)


def scene() -> Split:
    return Split(
        ids=("empty", "image"),
        offsets=np.array([0, 1, 8]),
        captions=("a man",),
        caption_to_image=np.array([1]),
        labels=np.array([0, 0, 1, 2, 2, 3, 4, -1], dtype=np.int32),
        object_names=OBJECTS,
        relations=np.array(RELATIONS, dtype=np.int32),
        relation_offsets=np.array([0, 0, 7]),
        predicate_names=PREDICATES,
    )


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Men wearing hats", {1: [(MAN, HAT)]}),
        ("a woman wears something", {2: [(WOMAN, OTHER_HAT)]}),
        ("somebody wearing a hat", {1: [(MAN, HAT), (WOMAN, OTHER_HAT)]}),
        ("a man and a woman wearing a hat", {5: [(MAN, HAT), (WOMAN, OTHER_HAT)]}),
        ("a man wearing a hat sits at a bench", {2: [(MAN, HAT)], 5: [(MAN, BENCH)]}),
        ("hat wearing man", {}),
        ("a bench in front of a woman", {}),
        ("a woman holding rackets", {2: [(WOMAN, RACKET)]}),
        ("a woman holding a kite", {2: [(WOMAN, RACKET), (WOMAN, UNKNOWN)]}),
        ("a man holding a man", {}),
        ("wearing", {}),
        ("", {}),
    ],
)
def test_which_relations_a_word_means(caption, expected):
    found = Mentions(scene())(caption.split(), 1)
    assert {mention.word: [tuple(ends) for ends in mention.ends.tolist()] for mention in found} == expected
    assert Mentions(scene())(caption.split(), 0) == []


@pytest.mark.parametrize("name", ["lady,woman", "woman,lady", "young lady, woman,"])
def test_any_alias_of_a_label_names_it(name):
    names = ("man", name, *OBJECTS[2:])
    find = Mentions(replace(scene(), object_names=names))
    for word in ("woman", "lady", "ladies"):
        (found,) = find(["a", word, "wearing", "hats"], 1)
        assert found.ends.tolist() == [[WOMAN, OTHER_HAT]]
    assert find(["wearing", ","], 1) == []


def test_forms_of_a_verb():
    for forms in ("wearing wears wear", "sitting sits", "riding rides ride", "carrying carries", "using uses"):
        assert len({stem(form) for form in forms.split()}) == 1, forms
    assert len({stem(word) for word in ("sitting", "standing", "string", "in", "king", "playing")}) == 6
    names = ["wears", "wearing", "sitting on", "lying on", "in", "in front of", "has", ""]
    assert verbs(names) == ["wear", "wear", "sit", "ly", None, None, None, None]


def random_attention(k: int = 4, r: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(0)
    attention = torch.randn(k, r, generator=made, dtype=torch.float64).softmax(1)
    kinds = torch.tensor([[1, 2, 0, 0, 0], [1, 1, 2, 2, 2], [2, 1, 0, 1, 0], [0, 0, 0, 1, 2]])
    return attention, kinds == 1, kinds == 2


def test_the_loss_is_that_of_plain_loops():
    attention, subjects, objects = random_attention()
    found = grounding_loss(attention, subjects, objects)
    for k in range(4):
        halves = [math.fsum(float(attention[k, r]) for r in range(5) if ends[k, r]) for ends in (subjects, objects)]
        divergence = sum(0.5 * math.log(0.5 / half) for half in halves)
        assert found[k].item() == pytest.approx(divergence, rel=1e-12)
        assert divergence > 0
    halves = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64)
    own = torch.tensor([[True, False, False]])
    assert grounding_loss(halves, own, ~own).item() == pytest.approx(0, abs=1e-12)
    nothing = grounding_loss(torch.tensor([[0.0, 1.0, 0.0]]), own, ~own & torch.tensor([[False, True, False]]))
    assert math.isfinite(nothing.item())
    assert nothing.item() > 5


SCORERS = {
    "clipped_l2norm": PairScorer(t2i=Attention(steps=2)),
    "softmax": PairScorer(t2i=Attention(norm="softmax", temperature=4.0)),
    "none": PairScorer(t2i=Attention(norm="none"), i2t=Attention()),
}


def ragged() -> tuple[Encoded, Encoded, Encoded, MentionBatch]:
    """Two images, of which one has lost a region, and two captions; three words speak of relations."""
    made = torch.Generator().manual_seed(1)
    rows = torch.randn(12, 6, generator=made, dtype=torch.float64)
    kept = Encoded(torch.tensor([1.0, 0, 1, 1, 1, 1])[:, None], torch.tensor([4, 2]))
    mentions = MentionBatch(
        torch.tensor([1, 0, 0]),
        torch.tensor([1, 0, 0]),
        torch.tensor([3, 0, 2]),
        torch.tensor([[0, 0, 1], [1, 0, 2], [1, 3, 3], [2, 0, 1]]),
        (3,),
    )
    return Encoded(rows[:5], torch.tensor([3, 2])), Encoded(rows[5:], torch.tensor([3, 4])), kept, mentions


@pytest.mark.parametrize("name", SCORERS)
def test_attention_is_the_reference_engines(name):
    regions, words, kept, mentions = ragged()
    attention, there = word_attention(nn.PairScore(SCORERS[name]), regions, words, kept, mentions)
    assert there.tolist() == [[True, True, False, False], [True, False, True, True], [True, False, True, True]]
    scalars = torch.tensor(SCORERS[name].scalars(), dtype=torch.float64)
    how = read_terms(scalars, SCORERS[name].config()).t2i
    v, w = regions.rows.split([3, 2]), words.rows.split([3, 4])
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for k, (image, caption, word) in enumerate([(1, 1, 3), (0, 0, 0), (0, 0, 2)]):
        expected[k, there[k]] = reference.attend(w[caption] @ v[image].T, how)[word]
    assert torch.allclose(attention, expected, atol=1e-7)
    subjects, objects = ends_of(mentions.relations, there)
    assert subjects.nonzero().tolist() == [[0, 0], [1, 0], [1, 3]]  # the second relation of the first image lost an end
    assert objects.nonzero().tolist() == [[0, 1], [1, 2]]


def test_attention_of_no_word():
    regions, words, kept, _ = ragged()
    none = torch.zeros(0, dtype=torch.int64)
    mentions = MentionBatch(none, none, none, none.view(0, 3), (0,))
    attention, there = word_attention(nn.PairScore(SCORERS["none"]), regions, words, kept, mentions)
    assert attention.shape == there.shape == (0, 4)
    assert grounding_loss(attention, *ends_of(mentions.relations, there)).shape == (0,)


@pytest.mark.parametrize("name", SCORERS)
def test_gradients(name):
    regions, words, kept, mentions = ragged()
    score = nn.PairScore(SCORERS[name]).double()

    def loss(v, w):
        attention, there = word_attention(score, Encoded(v, regions.lengths), Encoded(w, words.lengths), kept, mentions)
        subjects, objects = ends_of(mentions.relations, there)
        own = subjects.any(1) & objects.any(1)
        return grounding_loss(attention[own], subjects[own], objects[own])

    leaves = (regions.rows.requires_grad_(), words.rows.requires_grad_())
    assert torch.autograd.gradcheck(loss, leaves)
    loss(*leaves).sum().backward()
    assert leaves[0].grad.abs().sum() > 0
    assert leaves[1].grad.abs().sum() > 0
    assert score.log_scale.grad.abs().sum() > 0


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_words(world):
    split = training_runs.tiny_split()
    mentions = find_mentions(training_runs.tiny_model(split), split)
    captions = np.array([5, 0, 9, 4, 3, 20, 1])
    images, owner = np.unique(split.caption_to_image[captions], return_inverse=True)
    parts = np.array_split(captions, world)
    shares = [mention_batch(mentions, parts, rank, owner) for rank in range(world)]
    assert all(share.counts == tuple(len(x.images) for x in shares) for share in shares)
    found = []
    for part, share in zip(parts, shares, strict=True):
        for k, (image, caption, word) in enumerate(
            zip(share.images.tolist(), share.captions.tolist(), share.words.tolist(), strict=True)
        ):
            ends = share.relations[share.relations[:, 0] == k][:, 1:].tolist()
            assert split.caption_to_image[part[caption]] == images[image]
            found.append((int(part[caption]), word, ends))
    assert found == [(int(c), m.word, m.ends.tolist()) for c in captions for m in mentions[c]]
    assert len(found) >= 5


def halves(model, split) -> np.ndarray:
    """(words, 2): what of each word of a relation lies on subjects and on objects."""
    out = []
    for image, caption, mentions in zip(
        split.caption_to_image, split.captions, find_mentions(model, split), strict=True
    ):
        attention = explain(model, split.subset(image[None]), caption).of_words(0)
        out += [[attention[m.word, m.ends[:, end]].sum() for end in (0, 1)] for m in mentions]
    return np.array(out)


def test_attention_moves_to_both_ends(tmp_path):
    """Of 8 regions, in images that were not trained on."""
    split, other = training_runs.tiny_split(24), training_runs.tiny_split(8, seed=1)
    found = []
    for weight in (0.0, 0.3):
        config = TrainConfig(epochs=8, batch_size=32, learning_rate=0.01, loss="infonce", grounding=weight)
        model = training_runs.tiny_model(split, region_dropout=0.1)
        train(model, split, None, tmp_path / str(weight), config, device="cpu", progress=False)
        found.append(halves(model, other))
    plain, grounded = found
    assert len(plain) == len(grounded) == 64
    loss = [-np.log(2 * own).mean() for own in found]  # 2.8 and 1.1
    assert loss[1] < 0.6 * loss[0]
    both = [(own > 1 / 8).all(1).mean() for own in found]  # more than an even share each: 27 % and 59 %
    assert both[1] > both[0] + 0.15


def test_without_weight_nothing_changes(tmp_path):
    """The words are found, but weigh nothing: the losses are to the bit those of a run that does not look for them."""
    training_runs.run(tmp_path / "plain", epochs=1, validated=False)
    training_runs.run(tmp_path / "tiny", epochs=1, validated=False, grounding=1e-30)
    assert losses(tmp_path / "tiny") == losses(tmp_path / "plain")


def test_a_run_older_than_the_setting_is_resumed(tmp_path):
    training_runs.run(tmp_path, epochs=1, validated=False)
    path = tmp_path / "run.json"
    record = json.loads(path.read_text())
    assert record["training"].pop("grounding") == 0
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"^grounding: expected 0.0 \(as the run began\), got 0.5$"):
        training_runs.run(tmp_path, resume=True, epochs=2, validated=False, grounding=0.5)
    training_runs.run(tmp_path, resume=True, epochs=2, validated=False)
    assert len(losses(tmp_path)) == 8


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^grounding: expected a number >= 0, got -1.0$"):
        TrainConfig(grounding=-1)
    split = training_runs.tiny_split()
    model = training_runs.tiny_model(split)
    bare = replace(split, relations=None, relation_offsets=None, relation_scores=None)
    no_labels = replace(split, labels=None, label_scores=None)
    for given, lacking in ((bare, "relations"), (no_labels, "labels")):
        told = rf"^grounding: expected a training split with {lacking} \(scene graphs\), got one without$"
        with pytest.raises(ValueError, match=told):
            find_mentions(model, given)
        with pytest.raises(ValueError, match=f"^{lacking}: expected a split with {lacking}, got one without$"):
            Mentions(given)
    silent = replace(split, captions=("something else",) * len(split.captions))
    told = "^grounding: expected captions that name relations of their images, got none that does$"
    with pytest.raises(ValueError, match=told):
        find_mentions(model, silent)
    monkeypatch.setattr(training_runs, "tiny_model", lambda split: deaf)
    deaf = model.__class__(replace(model.config, scorer=PairScorer.scan_i2t()), model.vocabulary)
    with pytest.raises(
        ValueError, match=r"^grounding: expected a scorer with t2i \(words attend to regions\), got one without$"
    ):
        training_runs.run(tmp_path / "run", grounding=1.0)
    assert not (tmp_path / "run").exists()


def test_noise_is_part_of_what_is_resumed():
    """The tests of resuming, in one process and in two, train with it."""
    assert NOISY["grounding"] > 0
    assert NOISY["model"]["region_dropout"] > 0
