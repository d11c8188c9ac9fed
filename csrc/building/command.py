"""setuptools' command ``build_ext``, compiling with ninja."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from setuptools.command.build_ext import build_ext

from . import tree
from .modules import build_modules

REPORT = "build_report.json"


class NinjaBuild(build_ext):
    """build_ext that compiles with ninja; a module that cannot be built is left out and the report says why."""

    def run(self) -> None:
        """Notes whether the modules go beside the sources, which setuptools' own hides while it builds."""
        self.beside_sources = bool(self.inplace)
        super().run()

    def build_extensions(self) -> None:
        """Builds what can be built, puts it where Python finds it, and writes the report beside the package."""
        outcomes = build_modules(self.distribution.get_version())
        package = tree.ROOT / tree.PACKAGE if self.beside_sources else Path(self.build_lib) / tree.PACKAGE
        package.mkdir(parents=True, exist_ok=True)
        for extension in self.extensions:
            outcome = outcomes[extension.name.rpartition("_")[2]]
            target = Path(self.get_ext_fullpath(extension.name))
            if outcome.path is None:
                # One of an earlier build would be loaded though the report says that there is none.
                for stale in {target.resolve(), (package / target.name).resolve()}:
                    if stale.exists():
                        stale.unlink()
                        print(f"warning: removed {stale}, of an earlier build", file=sys.stderr)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            # Replaced, not overwritten: a process that has the old module mapped keeps it.
            target.unlink(missing_ok=True)
            self.copy_file(str(tree.ROOT / outcome.path), str(target))
        report = {name: outcome.report() for name, outcome in outcomes.items()}
        (package / REPORT).write_text(json.dumps(report, indent=2) + "\n")
