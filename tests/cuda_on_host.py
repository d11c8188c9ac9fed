"""The engine cuda on the CPU: its Python as it is, its kernels' text run by ``tests/native/pair_host.cpp``."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import beside
import torch

from cmsei_fast import engines
from cmsei_fast.engines import cuda

ROOT = Path(__file__).resolve().parents[1]
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]

# What a launch came to: how its teams were formed.
ALONE, WARPS, BLOCKS, OUTSIDE = 1, 2, 3, 4


def compiled(source: str, folder: Path, *more: str) -> Path:
    """A shared library of a file of tests/native."""
    library = folder / f"{Path(source).stem}.so"
    command = [str(COMPILER), *FLAGS, *more, str(ROOT / "tests" / "native" / source), "-o", str(library)]
    done = beside.run(command, 600)
    assert done.returncode == 0, done.stderr
    return library


def library(name: str) -> Path:
    """The library of ``tests/native/NAME_host.cpp``, compiled once a process, or by the process that started it."""
    if given := os.environ.get(f"CMSEI_HOST_{name.upper()}"):
        return Path(given)
    return _LIBRARIES[name].result()


_FOLDER = tempfile.TemporaryDirectory(prefix="cmsei-")
_LIBRARIES = {
    name: beside.Job(functools.partial(compiled, f"{name}_host.cpp", Path(_FOLDER.name)))
    for name in ("pair", "hopper", "ampere", "relation")
}


class PairItems(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in [
            "items",
            "count",
            "longest",
            "row",
            "start",
            "offsets",
            "gram_offsets",
            "lengths",
            "means",
            "grams",
        ]
    )


_NUMBERS = ("products", "products_stride", "scores", "scores_stride", "splits", "scratch", "d_products")
_NUMBERS += ("d_image_grams", "d_image_grams_stride", "d_caption_grams", "d_caption_grams_stride", "d_scalars")


class PairCall(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int64),
        ("config", ctypes.c_int64 * 15),
        ("scalars", ctypes.c_int64),
        ("images", PairItems),
        ("captions", PairItems),
        *((name, ctypes.c_int64) for name in _NUMBERS),
    )

    def __init__(self, config: tuple[int, ...] = (0,) * 15, **fields: Any) -> None:
        super().__init__(config=(ctypes.c_int64 * 15)(*config), **fields)


class Options(ctypes.Structure):
    _fields_ = (("fibers", ctypes.c_int64), ("reversed", ctypes.c_int64), ("shared_limit", ctypes.c_int64))


class Module:
    """What ``cmsei_fast._cuda`` has for the pair score, on addresses of the CPU's memory."""

    PairItems, PairCall = PairItems, PairCall

    def __init__(self, library: Path, *, fibers: bool, reverse: bool = False, shared_limit: int = 99 * 1024) -> None:
        self.library = ctypes.CDLL(str(library))
        for name in ("pair_host", "pair_host_scratch", "pair_cover"):
            getattr(self.library, name).restype = ctypes.c_int64
        self.options = Options(int(fibers), int(reverse), shared_limit)
        self.teams: set[int] = set()

    def ampere_bytes(self) -> int:
        return 164 * 1024

    def pair_scratch(self, call: PairCall, backward: bool, device: int) -> int:
        return self.library.pair_host_scratch(ctypes.byref(call), int(backward), ctypes.byref(self.options))

    def pair_scores(self, call: PairCall, device: int, stream: int) -> None:
        self._run(call, 0)

    def pair_gradients(self, call: PairCall, device: int, stream: int) -> None:
        self._run(call, 1)

    def _run(self, call: PairCall, backward: int) -> None:
        status = self.library.pair_host(ctypes.byref(call), backward, ctypes.byref(self.options))
        assert status > 0, f"the kernel did not run: {status}"
        self.teams.add(status)


class TileRows(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("data", "stride", "rows", "scales"))


_Config = dict(PairCall._fields_)["config"]


class TileCall(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("config", _Config),
        ("scalars", ctypes.c_int64),
        ("images", PairItems),
        ("captions", PairItems),
        ("regions", TileRows),
        ("words", TileRows),
        *((f"{side}_{what}", ctypes.c_int64) for side in ("image", "caption") for what in ("tiles", "tile_count")),
        ("scores", ctypes.c_int64),
        ("scores_stride", ctypes.c_int64),
    )

    def __init__(self, config: tuple[int, ...], **fields: Any) -> None:
        super().__init__(config=_Config(*config), **fields)


class TileOptions(ctypes.Structure):
    # On Hopper clusters, not blocks, of captions x images blocks; 0: of as many as a launch takes.
    _fields_ = tuple(
        (name, ctypes.c_int64) for name in ("blocks", "reversed", "late", "bits", "captions", "images", "sum_bits")
    )


def bounds(lengths: list[int]) -> list[int]:
    """Offsets of items of these lengths, one behind another."""
    return [0, *itertools.accumulate(lengths)]


class TileModule(Module):
    """:class:`Module` with the kernels that multiply and score, run by ``tests/native/{hopper,ampere}_host.cpp``."""

    TileRows, TileCall, architectures = TileRows, TileCall, "80;90a"
    kernel = "hopper"

    def __init__(
        self,
        kernel: str = "hopper",
        *,
        blocks: int = 1 << 30,
        reverse: bool = False,
        late: int = 0,
        bits: int = 0,
        cluster: tuple[int, int] = (0, 0),
        sum_bits: int = 0,
    ) -> None:
        super().__init__(library("pair"), fibers=False)
        self.kernel = kernel
        self.plan, self.mma = (ctypes.CDLL(str(library(name))) for name in ("hopper", "ampere"))
        for function in (
            self.plan.hopper_host,
            self.plan.tile_team_bytes,
            self.plan.hopper_ahead,
            self.plan.hopper_meetings,
            self.plan.hopper_counted,
            self.mma.ampere_host,
            self.mma.ampere_counted,
        ):
            function.restype = ctypes.c_int64
        self.plan.hopper_descriptor.restype = ctypes.c_uint64
        self.tile_options = TileOptions(blocks, int(reverse), int(late), bits, *cluster, sum_bits)
        self.launches = 0

    def pair_tiles(self, config: tuple[int, ...], hopper: bool, images: list[int], captions: list[int]) -> Any:
        out = (ctypes.c_int32 * (7 * (len(images) + len(captions))))()
        counts = (ctypes.c_int64 * 2)()
        numbers = [(ctypes.c_int64 * len(x))(*x) for x in (config, images, captions)]
        sizes = ctypes.c_int64(len(images) - 1), ctypes.c_int64(len(captions) - 1)
        self.plan.tile_host(numbers[0], int(hopper), numbers[1], sizes[0], numbers[2], sizes[1], out, counts)
        tiles = [tuple(out[7 * i : 7 * i + 7]) for i in range(counts[0] + counts[1])]
        return tiles[: counts[0]], tiles[counts[0] :]

    def hopper_scores(self, call: TileCall, device: int, stream: int) -> None:
        self._launched("hopper", self.plan.hopper_host(ctypes.byref(call), ctypes.byref(self.tile_options)))

    def ampere_scores(self, call: TileCall, device: int, stream: int) -> None:
        self._launched("mma", self.mma.ampere_host(ctypes.byref(call), ctypes.byref(self.tile_options)))

    def _launched(self, kernel: str, status: int) -> None:
        assert kernel == self.kernel
        assert status > 0, f"the kernel did not run: {status}"
        self.launches += 1


class Matrix(ctypes.Structure):
    _fields_ = (("data", ctypes.c_int64), ("strides", ctypes.c_int64 * 4))

    def __init__(self, address: int = 0, strides: tuple[int, ...] = (0,) * 4) -> None:
        super().__init__(address, (ctypes.c_int64 * 4)(*strides))


class RelationCall(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        *((name, ctypes.c_int64) for name in ("batch", "heads", "nodes", "head_dim", "labels_count")),
        *((name, Matrix) for name in ("q", "k", "v")),
        *((name, ctypes.c_int64) for name in ("labels", "bias", "value", "confidence", "out")),
    )


class RelationGradients(ctypes.Structure):
    _fields_ = (
        ("inputs", RelationCall),
        ("grad", Matrix),
        *((name, ctypes.c_int64) for name in ("d_q", "d_k", "d_v", "d_bias", "d_value", "d_logits")),
    )


class RelationOptions(ctypes.Structure):
    _fields_ = (("shared_limit", ctypes.c_int64), ("grid", ctypes.c_int64), ("reversed", ctypes.c_int64))


_RELATION_TYPES = {"float32": 0, "float16": 1, "bfloat16": 2, "float64": 3}


class RelationModule:
    """What ``cmsei_fast._cuda`` has for relation attention, on addresses of the CPU's memory."""

    def __init__(
        self, library: Path, *, reverse: bool = False, shared_limit: int = 99 * 1024, grid: int = 1 << 30
    ) -> None:
        self.library = ctypes.CDLL(str(library))
        for name in ("relation_host_groups", "relation_cover_backward"):
            getattr(self.library, name).restype = ctypes.c_int64
        self.options = RelationOptions(shared_limit, grid, int(reverse))
        self.forward: list[int] = []  # of each launch whether labels were binned
        self.backward: list[int] = []  # of each launch the threads of a block

    def _call(self, kind: str, shape: Any, labels_count: int, qkv: Any, tables: Any) -> RelationCall:
        matrices = (Matrix(*x) for x in qkv)
        return RelationCall(_RELATION_TYPES[kind], *shape, labels_count, *matrices, *tables, 0)

    def relation_attention(
        self, kind: str, shape: Any, labels_count: int, qkv: Any, tables: Any, out: int, device: int, stream: int
    ) -> None:
        call = self._call(kind, shape, labels_count, qkv, tables)
        call.out = out
        status = self.library.relation_host(ctypes.byref(call), ctypes.byref(self.options))
        assert status >= 0, f"the kernel did not run: {status}"
        self.forward.append(status)

    def relation_attention_groups(self, kind: str, shape: Any, labels_count: int, value: bool, device: int) -> int:
        call = self._call(kind, shape, labels_count, ((),) * 3, (0, 0, int(value), 0))
        return self.library.relation_host_groups(ctypes.byref(call), ctypes.byref(self.options))

    def relation_attention_backward(
        self,
        kind: str,
        shape: Any,
        labels_count: int,
        qkv: Any,
        tables: Any,
        grad: Any,
        gradients: Any,
        table_gradients: Any,
        device: int,
        stream: int,
    ) -> None:
        call = self._call(kind, shape, labels_count, qkv, tables)
        whole = RelationGradients(call, Matrix(*grad), *gradients, *table_gradients)
        status = self.library.relation_host_backward(ctypes.byref(whole), ctypes.byref(self.options))
        assert status > 0, f"the kernel did not run: {status}"
        self.backward.append(status)


class WholeModule(TileModule):
    """All that ``cmsei_fast._cuda`` has."""

    def __init__(self, kernel: str) -> None:
        super().__init__(kernel)
        self.relation = RelationModule(library("relation"))
        self.relation_attention = self.relation.relation_attention
        self.relation_attention_groups = self.relation.relation_attention_groups
        self.relation_attention_backward = self.relation.relation_attention_backward


@contextlib.contextmanager
def engine_on_host(module: Module | RelationModule) -> Iterator[None]:
    """Inside the block, engine ``"cuda"`` takes tensors on the CPU and runs the module's kernels."""
    before = cuda._module, cuda.unavailable, cuda._properties, engines._DEVICES["cuda"]
    cuda._module, cuda.unavailable = (lambda: module), (lambda: None)
    kernel = module.kernel if isinstance(module, TileModule) else "library"
    properties = {"hopper": ((9, 0), 228 * 1024), "mma": ((8, 0), 164 * 1024), "library": ((8, 6), 100 * 1024)}[kernel]
    cuda._properties = lambda device: properties
    engines._DEVICES["cuda"] = ("cpu",)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cuda._module, cuda.unavailable, cuda._properties, engines._DEVICES["cuda"] = before
