"""Dropout on the CPU: its probability, its scale, its gradient and where its random numbers come from."""

from __future__ import annotations

import pytest
import torch

from cmsei_fast.model.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.999])
def test_elements_are_lost_with_the_probability_and_the_others_keep_the_mean(p):
    torch.manual_seed(0)
    n = 1 << 22
    x = torch.ones(n, requires_grad=True)
    out = Dropout(p)(x)
    kept = out != 0
    assert abs(kept.double().mean().item() - (1 - p)) <= 5 * (p * (1 - p) / n) ** 0.5
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / (1 - p)), rtol=1e-4 / (1 - p), atol=0)
    (out * 3).sum().backward()
    torch.testing.assert_close(x.grad, 3 * out.detach())


def test_elements_are_lost_independently():
    torch.manual_seed(0)
    n = 1 << 20
    lost = (Dropout(0.2)(torch.ones(4 * n)) == 0).double() - 0.2
    for apart in (1, 2, 3, 4, 8):  # four share a random number
        together = (lost[:-apart] * lost[apart:]).mean().item()
        assert abs(together) <= 5 * 0.16 / (4 * n) ** 0.5
    for first in range(4):
        assert abs(lost[first::4].mean().item()) <= 5 * 0.4 / n**0.5


def test_the_generators_state_is_all_that_a_mask_depends_on():
    layer, x = Dropout(0.3), torch.ones(5, 7)
    torch.manual_seed(3)
    layer(x)
    state = torch.get_rng_state()
    second, third = layer(x), layer(x)
    torch.set_rng_state(state)
    assert torch.equal(layer(x), second)
    assert torch.equal(layer(x.expand(1, 5, 7))[0], third)
    assert not torch.equal(second, third)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_results_have_the_dtype_and_the_shape(dtype):
    x = torch.ones(3, 5, dtype=dtype).T
    out = Dropout(0.5)(x)
    assert out.dtype == dtype
    assert out.shape == x.shape
    assert set(out.flatten().tolist()) <= {0.0, 2.0}


@pytest.mark.parametrize("layer", [Dropout(0.0), Dropout(0.4).eval()], ids=["of nothing", "evaluating"])
def test_nothing_is_drawn_where_nothing_is_lost(layer):
    x, state = torch.randn(4, 4), torch.get_rng_state()
    assert torch.equal(layer(x), x)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_probability_of_nearly_1_and_an_empty_tensor():
    torch.manual_seed(0)
    out = Dropout(1 - 1e-9)(torch.ones(1 << 20))
    assert out.isfinite().all()
    assert 0 < (out != 0).sum() < 64
    assert Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)


def test_transforms_of_torch_func_take_torchs_own():
    x = torch.ones(6, 50)
    out = torch.vmap(Dropout(0.5), randomness="different")(x)
    assert not torch.equal(out[0], out[1])
