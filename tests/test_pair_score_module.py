"""The pair score as a module: its learned numbers, saved and loaded."""

from __future__ import annotations

import pytest
import torch
from operator_inputs import SCORER, scored

from cmsei_fast import Attention, PairScorer
from cmsei_fast.nn import PairScore


def test_pair_score_module_starts_at_its_scorer() -> None:
    scorer = PairScorer(Attention(0.3, 7.7, "l1norm", "lse", 5.1, 3, ((0.1, -0.2), (0.3, 0.7))), word_image=0.9)
    for start in (scorer, SCORER, PairScorer.cmsei(), PairScorer.scan_i2t()):
        assert PairScore(start).scorer == start
    assert PairScore().scorer == PairScorer.cmsei()


def test_pair_score_module_learns_and_stays_legal() -> None:
    v, w, v_offsets, w_offsets = scored()
    module = PairScore(SCORER)
    optimiser = torch.optim.SGD(module.parameters(), lr=50.0)
    for _ in range(5):
        optimiser.zero_grad()
        loss = -module(v.detach(), w.detach(), v_offsets, w_offsets).sum()
        loss.backward()
        optimiser.step()
    learned = module.scorer  # raises were a number illegal
    assert learned.config() == SCORER.config()
    changed = [a != b for a, b in zip(learned.scalars(), SCORER.scalars(), strict=True)]
    # Everything but what this scorer does not have: the weight of word_image, and LSE where t2i is guided.
    assert [i for i, x in enumerate(changed) if not x] == [3, 7]
    again = PairScore(SCORER)
    again.load_state_dict(module.state_dict())
    assert again.scorer == learned


def test_numbers_of_another_structure_do_not_load() -> None:
    one, other = PairScore(PairScorer.scan_t2i()), PairScore(PairScorer.scan_i2t())
    with pytest.raises(RuntimeError, match="initial: expected the numbers of a score with the terms of PairScorer"):
        one.load_state_dict(other.state_dict())
    assert one.scorer == PairScorer.scan_t2i()
    same = PairScore(PairScorer.scan_t2i("mean")).half()
    one.load_state_dict(same.state_dict())


@pytest.mark.parametrize("assign", [False, True])
def test_a_module_made_on_the_meta_device_loads(assign: bool) -> None:
    """As tools that shard a model make it: its buffers have no numbers before those of the state."""
    trained = PairScore(PairScorer.scan_t2i())
    with torch.no_grad():
        trained.log_scale.fill_(0.5)
    with torch.device("meta"):
        module = PairScore(PairScorer.scan_t2i())
    if not assign:
        module = module.to_empty(device="cpu")
        module.initial.fill_(torch.nan)
    module.load_state_dict(trained.state_dict(), assign=assign)
    assert module.scorer == trained.scorer
    other = PairScore(PairScorer.scan_i2t()).state_dict()
    with pytest.raises(RuntimeError, match="initial: expected the numbers of a score with the terms of PairScorer"):
        module.load_state_dict(other, assign=assign)


def test_pair_score_module_refuses() -> None:
    with pytest.raises(TypeError, match=r"^scorer: expected a PairScorer or None, got str; PairScorer\.cmsei"):
        PairScore("cmsei")
