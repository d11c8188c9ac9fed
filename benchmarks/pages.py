"""The source tree, and how the benchmarks write into it: files, and tables between two marks of a page."""

from __future__ import annotations

from pathlib import Path

from cmsei_fast.data.files import replacing

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"  # a file for each processor; in ``gpu``, for each GPU


def replace_table(page: str, table: str, begin_mark: str, end_mark: str) -> str:
    """The page with the table between its marks.

    Raises:
        ValueError: if the marks are not there once each, in this order.
    """
    before, begin, rest = page.partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end or begin_mark in rest or end_mark in after:
        raise ValueError(f"expected {begin_mark} and then {end_mark}, once each")
    return f"{before}{begin_mark}\n\n{table}\n\n{end_mark}{after}"


def write(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all."""
    with replacing(path) as temporary:
        Path(temporary).write_bytes(content.encode() if isinstance(content, str) else content)
