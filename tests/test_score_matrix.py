"""score_matrix: every form of input and output gives the scores of the operator, whatever the tiles."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cmsei_fast import PairScorer, engines, recall_metrics, score_matrix, tiling
from cmsei_fast.engines.terms import rounded_rows
from cmsei_fast.ops.pair_score import pair_score

RUNNABLE = [
    name
    for name in engines.names()
    if engines.unavailable(name) is None and "cpu" in (engines._devices(name) or ("cpu",)) and name != "cuda"
]
ATOL = 2e-6


def problem(n_image=5, n_caption=7, regions=6, words=9, width=16, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((n_image, regions, width)).astype(np.float32)
    captions = rng.standard_normal((n_caption, words, width)).astype(np.float32)
    return images, captions, rng.integers(1, regions + 1, n_image), rng.integers(1, words + 1, n_caption)


def pack(padded, lengths):
    return np.concatenate([item[:n] for item, n in zip(padded, lengths, strict=True)])


def expected_scores(images, captions, image_lengths, caption_lengths, scorer=None, precision="float64"):
    sides = [torch.from_numpy(pack(x, n)) for x, n in ((images, image_lengths), (captions, caption_lengths))]
    offsets = [torch.from_numpy(np.concatenate([[0], np.cumsum(n)])) for n in (image_lengths, caption_lengths)]
    scorer = scorer or PairScorer.cmsei()
    return pair_score(*sides, *offsets, scorer=scorer, engine="reference", precision=precision).numpy()


def poisoned(padded, lengths):
    """NaN in the padding, which must never be looked at."""
    out = padded.copy()
    for item, n in zip(out, lengths, strict=True):
        item[n:] = np.nan
    return out


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of one or two items, tiles of one or two pairs."""
    monkeypatch.setattr(tiling, "IMAGE_BLOCK_BYTES", 2 * 6 * 16 * 4)
    monkeypatch.setattr(tiling, "CAPTION_BLOCK_BYTES", 3 * 9 * 16 * 4)
    monkeypatch.setattr(tiling, "TILE_WORK", dict.fromkeys(tiling.TILE_WORK, 100_000))


@pytest.mark.parametrize("engine", RUNNABLE)
@pytest.mark.parametrize("scorer", ["scan_t2i", "scan_i2t", "cmsei"])
def test_engines_agree(engine, scorer, small_blocks):
    images, captions, n, m = problem(3, 4) if engine == "reference" else problem()
    scorer = getattr(PairScorer, scorer)()
    got = score_matrix(images, captions, m, n, scorer=scorer, engine=engine)
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected_scores(images, captions, n, m, scorer), atol=ATOL)


FORMS = (
    "numpy",
    "torch",
    "fortran",
    "reversed",
    "read-only",
    "swapped",
    "memmap",
    "h5py",
    "strided tensor",
    "broadcast",
)


def as_form(form, array, tmp_path, name):
    h5py = pytest.importorskip("h5py") if form == "h5py" else None
    if form == "torch":
        return torch.from_numpy(array)
    if form == "fortran":
        return np.asfortranarray(array)
    if form == "reversed":
        return np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    if form == "read-only":
        array = array.copy()
        array.flags.writeable = False
        return array
    if form == "swapped":
        return array.astype(array.dtype.newbyteorder())
    if form == "memmap":
        array.tofile(tmp_path / name)
        return np.memmap(tmp_path / name, dtype=array.dtype, shape=array.shape, mode="r")
    if h5py is not None:
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("x", data=array, chunks=True, compression="gzip")
        return h5py.File(tmp_path / name, "r")["x"]
    if form == "strided tensor":
        wide = torch.full((*array.shape[:-1], 2 * array.shape[-1]), torch.nan)
        wide[..., ::2] = torch.from_numpy(array)
        return wide[..., ::2].requires_grad_()
    if form == "broadcast":
        return np.broadcast_to(array, array.shape)
    return array


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("layout", ["padded", "padded with lengths", "packed"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("blocks", ["small", "large"])
def test_input_forms(request, form, layout, blocks, tmp_path):
    if blocks == "small":
        request.getfixturevalue("small_blocks")
    images, captions, n, m = problem()
    if layout == "padded":
        n[:], m[:] = images.shape[1], captions.shape[1]
    expected = expected_scores(images, captions, n, m)
    if layout == "packed":
        images, captions = pack(images, n), pack(captions, m)
    else:
        images, captions = poisoned(images, n), poisoned(captions, m)
    images, captions = (as_form(form, x, tmp_path, str(i)) for i, x in enumerate((images, captions)))
    lengths = () if layout == "padded" else (m, n)
    got = score_matrix(images, captions, *lengths, engine="eager")
    assert isinstance(got, torch.Tensor if "t" in form and isinstance(images, torch.Tensor) else np.ndarray)
    assert not getattr(got, "requires_grad", False)
    np.testing.assert_allclose(np.asarray(got), expected, atol=ATOL)
    if form == "h5py":
        images.file.close()
        captions.file.close()


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, lambda x: np.array(x, np.uint8)])
def test_length_forms(kind):
    images, captions, n, m = problem()
    got = score_matrix(images, captions, kind(m.tolist()), kind(n.tolist()), engine="eager")
    np.testing.assert_allclose(got, expected_scores(images, captions, n, m), atol=ATOL)


def test_one_side_packed_and_only_captions_with_lengths():
    images, captions, n, m = problem()
    n[:] = images.shape[1]
    got = score_matrix(images, pack(captions, m), m, engine="eager")
    np.testing.assert_allclose(got, expected_scores(images, captions, n, m), atol=ATOL)


@pytest.mark.parametrize("engine", RUNNABLE)
@pytest.mark.parametrize(
    ("n_image", "n_caption", "regions", "words", "width"),
    [(1, 1, 1, 1, 1), (1, 3, 1, 1, 5), (3, 1, 37, 2, 3), (2, 2, 2, 53, 33), (1, 2, 101, 5, 8)],
)
def test_odd_shapes(engine, n_image, n_caption, regions, words, width):
    images, captions, n, m = problem(n_image, n_caption, regions, words, width)
    got = score_matrix(images, captions, m, n, engine=engine)
    np.testing.assert_allclose(got, expected_scores(images, captions, n, m), atol=5e-6)


@pytest.mark.parametrize("empty", [(0, 7), (5, 0), (0, 0)])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_empty_sets(empty, layout, library):
    images, captions, n, m = problem()
    images, captions, n, m = images[: empty[0]], captions[: empty[1]], n[: empty[0]].tolist(), m[: empty[1]].tolist()
    if layout == "packed":
        images = images[:, :1].reshape(-1, 16)
        captions = captions[:, :1].reshape(-1, 16)
        n, m = [1] * len(n), [1] * len(m)
    if library == "torch":
        images, captions = torch.from_numpy(images), torch.from_numpy(captions)
    got = score_matrix(images, captions, m, n)
    assert tuple(got.shape) == empty
    assert str(got.dtype).removeprefix("torch.") == "float32"
    out = np.empty(empty) if library == "numpy" else torch.empty(empty)
    assert score_matrix(images, captions, m, n, out=out) is out


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "float64", "float8", "int8"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precisions(dtype, precision):
    images, captions, n, m = problem()
    images, captions = torch.from_numpy(images).to(dtype), torch.from_numpy(captions).to(dtype)
    sides = [rounded_rows(x.flatten(0, 1), precision).double().view(x.shape).numpy() for x in (images, captions)]
    for engine in RUNNABLE:
        got = score_matrix(images, captions, m, n, precision=precision, engine=engine)
        assert got.dtype == (torch.float64 if precision == "float64" else torch.float32)
        np.testing.assert_allclose(got.numpy(), expected_scores(*sides, n, m), atol=ATOL)


def test_own_precision_is_the_wider_of_the_two():
    images, captions, n, m = problem()
    assert score_matrix(images.astype(np.float64), captions, m, n).dtype == np.float64
    got = score_matrix(images.astype(np.float16), captions.astype(np.float16), m, n, engine="eager")
    halves = [x.astype(np.float16).astype(np.float64) for x in (images, captions)]
    np.testing.assert_allclose(got, expected_scores(*halves, n, m), atol=ATOL)


@pytest.mark.parametrize("kind", ["numpy", "strided", "double", "half", "memmap", "h5py", "torch", "bfloat16"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_out(kind, library, tmp_path, small_blocks):
    images, captions, n, m = problem()
    expected = expected_scores(images, captions, n, m)
    if library == "torch":
        images, captions = torch.from_numpy(images), torch.from_numpy(captions)
    file = None
    if kind == "memmap":
        out = np.memmap(tmp_path / "out", dtype=np.float32, shape=(5, 7), mode="w+")
    elif kind == "h5py":
        file = pytest.importorskip("h5py").File(tmp_path / "out.h5", "w")
        out = file.create_dataset("scores", (5, 7), "f4", chunks=(2, 3))
    elif kind in ("torch", "bfloat16"):
        out = torch.full((5, 7), torch.nan, dtype=torch.bfloat16 if kind == "bfloat16" else torch.float32)
    else:
        dtype = {"double": np.float64, "half": np.float16}.get(kind, np.float32)
        out = np.full((7, 10), np.nan, dtype)[:, ::2].T if kind == "strided" else np.full((5, 7), np.nan, dtype)
    assert score_matrix(images, captions, m, n, out=out, engine="eager") is out
    values = out.float().numpy() if isinstance(out, torch.Tensor) else out[:]
    np.testing.assert_allclose(values, expected, atol={"half": 4e-3, "bfloat16": 4e-2}.get(kind, ATOL))
    if file is not None:
        file.close()


def test_features_are_finite_though_their_sum_is_not():
    images, captions = (torch.full((n, 4, 32), 600.0, dtype=torch.float16) for n in (3, 2))
    assert images.sum().isinf()
    scores = score_matrix(images, captions, [4, 4], scorer=PairScorer.scan_t2i())
    assert scores.isfinite().all()


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_after_an_error_incomplete_rows_are_nan(kind, small_blocks):
    images, captions, n, m = problem()
    images[4, 0, 0] = np.nan
    out = np.zeros((5, 7), np.float32) if kind == "numpy" else torch.zeros(5, 7)
    with pytest.raises(ValueError, match=r"^images: expected finite features, got NaN or an infinity in image 4$"):
        score_matrix(images, captions, m, n, out=out, engine="eager")
    values = np.asarray(out)
    expected = expected_scores(np.nan_to_num(images), captions, n, m)
    complete = ~np.isnan(values).any(axis=1)
    assert complete.tolist() == [True, True, True, True, False]
    np.testing.assert_allclose(values[complete], expected[complete], atol=ATOL)
    assert np.isnan(values[~complete]).all()


def test_after_an_interrupt_incomplete_rows_are_nan(monkeypatch, small_blocks, interruptible):
    images, captions, n, m = problem()
    module = engines.get("eager")
    real, calls = module.pair_score, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 12:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(module, "pair_score", interrupted)
    out = np.zeros((5, 7), np.float32)
    with pytest.raises(KeyboardInterrupt):
        score_matrix(images, captions, m, n, out=out, engine="eager")
    assert len(calls) <= 13
    lost = np.isnan(out).any(axis=1)
    assert lost.any()
    assert np.isnan(out[lost]).all()
    np.testing.assert_allclose(out[~lost], expected_scores(images, captions, n, m)[~lost], atol=ATOL)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a process")
def test_interrupt_from_outside_is_answered_soon(tmp_path, interruptible):
    code = (
        "import numpy as np, cmsei_fast as c, sys, time\n"
        "x = np.ones((300, 36, 256), np.float32)\n"
        "c.score_matrix(x[:2], x[:2])\n"
        "try:\n"
        "    print('ready', flush=True)\n"
        "    while True: c.score_matrix(x, x)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)  # a call that ignores it goes on for ever
    assert out == "interrupted\n"


def test_progress_counts_pairs(capsys, small_blocks):
    images, captions, n, m = problem()
    score_matrix(images, captions, m, n, engine="eager", progress=True)
    err = capsys.readouterr().err
    assert "% of 35 pairs" in err
    assert "100 % of 35 pairs" in err
    assert "pairs/s" in err


def test_progress_needs_no_console(capsys, monkeypatch):
    """A program without one has no standard error; scripts replace it by streams that only write and flush."""
    images, captions, n, m = problem()
    lines = []
    for stream in (None, SimpleNamespace(write=lines.append, flush=lambda: None)):
        monkeypatch.setattr(sys, "stderr", stream)
        score_matrix(images, captions, m, n, engine="eager", progress=True)
    monkeypatch.undo()
    assert "100 % of 35 pairs" in "".join(lines)
    assert capsys.readouterr().out == ""


def test_memory_does_not_grow_with_the_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(tiling, "IMAGE_BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(tiling, "CAPTION_BLOCK_BYTES", 1 << 16)
    peaks = []
    for n in (100, 300):
        data = np.random.default_rng(0).standard_normal((n, 8, 64)).astype(np.float32)
        data.tofile(tmp_path / "x")
        stored = np.memmap(tmp_path / "x", dtype=np.float32, shape=data.shape, mode="r")
        out = np.memmap(tmp_path / "out", dtype=np.float32, shape=(n, n), mode="w+")
        del data
        score_matrix(stored, stored, scorer=PairScorer.scan_t2i(), out=out)
        tracemalloc.start()
        score_matrix(stored, stored, scorer=PairScorer.scan_t2i(), out=out)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000  # the features alone grew by 400 kB


def test_tiles_change_nothing(monkeypatch):
    images, captions, n, m = problem(9, 11)
    whole = score_matrix(images, captions, m, n, engine="eager")
    for work in (1, 300_000, 700_000):
        monkeypatch.setattr(tiling, "TILE_WORK", dict.fromkeys(tiling.TILE_WORK, work))
        np.testing.assert_allclose(score_matrix(images, captions, m, n, engine="eager"), whole, atol=ATOL)


def test_scores_are_detached_and_inputs_untouched():
    images, captions, n, m = problem()
    images, captions = torch.from_numpy(images).requires_grad_(), torch.from_numpy(captions).requires_grad_()
    before = images.detach().clone()
    got = score_matrix(images, captions, torch.from_numpy(m), torch.from_numpy(n), engine="eager")
    assert not got.requires_grad
    assert images.grad is None
    assert torch.equal(images.detach(), before)


@pytest.mark.parametrize("engine", RUNNABLE)
def test_autocast_and_default_device_change_nothing(engine):
    images, captions, n, m = problem()
    expected = score_matrix(images, captions, m, n, engine=engine)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        got = score_matrix(images, captions, m, n, engine=engine)
    np.testing.assert_array_equal(got, expected)


def test_same_call_same_bits():
    images, captions, n, m = problem(20, 30)
    first = score_matrix(images, captions, m, n)
    assert all(np.array_equal(first, score_matrix(images, captions, m, n)) for _ in range(3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("out_device", ["cpu", "cuda", None])
def test_on_a_gpu(out_device):
    images, captions, n, m = problem()
    expected = expected_scores(images, captions, n, m)
    out = None if out_device is None else torch.empty(5, 7, device=out_device)
    got = score_matrix(torch.from_numpy(images).cuda(), torch.from_numpy(captions).cuda(), m, n, out=out)
    assert got.device.type == (out_device or "cuda")
    np.testing.assert_allclose(got.cpu().numpy(), expected, atol=5e-5)


@pytest.mark.parametrize("view", ["rows backwards", "columns backwards", "a field of records"])
def test_out_of_any_strides(view: str) -> None:
    images = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)
    captions = np.random.default_rng(1).standard_normal((5, 2, 6)).astype(np.float32)
    expected = score_matrix(images, captions)
    out = {
        "rows backwards": np.zeros((3, 5), np.float32)[::-1],
        "columns backwards": np.zeros((3, 5), np.float32)[:, ::-1],
        "a field of records": np.zeros((3, 5), [("tag", "u1"), ("score", "f4")])["score"],
    }[view]
    assert score_matrix(images, captions, out=out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("rows", [1, 3])
def test_arrays_backwards(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of one row is contiguous to numpy whatever its stride."""
    monkeypatch.setattr(tiling, "IMAGE_BLOCK_BYTES", 1)
    images, captions = (np.random.default_rng(i).standard_normal((3 * rows, 4)) for i in range(2))
    expected = score_matrix(images, captions, [rows] * 3, [rows] * 3)
    backwards = [np.ascontiguousarray(x[::-1])[::-1] for x in (images, captions)]
    np.testing.assert_array_equal(score_matrix(*backwards, [rows] * 3, [rows] * 3), expected)
    backwards = np.ascontiguousarray(expected[::-1])[::-1]
    monkeypatch.setattr("cmsei_fast.retrieval.matrix.BLOCK_ELEMENTS", 1)
    assert recall_metrics(backwards, 1) == recall_metrics(expected, 1)


@pytest.mark.parametrize("side", [0, 1])
def test_padding_without_lengths_is_told(side, small_blocks, recwarn):
    sides = problem()[:2]
    sides[side][3, 4:] = 0
    scores = score_matrix(*sides)
    told = "some end in rows of zeros, which are scored like others: lengths leave padding out"
    assert [str(w.message) for w in recwarn] == [f"{('images', 'captions')[side]}: {told}"]
    full = [np.full(len(x), x.shape[1]) for x in sides]
    np.testing.assert_allclose(scores, expected_scores(*sides, *full), atol=ATOL)


def test_zeros_that_are_no_padding_are_not_told(recwarn):
    images, captions, image_lengths, caption_lengths = problem()
    for x, lengths in ((images, image_lengths), (captions, caption_lengths)):
        for item, n in zip(x, lengths, strict=True):
            item[n:] = 0
    images[0] = captions[0, 0] = 0
    score_matrix(images, captions, caption_lengths, image_lengths)
    score_matrix(images[:1], captions[:, :1])
    assert not recwarn.list
