"""A model on disk: JSON for its structure, safetensors for its numbers; reading it runs no code."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..data.files import errors_naming, errors_renamed, remove_directory, temporary_name
from ..data.json_object import read_json
from ..data.vocabulary import Vocabulary
from ..devices import process_device
from .config import ModelConfig
from .text_encoder import TransformerEncoder

if TYPE_CHECKING:
    from .cmsei import CMSEI

FORMAT = "cmsei_fast model"
VERSION = 1
CONFIG, WEIGHTS, VOCABULARY, TEXT = "config.json", "model.safetensors", "vocabulary.json", "text"
# Fields that say nothing about what the weights have learned, but for the score, which then begins anew.
CHANGEABLE = ("dropout", "word_dropout", "region_dropout", "confidence_threshold", "scorer")
SCORE = "score."


def save(model: CMSEI, directory: str | os.PathLike[str]) -> None:
    """Writes a model into a new directory beside the old one, then takes its place.

    Raises:
        FileExistsError: if something else than a saved model is there.
        OSError: where the files cannot be written.
    """
    target = Path(os.path.abspath(directory))
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / CONFIG).is_file())):
        raise FileExistsError(f"{directory}: expected a new directory or one with a saved model, got something else")
    target.parent.mkdir(parents=True, exist_ok=True)
    new = Path(temporary_name(target))
    try:
        record = {"format": FORMAT, "version": VERSION, "model": model.config.to_dict()}
        with errors_renamed(new, directory):
            new.mkdir()
            with errors_naming(new / CONFIG):
                (new / CONFIG).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            model.vocabulary.save(new / VOCABULARY)
            save_tensors(model.state_dict(), new / WEIGHTS, metadata={"format": "pt"})
            if isinstance(model.text, TransformerEncoder):
                model.text.model.config.save_pretrained(new / TEXT)
                model.text.tokenizer.save_pretrained(new / TEXT)
        if _same_structure(new, target):  # as while training: one rename, so that there is a model at every moment
            os.replace(new / WEIGHTS, target / WEIGHTS)
            remove_directory(new)
            return
        _replace_directory(new, target)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_directory(new)
        raise


def _changed(saved: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """The configuration with some fields set.

    Raises:
        TypeError, ValueError: for a field that cannot change, and as the configuration does.
    """
    config = ModelConfig.from_dict({**saved.to_dict(), **changes})
    for name in changes:
        old, new = getattr(saved, name), getattr(config, name)
        if name not in CHANGEABLE and old != new:
            raise ValueError(f"{name}: expected {old!r:.80} (as the saved model has it), got {new!r:.80}")
    return config


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes tensors as safetensors.

    Raises:
        OSError: naming the file, where the disk does not take it.
    """
    # Cloned, since safetensors refuses tensors that share memory, as a transformer's tied weights do.
    write_tensors({name: x.detach().cpu().clone().contiguous() for name, x in tensors.items()}, path, metadata)


def write_tensors(
    tensors: dict[str, Tensor], path: str | os.PathLike[str], metadata: dict[str, str] | None = None
) -> None:
    """Writes tensors on the CPU, contiguous and none with another's memory, as safetensors.

    The file is readable by whom other new files are: safetensors makes one of the owner's alone.

    Raises:
        OSError: naming the file, where the disk does not take it.
    """
    with open(path, "ab") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    try:
        save_file(tensors, path, metadata=metadata)
    except safetensors.SafetensorError as error:
        if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(path)) from error
    with contextlib.suppress(OSError):  # a file system may know no permissions
        os.chmod(path, mode)


def _same_structure(new: Path, target: Path) -> bool:
    """Whether two saved models differ in their weights at most."""
    files = [path.relative_to(new) for path in sorted(new.rglob("*")) if path.is_file() and path.name != WEIGHTS]
    return all((target / f).is_file() and (target / f).read_bytes() == (new / f).read_bytes() for f in files)


def _replace_directory(new: Path, target: Path) -> None:
    """Puts a directory in the place of another; the old one is moved away and then removed; back, on an error."""
    if not target.exists():
        new.rename(target)
        return
    old = Path(temporary_name(target, ".old"))
    try:
        target.rename(old)
        new.rename(target)
    finally:
        if not target.exists():
            old.rename(target)
        with contextlib.suppress(OSError):
            remove_directory(old)


def load(
    directory: str | os.PathLike[str], device: torch.device | str = "cpu", changes: Mapping[str, Any] | None = None
) -> CMSEI:
    """Reads a model that :func:`save` wrote, in evaluation mode, onto the device.

    Args:
        changes: fields of its :class:`ModelConfig` to set, as :meth:`CMSEI.from_pretrained` has them.

    Raises:
        FileNotFoundError: if no model is there.
        ValueError: naming the file that is damaged or another's, the device that is not here, or the field that cannot
            change.
    """
    from .cmsei import CMSEI

    source, device = Path(directory), process_device(device)
    path = source / CONFIG
    if not path.exists():
        inside = sorted(str(each.parent) for each in source.glob(f"*/{CONFIG}"))
        got = f"a directory of models: {', '.join(inside)}" if inside else "a file" if source.is_file() else "none"
        raise FileNotFoundError(f"{source}: expected a saved model ({CONFIG} and its like), got {got}")
    record = read_json(path)
    if record.get("format") != FORMAT or not isinstance(record.get("model"), dict):
        raise ValueError(f"{path}: expected the configuration of a {FORMAT}, got another JSON file")
    if record.get("version") != VERSION:
        raise ValueError(f"{path}: expected version {VERSION}, got {record.get('version')!r}")
    try:
        saved = ModelConfig.from_dict(ModelConfig.without_unread(record["model"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    config = _changed(saved, changes or {})
    vocabulary = Vocabulary.load(source / VOCABULARY)
    text = str(source / TEXT) if config.transformer is not None else None
    model = CMSEI(config, vocabulary, text_structure=text)
    weights = source / WEIGHTS
    try:
        tensors = load_file(weights, device="cpu")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{weights}: expected safetensors, got a damaged file ({error})") from None
    expected = model.state_dict()
    if config.scorer != saved.scorer:  # what the old score has learned is of another one
        tensors = {name: x for name, x in tensors.items() if not name.startswith(SCORE)}
        tensors |= {name: x for name, x in expected.items() if name.startswith(SCORE)}
    wrong = sorted(expected.keys() ^ tensors.keys()) or [k for k, x in tensors.items() if x.shape != expected[k].shape]
    if wrong:
        raise ValueError(f"{weights}: expected the tensors of {path.name}, got a difference in {wrong[0]}")
    model.load_state_dict(tensors)
    return model.to(device).eval()
