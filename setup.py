"""What is built: the package, its kernels and two compiled modules. How those are built is in ``csrc/building``.

Environment: CMSEI_NATIVE and CMSEI_CUDA (0: leave out, 1: must be built, auto: build if possible), CMSEI_CUDA_ARCHS
("80;90a"), CUDA_HOME, CXX, CXXFLAGS, LDFLAGS.
"""

from __future__ import annotations

import os
import sys

from setuptools import Extension, find_packages, setup

# An isolated build has only what pyproject.toml requires on its path.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "csrc"))
from building.command import NinjaBuild

PACKAGE = "cmsei_fast"

setup(
    packages=[*find_packages(include=[PACKAGE, f"{PACKAGE}.*"]), f"{PACKAGE}.kernels"],
    # `kernels` alone is the name of another package: the folder is imported as cmsei_fast.kernels only.
    package_dir={PACKAGE: PACKAGE, f"{PACKAGE}.kernels": "kernels"},
    ext_modules=[Extension(f"{PACKAGE}.{name}", sources=[], optional=True) for name in ("_native", "_cuda")],
    cmdclass={"build_ext": NinjaBuild},
)
