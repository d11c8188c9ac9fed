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
# Fields that may change when a model is read, because the weights do not depend on them. A score that changes starts
# from its initial values.
CHANGEABLE = ("dropout", "word_dropout", "region_dropout", "confidence_threshold", "scorer")
SCORE_PREFIX = "score."  # of the names of the score's tensors


def save(model: CMSEI, directory: str | os.PathLike[str]) -> None:
    """Writes a model into a new directory, which then replaces the target; an interrupted save leaves the old model.

    Raises:
        FileExistsError: if the target is something other than a saved model or an empty directory.
        OSError: if the files cannot be written.
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
        if _same_structure(new, target):  # as in training: a single rename, so that a whole model exists at all times
            os.replace(new / WEIGHTS, target / WEIGHTS)
            remove_directory(new)
            return
        _replace_directory(new, target)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_directory(new)
        raise


def _with_changes(saved: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """The saved configuration with some fields changed.

    Raises:
        TypeError, ValueError: if a field cannot change, or as :class:`ModelConfig` raises them.
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
        OSError: naming the file, if it cannot be written.
    """
    # Cloned, because safetensors refuses tensors that share memory, such as a transformer's tied weights.
    write_tensors({name: x.detach().cpu().clone().contiguous() for name, x in tensors.items()}, path, metadata)


def write_tensors(
    tensors: dict[str, Tensor], path: str | os.PathLike[str], metadata: dict[str, str] | None = None
) -> None:
    """Writes tensors as safetensors: they are on the CPU, contiguous, and share no memory.

    The file gets the permissions of any new file, because safetensors alone would make it readable by its owner only.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    with open(path, "ab") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    try:
        save_file(tensors, path, metadata=metadata)
    except safetensors.SafetensorError as error:
        if (os_error := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(os_error[1]), os.strerror(int(os_error[1])), os.fspath(path)) from error
    with contextlib.suppress(OSError):  # some file systems have no permissions
        os.chmod(path, mode)


def _same_structure(new: Path, target: Path) -> bool:
    """Whether two saved models have the same files except for the weights."""
    files = [path.relative_to(new) for path in sorted(new.rglob("*")) if path.is_file() and path.name != WEIGHTS]
    return all(
        (target / file).is_file() and (target / file).read_bytes() == (new / file).read_bytes() for file in files
    )


def _replace_directory(new: Path, target: Path) -> None:
    """Replaces the target by a new directory. The old one is moved aside and removed, or moved back after an error."""
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
    """Reads a model that :func:`save` wrote, onto the device and in evaluation mode.

    Args:
        changes: fields of its :class:`ModelConfig` to set, as for :meth:`CMSEI.from_pretrained`.

    Raises:
        FileNotFoundError: if there is no model.
        ValueError: naming a file that is damaged or not of a model, a device that does not exist here, or a field that
            cannot change.
    """
    from .cmsei import CMSEI

    source, device = Path(directory), process_device(device)
    config_path = source / CONFIG
    if not config_path.exists():
        models_inside = sorted(str(path.parent) for path in source.glob(f"*/{CONFIG}"))
        got = (
            f"a directory of models: {', '.join(models_inside)}"
            if models_inside
            else "a file"
            if source.is_file()
            else "none"
        )
        raise FileNotFoundError(f"{source}: expected a saved model ({CONFIG} and its like), got {got}")
    record = read_json(config_path)
    if record.get("format") != FORMAT or not isinstance(record.get("model"), dict):
        raise ValueError(f"{config_path}: expected the configuration of a {FORMAT}, got another JSON file")
    if record.get("version") != VERSION:
        raise ValueError(f"{config_path}: expected version {VERSION}, got {record.get('version')!r}")
    try:
        saved = ModelConfig.from_dict(ModelConfig.without_unread(record["model"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{config_path}: {error}") from None
    config = _with_changes(saved, changes or {})
    vocabulary = Vocabulary.load(source / VOCABULARY)
    text_structure = str(source / TEXT) if config.transformer is not None else None
    model = CMSEI(config, vocabulary, text_structure=text_structure)
    weights_path = source / WEIGHTS
    try:
        tensors = load_file(weights_path, device="cpu")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{weights_path}: expected safetensors, got a damaged file ({error})") from None
    expected = model.state_dict()
    if config.scorer != saved.scorer:  # the scalars that the saved score has learned do not apply to another score
        tensors = {name: x for name, x in tensors.items() if not name.startswith(SCORE_PREFIX)}
        tensors |= {name: x for name, x in expected.items() if name.startswith(SCORE_PREFIX)}
    differing = sorted(expected.keys() ^ tensors.keys()) or [
        name for name, x in tensors.items() if x.shape != expected[name].shape
    ]
    if differing:
        raise ValueError(
            f"{weights_path}: expected the tensors of {config_path.name}, got a difference in {differing[0]}"
        )
    model.load_state_dict(tensors)
    return model.to(device).eval()
