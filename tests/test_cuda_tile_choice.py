"""Which kernel scores a GPU's pairs, and why."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from cuda_on_host import COMPILER, TileModule, engine_on_host

from cmsei_fast.engines import cuda, cuda_tiles

pytestmark = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernel cannot be run on the host"),
]


def test_which_kernel_and_why() -> None:
    both, plain = (SimpleNamespace(architectures=x, ampere_bytes=lambda: 164 * 1024) for x in ("80;90a", "80;90"))
    h100, a100, l4 = ((9, 0), 228 * 1024), ((8, 0), 164 * 1024), ((8, 9), 100 * 1024)
    assert cuda_tiles.choose(both, "bfloat16", *h100) == ("hopper", "")
    assert cuda_tiles.choose(both, "float32", *h100) == ("library", "features are float32, not of 16 bits")
    for module, gpu, kernel, why in [
        (plain, h100, "mma", "without the architecture 90a"),
        (both, a100, "mma", "capability is 8.0, not 9.0"),
        (both, l4, "library", "capability is 8.9, not 9.0, and a multiprocessor has 102400 bytes"),
    ]:
        found = cuda_tiles.choose(module, "float16", *gpu)
        assert found.kernel == kernel
        assert why in found.reason


def test_doctor_tells_the_kernel() -> None:
    with engine_on_host(TileModule()):
        assert cuda.limits().startswith("16-bit scores by TMA and wgmma; ")
    with engine_on_host(TileModule("mma")):
        assert cuda.limits().startswith("16-bit scores by mma.sync (the GPU's compute capability is 8.0, not 9.0); ")
