"""Relation attention backward of the engine cuda: its Python, its kernel on the host, its launch geometry."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from cuda_on_host import COMPILER, RelationCall, RelationModule, engine_on_host
from cuda_on_host import library as host_library
from torch import Tensor

from cmsei_fast.engines import cuda, reference

pytestmark = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernels cannot be run on the host"),
]
NAMES = ("q", "k", "v", "bias", "value", "confidence")


@pytest.fixture(scope="module")
def library() -> Path:
    return host_library("relation")


def problem(
    shape: tuple[int, int, int, int],
    labels: int = 5,
    seed: int = 0,
    density: float = 0.7,
    without: tuple[str, ...] = (),
) -> dict[str, Tensor | None]:
    """Random inputs in float64; the last node has no edge."""
    batch, heads, nodes, channels = shape
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(1, max(labels, 2), (batch, nodes, nodes), generator=generator)
    label[torch.rand(label.shape, generator=generator) > density] = 0
    label[:, -1, :] = 0
    inputs: dict[str, Tensor | None] = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) for name in ("grad", "q", "k", "v")
    }
    inputs |= {
        "labels": label,
        "bias": torch.randn(labels, heads, generator=generator, dtype=torch.float64),
        "value": torch.randn(labels, heads, channels, generator=generator, dtype=torch.float64),
        "confidence": torch.rand(label.shape, generator=generator, dtype=torch.float64) * 0.95 + 0.05,
    }
    return {name: None if name in without else x for name, x in inputs.items()}


def expected(inputs: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Gradients of the literal definition by autograd, in float64."""
    found = reference.relation_attention_backward(**inputs)
    return {n: x for n, x in zip(NAMES, found, strict=True) if x is not None}


def computed(
    module: RelationModule, inputs: dict[str, Tensor | None], dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    typed = {n: x if x is None or n == "labels" else x.to(dtype) for n, x in inputs.items()}
    with engine_on_host(module):
        found = cuda.relation_attention_backward(**typed)
    assert all((x is None) == (inputs[n] is None) for n, x in zip(NAMES, found, strict=True))
    assert all(
        x is None or (x.dtype == dtype and x.shape == inputs[n].shape) for n, x in zip(NAMES, found, strict=True)
    )
    return {n: x.double() for n, x in zip(NAMES, found, strict=True) if x is not None}


def check(actual: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert actual.keys() == wanted.keys()
    for name, want in wanted.items():
        # A NaN is not within any distance.
        assert (actual[name] - want).abs().max() <= tolerance * max(1.0, float(want.abs().max())), name


SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 2, 36, 64), (2, 1, 37, 65), (1, 1, 33, 130), (1, 1, 49, 256), (5, 2, 9, 12)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_kernel_on_host_matches_the_definition(library: Path, shape: tuple[int, int, int, int]) -> None:
    module = RelationModule(library)
    inputs = problem(shape, labels=13)
    check(computed(module, inputs), expected(inputs), 1e-11)
    assert module.backward == [128 if shape[2] <= 48 else 256]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)], ids=str)
def test_kernel_on_host_in_lower_precision(library: Path, dtype: torch.dtype, tolerance: float) -> None:
    inputs = problem((2, 2, 36, 40), labels=7, seed=1)
    inputs = {n: x if n == "labels" else x.to(dtype).double() for n, x in inputs.items()}
    check(computed(RelationModule(library), inputs, dtype), expected(inputs), tolerance)


@pytest.mark.parametrize("without", list(itertools.product(*(((), (n,)) for n in NAMES[3:]))), ids=str)
def test_kernel_on_host_with_and_without_tables(library: Path, without: tuple[tuple[str, ...], ...]) -> None:
    inputs = problem((2, 2, 10, 6), seed=2, without=sum(without, ()))
    check(computed(RelationModule(library), inputs), expected(inputs), 1e-11)


def test_kernel_on_host_takes_any_strides(library: Path) -> None:
    inputs = problem((2, 3, 11, 8), seed=3)
    want = expected(inputs)
    for name in ("grad", "q", "k", "v"):
        gaps = torch.full((2, 12, 3, 17), torch.nan, dtype=torch.float64)
        gaps[:, :-1, :, 1::2] = inputs[name].transpose(1, 2)
        inputs[name] = gaps[:, :-1, :, 1::2].transpose(1, 2)
    check(computed(RelationModule(library), inputs), want, 1e-11)


def test_the_order_of_threads_changes_nothing(library: Path) -> None:
    inputs = problem((3, 2, 37, 70), labels=9, seed=4)
    first, second = (
        computed(RelationModule(library, reverse=reverse), inputs, torch.float32) for reverse in (False, True)
    )
    assert all(torch.equal(x, second[name]) for name, x in first.items())


def forward(inputs: dict[str, Tensor | None]) -> tuple[Tensor | None, ...]:
    return tuple(x for name, x in inputs.items() if name != "grad")


@pytest.mark.parametrize("width", [6, 8])  # rows whose loads are of single numbers, and of 16 bytes
def test_nodes_without_edges_do_not_matter_and_nan_elsewhere_is_not_hidden(library: Path, width: int) -> None:
    inputs = problem((1, 1, 8, width), seed=5, density=1.1)
    inputs["labels"][:, :, -1] = 0  # neither asks nor answers now
    want, out = expected(inputs), reference.relation_attention(*forward(inputs))
    for name in ("grad", "q", "k", "v"):
        inputs[name][0, 0, -1] = torch.nan
    inputs["confidence"][inputs["labels"] == 0] = torch.nan
    inputs["bias"][0] = inputs["value"][0] = torch.nan
    check(computed(RelationModule(library), inputs), want, 1e-11)
    with engine_on_host(RelationModule(library)):
        assert (cuda.relation_attention(*forward(inputs)) - out).abs().max() <= 1e-12
    for name in ("grad", "q", "k", "v"):
        bad = {n: x.clone() for n, x in inputs.items()}
        bad[name][0, 0, 2, 3] = torch.nan
        found = computed(RelationModule(library), bad)
        assert found["q"].isnan().any() or found["k"].isnan().any(), name
        assert found["bias"].isnan().any(), name


@pytest.mark.parametrize("bad", [-1, 4, 1 << 30])
def test_a_label_outside_the_tables_marks_its_row(library: Path, bad: int) -> None:
    inputs = problem((1, 1, 7, 8), labels=4, seed=6, density=1.1)
    inputs["labels"][0, 3, 4] = bad
    found = computed(RelationModule(library), inputs)
    assert found["q"][0, 0, 3].isnan().all()
    others = torch.arange(7) != 3
    assert found["q"][0, 0, others].isfinite().all()


def test_what_does_not_fit_goes_to_eager(library: Path) -> None:
    inputs = problem((1, 2, 40, 8), seed=7)
    module = RelationModule(library, shared_limit=8 * 1024)
    check(computed(module, inputs), expected(inputs), 1e-11)
    many = problem((1, 2, 6, 8), labels=300, seed=8)
    check(computed(module, many), expected(many), 1e-11)
    assert not module.backward


def test_groups_of_images_add_up(library: Path) -> None:
    inputs = problem((5, 1, 3, 256), labels=250, seed=9)
    inputs = {n: x.repeat(60, *(1,) * (x.ndim - 1)) if n not in ("bias", "value") else x for n, x in inputs.items()}
    module = RelationModule(library, shared_limit=227 * 1024)
    groups = module.relation_attention_groups("float64", (300, 1, 3, 256), 250, True, 0)
    assert 1 < groups < 300  # some blocks have several images
    check(computed(module, inputs), expected(inputs), 1e-11)


def test_every_graph_belongs_to_one_block(library: Path) -> None:
    module = RelationModule(library)
    for batch, heads, labels in itertools.product((1, 2, 7, 300, 2049), (1, 3, 8), (0, 13, 256)):
        counts = np.zeros((batch, heads), np.int32)
        call = RelationCall(0, batch, heads, 36, 128, labels, value=int(labels > 0))
        groups = module.library.relation_cover_backward(ctypes.byref(call), counts.ctypes.data_as(ctypes.c_void_p))
        assert 1 <= groups <= batch
        assert (counts == 1).all()


@pytest.mark.gpu
@pytest.mark.skipif(cuda.unavailable() is not None, reason="no CUDA GPU, or no CUDA module")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5), (torch.float16, 4e-3)])
def test_gpu_matches_the_definition(dtype: torch.dtype, tolerance: float) -> None:
    for shape in [*SHAPES, (64, 8, 36, 128), (2, 2, 100, 64)]:
        inputs = problem(shape, labels=13)
        rounded = {n: x if n == "labels" else x.to(dtype).double() for n, x in inputs.items()}
        placed = {n: (x if n == "labels" else x.to(dtype)).cuda() for n, x in inputs.items()}
        once, again = (cuda.relation_attention_backward(**placed) for _ in range(2))
        assert all(torch.equal(x, y) for x, y in zip(once, again, strict=True))
        found = {n: x.double().cpu() for n, x in zip(NAMES, once, strict=True)}
        check(found, expected(rounded), tolerance)
