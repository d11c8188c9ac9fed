"""The code of README and docs: its blocks, the files that they open, and the check of their command lines."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import re
import shlex
import tokenize
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cmsei_fast import CMSEI, ModelConfig, cli
from cmsei_fast.data import Vocabulary, split_from_scenes, synthetic_scenes, write_split

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "csrc" / "README.md",
    ROOT / "kernels" / "README.md",
]
LANGUAGES = ("python", "json", "text", "diff", "sh", "bash")
_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
_FIRST_WORDS = ("cmsei-fast", "torchrun", "pip", "pytest", "python")


def title(path: Path) -> str:
    """A document's name: that of its file, with the folder where that is README again."""
    return path.name if path.parent in (ROOT, ROOT / "docs") else path.relative_to(ROOT).as_posix()


def without_fences(text: str) -> str:
    """A document without its fenced blocks."""
    return _FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """The names by which links find a document's headings; a second heading of one name ends in ``-1``, and so on."""
    headings = re.findall(r"^#+ (.+)$", without_fences(text), re.MULTILINE)
    names = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    before = [names[:i].count(name) for i, name in enumerate(names)]
    return {f"{name}-{count}" if count else name for name, count in zip(names, before, strict=True)}


def blocks(language: str) -> list[tuple[str, str]]:
    """(document, text) of each fenced block of a language."""
    found = []
    for path in DOCUMENTS:
        for name, text in _FENCE.findall(path.read_text(encoding="utf-8")):
            if name == language:
                found.append((title(path), text))
    return found


def comments(path: Path) -> str:
    """The comments of a C++ or a Python source; of Python with the docstrings."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return "\n".join(re.findall(r"//.*", text))
    found = [x.string for x in tokenize.generate_tokens(io.StringIO(text).readline) if x.type == tokenize.COMMENT]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found += [ast.get_docstring(x) or "" for x in ast.walk(ast.parse(text)) if isinstance(x, documented)]
    return "\n".join(found)


def added(text: str) -> str:
    """The lines that a diff adds."""
    return "".join(line[1:] + "\n" for line in text.splitlines() if line.startswith("+"))


def languages() -> set[str]:
    """Of all fenced blocks."""
    return {name for path in DOCUMENTS for name, _ in _FENCE.findall(path.read_text(encoding="utf-8"))}


def command_lines() -> list[tuple[str, str]]:
    """(document, command) of each line of a shell block, and of each indented line that begins like a command."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        shell = "".join(block for name, block in _FENCE.findall(text) if name in ("sh", "bash"))
        plain = without_fences(text)
        indented = [x for x in re.findall(r"^    (\S(?:.*\\\n)*.*)$", plain, re.MULTILINE) if _begins_a_command(x)]
        for line in [*shell.replace("\\\n", " ").splitlines(), *(x.replace("\\\n", " ") for x in indented)]:
            if line.strip() and not line.lstrip().startswith("#"):
                found += [(title(path), part.strip()) for part in line.split("&&")]
    return found


def _begins_a_command(line: str) -> bool:
    words = [word for word in line.split() if not _ASSIGNMENT.fullmatch(word)]
    return bool(words) and words[0] in _FIRST_WORDS


def check_command(command: str) -> None:
    """What can be known of a command without running it: flags, modules, extras, paths, environment variables.

    Raises:
        AssertionError, SystemExit: if it could not run.
    """
    words = shlex.split(command, comments=True)
    while words and _ASSIGNMENT.fullmatch(words[0]):
        name = words.pop(0).partition("=")[0]
        assert not name.startswith("CMSEI_") or name in variables(), name
    if words[0] == "torchrun":
        assert words[words.index("-m") + 1] == "cmsei_fast", command
        words = ["cmsei-fast", *words[words.index("-m") + 2 :]]
    if words[:3] == ["python", "-m", "cmsei_fast"]:
        words = ["cmsei-fast", *words[3:]]
    if words[0] == "cmsei-fast":
        cli.build_parser().parse_args(words[1:])
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None, words[2]
    elif words[0] == "pip":
        extras = re.findall(r"\[(.*?)\]", " ".join(words))
        _, _, rest = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")
        known = re.findall(r"^(\w+) = \[", rest.partition("\n[")[0], re.MULTILINE)
        assert {x for group in extras for x in group.split(",")} <= set(known), command
        assert all((ROOT / words[i + 1]).exists() for i, word in enumerate(words) if word == "-c"), command
    else:
        assert words[0] == "pytest", f"{command}: a command that no test knows"
        paths = [word for option, word in pairwise(words) if not word.startswith("-") and option != "-k"]
        assert all((ROOT / word).exists() for word in paths), command


def variables() -> set[str]:
    """The environment variables of the table of docs/engines.md."""
    text = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE))


def make_files(text: str, folder: Path) -> None:
    """The files that a block of Python opens: splits, models, scenes and a score matrix of 20 images, 100 captions."""
    made = synthetic_scenes(5, width=16, captions_per_image=5)
    split = split_from_scenes(made.scenes, features=made.features)

    def named(pattern: str) -> list[Path]:
        paths = [folder / name for name in re.findall(pattern, text)]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        return paths

    for path in named(r'(?:open_split|load_split)\("(.+?\.h5)"'):
        write_split(path, split)
    for path in named(r'from_pretrained\("(.+?)"') if "train(" not in text else []:
        config = ModelConfig(width=16, heads=2, feature_width=16, predicate_names=split.predicate_names, word_width=16)
        CMSEI(config, Vocabulary.build(split.captions)).save_pretrained(path)
    for path in named(r'read_scenes\("(.+?\.jsonl)"'):
        names = ("image", "labels", "relations", "captions")
        lines = ({x: getattr(s, x) for x in names} | {"boxes": s.boxes.tolist()} for s in made.scenes)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for path in named(r'np\.load\("(.+?\.npy)"'):
        np.save(path, np.random.default_rng(0).standard_normal((20, 100), dtype=np.float32))


def shown(script: Any, name: str, page: str = "ablation.md") -> dict[str, Any]:
    """The committed results of a study of ``benchmarks/``, of which the page shows the table that they give."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    record: dict[str, Any] = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    made = script.runs.replace_table(text, script.render(record), *script.MARKS)
    assert made == text, f"run python -m benchmarks.{name} table"
    return record
