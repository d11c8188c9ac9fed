"""What ``engine="auto"`` takes on a GPU, tried without one: the verified engines, the check at the first use."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator

import pytest
import torch

from cmsei_fast import engines
from cmsei_fast.engines import choice, cuda, eager, triton


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Nothing was checked before."""
    choice.agrees.cache_clear()
    choice._checked.clear()
    yield
    choice.agrees.cache_clear()
    choice._checked.clear()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says it has a GPU of compute capability 9.0; what runs there runs on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(choice, "_verified", lambda: {"sm_90": {"pair_score": ["candidate"]}})
    monkeypatch.setattr(engines, "names", lambda: ("eager", "candidate"))
    monkeypatch.setattr(engines, "unavailable", lambda *_: None)
    on_the_cpu = {
        name: [(lambda m, d, run=run: run(m, torch.device("cpu")), limit) for run, limit in problems]
        for name, problems in choice._PROBLEMS.items()
    }
    monkeypatch.setattr(choice, "_PROBLEMS", on_the_cpu)


def candidate(monkeypatch: pytest.MonkeyPatch, pair_score: object) -> None:
    module = types.SimpleNamespace(pair_score=pair_score, pair_score_backward=eager.pair_score_backward)
    monkeypatch.setattr(engines, "get", lambda name, *rest: module if name == "candidate" else eager)


def test_the_list_is_data() -> None:
    found = json.loads(choice.VERIFIED.read_text(encoding="utf-8"))
    for operators in found.values():
        assert set(operators) <= set(engines.OPERATORS)
        assert all(name in engines.names() for names in operators.values() for name in names)


def test_every_engine_here_agrees() -> None:
    for name in engines.names():
        for operator in engines.OPERATORS:
            if name != "reference" and engines.unavailable(name) is None:
                device = "cuda" if engines._devices(name) == ("cuda",) else "cpu"
                assert choice.agrees(name, device, operator)


@pytest.mark.usefixtures("gpu")
def test_a_verified_engine_that_agrees_is_chosen(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    candidate(monkeypatch, eager.pair_score)
    assert choice.fastest(torch.device("cuda"), "pair_score") == "candidate"
    assert choice.fastest(torch.device("cuda"), "relation_attention") == "eager"
    assert choice.fastest(torch.device("cpu"), "pair_score") == "eager"
    assert not recwarn.list


@pytest.mark.usefixtures("gpu")
def test_an_architecture_without_results_means_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate(monkeypatch, eager.pair_score)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (12, 0))
    assert choice.fastest(torch.device("cuda"), "pair_score") == "eager"


def wrong(*arguments: object) -> torch.Tensor:
    return eager.pair_score(*arguments) + 1e-2


def wrong_if_rounded(*arguments: object) -> torch.Tensor:
    return eager.pair_score(*arguments) + (1e-2 if arguments[-1] == "bfloat16" else 0)


def not_a_number(*arguments: object) -> torch.Tensor:
    return eager.pair_score(*arguments) * float("nan")


def broken(*arguments: object) -> torch.Tensor:
    raise RuntimeError("no such instruction")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("pair_score", "why"),
    [
        (wrong, "differs from eager by"),
        (wrong_if_rounded, "differs from eager by"),
        (not_a_number, "differs from eager by inf"),
        (broken, "no such instruction"),
    ],
)
def test_one_that_does_not_agree_is_said_once_and_left(
    monkeypatch: pytest.MonkeyPatch, pair_score: object, why: str
) -> None:
    candidate(monkeypatch, pair_score)
    with pytest.warns(UserWarning, match=why) as caught:
        found = [choice.fastest(torch.device("cuda"), "pair_score") for _ in range(3)]
    assert found == ["eager"] * 3
    assert len(caught) == 1


@pytest.mark.usefixtures("gpu")
def test_nothing_is_checked_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate(monkeypatch, eager.pair_score)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choice.fastest(torch.device("cuda"), "pair_score") == "eager"
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert choice.fastest(torch.device("cuda"), "pair_score") == "candidate"
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choice.fastest(torch.device("cuda"), "pair_score") == "candidate"


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_of_several_gpus_the_one_with_the_tensors_is_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.SimpleNamespace(architectures="90a", device_count=lambda: (2, ""))
    monkeypatch.setattr(cuda, "_module", lambda: module)
    monkeypatch.setattr(triton, "interpreted", lambda: False)
    monkeypatch.setattr(triton, "_OLDEST", (0, 0))  # this is of GPUs, whatever the Triton here
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    capabilities = {None: (9, 0), 0: (9, 0), 1: (7, 5)}
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device=None: capabilities[device and torch.device(device).index]
    )
    assert engines.unavailable(name) is engines.unavailable(name, "cuda:0") is engines.unavailable(name, "cpu") is None
    with pytest.raises(engines.EngineUnavailable, match=f"^engine '{name}' cannot run here: .*(8.0 or newer|is 75)"):
        engines.get(name, "cuda:1")
