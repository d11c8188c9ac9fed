"""SGRAF's similarities by the compiled module, in every instruction set: against eager and the loop written out."""

from __future__ import annotations

import pytest
import torch
from conftest import BACKENDS, Backend
from problems import NANS, error, nan
from sgraf_written_out import LENGTHS, MODULES, REGIONS, VECTOR, WIDTH, encoder, literal, problem

from cmsei_fast.compat.similarity import EncoderSimilarity
from cmsei_fast.engines import EngineUnavailable

NATIVE = [x for x in BACKENDS if x.engine == "native"]
# Regions, (D, vector width), captions' lengths: lanes and panels with rests, blocks and chunks of captions, a caption
# that is longer than a block.
SHAPES = {
    "small": (REGIONS, (WIDTH, VECTOR), LENGTHS),
    "one": (1, (1, 1), [1]),
    "narrow": (2, (3, 2), [2, 1]),
    "long": (17, (33, 17), [3, 150, 16, 31, 15]),
    "many": (36, (70, 40), [1 + i * i % 23 for i in range(90)]),
    "deep": (3, (600, 33), [5, 9, 16]),
}


@pytest.mark.parametrize("backend", NATIVE, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("module", MODULES)
@torch.no_grad()
def test_native(module: str, shape: str, backend: Backend) -> None:
    regions, sizes, lengths = SHAPES[shape]
    for images in (1, 3) if shape != "many" else (33,):
        v, w = problem(images, regions, lengths, sizes[0])
        model, eager = (encoder(module, sizes=sizes, regions=regions, engine=x) for x in ("native", "eager"))
        expected = eager(v, w, lengths)
        torch.testing.assert_close(
            expected, literal(v, w, model.state_dict(), module, lengths=lengths), rtol=1e-6, atol=1e-6
        )
        with backend.forced():
            torch.testing.assert_close(model(v, w, lengths), expected, rtol=1e-9, atol=1e-10)
            found = model.float()(v.float(), w.float(), lengths)
        limit = 3 * error(eager.float()(v.float(), w.float(), lengths), expected) + 5e-6
        assert error(found, expected) <= limit


@pytest.mark.parametrize("backend", NATIVE, ids=str)
@pytest.mark.parametrize("shape", ["small", "one", "long", "deep"])
@pytest.mark.parametrize("module", MODULES)
@torch.no_grad()
def test_native_rounds_what_it_says(module: str, shape: str, backend: Backend) -> None:
    regions, sizes, lengths = SHAPES[shape]
    v, w = problem(3, regions, lengths, sizes[0])
    model = encoder(module, sizes=sizes, regions=regions, engine="native", precision="bfloat16")
    state = dict(model.state_dict())
    exact = literal(v, w, state, module, lengths=lengths)
    for name in ("sim_tranloc_w", "sim_tranglo_w"):
        for x in ("weight", "bias"):
            state[f"{name}.{x}"] = state[f"{name}.{x}"].bfloat16().double()

    def square(x: torch.Tensor) -> torch.Tensor:
        return x.square().bfloat16().double()

    expected = literal(v, w, state, module, lengths=lengths, square=square)
    with backend.forced():
        found = model.float()(v.float(), w.float(), lengths)
    assert error(found, expected) <= 0.3 * error(exact, expected) + 2e-5


@pytest.mark.skipif(not NATIVE, reason="needs the native module")
@pytest.mark.parametrize("steps", [1, 2])
@torch.no_grad()
def test_native_steps(steps: int) -> None:
    v, w = problem()
    model, eager = (encoder("SGR", sgr_step=steps, engine=engine) for engine in ("native", "eager"))
    torch.testing.assert_close(model(v, w, LENGTHS), eager(v, w, LENGTHS), rtol=1e-9, atol=1e-10)


@pytest.mark.skipif(not NATIVE, reason="needs the native module")
@pytest.mark.parametrize("backend", NATIVE, ids=str)
@pytest.mark.parametrize("made_by", NANS)
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.usefixtures("threads", "poisoned")
@torch.no_grad()
def test_native_scores_are_their_pairs_alone(module: str, made_by: str, backend: Backend) -> None:
    """Neither threads nor what stands beside a pair change a bit of its score, not even if that is no number."""
    lengths = [1 + i * i % 23 for i in range(40)]
    v, w = (x.float() for x in problem(35, 5, lengths))
    model = encoder(module, engine="native").float()
    spoiled_images, spoiled_captions = v.clone(), w.clone()
    spoiled_images[4, 2, 1], spoiled_captions[7, 0, 3] = nan(made_by, torch.float32), torch.inf
    with backend.forced():
        expected = model(v, w, lengths)
        assert expected.isfinite().all()
        torch.set_num_threads(3)
        assert torch.equal(model(v, w, lengths), expected)
        found = model(spoiled_images, spoiled_captions, lengths)
    wrong = found.isnan()
    assert wrong[4].all()
    assert wrong[:, 7].all()
    assert wrong.sum() == sum(wrong.shape) - 1
    assert torch.equal(found[~wrong], expected[~wrong])


@pytest.mark.parametrize("module", MODULES)
def test_native_by_name_says_why_not(module: str) -> None:
    v, w = problem()
    model = encoder(module, engine="native")
    with pytest.raises(EngineUnavailable, match="engine 'native' cannot run here: it evaluates only"):
        model(v, w, LENGTHS)
    with torch.no_grad():
        with pytest.raises(EngineUnavailable, match="it evaluates only"):
            model.train()(v, w, LENGTHS)
        with pytest.raises(EngineUnavailable, match=r"got torch\.float32, torch\.float64 and weights"):
            model.eval()(v.float(), w, LENGTHS)
        with pytest.raises(EngineUnavailable, match="precision='bfloat16' goes with weights in float32"):
            encoder(module, engine="native", precision="bfloat16")(v, w, LENGTHS)
    with pytest.raises(ValueError, match="engine: expected 'auto', 'native' or 'eager', got 'cuda'"):
        EncoderSimilarity(WIDTH, VECTOR, engine="cuda")
