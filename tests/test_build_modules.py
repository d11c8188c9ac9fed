"""What a build makes of what it was asked for, and of what it finds here."""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
import sysconfig
import threading

import pytest
from setuptools import Distribution, Extension


@pytest.mark.parametrize("name", ["CMSEI_CUDA", "CMSEI_NATIVE"])
def test_wishes(building, name):
    assert [building.switches.switch(name, {name: value}) for value in ("0", "1", "auto", "AUTO", "")] == [
        "0",
        "1",
        "auto",
        "auto",
        "auto",
    ]
    assert building.switches.switch(name, {}) == "auto"
    with pytest.raises(building.errors.BuildError, match=f"{name}: expected 0, 1 or auto, got 'yes'"):
        building.switches.switch(name, {name: "yes"})


def test_compiler_is_the_one_asked_for(building):
    assert building.tools.find_compiler({"CXX": "no-such-compiler-at-all"}) is None
    assert building.tools.find_compiler({"CXX": f"{sys.executable} -x"}) == [sys.executable, "-x"]
    assert building.tools.find_compiler({"CXX": " "}) == building.tools.find_compiler({})
    with pytest.raises(building.errors.BuildError, match=r"^CXX: expected a shell's command, got \"'g\+\+\"$"):
        building.tools.find_compiler({"CXX": "'g++"})


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("g++", "-ccbin g++"),
        ("ccache '/opt/a b/g++' -m64 -Wl,-s", r"-ccbin '/opt/a b/g++' -Xcompiler -m64 -Xcompiler '-Wl\,-s'"),
        (" ", ""),
    ],
)
def test_nvcc_gets_the_program_alone_and_its_options(building, monkeypatch, command, flags):
    """It takes what follows -ccbin for a file's name, whatever spaces there are."""
    monkeypatch.setenv("CXX", command)
    plan = building.plan.Plan("build/elsewhere")
    building.cuda.plan_cuda(plan, "nvcc", [], ["80"], "0")
    (compile_command,) = re.findall(r"rule nvcc\n  command = nvcc(.*) -MMD ", plan.text())
    assert compile_command.strip() == flags


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="one instruction set only")
@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
@pytest.mark.parametrize(
    ("listed", "name", "flag"),
    [
        ("VARIANTS", "avx512", "-mavx512f"),
        ("PRODUCTS", "avx512amx", "-mamx-bf16"),
        ("PRODUCTS", "avxvnni", "-mavxvnni"),
        ("PRODUCTS", "amxint8", "-mamx-int8"),
    ],
)
def test_what_the_compiler_does_not_take_is_left_out(building, tmp_path, listed, name, flag):
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *{flag}*) exit 1;; esac\n')
    compiler.chmod(0o755)
    wanted = getattr(building.instruction_sets, listed)
    built, left_out = building.instruction_sets.supported_variants([str(compiler)], tmp_path, wanted)
    assert built == [other for other in wanted if other != name]
    assert set(left_out) == {name}
    assert "does not take" in left_out[name]
    assert flag in left_out[name]


def test_other_processors_get_the_portable_variant_alone(building, tmp_path, monkeypatch):
    known = building.instruction_sets
    monkeypatch.setattr(known.platform, "machine", lambda: "aarch64")
    assert known.supported_variants(["c++"], tmp_path, known.VARIANTS) == (["baseline"], {})
    assert known.supported_variants(["c++"], tmp_path, known.PRODUCTS) == ([], {})


def planned(building, monkeypatch, machine, system):
    """The plan of the CPU module on such a machine."""
    monkeypatch.setattr(building.instruction_sets.platform, "machine", lambda: machine)
    monkeypatch.setattr("sys.platform", system)
    for name in ("CXXFLAGS", "LDFLAGS"):
        monkeypatch.delenv(name, raising=False)
    plan = building.plan.Plan("build/elsewhere")
    known = building.instruction_sets
    names = [
        building.instruction_sets.supported_variants(["c++"], building.tree.ROOT, listed)[0]
        for listed in (known.VARIANTS, known.PRODUCTS)
    ]
    building.native.plan_native(plan, ["c++"], [], *names)
    return plan.text()


@pytest.mark.parametrize(("machine", "system"), [("aarch64", "linux"), ("arm64", "darwin")])
def test_steps_on_arm(building, monkeypatch, machine, system):
    """Every source once, without a flag that such a compiler does not take."""
    text = planned(building, monkeypatch, machine, system)
    compiled = re.findall(r": cxx (\S+)", text)
    ours = ("csrc/bindings.cpp", "csrc/cpu/*.cpp", "csrc/cpu/isa/*.cpp")
    assert sorted(compiled) == sorted(source for pattern in ours for source in building.tree.sources(pattern))
    flags = {flag for line in re.findall(r"flags = (.*)", text) for flag in line.split()}
    assert not [flag for flag in flags if flag.startswith("-m")]
    assert {flag for flag in flags if flag.startswith("-DCMSEI")} == {
        "-DCMSEI_ISA=baseline",
        "-DCMSEI_VECTOR_BYTES=16",
    }


def test_linking_on_macos(building, monkeypatch):
    """Python's symbols are found at run time, as its own modules' are; the linker knows none of GNU's options."""
    (link,) = re.findall(r"rule link\n  command = (.*)", planned(building, monkeypatch, "arm64", "darwin"))
    assert link == "c++ -bundle -undefined dynamic_lookup $in -o $out -pthread"
    (link,) = re.findall(r"rule link\n  command = (.*)", planned(building, monkeypatch, "aarch64", "linux"))
    assert link == "c++ -shared $in -o $out -pthread -ldl"


def failing(building, monkeypatch, **environment):
    """Runs build_modules without a compiler and nvcc."""
    monkeypatch.setattr(building.tools, "find_compiler", lambda environ: None)
    monkeypatch.setattr(building.tools, "find_nvcc", lambda environ: None)
    for name in ("CMSEI_CUDA", "CMSEI_NATIVE", "CXX"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return building.modules.build_modules("0")


def test_without_a_compiler_nothing_is_built_and_it_is_said(building, monkeypatch, capsys):
    outcomes = failing(building, monkeypatch)
    assert [outcome.path for outcome in outcomes.values()] == [None, None]
    assert "warning: cmsei_fast._native was not built: no C++ compiler was found (set CXX" in capsys.readouterr().err
    failing(building, monkeypatch, CXX="no-such-compiler")
    assert "no C++ compiler was found (CXX is 'no-such-compiler')" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["native", "cuda"])
def test_what_must_be_built_fails_aloud(building, monkeypatch, name):
    variable = f"CMSEI_{name.upper()}"
    with pytest.raises(building.errors.BuildError, match=f"{variable}=1, but cmsei_fast._{name} was not built: no C"):
        failing(building, monkeypatch, **{variable: "1"})


@pytest.fixture
def small_tree(building, monkeypatch, tmp_path):
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
    monkeypatch.setattr(building.tree, "ROOT", tmp_path)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda home"))
    monkeypatch.setenv("CMSEI_CUDA_ARCHS", "80")
    for name in ("CMSEI_CUDA", "CMSEI_NATIVE", "CXX", "CXXFLAGS", "LDFLAGS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")


@needs_compiler
def test_a_failed_cuda_build_is_said_and_leaves_the_cpu_module(building, small_tree, monkeypatch, capfd):
    outcomes = building.modules.build_modules("0")
    assert (small_tree / outcomes["native"].path).is_file()
    assert outcomes["cuda"].path is None
    assert "kernel.cu: this compiler is broken" in outcomes["cuda"].reason
    assert "warning: cmsei_fast._cuda was not built: its compilation failed" in capfd.readouterr().err
    monkeypatch.setenv("CMSEI_CUDA", "1")
    with pytest.raises(building.errors.BuildError, match=r"CMSEI_CUDA=1, but cmsei_fast\._cuda was not built"):
        building.modules.build_modules("0")


@pytest.mark.parametrize("reason", ["left out", "failed"])
def test_a_module_of_an_earlier_build_is_removed_and_that_is_said(building, small_tree, monkeypatch, capfd, reason):
    """It would be loaded though the report says that there is none."""
    monkeypatch.chdir(small_tree)
    monkeypatch.setenv("CMSEI_CUDA", "0")
    monkeypatch.setenv(*{"left out": ("CMSEI_NATIVE", "0"), "failed": ("CXX", "no-such-compiler-at-all")}[reason])

    def run():
        modules = [Extension("cmsei_fast._native", sources=[], optional=True)]
        command = building.command.NinjaBuild(
            Distribution({"name": "cmsei_fast", "version": "0", "ext_modules": modules})
        )
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
def test_only_what_changed_is_compiled_again(building, small_tree, monkeypatch):
    monkeypatch.setenv("CMSEI_CUDA", "0")

    def objects():
        building.modules.build_modules("0")
        return {path.relative_to(small_tree): path.stat().st_mtime_ns for path in small_tree.glob("build/**/*.o")}

    first = objects()
    assert objects() == first
    (small_tree / "csrc/include/shared.h").write_text("#pragma once\n// changed\n")
    changed = {path for path, time in objects().items() if time != first[path]}
    assert changed == {path for path in first if path.name == "kernel.o"}
    assert changed


@needs_compiler
@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_a_build_waits_for_another_of_the_same_tree(building, small_tree, monkeypatch):
    """As of two environments, each of which installs this checkout: their objects have the same names."""
    monkeypatch.setenv("CMSEI_CUDA", "0")
    outcomes = {}
    other = threading.Thread(target=lambda: outcomes.update(building.modules.build_modules("0")))
    directory = small_tree / f"build/cmsei_fast-{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
    with building.tree.alone_in(directory):
        other.start()
        other.join(0.5)
        assert [path.name for path in directory.iterdir()] == [".lock"]
    other.join(300)
    assert (small_tree / outcomes["native"].path).is_file()


def test_a_file_that_says_the_same_is_not_written_again(building, tmp_path):
    path = tmp_path / "file"
    building.tree.write_if_changed(path, "a")
    before = path.stat().st_mtime_ns
    building.tree.write_if_changed(path, "a")
    assert path.stat().st_mtime_ns == before
    building.tree.write_if_changed(path, "b")
    assert path.read_text() == "b"


def test_paths_with_spaces_and_dollars_survive_ninja(building):
    assert building.plan.Plan.quoted("a b", "-I/x$y") == "'a b' '-I/x$$y'"
    assert building.plan.Plan.path("a b:$") == "a$ b$:$$"
