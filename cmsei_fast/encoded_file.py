"""A split as encoded by models, kept in a file so that the next query of the same split need not encode it again.

The file is safetensors. For each model, numbered from 0, it has ``MODEL.images.rows``, ``MODEL.images.lengths`` and the
same for captions; its metadata name the models and the split.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import safetensors
import torch

from .data.files import replacing
from .data.identity import identity
from .data.rows import MappedRows
from .encoded import Encoded
from .exchange import Exchange
from .model.pretrained import write_tensors

if TYPE_CHECKING:
    from .data.split import Split
    from .model import CMSEI

FORMAT, VERSION = "cmsei_fast encoded split", "2"
# Of a split's identity, what each side's encoding depends on.
_SIDES = {"images": ("images", "names", "regions", "relations", "features", "file"), "captions": ("captions",)}


class EncodedFile:
    """The encoded images and captions of a split, read from a file where it has them, else encoded and written there.

    A side, images or captions, is in the file once a query has needed all of it. In a process group a side is taken
    from the file if all processes find it there; the first one writes.

    Args:
        path: of the file; a new one if there is none.
        models: what encodes.
        split: what is encoded.
        group: of torch.distributed, or None.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is another file, or of another model or split, naming which.
    """

    def __init__(self, path: str, models: Sequence[CMSEI], split: Split, group: Any = None) -> None:
        self._path, self._split, self._exchange = path, split, Exchange(group)
        found = {**identity(split), "file": _file_of(split)}
        self._fingerprint: dict[str, Any] = {"models": [model_identity(model) for model in models]}
        self._fingerprint |= {side: {name: found[name] for name in names} for side, names in _SIDES.items()}
        self._parts: dict[tuple[int, str], Encoded] = {}
        self._changed = False
        with self._exchange.together():
            if os.path.exists(path):
                self._read()
        every = self._exchange.texts(json.dumps(sorted({side for _, side in self._parts})))
        shared = set.intersection(*(set(json.loads(sides)) for sides in every))
        self._parts = {key: x for key, x in self._parts.items() if key[1] in shared}

    def images(self, number: int, wanted: Sequence[int] | None, encode: Callable[[], Encoded]) -> Encoded:
        """Regions of the images that are wanted, None for all, by a model.

        Args:
            number: of the model.
            wanted: which images, in this order.
            encode: encodes them.
        """
        if wanted is None:
            return self._all(number, "images", encode)
        whole = self._parts.get((number, "images"))
        return encode() if whole is None else whole[list(wanted)]

    def captions(self, number: int, sentences: Sequence[str], encode: Callable[[], Encoded]) -> Encoded:
        """Words of sentences by a model; kept where they are the split's captions."""
        return self._all(number, "captions", encode) if sentences is self._split.captions else encode()

    def save(self) -> None:
        """Writes the file where something was encoded that it lacks, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        with self._exchange.together():
            if self._changed and self._exchange.rank == 0:
                self._write()
        self._changed = False

    def _all(self, number: int, side: str, encode: Callable[[], Encoded]) -> Encoded:
        if (number, side) not in self._parts:
            self._parts[number, side] = encode()
            self._changed = True
        return self._parts[number, side]

    def _write(self) -> None:
        tensors = {}
        for (number, side), part in self._parts.items():
            tensors[f"{number}.{side}.rows"] = part.rows.cpu().contiguous()
            tensors[f"{number}.{side}.lengths"] = part.lengths
        kept = {"models", *(side for _, side in self._parts)}
        fingerprint = json.dumps({name: x for name, x in self._fingerprint.items() if name in kept})
        with replacing(self._path) as temporary:
            write_tensors(tensors, temporary, {"format": FORMAT, "version": VERSION, "fingerprint": fingerprint})

    def _read(self) -> None:
        try:
            with safetensors.safe_open(self._path, "pt") as file:
                metadata = file.metadata() or {}
                if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
                    raise ValueError(f"{self._path}: expected a {FORMAT} of version {VERSION}, got another file")
                try:
                    self._check(json.loads(metadata["fingerprint"]))
                except (KeyError, json.JSONDecodeError):
                    raise ValueError(f"{self._path}: expected to be told of which models, got a damaged file") from None
                for name in file.keys():  # noqa: SIM118 - not a dictionary
                    number, side, part = name.split(".")
                    if part == "rows":
                        lengths = file.get_tensor(f"{number}.{side}.lengths")
                        self._parts[int(number), side] = Encoded(file.get_tensor(name), lengths)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{self._path}: expected a {FORMAT}, got another or a damaged file ({error})") from None

    def _check(self, found: dict[str, Any]) -> None:
        of_others = ("what other models encode", "that of other images", "that of other captions")
        for name, got in zip(("models", "images", "captions"), of_others, strict=True):
            if name in found and found[name] != json.loads(json.dumps(self._fingerprint[name])):
                raise ValueError(
                    f"{self._path}: expected what these models encode of this split, got {got} "
                    "(remove the file to encode anew)"
                )


def model_identity(model: CMSEI) -> str:
    """What tells one model from another by its configuration, its vocabulary and its numbers, as hexadecimals."""
    digest = hashlib.blake2b(json.dumps(model.config.to_dict(), sort_keys=True).encode(), digest_size=16)
    digest.update("\0".join(model.vocabulary.words).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _file_of(split: Split) -> list[int] | None:
    """Size and time of change of the file behind the features, of which the identity has a sample alone."""
    features = split.features
    name = features.path if isinstance(features, MappedRows) else getattr(features, "filename", None)
    if name is None:
        return None
    found = os.stat(name)
    return [found.st_size, found.st_mtime_ns]
