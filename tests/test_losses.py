"""The losses against plain loops; captions of one image are never negatives of each other."""

from __future__ import annotations

import math

import pytest
import torch

from cmsei_fast.training import InfoNCE, hinge_loss

OWNER = torch.tensor([2, 0, 2, 1, 0, 2])  # three images, six captions


def random_scores() -> torch.Tensor:
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("negatives", ["hardest", "sum"])
def test_hinge_is_that_of_plain_loops(negatives):
    scores, margin = random_scores(), 0.2
    fold = max if negatives == "hardest" else sum
    total = 0.0
    for j, own in enumerate(OWNER.tolist()):
        true = float(scores[own, j])
        captions = [max(0.0, margin + float(scores[own, k]) - true) for k in range(6) if OWNER[k] != own]
        images = [max(0.0, margin + float(scores[i, j]) - true) for i in range(3) if i != own]
        total += fold(captions) + fold(images)
    assert hinge_loss(scores, OWNER, margin, negatives).item() == pytest.approx(total / 6, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_infonce_is_that_of_plain_loops(smoothing):
    scores = random_scores()
    loss = InfoNCE(7.0, smoothing=smoothing).double()
    scale = float(loss.log_scale.detach().exp())
    total = 0.0
    for j, own in enumerate(OWNER.tolist()):
        true = scale * float(scores[own, j])
        of_caption = [scale * float(scores[i, j]) for i in range(3)]
        of_image = [scale * float(scores[own, k]) for k in range(6) if k == j or OWNER[k] != own]
        for logits in (of_caption, of_image):
            norm = math.log(sum(map(math.exp, logits)))
            total += (1 - smoothing) * (norm - true) + smoothing * (norm - sum(logits) / len(logits))
    assert loss(scores, OWNER).item() == pytest.approx(total / 6, rel=1e-12)


def test_a_scale_at_its_limit_can_fall():
    """Where the scores are wrong a lower scale is better, also from beyond the limit."""
    loss = InfoNCE(1000.0)
    optimiser = torch.optim.SGD(loss.parameters(), lr=1e-3)
    scores = 1 - torch.eye(4)
    optimiser.zero_grad()
    loss(scores, torch.arange(4)).backward()
    optimiser.step()
    assert 0 < loss.log_scale.item() < 5


LOSSES = {
    "hardest": lambda s, o: hinge_loss(s, o),
    "sum": lambda s, o: hinge_loss(s, o, negatives="sum"),
    "infonce": InfoNCE(5.0).double(),
    "smoothed": InfoNCE(5.0, smoothing=0.1).double(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    scores = random_scores().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, OWNER), (scores,))


@pytest.mark.parametrize("name", LOSSES)
def test_captions_of_one_image_are_no_negatives(name):
    """With one image there is nothing to tell apart, however its captions' scores differ."""
    scores = torch.tensor([[3.0, -1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    loss = LOSSES[name](scores, torch.zeros(3, dtype=torch.int64))
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros(1, 3, dtype=torch.float64))


def test_what_a_loss_does_not_know_is_refused():
    with pytest.raises(ValueError, match=r"^negatives: expected 'hardest' or 'sum', got 'hard'$"):
        hinge_loss(random_scores(), OWNER, negatives="hard")
    for scale in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=rf"^scale: expected a finite number > 0, got {scale!r}$"):
            InfoNCE(scale)
    for smoothing in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=rf"^smoothing: expected a number in \[0, 1\), got {smoothing!r}$"):
            InfoNCE(smoothing=smoothing)
