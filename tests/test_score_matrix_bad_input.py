"""Every kind of bad input to score_matrix with the exact error it raises, before any pair is scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from cmsei_fast import Attention, Encoded, PairScorer, checks, engines, evaluate, retrieve, score_matrix, tiling
from cmsei_fast.nn import PairScore

N, R, M, L, D = 3, 4, 5, 6, 8
TENSORS = {"images": torch.ones(N, R, D), "captions": torch.ones(M, L, D)}
PACKED = {"captions": np.ones((10, D), np.float32)}
ENGINES = ", ".join(engines.names())


def array(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def with_value(value: float, *index: int, shape: tuple[int, ...] = (N, R, D), dtype: Any = np.float32) -> np.ndarray:
    out = array(*shape, dtype=dtype)
    out[index] = value
    return out


def huge(*shape: int) -> np.ndarray:
    """An array of any shape that takes four bytes."""
    return np.broadcast_to(np.float32(1), shape)


def read_only(*shape: int) -> np.ndarray:
    out = array(*shape)
    out.flags.writeable = False
    return out


@dataclass
class Case:
    """Arguments that differ from a good call, and the error they must raise."""

    kind: type[Exception]
    message: str
    changed: dict[str, Any] = field(default_factory=dict)


SHARED = array(N, R, D)
FLOATS = "expected a floating dtype (float16, bfloat16, float32 or float64)"
KINDS = "expected a numpy array, a torch tensor or an h5py dataset"
LAYOUTS = "expected a padded (n, rows, D) or a packed (rows, D) array"
FINITE = "expected finite features, got NaN or an infinity"

CASES = {
    # type and dtype
    "list": Case(TypeError, f"images: {KINDS}, got list", {"images": [[[1.0]]]}),
    "none": Case(TypeError, f"captions: {KINDS}, got NoneType", {"captions": None}),
    "masked_array": Case(TypeError, f"images: {KINDS}, got MaskedArray", {"images": np.ma.ones((N, R, D))}),
    "sparse_tensor": Case(
        TypeError,
        f"images: {KINDS}, got a torch tensor of layout torch.sparse_coo",
        {"images": torch.ones(N, R, D).to_sparse()},
    ),
    "integer_images": Case(TypeError, f"images: {FLOATS}, got int64", {"images": array(N, R, D, dtype=np.int64)}),
    "integer_captions": Case(TypeError, f"captions: {FLOATS}, got uint8", {"captions": array(M, L, D, dtype=np.uint8)}),
    "bool": Case(TypeError, f"images: {FLOATS}, got bool", {"images": array(N, R, D, dtype=bool)}),
    "object": Case(TypeError, f"images: {FLOATS}, got object", {"images": array(N, R, D, dtype=object)}),
    "complex": Case(TypeError, f"images: {FLOATS}, got complex64", {"images": array(N, R, D, dtype=np.complex64)}),
    "integer_tensor": Case(
        TypeError, f"captions: {FLOATS}, got int32", TENSORS | {"captions": torch.ones(M, L, D, dtype=torch.int32)}
    ),
    "float8_tensor": Case(
        TypeError,
        f"images: {FLOATS}, got float8_e4m3fn",
        TENSORS | {"images": TENSORS["images"].to(torch.float8_e4m3fn)},
    ),
    "mixed_frameworks": Case(
        TypeError,
        "captions: expected a torch tensor (as images), got a numpy array; torch.from_numpy makes one",
        {"images": TENSORS["images"]},
    ),
    "mixed_frameworks_other_way": Case(
        TypeError,
        "captions: expected a numpy array or an h5py dataset (as images), got a torch tensor; "
        ".detach().cpu().numpy() makes one",
        {"captions": TENSORS["captions"]},
    ),
    # device
    "mixed_devices": Case(
        ValueError,
        "captions: expected a tensor on cpu (as images), got one on meta",
        TENSORS | {"captions": torch.ones(M, L, D, device="meta")},
    ),
    "mixed_devices_other_way": Case(
        ValueError,
        "captions: expected a tensor on meta (as images), got one on cpu",
        TENSORS | {"images": torch.ones(N, R, D, device="meta")},
    ),
    "meta": Case(
        ValueError,
        "images: expected a tensor that holds data, got one on the meta device",
        {name: x.to("meta") for name, x in TENSORS.items()},
    ),
    # shape
    "scalar": Case(ValueError, f"images: {LAYOUTS}, got shape ()", {"images": np.array(1.0)}),
    "rank_1": Case(ValueError, f"images: {LAYOUTS}, got shape (8,)", {"images": array(D)}),
    "rank_4": Case(ValueError, f"captions: {LAYOUTS}, got shape (1, 5, 6, 8)", {"captions": array(1, M, L, D)}),
    "other_width": Case(
        ValueError, "captions: expected a last dimension of 8 (as images), got 9", {"captions": array(M, L, 9)}
    ),
    "other_width_of_none": Case(
        ValueError, "captions: expected a last dimension of 8 (as images), got 9", {"captions": array(0, L, 9)}
    ),
    "no_width": Case(
        ValueError,
        "images: expected at least one row per item and one dimension, got shape (3, 4, 0)",
        {"images": array(N, R, 0), "captions": array(M, L, 0)},
    ),
    "no_regions": Case(
        ValueError,
        "images: expected at least one row per item and one dimension, got shape (3, 0, 8)",
        {"images": array(N, 0, D)},
    ),
    # lengths
    "length_0": Case(
        ValueError, "caption_lengths[2]: expected a length from 1 to 6, got 0", {"caption_lengths": [1, 6, 0, 1, 1]}
    ),
    "length_negative": Case(
        ValueError, "caption_lengths[0]: expected a length from 1 to 6, got -1", {"caption_lengths": [-1, 6, 1, 1, 1]}
    ),
    "length_over_L": Case(
        ValueError,
        "caption_lengths[4]: expected a length from 1 to 6, got 7",
        {"caption_lengths": torch.tensor([1, 2, 3, 4, 7])},
    ),
    "length_over_R": Case(
        ValueError, "image_lengths[1]: expected a length from 1 to 4, got 5", {"image_lengths": np.array([4, 5, 6])}
    ),
    "length_beyond_int64": Case(
        ValueError,
        "image_lengths[1]: expected a length from 1 to 4, got 18446744073709551615",
        {"image_lengths": np.array([4, 2**64 - 1, 1], dtype=np.uint64)},
    ),
    "too_few_lengths": Case(
        ValueError, "caption_lengths: expected 5 (one for each caption), got 4", {"caption_lengths": [1, 1, 1, 1]}
    ),
    "too_many_lengths": Case(
        ValueError, "image_lengths: expected 3 (one for each image), got 4", {"image_lengths": (1, 1, 1, 1)}
    ),
    "lengths_for_none": Case(
        ValueError,
        "caption_lengths: expected 0 (one for each caption), got 1",
        {"captions": array(0, L, D), "caption_lengths": [1]},
    ),
    "one_length": Case(
        TypeError, "caption_lengths: expected a list, array or tensor of integers, got int", {"caption_lengths": 6}
    ),
    "length_without_a_dimension": Case(
        ValueError, "caption_lengths: expected one dimension, got shape ()", {"caption_lengths": torch.tensor(6)}
    ),
    "scorer_as_lengths": Case(
        TypeError,
        "caption_lengths: expected lengths or None, got a PairScorer; a scorer goes by its name: scorer=…",
        {"caption_lengths": PairScorer.scan_t2i()},
    ),
    "lengths_of_rank_2": Case(
        ValueError, "caption_lengths: expected one dimension, got shape (5, 1)", {"caption_lengths": [[1]] * M}
    ),
    "mask_as_lengths": Case(
        ValueError,
        "caption_lengths: expected one dimension, got shape (5, 6); "
        "of a mask, captions[mask > 0] are the rows that it keeps and mask.sum(1) their lengths",
        {"caption_lengths": array(M, L, dtype=bool)},
    ),
    "attention_mask_as_lengths": Case(
        ValueError,
        "image_lengths: expected one dimension, got shape (3, 4); "
        "of a mask, images[mask > 0] are the rows that it keeps and mask.sum(1) their lengths",
        {"image_lengths": torch.ones(N, R, dtype=torch.int64)},
    ),
    "ragged_lengths": Case(
        ValueError,
        "caption_lengths: expected a sequence of integers, got a ragged list",
        {"caption_lengths": [[1], [1, 2], [1], [1], [1]]},
    ),
    "float_lengths": Case(
        TypeError, "caption_lengths: expected integers, got float64", {"caption_lengths": [1.0, 2.0, 3.5, 4.0, 5.0]}
    ),
    "nan_lengths": Case(
        TypeError, "image_lengths: expected integers, got float32", {"image_lengths": torch.full((N,), torch.nan)}
    ),
    "whole_float_lengths": Case(
        TypeError,
        "caption_lengths: expected integers, got float64 of whole numbers: .astype(int) makes them integers",
        {"caption_lengths": np.ones(M)},
    ),
    "list_of_whole_float_lengths": Case(
        TypeError,
        "caption_lengths: expected integers, got float64 of whole numbers: [int(x) for x in …] makes them integers",
        {"caption_lengths": [1.0] * M},
    ),
    "bfloat16_lengths": Case(
        TypeError,
        "image_lengths: expected integers, got bfloat16 of whole numbers: .long() makes them integers",
        {"image_lengths": torch.ones(N, dtype=torch.bfloat16)},
    ),
    "bool_lengths": Case(TypeError, "image_lengths: expected integers, got bool", {"image_lengths": [True] * N}),
    "none_as_a_length": Case(
        TypeError, "image_lengths: expected integers, got object", {"image_lengths": [1, None, 2]}
    ),
    "text_as_lengths": Case(
        TypeError, "image_lengths: expected a list, array or tensor of integers, got str", {"image_lengths": "abc"}
    ),
    "meta_lengths": Case(
        ValueError,
        "image_lengths: expected a tensor that holds data, got one on the meta device",
        {"image_lengths": torch.ones(N, dtype=torch.int64, device="meta")},
    ),
    "packed_without_lengths": Case(
        ValueError,
        "caption_lengths: expected the number of rows of each caption (captions are packed), got None; "
        "where a row is a caption, captions[:, None] have one each",
        PACKED,
    ),
    "packed_images_without_lengths": Case(
        ValueError,
        "image_lengths: expected the number of rows of each image (images are packed), got None; "
        "where a row is an image, images[:, None] have one each",
        {"images": array(12, D)},
    ),
    "packed_sum_too_small": Case(
        ValueError,
        "caption_lengths: expected lengths that sum to 10 (the rows of captions), got 9",
        PACKED | {"caption_lengths": [3, 3, 3]},
    ),
    "packed_sum_too_large": Case(
        ValueError,
        "caption_lengths: expected lengths that sum to 10 (the rows of captions), got 11",
        PACKED | {"caption_lengths": [3, 8]},
    ),
    "packed_length_0": Case(
        ValueError,
        "caption_lengths[1]: expected a length from 1 to 10, got 0",
        PACKED | {"caption_lengths": [5, 0, 5]},
    ),
    "packed_rows_and_no_lengths": Case(
        ValueError,
        "caption_lengths: expected lengths that sum to 10 (the rows of captions), got 0",
        PACKED | {"caption_lengths": []},
    ),
    # values
    "nan": Case(ValueError, f"images: {FINITE} in image 2", {"images": with_value(np.nan, 2, 3, 7)}),
    "infinity": Case(
        ValueError, f"captions: {FINITE} in caption 4", {"captions": with_value(-np.inf, 4, 0, 0, shape=(M, L, D))}
    ),
    "nan_in_packed": Case(
        ValueError,
        f"captions: {FINITE} in caption 1",
        {"captions": with_value(np.nan, 9, 0, shape=(10, D)), "caption_lengths": [9, 1]},
    ),
    "nan_in_half": Case(
        ValueError, f"images: {FINITE} in image 0", {"images": with_value(np.inf, 0, 0, 0, dtype=np.float16)}
    ),
    "nan_in_last_row": Case(
        ValueError,
        f"images: {FINITE} in image 1",
        {"images": with_value(np.nan, 1, 1, 0), "image_lengths": [1, 2, 3]},
    ),
    "nan_in_tensor": Case(
        ValueError,
        f"captions: {FINITE} in caption 3",
        TENSORS | {"captions": torch.from_numpy(with_value(np.nan, 3, 5, 0, shape=(M, L, D))).bfloat16()},
    ),
    "beyond_float16": Case(
        ValueError,
        "images: expected features within the range of float16, got larger ones in image 1",
        {"images": with_value(1e5, 1, 0, 0), "precision": "float16"},
    ),
    "beyond_float32": Case(
        ValueError,
        "images: expected features within the range of float32, got larger ones in image 1",
        {"images": with_value(1e300, 1, 0, 0, dtype=np.float64), "precision": "float32"},
    ),
    "products_overflow": Case(
        ValueError,
        "images, captions: expected features with finite inner products, got an overflow for image 0 and caption 0",
        {"images": array(N, R, D) * np.float32(1e25), "captions": array(M, L, D) * np.float32(1e25)},
    ),
    # options
    "scorer_name": Case(
        TypeError, "scorer: expected a PairScorer or None, got str; PairScorer.cmsei() is one", {"scorer": "cmsei"}
    ),
    "unknown_scorer_name": Case(TypeError, "scorer: expected a PairScorer or None, got str", {"scorer": "from_dict"}),
    "scorer_not_called": Case(
        TypeError,
        "scorer: expected a PairScorer or None, got method; PairScorer.scan_t2i() is one",
        {"scorer": PairScorer.scan_t2i},
    ),
    "module_for_scorer": Case(
        TypeError, "scorer: expected a PairScorer or None, got PairScore; its .scorer is one", {"scorer": PairScore()}
    ),
    "name_of_a_file": Case(
        TypeError,
        "images: expected a numpy array, a torch tensor or an h5py dataset, got str; "
        "numpy.load(name, mmap_mode='r') opens a .npy file",
        {"images": "images.npy"},
    ),
    "arrays_by_name": Case(
        TypeError,
        "images: expected a numpy array, a torch tensor or an h5py dataset, got dict; "
        "give one of what it holds: 'regions', 'lengths'",
        {"images": {"regions": 1, "lengths": 2}},
    ),
    "list_of_items": Case(
        TypeError,
        "captions: expected a numpy array, a torch tensor or an h5py dataset, got list; "
        "items one behind another (numpy.concatenate, torch.cat) go with the lengths of each",
        {"captions": [array(n + 1, D) for n in range(M)]},
    ),
    "array_of_items": Case(
        TypeError,
        f"captions: {FLOATS}, got object; "
        "items one behind another (numpy.concatenate, torch.cat) go with the lengths of each",
        {"captions": np.array([array(n + 1, D) for n in range(M)], dtype=object)},
    ),
    "nested_tensor": Case(
        TypeError,
        "images: expected a numpy array, a torch tensor or an h5py dataset, got a nested torch tensor; "
        "items one behind another (numpy.concatenate, torch.cat) go with the lengths of each",
        {"images": torch.nested.nested_tensor([torch.ones(n + 1, D) for n in range(N)], layout=torch.jagged)},
    ),
    "scorer_attention": Case(
        TypeError, "scorer: expected a PairScorer or None, got Attention", {"scorer": Attention()}
    ),
    "engine": Case(ValueError, f"engine: expected 'auto' or one of {ENGINES}, got 'fast'", {"engine": "fast"}),
    "engine_none": Case(TypeError, "engine: expected a string, got NoneType", {"engine": None}),
    "precision": Case(
        ValueError,
        "precision: expected None or one of float32, bfloat16, float16, float64, float8, int8, got 'int4'",
        {"precision": "int4"},
    ),
    "precision_dtype": Case(
        ValueError,
        "precision: expected None or one of float32, bfloat16, float16, float64, float8, int8, got torch.float16; "
        "'float16' is its name",
        {"precision": torch.float16},
    ),
    # out
    "out_list": Case(TypeError, f"out: {KINDS}, got list", {"out": []}),
    "out_integers": Case(TypeError, f"out: {FLOATS}, got int32", {"out": array(N, M, dtype=np.int32)}),
    "out_transposed": Case(
        ValueError, "out: expected shape (3, 5) (n_image, n_caption), got (5, 3)", {"out": array(M, N)}
    ),
    "out_flat": Case(ValueError, "out: expected shape (3, 5) (n_image, n_caption), got (15,)", {"out": array(N * M)}),
    "out_read_only": Case(
        ValueError, "out: expected something writable, got a read-only array", {"out": read_only(N, M)}
    ),
    "out_expanded": Case(
        ValueError,
        "out: expected a tensor with its own memory for each element, got an expanded one",
        {"out": torch.zeros(1, M).expand(N, M)},
    ),
    "out_expanded_array": Case(
        ValueError,
        "out: expected an array with its own memory for each element, got an expanded one",
        {"out": np.lib.stride_tricks.as_strided(array(M), (N, M), (0, 4))},
    ),
    "out_meta": Case(
        ValueError,
        "out: expected a tensor that holds data, got one on the meta device",
        {"out": torch.zeros(N, M, device="meta")},
    ),
    "out_is_images": Case(
        ValueError,
        "out: expected memory of its own, got memory shared with images",
        {"images": SHARED, "out": SHARED.reshape(-1)[: N * M].reshape(N, M)},
    ),
    "out_is_captions": Case(
        ValueError,
        "out: expected memory of its own, got memory shared with captions",
        TENSORS | {"out": TENSORS["captions"].view(-1)[: N * M].view(N, M)},
    ),
    # sizes
    "matrix_beyond_memory": Case(
        MemoryError,
        "scores: expected a matrix of at most 16.0 GiB (the memory here), got 1048576 × 1048576 of 4096.0 GiB; "
        "give out= (a numpy memmap or an h5py dataset) or score fewer at a time",
        {"images": huge(2**20, R, D), "captions": huge(2**20, L, D)},
    ),
    "matrix_beyond_int64": Case(
        MemoryError,
        "scores: expected a matrix of at most 16.0 GiB (the memory here), "
        "got 1099511627776 × 1099511627776 of 4503599627370496.0 GiB; "
        "give out= (a numpy memmap or an h5py dataset) or score fewer at a time",
        {"images": huge(2**40, 1, D), "captions": huge(2**40, 1, D)},
    ),
    "matrix_of_tensors_beyond_memory": Case(
        MemoryError,
        "scores: expected a matrix of at most 16.0 GiB (the memory here), got 1048576 × 1048576 of 8192.0 GiB; "
        "give out= (a numpy memmap or an h5py dataset) or score fewer at a time",
        {
            "images": torch.ones(1, 1, D).expand(2**20, 1, D),
            "captions": torch.ones(1, 1, D).expand(2**20, 1, D),
            "precision": "float64",
        },
    ),
    "image_beyond_memory": Case(
        MemoryError,
        "images: expected items of at most 16.0 GiB (the memory here), got 1 of 32768.0 GiB",
        {"images": huge(1, 2**40, D)},
    ),
    "caption_beyond_memory": Case(
        MemoryError,
        "captions: expected items of at most 16.0 GiB (the memory here), got 1 of 32.0 GiB",
        {"captions": huge(2**30, D), "caption_lengths": [2**30]},
    ),
}

# The error is found in what was read, so blocks before it may have been scored.
VALUES = {name for name, case in CASES.items() if "finite" in case.message or "range of" in case.message}


@pytest.fixture
def no_work(monkeypatch):
    """Fails if a pair is scored; the machine has 16 GiB."""

    def worked(*arguments):
        raise AssertionError("a pair was scored")

    monkeypatch.setattr(engines.get("eager"), "pair_score", worked)
    monkeypatch.setattr(checks, "memory_of", lambda device: 1 << 34)


@pytest.mark.parametrize("name", CASES)
def test_score_matrix(request, name):
    if name not in VALUES:
        request.getfixturevalue("no_work")
    case = CASES[name]
    arguments: dict[str, Any] = {"images": array(N, R, D), "captions": array(M, L, D), "engine": "eager"}
    with pytest.raises(case.kind) as caught:
        score_matrix(**arguments | case.changed)
    assert type(caught.value) is case.kind
    assert str(caught.value) == case.message


def test_a_good_call_raises_nothing():
    assert score_matrix(array(N, R, D), array(M, L, D), engine="eager").shape == (N, M)


def test_bad_values_stop_before_their_own_block(monkeypatch):
    monkeypatch.setattr(tiling, "IMAGE_BLOCK_BYTES", R * D * 4)
    module, scored = engines.get("eager"), []
    real = module.pair_score
    monkeypatch.setattr(module, "pair_score", lambda *a: scored.append(len(a[2]) - 1) or real(*a))
    with pytest.raises(ValueError, match=r"in image 2$"):
        score_matrix(with_value(np.nan, 2, 0, 0), array(M, L, D), engine="eager")
    assert sum(scored) == 2


def test_padding_may_hold_anything():
    images, captions = array(N, R, D), array(M, L, D)
    expected = score_matrix(images, captions, [2] * M, [3] * N)
    images[:, 3:], captions[:, 2:] = np.nan, np.inf
    np.testing.assert_array_equal(score_matrix(images, captions, [2] * M, [3] * N), expected)


def test_out_in_a_file_opened_for_reading(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "out.h5", "w") as file:
        file.create_dataset("scores", (N, M), "f4")
    with h5py.File(tmp_path / "out.h5", "r") as file, pytest.raises(ValueError, match="read-only") as caught:
        score_matrix(array(N, R, D), array(M, L, D), out=file["scores"])
    assert str(caught.value) == "out: expected something writable, got a read-only file"


def test_a_dataset_of_a_closed_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        images = file.create_dataset("images", data=array(N, R, D))
    with pytest.raises(ValueError, match=r"^images: expected an open h5py dataset, got one whose file is closed$"):
        score_matrix(images, array(M, L, D))


def test_integers_in_a_dataset(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", data=array(N, R, D, dtype=np.int16))
        with pytest.raises(TypeError) as caught:
            score_matrix(dataset, array(M, L, D))
    assert str(caught.value) == f"images: {FLOATS}, got int16"


def test_an_engine_that_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr(engines.get("eager"), "unavailable", lambda: "it is switched off")
    with pytest.raises(engines.EngineUnavailable, match=r"^engine 'eager' cannot run here: it is switched off\. "):
        score_matrix(array(N, R, D), array(M, L, D), engine="eager")


def test_out_may_not_lie_on_the_features_of_another_framework() -> None:
    memory = np.ones((4, 6, 6), dtype=np.float32)
    captions = torch.ones(6, 2, 6)
    with pytest.raises(ValueError, match="out: expected memory of its own, got memory shared with images"):
        score_matrix(torch.from_numpy(memory), captions, out=memory[0, :4, :6])


@pytest.mark.parametrize("call", [score_matrix, evaluate, retrieve])
@pytest.mark.parametrize("encoded", [True, False])
def test_a_scorer_that_is_given_by_its_place(call: Any, encoded: bool) -> None:
    features = [Encoded.from_padded(x) if encoded else x for x in TENSORS.values()]
    told = "expected lengths or None, got a PairScorer; a scorer goes by its name: scorer=…"
    for name, lengths in (("caption_lengths", ()), ("image_lengths", (None,))):
        with pytest.raises(TypeError) as caught:
            call(*features, *lengths, PairScorer.scan_t2i())
        assert str(caught.value) == f"{name}: {told}"
    with pytest.raises(TypeError, match=r"^caption_lengths: .* got PairScore; its .* name: scorer=model\.scorer$"):
        call(*features, PairScore(PairScorer.scan_t2i()))


def test_files_of_many_arrays_are_told_by_what_they_hold(tmp_path):
    h5py = pytest.importorskip("h5py")
    words = np.ones((2, 3, 4), np.float32)
    np.savez(tmp_path / "all.npz", **dict.fromkeys("abcde", words))
    told = r"got NpzFile; give one of what it holds: 'a', 'b', 'c', 'd', …$"
    with np.load(tmp_path / "all.npz") as arrays, pytest.raises(TypeError, match=told):
        score_matrix(words, arrays)
    with h5py.File(tmp_path / "all.h5", "w") as file:
        with pytest.raises(TypeError, match=r"got File$"):
            score_matrix(file, words)
        file["regions"] = words
        with pytest.raises(TypeError, match=r"got File; give one of what it holds: 'regions'$"):
            score_matrix(file, words)
    with pytest.raises(TypeError, match=r"got File$"):
        score_matrix(file, words)
