"""The triton engine's kernels in Triton's interpreter, under every engine's tests, in processes of their own.

The interpreter is chosen when the kernels are first imported, and it is slow: a few cases of each test are run. All of
them: ``TRITON_INTERPRET=1 CMSEI_TRITON_GRID=1 pytest tests/test_pair_score.py tests/test_pair_score_gradients.py
tests/test_attention_options.py tests/test_relation_attention.py``.
"""

from __future__ import annotations

import re

import pytest
from triton_here import QUICKLY, TESTS, interpreted, no_interpreter

# Too many pairs, or every problem at once: only with CMSEI_TRITON_GRID.
TOO_SLOW = (
    "not many_chunks and not usually_much_better and not threads and not smaller_than_the_problem and not bad_input"
)

pytestmark = pytest.mark.skipif(no_interpreter() is not None, reason=str(no_interpreter()))


def every_engine(file: str) -> str:
    """What pytest prints about a file in the interpreter."""
    again = " and not gradcheck and not opcheck" if file == "test_attention_options.py" else ""
    return interpreted("-m", "pytest", str(TESTS / file), "-q", "-p", "no:cacheprovider", "-k", TOO_SLOW + again)


@pytest.mark.beside(work=every_engine)
@pytest.mark.parametrize(
    ("file", "least"),
    [
        ("test_pair_score.py", 20),
        ("test_pair_score_gradients.py", 15),
        ("test_attention_options.py", 15),
        ("test_relation_attention.py", 10),
    ],
)
def test_as_every_engine(file: str, least: int, outcome: str) -> None:
    passed = re.search(r"(\d+) passed", outcome)
    assert passed is not None, outcome
    assert int(passed[1]) >= least, outcome


@pytest.mark.beside(work=lambda: interpreted("-c", QUICKLY + SMALL_CHUNKS))
def test_small_chunks(outcome: str) -> None:
    """More chunks than one, of both sides, forward and backward, launches of several padded sizes, both forms."""
    assert "ok" in outcome


SMALL_CHUNKS = """
import torch
from problems import Problem, computed, error, magnitude, truth

from cmsei_fast import PairScorer
from cmsei_fast.engines import triton_pair, triton_pair_vjp

problem = Problem(PairScorer.cmsei(), (5, 1, 17, 7), (3, 1, 18, 5), 8)
for chunk, form in ((1, True), (600, False)):
    triton_pair.FORWARD_CHUNK = triton_pair_vjp.BACKWARD_CHUNK = chunk
    triton_pair.turned = triton_pair_vjp.turned = lambda *_: form
    actual, expected = computed(problem, "triton", torch.float64), truth(problem)
    assert error(actual.scores, expected.scores) <= 1e-12
    for key, value in expected.gradients().items():
        assert error(actual.gradients()[key], value) <= 1e-10 * magnitude(value)
print("ok")
"""


def far_apart() -> str:
    """What pytest prints of relation attention's rows and heads beyond 32 bits."""
    options = ("-q", "-p", "no:cacheprovider", "-k", "few_edges and (row or head)")
    return interpreted("-m", "pytest", str(TESTS / "test_beyond_32_bits.py"), *options)


@pytest.mark.beside(work=far_apart)
def test_beyond_32_bits(outcome: str) -> None:
    assert "2 passed" in outcome


@pytest.mark.beside(work=lambda: interpreted("-c", QUICKLY + LABELS))
def test_labels_outside_the_tables(outcome: str) -> None:
    """What the replays of a CUDA graph may bring unchecked: the row of its query becomes NaN, nothing else is read."""
    assert "ok" in outcome


LABELS = """
import torch

from cmsei_fast.engines import eager, triton_relation

generator = torch.Generator().manual_seed(0)
q, k, v = (torch.randn(1, 2, 5, 3, generator=generator) for _ in range(3))
bias, value = torch.randn(4, 2, generator=generator), torch.randn(4, 2, 3, generator=generator)
labels = torch.randint(0, 4, (1, 5, 5), generator=generator)
wrong = labels.clone()
wrong[0, 1, 2], wrong[0, 3, 0] = 4, -(2**31)
for tables in ((bias, value), (bias, None), (None, value)):
    expected = eager.relation_attention(q, k, v, labels, *tables, None)
    found = triton_relation.relation_attention(q, k, v, wrong, *tables)
    assert found[:, :, [1, 3]].isnan().all()
    torch.testing.assert_close(found[:, :, [0, 2, 4]], expected[:, :, [0, 2, 4]])
    gradients = triton_relation.relation_attention_backward(torch.ones_like(q), q, k, v, wrong, *tables)
    assert gradients[0][:, :, [1, 3]].isnan().all()
    assert gradients[0][:, :, [0, 2, 4]].isfinite().all()
print("ok")
"""
