"""README's table of speeds, made from the results files: ``python -m benchmarks.table`` writes it.

With ``--check`` nothing is written, and the exit status says whether README is up to date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.rows import extent, figure

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- speed: made by python -m benchmarks.table -->", "<!-- end of speed -->"
NOTHING = "No results yet: `pytest benchmarks/ --benchmark-only --save-results` measures this machine."


def section(result: dict[str, Any]) -> str:
    """One processor's heading line and table."""
    about = (
        f"**{result['cpu']}**, {result['threads']} threads, instruction set in use: {result['isa']}; Python "
        f"{result['python']}, torch {result['torch']}; {result['date']}, commit {(result['commit'] or 'unknown')[:12]}"
    )
    if result["changed_since_commit"]:
        about += " with local changes"
    lines = [about + ".", "", "| | median | quartiles | target | |", "|---|---:|---:|---:|---|"]
    for row in result["rows"].values():
        if "median" not in row:
            lines.append(f"| {row['title']} | – | | | {row['verdict']} |")
            continue
        unit = row["unit"]
        verdict = "" if row["verdict"] == "no target" else row["verdict"]
        cells = [row["title"], figure(row["median"], unit), extent(row, unit), row["target"], verdict]
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines)


def render(results: Path = RESULTS) -> str:
    """The text between README's markers, of all results files in order of their names."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    return "\n\n".join(map(section, found)) or NOTHING


def replaced(text: str, table: str) -> str:
    """README's text with the table between its markers.

    Raises:
        ValueError: if the markers are not there once each, in this order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"README.md: expected {BEGIN} and then {END}, once each")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def main() -> int:
    """Writes README, or with --check compares; returns the exit status."""
    old = README.read_text(encoding="utf-8")
    new = replaced(old, render())
    if "--check" in sys.argv[1:]:
        print("README.md is up to date" if old == new else "README.md is out of date: run python -m benchmarks.table")
        return int(old != new)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
