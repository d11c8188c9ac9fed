"""Builds the CPU module with NEON's register tiles and the 512-bit variants, of an instruction set that the processor
has; its path from the root is the last line that is printed.

A process of its own, as it changes what the package that builds knows.

    python tests/emulated_build.py avx2   # instructions of AVX2; without it those of any x86-64
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

VARIANTS = ("baseline", "avx512")


def main() -> None:
    os.environ["CXXFLAGS"] = "-O2 -DCMSEI_EMULATE_512"  # -O3 compiles half as long again
    os.nice(5)  # tests run meanwhile; at 10 a busy machine leaves the compilers next to nothing
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "csrc"))
    from building import instruction_sets, native

    own = instruction_sets.VARIANTS[sys.argv[1]][0] if len(sys.argv) > 1 else ()
    tiles = (*own, "-DCMSEI_EMULATE_TILES")
    pairs = (*own, "-DCMSEI_EMULATE_PAIRS")
    instruction_sets.VARIANTS = {"baseline": (("-DCMSEI_REGISTERS=32",), 16), "avx2": ((), 32), "avx512": (own, 64)}
    instruction_sets.BFLOAT16 = {"avx512bf16": (pairs, 64), "avx512amx": (tiles, 64)}
    instruction_sets.INT8 = {"avx512vnni": (own, 64), "amxint8": (tiles, 64)}
    directory = f"build/emulated-{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
    print(native.native_module(directory, list(VARIANTS), [*instruction_sets.BFLOAT16, *instruction_sets.INT8]))


if __name__ == "__main__":
    main()
