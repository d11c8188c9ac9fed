"""What a kernel cannot hold goes to eager: with a warning where only the GPU at hand is too small."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from problems import Problem

from cmsei_fast import PairScorer
from cmsei_fast.engines import eager, triton_design, triton_pair_vjp, triton_relation
from cmsei_fast.engines import triton as engine
from cmsei_fast.engines.triton_launch import on_device, warn_once

errors = pytest.importorskip("triton.runtime.errors")


@pytest.mark.parametrize("regions", [(5, 1), (5, 100)], ids=["small", "one-large"])
def test_a_kernel_that_does_not_fit_the_gpu(monkeypatch: pytest.MonkeyPatch, regions: tuple[int, ...]) -> None:
    def too_much(*_: Any) -> None:
        raise errors.OutOfResources(576, 512, "tensor memory")

    monkeypatch.setattr(triton_design, "pair_score", too_much)
    monkeypatch.setattr(triton_pair_vjp, "pair_score_backward", too_much)
    warn_once.cache_clear()
    problem = Problem(PairScorer.cmsei(), regions, (3, 2), 8)
    v, w, *both = problem.tensors()
    rest = (v, w, *both, torch.tensor(problem.scorer.scalars()), problem.scorer.config(), "float64")
    with pytest.warns(UserWarning, match="^engine 'triton': a kernel does not fit this GPU .*tensor memory"):
        scores = engine.pair_score(*rest)
    torch.testing.assert_close(scores, eager.pair_score(*rest), atol=1e-12, rtol=0)
    grad = problem.upstream()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        found = engine.pair_score_backward(grad, *rest)
    for one, other in zip(found, eager.pair_score_backward(grad, *rest), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


class TooLarge:
    """A kernel that no GPU holds."""

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*_: Any, **__: Any) -> None:
            raise errors.OutOfResources(256 * 1024, 99 * 1024, "shared memory")

        return launch


def test_relation_attention_that_does_not_fit_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from cmsei_fast.kernels import relation_attention

    for name in ("relations_forward", "relations_backward"):
        monkeypatch.setattr(relation_attention, name, TooLarge())
    warn_once.cache_clear()
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(1, 2, 5, 3, generator=generator) for _ in range(4))
    labels = torch.randint(0, 3, (1, 5, 5), generator=generator)
    bias = torch.randn(3, 2, generator=generator)
    with pytest.warns(UserWarning, match="^engine 'triton': a kernel does not fit this GPU .*shared memory"):
        found = engine.relation_attention(q, k, v, labels, bias)
    assert torch.equal(found, eager.relation_attention(q, k, v, labels, bias, None, None))
    gradients = engine.relation_attention_backward(grad, q, k, v, labels, bias)
    for one, other in zip(
        gradients, eager.relation_attention_backward(grad, q, k, v, labels, bias, None, None), strict=True
    ):
        assert (one is None) == (other is None)
        assert one is None or other is None or torch.equal(one, other)


def test_programs_of_wide_heads_are_smaller() -> None:
    """As measured of what the compiler makes of them: test_triton_compiled.py."""
    usual = [triton_relation.forward_tile(nodes, 128, 2) for nodes in (36, 100)]
    assert usual == [(16, 64), (64, 64)]
    assert triton_relation.forward_tile(36, 128, 4) == (16, 64)
    assert triton_relation.forward_tile(100, 128, 4) == (64, 32)
    assert triton_relation.forward_tile(100, 256, 4) == triton_relation.forward_tile(20, 256, 4) == (16, 32)
    assert triton_relation.forward_tile(100, 256, 8) == (16, 16)


class OnSecondGPU(torch.Tensor):
    """A CPU's tensor that says where it is not."""

    is_cuda = True
    device = torch.device("cuda", 1)


def test_kernels_are_launched_where_the_tensors_are(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [torch.device("cuda", 0)]

    @contextlib.contextmanager
    def entered(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", entered)
    found = on_device(lambda *_, **__: current[-1])
    here, there = torch.zeros(1), torch.zeros(1).as_subclass(OnSecondGPU)
    assert found(here, 3, words=here) == torch.device("cuda", 0)
    assert found(there, here) == found(here, there) == found(None, words=there) == torch.device("cuda", 1)
    for launching in ("pair_score", "pair_score_backward", "relation_attention", "relation_attention_backward"):
        assert getattr(engine, launching).__wrapped__
