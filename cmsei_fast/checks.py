"""Checks of a call's arguments before any work; an error names the argument, what was expected and what came."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch

from .encoded import Encoded
from .engines.terms import PRECISIONS
from .scorer import PairScorer, scorer_at_hand
from .transforms import is_transformed

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_GIB = 1 << 30


def unpacked(item: str, features: Any, lengths: Any) -> tuple[Any, Any]:
    """The rows and lengths of :class:`Encoded` items; anything else as it is.

    Raises:
        TypeError: for a scorer in the place of lengths.
        ValueError: for lengths beside encoded items, which have their own.
    """
    _check_no_scorer(f"{item}_lengths", lengths)
    if not isinstance(features, Encoded):
        return features, lengths
    if lengths is not None:
        raise ValueError(f"{item}_lengths: expected None ({item}s are encoded and have theirs), got {lengths!r:.60}")
    return features.rows, features.lengths


def _check_no_scorer(name: str, lengths: Any) -> None:
    """No scorer, nor a module that has one, stands in the place of lengths.

    Raises:
        TypeError: otherwise, saying what to write.
    """
    if isinstance(lengths, PairScorer):
        raise TypeError(f"{name}: expected lengths or None, got a PairScorer; a scorer goes by its name: scorer=…")
    if isinstance(getattr(lengths, "scorer", None), PairScorer):
        way = "its scorer goes by its name: scorer=model.scorer"
        raise TypeError(f"{name}: expected lengths or None, got {type(lengths).__name__}; {way}")


def kind_of(name: str, value: Any) -> str:
    """``"torch"``, ``"numpy"`` (memmaps too) or ``"h5py"``.

    Raises:
        TypeError: for anything else.
        ValueError: for a dataset of a closed file.
    """
    if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_nested:
        return "torch"
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return "numpy"
    h5py = sys.modules.get("h5py")  # a dataset can only come from an imported h5py
    if h5py is not None and isinstance(value, h5py.Dataset):
        if not value:
            raise ValueError(f"{name}: expected an open h5py dataset, got one whose file is closed")
        return "h5py"
    if isinstance(value, torch.Tensor):
        got = "a nested torch tensor" if value.is_nested else f"a torch tensor of layout {value.layout}"
    else:
        got = type(value).__name__
    raise TypeError(f"{name}: expected a numpy array, a torch tensor or an h5py dataset, got {got}{_hint(value)}")


def _hint(value: Any) -> str:
    """What to do with a value in which scripts often keep features (a list, a file, its name); "" for any other."""
    if isinstance(value, (str, os.PathLike)):
        return "; numpy.load(name, mmap_mode='r') opens a .npy file"
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
        return "; a model's encode_captions makes features of sentences"
    if hasattr(value, "caption_to_image") and hasattr(value, "ids"):
        return "; a model's encode_images makes features of a split"
    if isinstance(value, Mapping) and value:  # an h5py file too, which is False once closed
        names = [repr(name) for name in value]
        return f"; give one of what it holds: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}" if names else ""
    nested = isinstance(value, torch.Tensor) and value.is_nested
    ranks = {len(getattr(x, "shape", ())) for x in value} if isinstance(value, (list, tuple)) else set()
    if nested or ranks == {2}:
        return "; items one behind another (numpy.concatenate, torch.cat) go with the lengths of each"
    return ""


def dtype_of(name: str, value: Any) -> torch.dtype:
    """The floating dtype of an array, tensor or dataset, as torch calls it.

    Raises:
        TypeError: for a dtype that is not float16, bfloat16, float32 or float64.
    """
    if isinstance(value, torch.Tensor):
        dtype = value.dtype if value.dtype in FLOATING else None
    else:
        narrow = {("f", 2): torch.float16, ("f", 4): torch.float32, ("f", 8): torch.float64}
        dtype = narrow.get((value.dtype.kind, value.dtype.itemsize))
    if dtype is None:
        got = str(value.dtype).removeprefix("torch.")
        if isinstance(value, np.ndarray) and got == "object" and value.ndim == 1:  # items of unlike shapes
            got += _hint(list(value))
        raise TypeError(f"{name}: expected a floating dtype (float16, bfloat16, float32 or float64), got {got}")
    return dtype


def check_tensor(name: str, value: Any) -> None:
    """A floating tensor of features, padded or packed.

    Raises:
        TypeError: for anything else, a sparse or a nested tensor among it.
        ValueError: as :func:`check_features` has it.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    kind_of(name, value)
    dtype_of(name, value)
    check_features(name, value)


def check_padded_tensor(features: Any) -> None:
    """A floating tensor of padded items (n, rows, D).

    Raises:
        TypeError, ValueError: as :func:`check_tensor` has it, and for another rank.
    """
    check_tensor("features", features)
    if features.dim() != 3:
        raise ValueError(f"features: expected 3 dimensions (n, rows, D), got shape {tuple(features.shape)}")


def check_features(name: str, value: Any) -> None:
    """Rank and sizes of padded (n, rows, D) or packed (rows, D) features.

    Raises:
        ValueError: for another rank, D = 0 or items without rows.
    """
    if value.shape is None:
        raise ValueError(f"{name}: expected a padded (n, rows, D) or a packed (rows, D) array, got an empty dataset")
    shape = tuple(value.shape)
    if len(shape) not in (2, 3):
        raise ValueError(f"{name}: expected a padded (n, rows, D) or a packed (rows, D) array, got shape {shape}")
    if shape[-1] == 0 or (len(shape) == 3 and shape[0] > 0 and shape[1] == 0):
        raise ValueError(f"{name}: expected at least one row per item and one dimension, got shape {shape}")


def check_agreement(images: Any, captions: Any, names: tuple[str, str] = ("images", "captions")) -> None:
    """Same framework, device (one that holds data) and width on both sides; ``names`` are those of the arguments.

    Raises:
        TypeError: for tensors with arrays.
        ValueError: for two devices, the meta device, or two widths.
    """
    tensors = isinstance(images, torch.Tensor), isinstance(captions, torch.Tensor)
    if tensors[0] != tensors[1]:
        kinds = {"torch": "a torch tensor", "numpy": "a numpy array", "h5py": "an h5py dataset"}
        expected = kinds["torch"] if tensors[0] else f"{kinds['numpy']} or {kinds['h5py']}"
        got = kinds[kind_of(names[1], captions)]
        way = {kinds["numpy"]: "; torch.from_numpy makes one", kinds["torch"]: "; .detach().cpu().numpy() makes one"}
        raise TypeError(f"{names[1]}: expected {expected} (as {names[0]}), got {got}{way.get(got, '')}")
    if tensors[0] and images.device != captions.device:
        raise ValueError(
            f"{names[1]}: expected a tensor on {images.device} (as {names[0]}), got one on {captions.device}"
        )
    if tensors[0] and images.device.type == "meta":
        raise ValueError(f"{names[0]}: expected a tensor that holds data, got one on the meta device")
    if images.shape[-1] != captions.shape[-1]:
        raise ValueError(
            f"{names[1]}: expected a last dimension of {images.shape[-1]} (as {names[0]}), got {captions.shape[-1]}"
        )


def check_lengths(name: str, lengths: Any, item: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """Lengths (n,) int64 of the features of that shape; None where there are none to read (padded, all of full length).

    Raises:
        TypeError: if they are not integers.
        ValueError: for packed rows without lengths, a wrong count, a length out of range, or a sum other than the rows.
    """
    packed = len(shape) == 2
    features = name.split("_")[0] + "s"
    if lengths is None:
        if packed:
            way = f"where a row is {'an' if item == 'image' else 'a'} {item}, {features}[:, None] have one each"
            raise ValueError(
                f"{name}: expected the number of rows of each {item} ({features} are packed), got None; {way}"
            )
        return None
    if not packed and tuple(getattr(lengths, "shape", ())) == shape[:2]:
        way = f"of a mask, {features}[mask > 0] are the rows that it keeps and mask.sum(1) their lengths"
        if not name.endswith("_lengths"):
            way = "cmsei_fast.Encoded.from_mask takes a mask"
        raise ValueError(f"{name}: expected one dimension, got shape {shape[:2]}; {way}")
    array = integers(name, lengths)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, got shape {array.shape}")
    if not packed and len(array) != shape[0]:
        raise ValueError(f"{name}: expected {shape[0]} (one for each {item}), got {len(array)}")
    limit = shape[0] if packed else shape[1]
    wrong = np.nonzero((array < 1) | (array > limit))[0]
    if len(wrong):
        j = wrong[0]
        raise ValueError(f"{name}[{j}]: expected a length from 1 to {limit}, got {array[j]}")
    array = array.astype(np.int64)
    if packed and (total := int(array.sum())) != shape[0]:
        raise ValueError(f"{name}: expected lengths that sum to {shape[0]} (the rows of {features}), got {total}")
    return array


def check_mask(mask: Any, shape: tuple[int, int]) -> torch.Tensor:
    """A mask (n, L) of those items as bool on the CPU.

    Raises:
        TypeError: for another type, or a dtype that is neither bool nor of integers.
        ValueError: for another shape, an integer that is not 0 or 1, an item of which nothing is kept, or a tensor
            without data.
    """
    if not isinstance(mask, (torch.Tensor, np.ndarray)):
        raise TypeError(
            f"mask: expected a tensor or an array of bool or of integers 0 and 1, got {type(mask).__name__}"
        )
    check_holds_data("mask", mask)
    if tuple(mask.shape) != shape:
        raise ValueError(f"mask: expected shape {shape} (items, rows of features), got {tuple(mask.shape)}")
    if isinstance(mask, np.ndarray):
        if mask.dtype.kind not in "biu":
            raise TypeError(f"mask: expected bool or integers 0 and 1, got {mask.dtype}{_instead_of(mask)}")
        mask = torch.from_numpy(np.array(mask, dtype=np.int64))
    elif mask.is_floating_point() or mask.is_complex():
        got = str(mask.dtype).removeprefix("torch.")
        raise TypeError(f"mask: expected bool or integers 0 and 1, got {got}{_instead_of(mask)}")
    mask = mask.detach().cpu()
    if len(wrong := ((mask != 0) & (mask != 1)).nonzero()):
        i, j = wrong[0].tolist()
        raise ValueError(f"mask[{i}, {j}]: expected 0 or 1, got {int(mask[i, j])}")
    kept = mask != 0
    if len(none := (~kept.any(1)).nonzero()):
        raise ValueError(f"mask[{int(none[0])}]: expected at least one row that is kept, got none")
    return kept


def _instead_of(mask: Any) -> str:
    """What to write for a mask of ones and zeros in another dtype, to add to an error; "" for other numbers."""
    return "; mask > 0 is one of bool" if bool(((mask == 0) | (mask == 1)).all()) else ""


def integers(name: str, values: Any) -> np.ndarray:
    """A list, array or tensor of integers as an array of any shape.

    Raises:
        TypeError: if they are not integers.
        ValueError: for a ragged list, or a tensor without data.
    """
    if isinstance(values, torch.Tensor):
        check_holds_data(name, values)
        if values.numel() == 0:  # of any dtype, as an empty list is
            return np.zeros(tuple(values.shape), dtype=np.int64)
        if values.is_floating_point() or values.is_complex():
            way = _as_integers(values, "torch")
            raise TypeError(f"{name}: expected integers, got {str(values.dtype).removeprefix('torch.')}{way}")
        values = values.detach().cpu()
        # A tensor within the transforms of torch.func has no memory that numpy could share.
        values = values.tolist() if is_transformed() else values.numpy()
    elif isinstance(values, (str, bytes, Mapping, Set)) or not hasattr(values, "__len__"):
        way = "; its .indices are one" if hasattr(values, "indices") and not callable(values.indices) else ""
        raise TypeError(f"{name}: expected a list, array or tensor of integers, got {type(values).__name__}{way}")
    try:
        array = np.asarray(off_gpu(values))
    except ValueError:
        raise ValueError(f"{name}: expected a sequence of integers, got a ragged {type(values).__name__}") from None
    if array.size and array.dtype.kind not in "iu":
        kind = "list" if isinstance(values, (list, tuple)) else "numpy"
        raise TypeError(f"{name}: expected integers, got {array.dtype}{_as_integers(array, kind)}")
    return array


def _as_integers(values: Any, kind: str) -> str:
    """How whole numbers that came as floats are made integers; nothing where others are among them."""
    if isinstance(values, torch.Tensor):
        if values.is_complex() or is_transformed():
            return ""
        values = values.detach().cpu().double().numpy()
    if values.dtype.kind != "f" or not (np.isfinite(values) & (values == np.rint(values))).all():
        return ""
    ways = {"torch": ".long()", "numpy": ".astype(int)", "list": "[int(x) for x in …]"}
    return f" of whole numbers: {ways[kind]} makes them integers"


def off_gpu(values: Any) -> Any:
    """A list of tensors, as a loop over a batch's lengths leaves it, with each on the CPU; anything else as it is."""
    if isinstance(values, (list, tuple)) and values and isinstance(values[0], torch.Tensor):
        return [x.cpu() if isinstance(x, torch.Tensor) else x for x in values]
    return values


def check_holds_data(name: str, value: Any) -> None:
    """An array, a dataset or a dense tensor that is not on the meta device.

    Raises:
        TypeError: as :func:`kind_of` has it.
        ValueError: for a tensor on the meta device.
    """
    if kind_of(name, value) == "torch" and value.device.type == "meta":
        raise ValueError(f"{name}: expected a tensor that holds data, got one on the meta device")


def is_whole(value: Any, least: int = 1) -> bool:
    """Whether it is an integer, numpy's or Python's, of at least ``least``."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= least


def check_scorer(scorer: Any) -> PairScorer:
    """The scorer, CMSEI where there is none.

    Raises:
        TypeError: if it is no PairScorer.
    """
    if scorer is None:
        return PairScorer.cmsei()
    if not isinstance(scorer, PairScorer):
        raise TypeError(f"scorer: expected a PairScorer or None, got {type(scorer).__name__}{scorer_at_hand(scorer)}")
    return scorer


def check_precision(precision: Any, own: torch.dtype) -> str:
    """The name of the precision; that of the features' own dtype where it is None.

    Raises:
        ValueError: for an unknown name.
    """
    if precision is None:
        return str(own).removeprefix("torch.")
    if not isinstance(precision, str) or precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ValueError(f"precision: expected None or one of {known}, got {precision!r}{_named_precision(precision)}")
    return precision


def _named_precision(value: Any) -> str:
    """The name of a precision that came as a dtype or by a short name."""
    short = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "fp64": "float64"}
    text = str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else getattr(value, "__name__", value)
    name = short.get(text, text) if isinstance(text, str) else None
    return f"; {name!r} is its name" if name in PRECISIONS else ""


def check_out(out: Any, shape: tuple[int, int], inputs: tuple[Any, Any]) -> None:
    """An ``out=`` that can take the scores: right shape, floating, writable, sharing no memory with the features.

    Raises:
        TypeError: for another type or dtype.
        ValueError: for another shape, read-only memory, a tensor that overlaps itself or the features.
    """
    kind = kind_of("out", out)
    dtype_of("out", out)
    if tuple(out.shape) != shape:
        raise ValueError(f"out: expected shape {shape} (n_image, n_caption), got {tuple(out.shape)}")
    if kind == "torch":
        check_holds_data("out", out)
    elif (kind == "numpy" and not out.flags.writeable) or (kind == "h5py" and out.file.mode == "r"):
        got = "array" if kind == "numpy" else "file"
        raise ValueError(f"out: expected something writable, got a read-only {got}")
    strides = out.stride() if kind == "torch" else getattr(out, "strides", ())
    # An empty array's strides may be 0; a dataset has none.
    if 0 not in shape and any(step == 0 and size > 1 for step, size in zip(strides, shape, strict=False)):
        got = "a tensor" if kind == "torch" else "an array"
        raise ValueError(f"out: expected {got} with its own memory for each element, got an expanded one")
    for name, value in zip(("images", "captions"), inputs, strict=True):
        if _share_memory(out, value):
            raise ValueError(f"out: expected memory of its own, got memory shared with {name}")


def _share_memory(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.numel() > 0 and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    x, y = _span(a), _span(b)
    return x is not None and y is not None and x[0] < y[1] and y[0] < x[1]


def _span(value: Any) -> tuple[int, int] | None:
    """First address and the one after the last of an array or a CPU tensor; None for anything else."""
    if isinstance(value, np.ndarray):
        shape, strides, address, size = value.shape, value.strides, value.ctypes.data, value.itemsize
    elif isinstance(value, torch.Tensor) and value.device.type == "cpu":
        size = value.element_size()
        shape, strides, address = tuple(value.shape), tuple(s * size for s in value.stride()), value.data_ptr()
    else:
        return None
    if 0 in shape:
        return None
    reach = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    return address + sum(r for r in reach if r < 0), address + sum(r for r in reach if r > 0) + size


def memory_of(device: torch.device) -> int:
    """Bytes of memory the device has in all."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_item(name: str, size: int, device: torch.device) -> None:
    """An item of that many bytes fits into the device's memory.

    Raises:
        MemoryError: if it cannot.
    """
    if size > (there := memory_of(device)):
        limit = f"{there / _GIB:.1f} GiB (the memory here)"
        raise MemoryError(f"{name}: expected items of at most {limit}, got 1 of {size / _GIB:.1f} GiB")


def check_memory(shape: tuple[int, int], itemsize: int, device: torch.device) -> None:
    """A new matrix of that shape fits into the device's memory.

    Raises:
        MemoryError: if it cannot.
    """
    needed, there = shape[0] * shape[1] * itemsize, memory_of(device)
    if needed > there:
        raise MemoryError(
            f"scores: expected a matrix of at most {there / _GIB:.1f} GiB (the memory here), "
            f"got {shape[0]} × {shape[1]} of {needed / _GIB:.1f} GiB; "
            "give out= (a numpy memmap or an h5py dataset) or score fewer at a time"
        )
