"""The model of the machine that the kernels of tiles are run on: what the instruction sets document, and refuse."""

from __future__ import annotations

import ctypes
import itertools

import pytest
import torch
from cuda_on_host import COMPILER, TileCall, TileModule, TileOptions, TileRows
from tiles_on_host import CONFIG

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the model cannot be compiled")


@pytest.fixture
def library() -> ctypes.CDLL:
    return TileModule().plan


def test_fragments_lie_as_the_instruction_set_documents(library: ctypes.CDLL) -> None:
    """Figure "WGMMA .m64nNk16 register fragment layout for accumulator matrix D" of the PTX ISA."""
    places = {
        (t, i): (library.hopper_fragment(t, i, 0), library.hopper_fragment(t, i, 1))
        for t in range(128)
        for i in range(72)
    }
    assert sorted(places.values()) == list(itertools.product(range(64), range(144)))
    documented = {
        (0, 0): (0, 0),
        (0, 1): (0, 1),
        (0, 2): (8, 0),
        (0, 3): (8, 1),
        (0, 4): (0, 8),
        (1, 0): (0, 2),
        (3, 1): (0, 7),
        (4, 0): (1, 0),
        (31, 0): (7, 6),
        (31, 3): (15, 7),
        (32, 0): (16, 0),
        (64, 2): (40, 0),
        (127, 71): (63, 143),
    }
    assert {key: places[key] for key in documented} == documented


def test_the_descriptor_has_its_fields_where_the_instruction_set_documents_them(library: ctypes.CDLL) -> None:
    for address in (0, 1024, 26624 * 3 + 8192, 227 * 1024):
        number = library.hopper_descriptor(address)
        assert number & 0x3FFF == address >> 4
        assert number >> 16 & 0x3FFF == 1
        assert number >> 32 & 0x3FFF == 1024 >> 4
        assert number >> 49 & 7 == 0
        assert number >> 62 == 1  # 128-byte swizzle


def test_fragments_of_mma_lie_as_the_instruction_set_documents() -> None:
    """Each number of a tile is one thread's, at its row and column of m16n8k16 in its warp's part."""
    library = TileModule().mma
    places = {
        (t, m, n, i): (library.ampere_fragment(t, m, n, i, 0), library.ampere_fragment(t, m, n, i, 1))
        for t, m, n, i in itertools.product(range(128), range(2), range(9), range(4))
    }
    assert sorted(places.values()) == list(itertools.product(range(64), range(144)))
    for (t, m, n, i), (row, column) in places.items():
        assert row == 32 * (t // 64) + 16 * m + t % 32 // 4 + (8 if i >= 2 else 0)
        assert column == 72 * (t // 32 % 2) + 8 * n + 2 * (t % 4) + (i & 1)


def test_the_model_of_the_machine_reads_e4m3_as_torch_does(library: ctypes.CDLL) -> None:
    library.hopper_e4m3.restype = ctypes.c_float
    found = torch.tensor([library.hopper_e4m3(i) for i in range(256)])
    wanted = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    assert torch.equal(found.nan_to_num(nan=1e9), wanted.nan_to_num(nan=1e9))
    assert int(found.isnan().sum()) == 2


BROKEN = (
    "a barrier at no multiple of 8",
    "a barrier that counts no arrivals",
    "registers that nobody gives back",
    "a warp's threads at several of its instructions",
    "a lane that no warp has",
    "descriptors that differ between warps",
    "bits of a descriptor that mean nothing",
    "sums without a fence",
    "more bytes than a barrier counts",
)


@pytest.mark.parametrize("rule", range(len(BROKEN) + 1), ids=("none", *BROKEN))
def test_the_model_of_the_machine_refuses_what_the_machine_does_not_do(library: ctypes.CDLL, rule: int) -> None:
    assert library.hopper_refuses(rule) == (rule > 0)


@pytest.mark.parametrize(
    ("rows", "width"),
    [
        ({"data": 8, "stride": 16}, 8),
        ({"data": 16, "stride": 24}, 8),
        ({"data": 16, "stride": 16}, 9),
        ({"data": 16, "stride": 1 << 40}, 8),
        ({"data": 16, "stride": 16, "rows": 0}, 8),
    ],
)
def test_the_model_of_the_machine_refuses_what_tma_does(library: ctypes.CDLL, rows: dict[str, int], width: int) -> None:
    """So no launch of the other tests has an address, a stride or a size that it would not take."""
    operand = TileRows(**{"rows": 1} | rows)
    call = TileCall(CONFIG, width=width, regions=operand, words=operand)
    assert library.hopper_host(ctypes.byref(call), ctypes.byref(TileOptions(1, 0, 0, 0))) == -4
