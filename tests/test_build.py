"""The build: its choices, and that what it made is safe to load on any processor and beside any torch."""

from __future__ import annotations

import importlib.util
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from setuptools import Distribution

import cmsei_fast

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / f"cmsei_fast-{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
MODULES = [spec for name in ("_native", "_cuda") if (spec := importlib.util.find_spec(f"cmsei_fast.{name}"))]


@pytest.fixture(scope="module")
def build():
    """setup.py as a module."""
    spec = importlib.util.spec_from_file_location("cmsei_fast_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(
    ("text", "archs"),
    [
        ("80;90a", ["80", "90a"]),
        ("90a, 80", ["80", "90a"]),
        ("8.0 9.0a 12.0", ["80", "90a", "120"]),
        ("90;80;90a", ["80", "90a"]),
        ("sm_86", ["86"]),
        ("80;80", ["80"]),
        ("100f;100a;100", ["100", "100a", "100f"]),
    ],
)
def test_architectures_are_parsed(build, text, archs):
    assert build.parse_archs(text) == archs


@pytest.mark.parametrize("text", ["", ";", "hopper", "8", "80+PTX", "80;;x", "90b"])
def test_a_wrong_architecture_is_named(build, text):
    with pytest.raises(
        build.BuildError, match=r"CMSEI_CUDA_ARCHS: expected numbers such as 80;90a, got " + re.escape(repr(text))
    ):
        build.parse_archs(text)


def test_ptx_is_of_the_highest_plain_architecture(build):
    assert build.gencode_flags(["80", "90a"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90,code=compute_90",
    ]


@pytest.mark.parametrize("name", ["CMSEI_CUDA", "CMSEI_NATIVE"])
def test_wishes(build, name):
    assert [build.wish(name, {name: value}) for value in ("0", "1", "auto", "AUTO", "")] == [
        "0",
        "1",
        "auto",
        "auto",
        "auto",
    ]
    assert build.wish(name, {}) == "auto"
    with pytest.raises(build.BuildError, match=f"{name}: expected 0, 1 or auto, got 'yes'"):
        build.wish(name, {name: "yes"})


def test_compiler_is_the_one_asked_for(build):
    assert build.find_compiler({"CXX": "no-such-compiler-at-all"}) is None
    assert build.find_compiler({"CXX": f"{sys.executable} -x"}) == [sys.executable, "-x"]


def test_architectures_asked_for_come_before_those_present(build, monkeypatch):
    monkeypatch.setattr(
        build, "output_of", lambda *command: "9.0\n8.9\n" if command[0] == "nvidia-smi" else "sm_80\nsm_89\nsm_90\n"
    )
    assert build.choose_archs({"CMSEI_CUDA_ARCHS": "75"}, "nvcc") == ["75"]
    assert build.choose_archs({}, "nvcc") == ["89", "90a"]
    monkeypatch.setattr(build, "output_of", lambda *command: None if command[0] == "nvidia-smi" else "sm_80\nsm_86\n")
    assert build.choose_archs({}, "nvcc") == ["80"]
    monkeypatch.setattr(build, "output_of", lambda *command: None if command[0] == "nvidia-smi" else "sm_70\n")
    with pytest.raises(build.BuildError, match="nvcc knows none of the architectures 80;90a"):
        build.choose_archs({}, "nvcc")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="one instruction set only")
@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
@pytest.mark.parametrize(
    ("listed", "name", "flag"),
    [
        ("VARIANTS", "avx512amx", "-mamx-tile"),
        ("PRODUCTS", "avxvnni", "-mavxvnni"),
        ("PRODUCTS", "amxint8", "-mamx-int8"),
    ],
)
def test_what_the_compiler_does_not_take_is_left_out(build, tmp_path, listed, name, flag):
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *{flag}*) exit 1;; esac\n')
    compiler.chmod(0o755)
    wanted = getattr(build, listed)
    built, left_out = build.supported_variants([str(compiler)], tmp_path, wanted)
    assert built == [other for other in wanted if other != name]
    assert set(left_out) == {name}
    assert "does not take" in left_out[name]
    assert flag in left_out[name]


def test_other_processors_get_the_portable_variant_alone(build, tmp_path, monkeypatch):
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    assert build.supported_variants(["c++"], tmp_path, build.VARIANTS) == (["baseline"], {})
    assert build.supported_variants(["c++"], tmp_path, build.PRODUCTS) == ([], {})


def failing(build, monkeypatch, **environment):
    """Runs build_modules without a compiler and nvcc."""
    monkeypatch.setattr(build, "find_compiler", lambda environ: None)
    monkeypatch.setattr(build, "find_nvcc", lambda environ: None)
    for name in ("CMSEI_CUDA", "CMSEI_NATIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return build.build_modules("0")


def test_without_a_compiler_nothing_is_built_and_it_is_said(build, monkeypatch, capsys):
    outcomes = failing(build, monkeypatch)
    assert [outcome.path for outcome in outcomes.values()] == [None, None]
    assert "warning: cmsei_fast._native was not built: no C++ compiler was found" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["native", "cuda"])
def test_what_must_be_built_fails_aloud(build, monkeypatch, name):
    variable = f"CMSEI_{name.upper()}"
    with pytest.raises(build.BuildError, match=f"{variable}=1, but cmsei_fast._{name} was not built: no C"):
        failing(build, monkeypatch, **{variable: "1"})


@pytest.fixture
def small_tree(build, monkeypatch, tmp_path):
    """A source tree of a few lines, and an nvcc that always fails."""
    files = {
        "csrc/bindings.cpp": "int bindings() { return 0; }\n",
        "csrc/include/shared.h": "#pragma once\n",
        "csrc/cpu/driver.cpp": "int driver() { return 0; }\n",
        "csrc/cpu/isa/kernel.cpp": '#include "shared.h"\nnamespace CMSEI_ISA { int kernel() { return 0; } }\n',
        "csrc/cuda/bindings.cpp": "int bindings() { return 0; }\n",
        "csrc/cuda/kernel.cu": "",
        "cuda home/bin/nvcc": "#!/bin/sh\necho kernel.cu: this compiler is broken\nexit 1\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "cuda home/bin/nvcc").chmod(0o755)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda home"))
    monkeypatch.setenv("CMSEI_CUDA_ARCHS", "80")
    for name in ("CMSEI_CUDA", "CMSEI_NATIVE", "CXX", "CXXFLAGS", "LDFLAGS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")


@needs_compiler
def test_a_failed_cuda_build_is_said_and_leaves_the_cpu_module(build, small_tree, monkeypatch, capfd):
    outcomes = build.build_modules("0")
    assert (small_tree / outcomes["native"].path).is_file()
    assert outcomes["cuda"].path is None
    assert "kernel.cu: this compiler is broken" in outcomes["cuda"].reason
    assert "warning: cmsei_fast._cuda was not built: its compilation failed" in capfd.readouterr().err
    monkeypatch.setenv("CMSEI_CUDA", "1")
    with pytest.raises(build.BuildError, match=r"CMSEI_CUDA=1, but cmsei_fast\._cuda was not built"):
        build.build_modules("0")


@pytest.mark.parametrize("reason", ["left out", "failed"])
def test_a_module_of_an_earlier_build_is_removed_and_that_is_said(build, small_tree, monkeypatch, capfd, reason):
    """It would be loaded though the report says that there is none."""
    monkeypatch.chdir(small_tree)
    monkeypatch.setenv("CMSEI_CUDA", "0")
    monkeypatch.setenv(*{"left out": ("CMSEI_NATIVE", "0"), "failed": ("CXX", "no-such-compiler-at-all")}[reason])

    def run():
        modules = [build.Extension("cmsei_fast._native", sources=[], optional=True)]
        command = build.NinjaBuild(Distribution({"name": "cmsei_fast", "version": "0", "ext_modules": modules}))
        command.inplace = True
        command.ensure_finalized()
        command.run()
        return capfd.readouterr().err

    stale = small_tree / "cmsei_fast" / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    stale.parent.mkdir()
    stale.write_bytes(b"")
    said = f"warning: removed {stale}, of an earlier build\n"
    assert said in run()
    assert not stale.exists()
    assert not json.loads((stale.parent / "build_report.json").read_text())["native"]["built"]
    assert said not in run()


@needs_compiler
def test_only_what_changed_is_compiled_again(build, small_tree, monkeypatch):
    monkeypatch.setenv("CMSEI_CUDA", "0")

    def objects():
        build.build_modules("0")
        return {path.relative_to(small_tree): path.stat().st_mtime_ns for path in small_tree.glob("build/**/*.o")}

    first = objects()
    assert objects() == first
    (small_tree / "csrc/include/shared.h").write_text("#pragma once\n// changed\n")
    changed = {path for path, time in objects().items() if time != first[path]}
    assert changed == {path for path in first if path.name == "kernel.o"}
    assert changed


def test_a_file_that_says_the_same_is_not_written_again(build, tmp_path):
    path = tmp_path / "file"
    build.write_if_changed(path, "a")
    before = path.stat().st_mtime_ns
    build.write_if_changed(path, "a")
    assert path.stat().st_mtime_ns == before
    build.write_if_changed(path, "b")
    assert path.read_text() == "b"


def test_paths_with_spaces_and_dollars_survive_ninja(build):
    assert build.Plan.quoted("a b", "-I/x$y") == "'a b' '-I/x$$y'"
    assert build.Plan.path("a b:$") == "a$ b$:$$"


def test_the_kernels_folder_is_a_subpackage():
    import cmsei_fast.kernels

    assert Path(cmsei_fast.kernels.__file__).parent.name == "kernels"
    assert importlib.util.find_spec("kernels") is None or "cmsei" not in str(importlib.util.find_spec("kernels").origin)


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert cmsei_fast.__version__ == version("cmsei-fast")


def test_the_build_says_what_it_made():
    report = json.loads((Path(cmsei_fast.__file__).parent / "build_report.json").read_text())
    built = {name for name, outcome in report.items() if outcome["built"]}
    assert {f"cmsei_fast._{name}" for name in built} == {spec.name for spec in MODULES}
    assert all(outcome["built"] or outcome["reason"] for outcome in report.values())


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf (not Linux, or no binutils)")
@pytest.mark.skipif(not MODULES, reason="no compiled module")
@pytest.mark.parametrize("module", MODULES, ids=lambda spec: spec.name)
def test_modules_link_neither_torch_nor_cuda(module):
    done = subprocess.run(["readelf", "-d", module.origin], capture_output=True, text=True, check=True)
    needed = re.findall(r"NEEDED.*\[(.+)\]", done.stdout)
    assert needed
    assert not [name for name in needed if re.match(r"lib(torch|c10|cuda|cudart|nv|python)", name)]


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm (no binutils)")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="one instruction set only")
@pytest.mark.skipif(not (BUILD / "isa").is_dir(), reason="built elsewhere: the object files are not here")
def test_instruction_sets_share_no_code():
    """A weak symbol outside a variant's namespace would be merged with another's: AVX-512 code in the baseline."""
    seen = 0
    for directory in sorted((BUILD / "isa").iterdir()):
        variant = directory.name
        for file in sorted(directory.glob("*.o")):
            done = subprocess.run(["nm", "--defined-only", str(file)], capture_output=True, text=True, check=True)
            for line in done.stdout.splitlines():
                kind, symbol = line.split()[-2:]
                seen += 1
                if kind in "WVu":
                    assert f"5cmsei{len(variant)}{variant}" in symbol, f"{variant}/{file.name}: {symbol}"
    assert seen
