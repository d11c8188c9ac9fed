"""The GPU's benchmark script: every line runs, at a tiny size and in Triton's interpreter."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import beside
import pytest
import torch
from triton_here import no_interpreter

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def gpu(of_benchmarks: Callable[[str], Any]) -> Any:
    """The script."""
    return of_benchmarks("gpu")


def measured() -> dict[str, Any]:
    """The results file of a run without a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, "-m", "benchmarks.gpu", "--cpu", "--out", str(out)]
        done = beside.run(command, 1800, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found


@pytest.mark.skipif(no_interpreter() is not None, reason=str(no_interpreter()))
@pytest.mark.beside(work=measured)
def test_every_measure_runs(outcome: dict[str, Any]) -> None:
    found = outcome
    assert found["suite"]["green"] is False  # what was not tested verifies nothing
    assert found["suite"]["tail"] == "", "a process of the suite cannot collect its tests"
    assert found["suite"]["collected"] >= 80
    rows = found["rows"]
    assert {"chunked", "fused"} == rows["triton_scan_scoring"]["seconds_by_design"].keys()
    wanted = {"scan_scoring", "cmsei_training", "spatial_forward", "semantic_both", "scale", "cmsei_numerics"}
    assert {f"triton_{key}" for key in wanted} <= rows.keys()
    assert rows["triton_scan_scoring"]["float8_of_product"] > 0
    assert rows["triton_scan_scoring"]["int8_of_product"] > 0
    assert rows["triton_scan_numerics"]["same_bits"] is True
    assert rows["triton_scan_numerics"]["error"] < 1e-5
    assert not [row for row in rows.values() if "failed" in row]


COLLECTING_AS_ON_A_GPU = """
import torch

torch.cuda.is_available = lambda: True
from cmsei_fast import engines
from cmsei_fast.engines import cuda, native, triton

cuda.unavailable = triton.unavailable = lambda *_: None
native.unavailable = lambda: "left out: none of its tests is one of a GPU"
"""


def collected() -> str:
    """What pytest prints of the tests of a GPU, as it would find them on one."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "as_on_a_gpu.py").write_text(COLLECTING_AS_ON_A_GPU, encoding="utf-8")
        options = ("-p", "as_on_a_gpu", "-q", "-p", "no:cacheprovider", "--collect-only", "-m", "gpu")
        return beside.run([sys.executable, "-m", "pytest", *options, "tests"], 300, PYTHONPATH=folder).stdout


@pytest.mark.beside(work=collected)
def test_every_test_of_a_gpu_is_one_units(gpu: Any, outcome: str) -> None:
    from benchmarks import gpu_suite

    found = [x.removeprefix("tests/") for x in outcome.splitlines() if "::" in x]
    assert len(found) > 3000, outcome[-2000:]
    assert not [x for x in found if "test_beyond_32_bits" in x]  # whose tensors lie in a file, on no GPU
    once = [unit for unit in gpu_suite.units() if unit.part == 0 and not unit.design]
    ids = [f"{engine}-cuda" for engine in gpu_suite.ENGINES]
    for test in found:
        own = [x for x in ids if x in test]
        keyword = own[0] if own else f"not {' and not '.join(ids)}"
        file = test.partition("::")[0]
        assert len([unit for unit in once if (unit.file, unit.keyword) == (file, keyword)]) == 1, test
    names = [unit.name for unit in gpu_suite.units()]
    assert len(names) == len(set(names))


def without_a_device(source: str) -> list[str]:
    """A file's tests of every backend that never name its device, nor hand it to a function of the file that does."""
    functions = {x.name: x for x in ast.parse(source).body if isinstance(x, ast.FunctionDef)}
    named = {name for name, x in functions.items() if "backend.device" in ast.unparse(x)}
    out = []
    for name, x in functions.items():
        chosen = any('parametrize("backend"' in ast.unparse(mark).replace("'", '"') for mark in x.decorator_list)
        if name in named or chosen or "backend" not in [argument.arg for argument in x.args.args]:
            continue
        calls = (call for call in ast.walk(x) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name))
        handed = {call.func.id for call in calls if "backend" in map(ast.unparse, call.args)}
        out += [name] if name.startswith("test_") and not handed & named else []
    return out


def test_tests_of_every_backend_put_their_tensors_on_its_device() -> None:
    """Else they give a GPU's engine tensors of the CPU, and fail there alone."""
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        assert without_a_device(path.read_text(encoding="utf-8")) == [], path.name
    call = "computed(problem, backend.engine{})"
    helper = f"def check(backend):\n    {call.format(', backend.device')}\n"
    assert without_a_device(f"def test_it(backend):\n    {call.format('')}\n") == ["test_it"]
    assert without_a_device(f"{helper}def test_it(backend):\n    check(backend)\n") == []


def test_green_is_what_an_engine_and_what_it_is_compared_with_are(gpu: Any) -> None:
    from benchmarks import gpu_suite

    units = gpu_suite.units()
    passed = {unit.name: {"ok": True, "passed": 2, "failed": 0, "seconds": 1.0} for unit in units}
    good = gpu_suite.summary(passed, units)
    assert (good["green"], good["passed"], good["engines"]) == (True, 2 * len(units), {"cuda": True, "triton": True})
    for unit in units:
        for outcome in (None, {"ok": False, "passed": 1, "failed": 1, "seconds": 1.0}):
            found = {name: x for name, x in passed.items() if name != unit.name}
            found |= {} if outcome is None else {unit.name: outcome}
            bad = gpu_suite.summary(found, units)
            assert bad["green"] is False
            assert (unit.name in bad["red"], unit.name in bad["not_run"]) == (outcome is not None, outcome is None)
            for engine in ("cuda", "triton"):
                assert bad["engines"][engine] == (unit.engine not in ("", "eager", engine))
    for engine in gpu_suite.ENGINES:  # as one that was not built: its units find no test and succeed
        none = {"ok": True, "passed": 0, "failed": 0, "seconds": 1.0}
        found = {unit.name: none if unit.engine == engine else passed[unit.name] for unit in units}
        bad = gpu_suite.summary(found, units)
        assert (bad["green"], bad["untested"]) == (False, [engine])
        assert bad["engines"] == {x: engine not in ("eager", x) for x in ("cuda", "triton")}


def runs(process: str) -> bool:
    """Whether a process is there and not a dead one that nobody has waited for; False where the system does not say."""
    try:
        return (Path("/proc") / process / "stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_hangs_is_ended_with_its_children_and_what_it_printed_is_kept(gpu: Any) -> None:
    from benchmarks import gpu_process

    child = "import time; time.sleep(600)"
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid); {child}"
    examined: list[int] = []

    def examine(process: int) -> str:
        assert runs(str(process))
        examined.append(process)
        return "where it stands"

    for limit in (2, 20, 100):  # a slow machine may take longer to begin
        ended = gpu_process.run([sys.executable, "-c", code], limit, examine=examine)
        assert ended.code is None
        assert limit <= ended.seconds < 500
        if ended.text[:1].isdigit():
            break
    first = ended.text.split("\n", 1)[0]
    assert 'File "<string>", line 1 in <module>' in ended.text  # Python's own words of where it stands
    assert ended.text.endswith("where it stands")
    assert not any(map(runs, map(str, examined)))
    until = time.monotonic() + 60  # a killed process takes a moment to end
    while runs(first):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert gpu_process.run([sys.executable, "-c", "print('x'); raise SystemExit(4)"], 60)[:2] == (4, "x\n")


def test_where_a_kernel_stands_is_asked_of_the_debugger(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from benchmarks import gpu_checks

    monkeypatch.setattr(gpu_checks.shutil, "which", lambda *_, **__: None)
    assert gpu_checks.locate_threads(7) == ""
    debugger = tmp_path / "cuda-gdb"
    debugger.write_text('#!/bin/sh\necho "asked: $*"\n', encoding="utf-8")
    debugger.chmod(0o700)
    monkeypatch.setattr(gpu_checks.shutil, "which", lambda name, **_: str(tmp_path / name))
    found = gpu_checks.locate_threads(7)
    assert "asked: -batch -nx -p 7 " in found
    assert "info cuda threads" in found
    assert found.endswith("detach\n")


ABOUT = {"gpu": "G 1", "architecture": "sm_90", "source": "s", "torch": "2", "triton": "3", "cuda": "13"}


class Scripted:
    """Stands for the processes of a run on a GPU: which fail (1), hang (None) or are ended by their own clock (2)."""

    def __init__(self, **outcomes: int | None) -> None:
        self.outcomes, self.seen, self.environments, self.examined = outcomes, [], [], []

    def __call__(self, command: list[str], limit: float, environment: Any = None, examine: Any = None) -> Any:
        from benchmarks.gpu_process import Ended

        line = " ".join(command)
        self.seen.append(line)
        self.environments.append(environment or {})
        self.examined.append(examine is not None)
        bad = [code for what, code in self.outcomes.items() if what in line]
        if "benchmarks.gpu_measures" in command:
            engine, _, out, *names = command[command.index("benchmarks.gpu_measures") + 1 :]
            return self.measured(engine, Path(out), names)
        if "pytest" in command:
            printed = "ERROR x - a CUDA error\n1 failed, 6 passed, 2 errors in 1s" if bad else "7 passed in 1s"
            return Ended(bad[0] if bad else 0, printed, 1.0)
        return Ended(bad[0] if bad else 0, "largest difference over what is allowed: 0.5", 1.0)

    def measured(self, engine: str, out: Path, names: list[str]) -> Any:
        from benchmarks.gpu_process import Ended

        lines = []
        for name in names:
            lines.append({"begun": name})
            code = self.outcomes.get(f"{engine}_{name}", 0)
            row = {"failed": "no"} if code else {"rows": {f"{name}_row": {"seconds": 1.0}}, "others": {name: 2.0}}
            if code in (0, 1):
                lines.append(row | {"measure": name, "seconds": 1.0})
            out.write_text("".join(f"{json.dumps(x)}\n" for x in lines), encoding="utf-8")
            if code != 0:
                return Ended(None if code is None else 1, "its last words", 1.0)
        return Ended(0, "", 1.0)


def test_a_run_goes_on_with_what_did_not_succeed(gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "describe", lambda: dict(ABOUT))
    monkeypatch.setattr(gpu.gpu_checks, "sanitizer", lambda: "/bin/compute-sanitizer")
    out = tmp_path / "g.json"

    def run(*more: str, **outcomes: int | None) -> tuple[int, dict[str, Any], list[str]]:
        scripted = Scripted(**outcomes)
        monkeypatch.setattr(gpu.gpu_process, "run", scripted)
        code = gpu.main(["--out", str(out), *more])
        plain = ["gpu_cases" in x and "compute-sanitizer" not in x for x in scripted.seen]
        assert scripted.examined == plain  # a kernel that stands still, not one that a tool slows down
        built = [x for x, line in zip(scripted.environments, scripted.seen, strict=True) if " pip " in line]
        assert all((x["NVCC_APPEND_FLAGS"], x["CMSEI_CUDA_ARCHS"]) == ("-lineinfo", "90a") for x in built)
        return code, json.loads(out.read_text(encoding="utf-8")), scripted.seen

    monkeypatch.setattr(gpu.gpu_build, "architecture", lambda: "90a")
    monkeypatch.setattr(gpu.gpu_build, "_pack", lambda *_: None)
    monkeypatch.delenv("CMSEI_CUDA_ARCHS", raising=False)
    bad = {"test_attention_options.py": None, "gradients bfloat16": 1, "cuda_scoring": None, "triton_numerics": 1}
    bad["triton_attention"] = 2
    code, found, seen = run(**bad)
    assert code == 1
    assert "pip" in seen[0]
    assert found["suite"]["green"] is False
    assert found["suite"]["failed"] == 3 * 6  # both parts of each engine: a test that failed, two that could not begin
    assert found["checks"]["cuda gradients bfloat16"]["ok"] is False
    assert found["sanitizer"]["racecheck cuda hopper float8"]["ok"] is True
    assert "out of time" in found["rows"]["cuda_scoring"]["failed"]
    assert found["rows"]["triton_numerics"] == {"failed": "no"}
    assert found["rows"]["triton_attention"] == {"failed": "exit status 1: its last words"}
    assert "triton, attention: exit status 1: its last words" in out.with_suffix(".log").read_text(encoding="utf-8")
    assert {"cuda_attention_row", "triton_scale_row", "cuda_compiled_row"} <= found["rows"].keys()
    assert "cuda gradients bfloat16" in out.with_suffix(".log").read_text(encoding="utf-8")
    code, found, seen = run()
    assert code == 0
    assert found["suite"]["green"] is True
    assert found["rows"]["cuda_scoring_row"] == {"seconds": 1.0}
    assert not any("failed" in row for row in found["rows"].values())
    assert len([x for x in seen if "pytest" in x]) == 6  # two parts of each engine
    assert all("gradients bfloat16" in x for x in seen if "gpu_cases" in x)
    monkeypatch.setitem(ABOUT, "source", "t")
    code, found, seen = run("--seconds", "0", "--commit", "abc")
    assert (code, found["rows"], found["commit"]) == (3, {}, "abc")  # nothing of another source
    assert run("--parts", "suite")[1]["suite"]["green"] is True


def test_modules_are_kept_for_a_machine_that_has_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpu: Any
) -> None:
    from benchmarks import gpu_build
    from benchmarks.gpu_process import Ended

    made = [tmp_path / "cmsei_fast" / f"{name}.so" for name in ("_native", "_cuda")]
    commands = []

    def run(command: list[str], limit: float, environment: Any = None) -> Any:
        commands.append(command)
        if "pip" in command:
            for path in made:
                path.write_text(f"built as {path.name}", encoding="utf-8")
        there = all(path.exists() for path in made)
        return Ended(0, " ".join(map(str, made)), 1.0) if there else Ended(1, "ImportError", 1.0)

    (tmp_path / "cmsei_fast").mkdir()
    monkeypatch.setattr(gpu_build, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_build, "architecture", lambda: "90a")
    monkeypatch.setattr(gpu_build, "fingerprint", lambda patterns: "these sources")
    monkeypatch.setattr(gpu_build.gpu_process, "run", run)
    first, second = tmp_path / "first" / "gpu.modules", tmp_path / "second" / "gpu.modules"
    assert gpu_build.build(100, first).startswith("built in")
    second.parent.mkdir()
    (tmp_path / "gpu.modules").write_bytes(first.read_bytes())  # as it is brought along
    for path in made:
        path.unlink()
    commands.clear()
    assert gpu_build.build(100, second) == f"taken from {tmp_path / 'gpu.modules'}"
    assert not any("pip" in command for command in commands)
    assert [path.read_text(encoding="utf-8") for path in made] == ["built as _native.so", "built as _cuda.so"]
    assert second.read_bytes() == first.read_bytes()
    monkeypatch.setattr(gpu_build, "fingerprint", lambda patterns: "others")
    assert gpu_build.build(100, second).startswith("built in")
    second.write_text("cut off", encoding="utf-8")
    assert gpu_build.build(100, second).startswith("built in")


def test_the_literal_forms_stay_where_the_features_are(gpu: Any) -> None:
    from benchmarks import field

    images, captions = torch.empty(3, 4, 8, device="meta"), torch.empty(3, 5, 8, device="meta")
    for form in (field.scan_t2i, field.scan_i2t, field.cmsei):
        scores = form(images, captions, [5, 2, 1])
        assert scores.device.type == "meta"
        for loss in (field.hinge, field.hardest_hinge):
            assert loss(scores).device.type == "meta"


def test_shards_hold_every_test_once(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite's own conftest, over a file of its own."""
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers = gpu: x")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.gpu
        @pytest.mark.parametrize("n", range(10))
        def test_marked(n):
            pass

        def test_other(backend):
            pass
        """
    )
    seen = []
    for i in range(3):
        monkeypatch.setenv("CMSEI_TEST_SHARD", f"{i}/3")
        done = pytester.runpytest_inprocess("--collect-only", "-q", "-m", "gpu", "-k", "marked")
        seen += [x for x in done.outlines if "::" in x]
    assert len(seen) == len(set(seen)) == 10


@pytest.mark.parametrize(
    "case",
    ["cuda hopper bfloat16", "cuda gradients float32", "cuda attention bfloat16", "triton gradients float32 i2t"],
)
def test_the_small_problems_agree(gpu: Any, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Smaller still, and by eager in the place of the engine."""
    from benchmarks import gpu_cases

    monkeypatch.setattr(gpu_cases, "REGIONS", (5, 36, 1))
    monkeypatch.setattr(gpu_cases, "WORDS", (1, 3, 17))
    run = gpu_cases.CASES[case]
    assert 0 <= functools.partial(run.func, "eager", *run.args[1:], **run.keywords)("cpu") <= 1


def test_a_wrong_result_says_where_it_is_wrong(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.gpu_compare import check_same_bits, difference_over_limit, step

    expected = torch.arange(12.0).view(3, 4) - 5
    found = expected.clone()
    assert difference_over_limit("t2i", found + 6e-5, expected, 1e-3) < 1
    assert capsys.readouterr().out == ""
    found[1, 3], found[2, 3] = 2.5, float("nan")
    assert difference_over_limit("t2i", found, expected, 1e-3) == float("inf")
    printed = capsys.readouterr().out
    assert "t2i: 2 of 12 numbers of [3, 4] are wrong, 1 not finite; the largest expected is 6\n" in printed
    assert "first at [1, 3]: 2.5 for 2\n" in printed
    assert "worst at [2, 3]: nan for 6\n" in printed
    assert "along axis 0, 2 places: [1, 2]\n" in printed
    assert "along axis 1, 1 places: [3]\n" in printed
    check_same_bits("cmsei", [expected, found[:1]], [expected.clone(), found[:1].clone()])
    again = expected.clone()
    again[2, 3] = float("nan")
    with pytest.raises(AssertionError, match=r"cmsei: result 1 is another .*: 1 of 12 numbers, the first at \[1, 3\]"):
        check_same_bits("cmsei", [expected, found], [expected, again])
    assert step("eager", "cpu", lambda: 3) == 3
    assert capsys.readouterr().out == "eager\n"


def test_recalls_are_measured_where_there_are_features(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By eager in the place of the engine, of a model that was not trained."""
    from benchmarks import gpu_recall
    from benchmarks.gpu_timing import SMALL, Run
    from cmsei_fast import CMSEI, ModelConfig, PairScorer, evaluate
    from cmsei_fast.data import Vocabulary, split_from_scenes, synthetic_scenes
    from cmsei_fast.data.layout import write_split

    path = tmp_path / "gpu-features.npz"
    monkeypatch.setattr(gpu, "FEATURES", path)
    assert not any("recall" in names for _, names in gpu.measures())
    made = synthetic_scenes(2, width=16)
    split = split_from_scenes(made.scenes, features=made.features)
    sizes = {"width": 16, "feature_width": 16, "word_width": 8}
    model = CMSEI(ModelConfig(predicate_names=split.predicate_names, **sizes), Vocabulary.build(split.captions)).eval()
    model.save_pretrained(tmp_path / "model")
    write_split(tmp_path / "split.h5", split)
    gpu_recall.write(str(tmp_path / "model"), str(tmp_path / "split.h5"), path)
    assert ("cuda", ["recall"]) in gpu.measures()
    rows = gpu_recall.recall(Run(torch.device("cpu"), SMALL, torch.float32, "eager"), path)
    sides = model.encode_images(split), model.encode_captions(split.captions)
    found = evaluate(*sides, scorer=PairScorer.scan_t2i(), caption_to_image=split.caption_to_image)
    assert rows["scan_recall"].keys() == {"rsum", "float8_rsum", "int8_rsum"}
    assert rows["scan_recall"]["rsum"] == pytest.approx(found.rsum, abs=5)  # features of float16
    assert all(abs(rows["cmsei_recall"][f"{x}_rsum"] - rows["cmsei_recall"]["rsum"]) < 40 for x in ("float8", "int8"))


def test_without_a_gpu_or_a_file_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--cpu"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 2
    assert "--cpu: expected --out" in done.stderr
