"""NaN and infinities in the engine cuda, on a host whose float32 functions are a device's: there max drops NaN."""

from __future__ import annotations

import pytest
import torch
from cuda_on_host import COMPILER, Module, TileModule, engine_on_host
from cuda_on_host import library as host_library
from problems import Problem, attention_options, every_direction, nan, whole_scores

from cmsei_fast.ops import pair_score
from cmsei_fast.scorer import Attention, PairScorer

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernels cannot be run on the host")

PRESETS = [PairScorer.scan_both(), PairScorer.laps(), PairScorer.bfan(), PairScorer.bfan("prob"), PairScorer.naaf(0.2)]
PRESETS += [PairScorer.chan(), PairScorer.maxsim(), PairScorer.imram_first_step(), PairScorer.scan_t2i("mean")]
# Bounded and not, without and with a level whose softmax takes no maximum.
WARM = [Attention(norm="clipped_l2norm", aggregate="guided", temperature=x) for x in (9.0, 40.0)]
OTHERS = [PairScorer(x, x, 1.0, 1.0, 1.0, guide_temperature=y) for x in WARM for y in (5.0, 20.0)]
SCORERS = [*PRESETS, *OTHERS, *(p.scorer for p in every_direction() + whole_scores() + attention_options())]


@pytest.mark.parametrize("kernel", ["library", "hopper", "mma"])
@pytest.mark.parametrize("share", range(4))
def test_what_is_not_finite_reaches_every_score(share: int, kernel: str) -> None:
    module = Module(host_library("pair"), fibers=True) if kernel == "library" else TileModule(kernel)
    options = {"engine": "cuda", "precision": "float32" if kernel == "library" else "bfloat16"}
    values = nan("gpu", torch.float32), torch.inf, -torch.inf
    with engine_on_host(module):
        for i, scorer in list(enumerate(SCORERS))[share::4]:
            v, w, *given = Problem(scorer, (36, 20, 5), (12, 20, 3), 8, seed=i).tensors()
            v, w = v.float(), w.float()
            clean = pair_score(v, w, *given, scorer=scorer, **options)
            assert clean.isfinite().all()
            by_image = i // 4 % 2 == 0
            (v if by_image else w)[(40 if by_image else 13), i % 8] = values[i // 8 % 3]
            found = pair_score(v, w, *given, scorer=scorer, **options)
            wrong = torch.zeros_like(found, dtype=torch.bool)
            wrong[(1,) if by_image else (slice(None), 1)] = True
            assert not found[wrong].isfinite().any(), scorer
            torch.testing.assert_close(found[~wrong], clean[~wrong], atol=1e-6, rtol=1e-6)
    assert kernel == "library" or module.launches > 0
