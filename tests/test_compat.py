"""Drop-in functions: scores against the loops of the field written out, ranks against sorting, exports, errors."""

from __future__ import annotations

import inspect
from argparse import Namespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, normalize

from cmsei_fast import PairScorer, recall_metrics, score_matrix
from cmsei_fast.compat import bfan, chan, export, laps, naaf, scan, vse_infinity, vsepp
from cmsei_fast.engines.terms import FOCAL_SLACK
from cmsei_fast.retrieval.groups import group_accuracy

NORMS = ("softmax", "l2norm", "clipped_l2norm", "l1norm", "clipped_l1norm", "clipped", "no_norm")
AGGREGATES = ("LogSumExp", "Max", "Sum", "Mean")
LENGTHS = [1, 4, 6, 3]


def options(**changes: Any) -> Namespace:
    """SCAN's options, BFAN's and NAAF's."""
    known = {"raw_feature_norm": "clipped_l2norm", "agg_func": "LogSumExp", "lambda_softmax": 9.0, "lambda_lse": 6.0}
    return Namespace(**{**known, "focal_type": "equal", "thres_safe": 0.1, "batch_size": 128, **changes})


def problem(images: int = 3, width: int = 8, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(images)
    v = torch.randn(images, 5, width, generator=generator, dtype=torch.float64)
    w = torch.randn(len(LENGTHS), max(LENGTHS) + 2, width, generator=generator, dtype=torch.float64)
    return normalize(v + 0.3, dim=-1).to(dtype), normalize(w + 0.3, dim=-1).to(dtype)


def normalised(a: Tensor, name: str) -> Tensor:
    """Inner products a (context, queries) over the queries of each context item."""
    a = leaky_relu(a, 0.1) if "clipped" in name else a
    if name == "softmax":
        return a.exp() / a.exp().sum(1, keepdim=True)
    if "l2norm" in name:
        return a / (a.square().sum(1, keepdim=True).sqrt() + 1e-8)
    return a / (a.abs().sum(1, keepdim=True) + 1e-8) if "l1norm" in name else a


def literal(queries: Tensor, context: Tensor, opt: Namespace) -> Tensor:
    """SCAN's score of one pair, each vector in full."""
    a = normalised(context @ queries.T, opt.raw_feature_norm)
    attended = (opt.lambda_softmax * a).softmax(0).T @ context
    r = (queries * attended).sum(1) / (queries.norm(dim=1) * attended.norm(dim=1))
    if opt.agg_func == "LogSumExp":
        return (opt.lambda_lse * r).exp().sum().log() / opt.lambda_lse
    return {"Max": r.max(), "Sum": r.sum(), "Mean": r.mean()}[opt.agg_func]


def all_pairs(images: Tensor, captions: Tensor, pair: Any) -> Tensor:
    return torch.stack([torch.stack([pair(v, w[:n]) for w, n in zip(captions, LENGTHS, strict=True)]) for v in images])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_scan_scores(norm: str, aggregate: str) -> None:
    v, w = problem()
    opt = options(raw_feature_norm=norm, agg_func=aggregate, lambda_softmax=4.0, lambda_lse=5.0)
    t2i = all_pairs(v, w, lambda v, w: literal(w, v, opt))
    i2t = all_pairs(v, w, lambda v, w: literal(v, w, opt))
    torch.testing.assert_close(scan.xattn_score_t2i(v, w, LENGTHS, opt), t2i, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scan.xattn_score_i2t(v, w, torch.tensor(LENGTHS), opt), i2t, rtol=1e-9, atol=1e-9)
    arrays = v.numpy(), w.numpy()
    for shard, expected in ((scan.shard_xattn_t2i, t2i), (scan.shard_xattn_i2t, i2t)):
        found = shard(*arrays, LENGTHS, opt, shard_size=2)
        assert (found.dtype, found.shape) == (np.float64, (3, 4))
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_gradients_are_those_of_the_loop() -> None:
    opt = options()
    grads = []
    for form in (
        lambda v, w: scan.xattn_score_t2i(v, w, LENGTHS, opt),
        lambda v, w: all_pairs(v, w, lambda v, w: literal(w, v, opt)),
    ):
        v, w = (x.requires_grad_() for x in problem())
        (form(v, w) * torch.arange(12.0).view(3, 4)).sum().backward()
        grads.append((v.grad, w.grad))
    for actual, expected in zip(*grads, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)
        assert expected.abs().max() > 0.1


def test_a_training_step_of_scan() -> None:
    """The whole of SCAN's hinge over encoders: weights move and the loss falls."""
    torch.manual_seed(0)
    encoder = torch.nn.Linear(8, 8)
    v, w = problem(4, dtype=torch.float32)
    losses = []
    optimiser = torch.optim.Adam(encoder.parameters(), 0.01)
    for _ in range(8):
        scores = scan.xattn_score_i2t(normalize(encoder(v), dim=-1), w, LENGTHS, options(agg_func="Mean"))
        match = scores.diag()[:, None]
        cost = (0.2 + scores - match).clamp(min=0) + (0.2 + scores - match.T).clamp(min=0)
        loss = cost.masked_fill(torch.eye(4).bool(), 0).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("images", [1, 3])
def test_one_image_and_one_caption_keep_both_dimensions(images: int) -> None:
    v, w = problem(images)
    assert scan.xattn_score_t2i(v, w[:1], [1], options()).shape == (images, 1)
    assert bfan.xattn_score(v, w[:1], [1], options()).isfinite().all()


def test_laps_scores() -> None:
    v, w = problem()
    mean = [options(agg_func="Mean", lambda_softmax=x) for x in (9.0, 4.0)]
    t2i = all_pairs(v, w, lambda v, w: literal(w, v, mean[0]))
    i2t = all_pairs(v, w, lambda v, w: literal(v, w, mean[1]))
    longer = 3 * v, 0.5 * w  # made unit inside
    torch.testing.assert_close(laps.xattn_score_t2i(*longer, LENGTHS), t2i, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(laps.xattn_score_i2t(*longer, LENGTHS), i2t, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(laps.xattn_score_two(*longer, LENGTHS), (t2i + i2t) / 2, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["xattn_score_t2i", "xattn_score_i2t", "xattn_score_two"])
def test_laps_does_not_read_the_padding(name: str) -> None:
    """Neither forwards nor backwards, where 0 times the derivative of a NaN made unit would be NaN."""
    v, w = problem()
    for row, n in zip(w, LENGTHS, strict=True):
        row[n:] = torch.nan
    leaves = v.requires_grad_(), w.requires_grad_()
    (regions, words) = torch.autograd.grad(getattr(laps, name)(*leaves, LENGTHS).sum(), leaves)
    assert regions.isfinite().all()
    assert regions.abs().max() > 1e-3
    for row, n in zip(words, LENGTHS, strict=True):
        assert row[:n].isfinite().all()
        assert (row[n:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_laps_takes_zero_vectors_of_half_the_width(dtype: torch.dtype) -> None:
    v, w = problem()
    v[0, 1], w[1, 2] = 0, 0
    expected = laps.xattn_score_two(v, w, LENGTHS)
    narrow = laps.xattn_score_two(v.to(dtype), w.to(dtype), LENGTHS)
    torch.testing.assert_close(narrow.double(), expected, rtol=0.02, atol=0.02)


def bfan_literal(queries: Tensor, context: Tensor, opt: Namespace) -> Tensor:
    p = (opt.lambda_softmax * normalised(context @ queries.T, "clipped_l2norm")).softmax(0).T  # (queries, context)
    g = torch.ones_like(p) if opt.focal_type == "equal" else p.sqrt()
    others = (p * g).sum(1, keepdim=True)
    kept = p * g.sum(1, keepdim=True) - others > -FOCAL_SLACK * others  # equal ones are all kept, however rounded
    attended = (p * kept / (p * kept).sum(1, keepdim=True)) @ context
    return ((queries * attended).sum(1) / (queries.norm(dim=1) * attended.norm(dim=1))).mean()


@pytest.mark.parametrize("focal", ["equal", "prob"])
def test_bfan_scores(focal: str) -> None:
    v, w = problem()
    opt = options(focal_type=focal, lambda_softmax=20.0)
    expected = all_pairs(v, w, lambda v, w: bfan_literal(w, v, opt) + bfan_literal(v, w, opt))
    torch.testing.assert_close(bfan.xattn_score(v, w, LENGTHS, opt), expected, rtol=1e-8, atol=1e-8)
    found = bfan.shard_xattn(v.numpy(), w.numpy(), LENGTHS, opt)
    np.testing.assert_allclose(found, expected, rtol=5e-5, atol=5e-5)


def naaf_literal(words: Tensor, regions: Tensor, opt: Namespace) -> Tensor:
    s = words @ regions.T
    above = s.amax(1) - opt.thres_safe
    alike = (5 * words @ words.T).softmax(1)
    negative = above * ((alike @ above) < 0)
    kept = s > opt.thres_safe
    weights = torch.where(kept, (opt.lambda_softmax * (s - opt.thres_safe)).exp(), 0)
    attended = (weights / (weights.sum(1, keepdim=True) + 1e-8)) @ regions
    positive = (words * attended).sum(1) / attended.norm(dim=1).clamp(min=1e-8)
    p = (opt.lambda_softmax * normalised(regions @ words.T, "clipped_l2norm")).softmax(0).T
    return (negative + positive + (p * s).sum(1)).mean()


def test_naaf_scores() -> None:
    v, w = problem()
    opt = options(lambda_softmax=20.0, thres_safe=0.35)
    expected = all_pairs(v, w, lambda v, w: naaf_literal(w, v, opt))
    assert (all_pairs(v, w, lambda v, w: (w @ v.T).amax(1).min()) < 0.35).any(), "a mismatched word is wanted"
    torch.testing.assert_close(naaf.xattn_score_test(v, w, LENGTHS, opt), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(naaf.shard_xattn(v.numpy(), w.numpy(), LENGTHS, opt, 40), expected, rtol=1e-4, atol=1e-4)
    left = Namespace(lambda_softmax=np.float32(20), thres_safe=torch.tensor(0.35, dtype=torch.float64))  # by training
    torch.testing.assert_close(naaf.xattn_score_test(v, w, LENGTHS, left), expected, rtol=1e-6, atol=1e-6)


REGIONS = [5, 3, 4]


def chan_literal(regions: Tensor, words: Tensor, coding: str, pooling: str, opt: Namespace) -> Tensor:
    s = regions @ words.T
    if coding == "VSACoding":
        attended = (s / opt.alpha).softmax(1) @ words
        r = (regions * attended).sum(1) / (attended.norm(dim=1) + 1e-8)
    else:
        r = s.amax(0) if coding == "VHACoding" else s.amax(1)
    if pooling == "LSEPooling":
        return (r / opt.belta).logsumexp(0)
    return {"MeanPooling": r.mean(), "MaxPooling": r.max(), "SumPooling": r.sum()}[pooling]


@pytest.mark.parametrize("coding", ["VHACoding", "THACoding", "VSACoding"])
@pytest.mark.parametrize("pooling", ["LSEPooling", "MeanPooling", "MaxPooling", "SumPooling"])
def test_chan_scores(coding: str, pooling: str) -> None:
    v, w = problem()
    opt = Namespace(coding_type=coding, pooling_type=pooling, alpha=0.2, belta=0.1)
    expected = torch.stack(
        [
            torch.stack([chan_literal(x[:r], y[:n], coding, pooling, opt) for y, n in zip(w, LENGTHS, strict=True)])
            for x, r in zip(v, REGIONS, strict=True)
        ]
    )
    encoder = chan.SimsEncoder(coding, pooling, opt=opt)
    images = v.clone().requires_grad_()
    found = encoder(images, w, torch.Tensor(REGIONS), torch.Tensor(LENGTHS))  # floating, as its forward_sim has them
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    found.sum().backward()
    assert images.grad is not None
    assert images.grad[0].abs().max() > 0.01
    assert not images.grad[1, REGIONS[1] :].any()
    model = Namespace(opt=opt)  # its Model keeps the options
    for lengths in (REGIONS, torch.Tensor(REGIONS), np.repeat(REGIONS, 5).tolist()):  # the last as evalrank has them
        sims = chan.compute_sims(v.numpy(), w.numpy(), lengths, LENGTHS, model)
        np.testing.assert_allclose(sims, expected, rtol=2e-6, atol=2e-5)
    with pytest.raises(TypeError, match="cap_lens: expected whole numbers, got float64"):
        chan.compute_sims(v.numpy(), w.numpy(), REGIONS, [0.5] * 4, opt)
    with pytest.raises(TypeError, match="img_lens: expected whole numbers, got None"):
        chan.compute_sims(v.numpy(), w.numpy(), None, LENGTHS, opt)
    with pytest.raises(ValueError, match=r"image_lengths\[0\]: expected a length from 1 to 5, got 6"):
        chan.compute_sims(v.numpy(), w.numpy(), [6, 3, 4], LENGTHS, opt)
    with pytest.raises(ValueError, match=r"pooling_type: expected one of LSEPooling, .*, got 'SoftmaxPooling'"):
        chan.SimsEncoder(coding, "SoftmaxPooling", opt=opt)


def sorted_ranks(sims: np.ndarray, captions: int, direction: str) -> tuple[np.ndarray, np.ndarray]:
    """The field's way: sort, look up the places, count from 0."""
    rows = sims if direction == "i2t" else sims.T
    order = [np.argsort(row)[::-1] for row in rows]
    if direction == "i2t":
        own = [range(captions * i, captions * (i + 1)) for i in range(len(rows))]
    else:
        own = [[j // captions] for j in range(len(rows))]
    places = [min(int(np.where(o == x)[0][0]) for x in mine) for o, mine in zip(order, own, strict=True)]
    return np.array(places), np.array([o[0] for o in order])


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
@pytest.mark.parametrize("images", [1, 7, 20])
def test_metrics_are_the_field_s_without_ties(direction: str, images: int) -> None:
    sims = np.random.default_rng(images).standard_normal((images, 5 * images))
    ranks, top = sorted_ranks(sims, 5, direction)
    expected = [100 * np.mean(ranks < k) for k in (1, 5, 10)]
    expected += [np.floor(np.median(ranks)) + 1, ranks.mean() + 1]
    features = np.zeros((images, 2, 3)), np.zeros((5 * images, 2, 3)), [2] * (5 * images)
    calls = [
        getattr(scan, direction)(*features, sims, return_ranks=True),
        getattr(bfan, direction)(images, sims, return_ranks=True),
        getattr(naaf, direction)(features[0], sims, return_ranks=True),
        getattr(vse_infinity, direction)(images, sims, return_ranks=True),
        getattr(laps, direction)(images, torch.from_numpy(sims), return_ranks=True),
    ]
    for metrics, (found, best) in calls:
        assert isinstance(metrics, tuple)  # the scripts print it by "%.1f %.1f %.1f %.1f %.1f" % r
        np.testing.assert_allclose(metrics, expected)
        np.testing.assert_array_equal(found, ranks)
        np.testing.assert_array_equal(best, top)
    assert getattr(scan, direction)(*features, sims) == calls[0][0]


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
@pytest.mark.parametrize("measure", ["cosine", "order"])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_vsepp_scores_its_features(direction: str, measure: str, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vsepp, "_BLOCK", 1000)  # several blocks of images
    rng = np.random.default_rng(3)
    once, captions = rng.standard_normal((9, 6)), rng.standard_normal((45, 6)) + 1  # or many pairs are in order: ties
    pairs = {
        "cosine": lambda x, y: x @ y,
        "order": lambda x, y: -np.sqrt((np.maximum(y - x, 0) ** 2).sum()),
    }
    sims = np.array([[pairs[measure](x, y) for y in captions] for x in once])
    ranks, top = sorted_ranks(sims, 5, direction)
    call = getattr(vsepp, direction)
    metrics, (found, best) = call(kind(np.repeat(once, 5, axis=0)), kind(captions), 9, measure, return_ranks=True)
    np.testing.assert_array_equal(found, ranks)
    np.testing.assert_array_equal(best, top)
    assert metrics[0] == 100 * np.mean(ranks < 1)
    assert metrics == call(kind(np.repeat(once, 5, axis=0)), kind(captions), measure=measure)


@pytest.mark.parametrize("measure", ["cosine", "order"])
@pytest.mark.parametrize(
    "kinds",
    [
        (lambda x: x.astype(np.float32), np.asarray),
        (np.asarray, lambda x: torch.from_numpy(x).bfloat16()),
        (lambda x: torch.from_numpy(x).bfloat16(),) * 2,
        (lambda x: x.astype(np.float16),) * 2,
        (lambda x: x.astype(">f4"), lambda x: x.astype(">f8")),
    ],
    ids=["float32 and float64", "float64 and bfloat16", "bfloat16", "float16", "swapped bytes"],
)
def test_vsepp_takes_any_floating_features(measure: str, kinds: tuple) -> None:
    rng = np.random.default_rng(3)
    images, captions = np.repeat(rng.integers(-8, 9, (6, 5)), 5, axis=0) / 8.0, rng.integers(-8, 9, (30, 5)) / 8.0
    expected = vsepp.t2i(images, captions, measure=measure, return_ranks=True)
    found = vsepp.t2i(kinds[0](images), kinds[1](captions), measure=measure, return_ranks=True)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize(
    ("value", "kind", "error"),
    [
        (np.ones((10, 4), dtype=np.int64), TypeError, "images: expected a floating dtype .* got int64"),
        ([[1.0], [1.0, 2.0]], ValueError, "images: expected items of one shape"),
    ],
)
def test_vsepp_names_what_it_cannot_read(value: Any, kind: type[Exception], error: str) -> None:
    with pytest.raises(kind, match=error):
        vsepp.i2t(value, np.ones((10, 4)))


@pytest.mark.parametrize(
    ("images", "captions", "options", "error"),
    [
        ((10, 4), (10, 4), {"measure": "dot"}, r"measure: expected one of cosine, order, got 'dot'"),
        ((9, 4), (9, 4), {}, r"images: expected each image 5 times, got 9 rows"),
        ((10, 4), (50, 4), {}, r"captions: expected shape \(10, 4\) \(as images\), got \(50, 4\)"),
        ((10, 4), (10, 4), {"npts": 10}, r"npts: expected None or 2 \(a fifth of the rows of images\), got 10"),
        ((10, 3, 4), (10, 4), {}, r"images: expected shape \(5N, d\), got \(10, 3, 4\)"),
    ],
)
def test_vsepp_refuses(images: tuple, captions: tuple, options: dict, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        vsepp.t2i(np.ones(images), np.ones(captions), **options)


def test_one_caption_an_image() -> None:
    sims = np.random.default_rng(0).standard_normal((12, 12))
    for direction in ("i2t", "t2i"):
        _, (ranks, top) = getattr(vse_infinity, direction)(12, sims, return_ranks=True, mode="f30k")
        expected = sorted_ranks(sims, 1, direction)
        np.testing.assert_array_equal(ranks, expected[0])
        np.testing.assert_array_equal(top, expected[1])


def test_ties_do_not_depend_on_their_place() -> None:
    sims = np.zeros((4, 20))
    metrics, (ranks, _) = bfan.t2i(4, sims, return_ranks=True)
    assert set(ranks) == {2.0}  # three rivals as good: 1.5 places, rounded up
    assert metrics == (0.0, 100.0, 100.0, 3.0, 3.0)


def test_the_best_of_a_tensor_is_as_exact_as_that_of_an_array() -> None:
    sims = np.random.default_rng(0).standard_normal((4, 20))
    sims[2, 7] = np.nextafter(sims[2].max(), 9.0)  # equal in float32
    best = [bfan.i2t(4, kind(sims), return_ranks=True)[1][1] for kind in (np.asarray, torch.from_numpy)]
    assert best[0][2] == 7
    np.testing.assert_array_equal(*best)


def test_wrong_matrices_are_refused() -> None:
    sims = np.random.default_rng(0).standard_normal((4, 20))
    with pytest.raises(ValueError, match="NaN"):
        bfan.i2t(4, np.where(sims == sims[2, 3], np.nan, sims))
    with pytest.raises(ValueError, match=r"sims: expected 5 rows \(npts, one an image\), got shape \(4, 20\)"):
        bfan.i2t(5, sims)
    with pytest.raises(ValueError, match="expected 5 captions for each of 20 images"):
        vse_infinity.t2i(20, np.repeat(sims, 5, axis=0))
    with pytest.raises(ValueError, match="sims: expected a row for each of 3 images, got 4"):
        scan.i2t(np.zeros((3, 2, 2)), None, None, sims)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"raw_feature_norm": "none"}, "opt.raw_feature_norm: expected one of no_norm, softmax"),
        ({"agg_func": "lse"}, "opt.agg_func: expected one of LogSumExp, Max, Sum, Mean, got 'lse'"),
        ({"lambda_softmax": -1.0}, "temperature: expected a finite number > 0, got -1.0"),
    ],
)
def test_options_without_a_counterpart(changes: dict, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        scan.xattn_score_t2i(*problem(), LENGTHS, options(**changes))


def test_missing_options_and_wrong_arguments() -> None:
    v, w = problem()
    with pytest.raises(AttributeError, match="opt: expected a namespace with agg_func"):
        scan.xattn_score_t2i(v, w, LENGTHS, Namespace(raw_feature_norm="clipped"))
    of_mean = {"raw_feature_norm": "clipped", "agg_func": "Mean", "lambda_softmax": 4}
    found = scan.xattn_score_t2i(v, w, LENGTHS, Namespace(**of_mean))
    assert scan.xattn_score_t2i(v, w, LENGTHS, of_mean).equal(found)  # options from a settings file
    with pytest.raises(ValueError, match=r"opt\.focal_type: expected one of equal, prob, got 'both'"):
        bfan.xattn_score(v, w, LENGTHS, options(focal_type="both"))
    with pytest.raises(TypeError, match="images: expected a tensor, got ndarray"):
        scan.xattn_score_t2i(v.numpy(), w, LENGTHS, options())
    with pytest.raises(ValueError, match="images: expected 3 dimensions"):
        scan.xattn_score_t2i(v[0], w, LENGTHS, options())
    with pytest.raises(ValueError, match=r"cap_lens\[1\]: expected a length from 1 to 8, got 9"):
        scan.xattn_score_t2i(v, w, [1, 9, 2, 2], options())
    with pytest.raises(TypeError, match="cap_lens"):
        scan.xattn_score_t2i(v, w, None, options())
    with pytest.raises(ValueError, match=r"^captions: expected items of one shape .*, got a list of items of unlike"):
        scan.shard_xattn_t2i(v.numpy(), [x[:n] for x, n in zip(w.numpy(), LENGTHS, strict=True)], LENGTHS, options())
    with pytest.raises(ValueError, match=r"^device: expected one that is here .*, got 'cuda:99'$"):
        scan.shard_xattn_t2i(v.numpy(), w.numpy(), LENGTHS, options(), device="cuda:99")


@pytest.mark.parametrize("value", [0, 0.0, -1.0, float("nan"), float("inf"), 5e-324, None, "0.1", [], True])
def test_chan_divides_by_numbers_alone(value: Any) -> None:
    for name in ("alpha", "belta"):
        opt = Namespace(**{"alpha": 0.1, "belta": 0.1, name: value})
        with pytest.raises(ValueError, match=rf"^opt\.{name}: expected a finite number > 0, got"):
            chan.SimsEncoder("VSACoding", "LSEPooling", opt=opt)


@pytest.mark.parametrize(
    ("lengths", "error", "told"),
    [
        (None, TypeError, "expected whole numbers, got None"),
        ([1, float("inf"), 2, 2], TypeError, "expected whole numbers, got float64"),
        ([1, float("nan"), 2, 2], TypeError, "expected whole numbers, got float64"),
        ([1, [2, 3], 2, 2], ValueError, "expected whole numbers, got a ragged list"),
        (3, ValueError, r"expected one dimension, got shape \(\)"),
        (torch.ones(4, device="meta"), ValueError, "expected a tensor that holds data"),
    ],
)
def test_chan_s_lengths_that_are_none(lengths: Any, error: type[Exception], told: str) -> None:
    v, w = problem()
    opt = Namespace(coding_type="VHACoding", pooling_type="MeanPooling")
    with pytest.raises(error, match=f"^cap_lens: {told}"):
        chan.SimsEncoder("VHACoding", "MeanPooling", opt=opt)(v, w, [5] * 3, lengths)
    with pytest.raises(error, match=f"^img_lens: {told}"):
        chan.compute_sims(v, w, lengths, LENGTHS, opt)


def test_chan_s_lengths_in_bfloat16() -> None:
    v, w = problem()
    encoder = chan.SimsEncoder("VHACoding", "MeanPooling", opt=Namespace())
    lengths = torch.tensor([5.0, 3.0, 1.0])
    expected = encoder(v, w, lengths, torch.tensor(LENGTHS))
    assert torch.equal(encoder(v, w, lengths.bfloat16(), torch.tensor(LENGTHS).bfloat16()), expected)


SCORING = {
    "a tensor": (lambda v, w, opt: scan.xattn_score_i2t(v, w, LENGTHS, opt), torch.as_tensor),
    "LAPS": (lambda v, w, opt: laps.xattn_score_two(v, w, LENGTHS), torch.as_tensor),
    "shards of tensors": (lambda v, w, opt: bfan.shard_xattn(v, w, LENGTHS, opt), torch.as_tensor),
    "shards of arrays": (lambda v, w, opt: naaf.shard_xattn(v, w, LENGTHS, opt), np.asarray),
}
NO_FEATURES: dict[str, tuple[Any, type[Exception], str]] = {
    "sparse": (lambda x: torch.as_tensor(x).to_sparse(), TypeError, "got a torch tensor of layout torch.sparse_coo"),
    "nested": (
        lambda x: torch.nested.nested_tensor(list(torch.as_tensor(x))),
        TypeError,
        "expected .* got a nested torch tensor",
    ),
    "without data": (lambda x: torch.as_tensor(x).to("meta"), ValueError, "expected a tensor that holds data"),
    "a number": (lambda x: torch.ones(()), ValueError, r"expected 3 dimensions \(n, rows, D\), got shape \(\)"),
    "integers": (lambda x: torch.ones(3, 5, 8, dtype=torch.int64), TypeError, "expected a floating dtype .* got int64"),
}
NO_ARRAYS: dict[str, tuple[Any, type[Exception], str]] = {
    "masked": (np.ma.masked_array, TypeError, "got MaskedArray"),
    "objects": (lambda x: x.astype(object), TypeError, "expected a floating dtype .* got object"),
    "a number": (lambda x: np.ones(()), ValueError, r"expected 3 dimensions \(n, rows, D\), got shape \(\)"),
}
if np.finfo(np.longdouble).bits > 64:  # elsewhere it is float64
    NO_ARRAYS["long"] = (lambda x: x.astype(np.longdouble), TypeError, "expected a floating dtype .* got float[0-9]+")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("call", SCORING)
@pytest.mark.parametrize("name", NO_FEATURES)
def test_what_holds_no_features_is_told_by_name(call: str, name: str) -> None:
    score, kind = SCORING[call]
    make, error, told = NO_FEATURES[name]
    v, w = (kind(x.numpy()) for x in problem())
    for side, pair in (("images", (make(v), w)), ("captions", (v, make(w)))):
        with pytest.raises(error, match=rf"^{side}: .*{told}"):
            score(*pair, options())


@pytest.mark.parametrize("name", NO_ARRAYS)
def test_arrays_without_features_are_told_by_name(name: str) -> None:
    make, error, told = NO_ARRAYS[name]
    v, w = (x.numpy() for x in problem())
    for side, pair in (("images", (make(v), w)), ("captions", (v, make(w)))):
        with pytest.raises(error, match=rf"^{side}: .*{told}"):
            scan.shard_xattn_t2i(*pair, LENGTHS, options())


@pytest.mark.parametrize("value", [[], {}, np.zeros(2), 3])
def test_options_that_are_no_names(value: Any) -> None:
    with pytest.raises(ValueError, match=r"opt\.raw_feature_norm: expected one of no_norm, softmax"):
        scan.xattn_score_t2i(*problem(), LENGTHS, options(raw_feature_norm=value))


NO_SIMS: dict[str, tuple[Any, type[Exception], str]] = {
    "none": (None, TypeError, "expected a numpy array or a torch tensor, got NoneType"),
    "a number": (np.ones(()), ValueError, r"expected shape \(n_image, n_caption\), got \(\)"),
    "integers": (np.ones((4, 20), dtype=int), TypeError, "expected a floating dtype, got int64"),
    "without data": (torch.ones(4, 20, device="meta"), ValueError, "expected a tensor that holds data"),
    "sparse": (torch.ones(4, 20).to_sparse(), TypeError, "got a torch tensor of layout"),
}


@pytest.mark.parametrize("name", NO_SIMS)
def test_what_cannot_be_ranked_is_told_by_name(name: str) -> None:
    sims, error, told = NO_SIMS[name]
    calls = {"sims": [lambda: scan.i2t(np.ones((4, 2)), None, None, sims), lambda: bfan.t2i(4, sims)]}
    calls["scores"] = [lambda: export.fico_itr_arguments(sims), lambda: recall_metrics(sims)]
    for argument, each in calls.items():
        for call in each:
            with pytest.raises(error, match=f"^{argument}: .*{told}"):
                call()


@pytest.mark.parametrize("images", [None, 4, np.ones(()), torch.ones(())])
def test_images_that_cannot_be_counted(images: Any) -> None:
    with pytest.raises(TypeError, match=r"^images: expected a sequence or an array, got"):
        naaf.t2i(images, np.random.default_rng(0).standard_normal((4, 20)))


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        (torch.zeros(6, dtype=torch.bfloat16), TypeError, "expected integers, got bfloat16"),
        (torch.zeros(6, dtype=torch.int64, device="meta"), ValueError, "expected a tensor that holds data"),
        ([0, [1, 2], 0, 0, 0, 0], ValueError, "expected a sequence of integers, got a ragged list"),
        (3, TypeError, "expected a list, array or tensor of integers, got int"),
    ],
)
def test_maps_that_are_no_integers(given: Any, error: type[Exception], told: str) -> None:
    scores = np.random.default_rng(0).standard_normal((6, 6))
    calls = {
        "caption_to_image": lambda: recall_metrics(scores, caption_to_image=given),
        "group": lambda: group_accuracy(scores, range(6), given),
        "image_ids": lambda: export.eccv_caption_items(scores, given, range(6)),
    }
    for name, call in calls.items():
        with pytest.raises(error, match=f"^{name}: {told}"):
            call()


def test_signatures_are_the_field_s() -> None:
    """Names and order of what can be given by place, as in the public repositories."""

    def names(function: Any) -> list[str]:
        return [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]

    features = ["images", "captions", "cap_lens", "opt"]
    for function in (scan.xattn_score_t2i, scan.xattn_score_i2t, bfan.xattn_score, naaf.xattn_score_test):
        assert names(function) == features
    shards = (scan.shard_xattn_t2i, scan.shard_xattn_i2t, bfan.shard_xattn, naaf.shard_xattn)
    for function in shards:
        assert names(function) == ["images", "captions", "caplens", "opt", "shard_size"]
    for module, expected in (
        (scan, ["images", "captions", "caplens", "sims", "npts", "return_ranks"]),
        (bfan, ["npts", "sims", "return_ranks"]),
        (naaf, ["images", "sims", "npts", "return_ranks"]),
        (vse_infinity, ["npts", "sims", "return_ranks", "mode"]),
        (laps, ["npts", "sims", "return_ranks", "mode"]),
        (chan, ["npts", "sims", "return_ranks", "mode"]),
        (vsepp, ["images", "captions", "npts", "measure", "return_ranks"]),
    ):
        assert names(module.i2t) == names(module.t2i) == expected
    assert names(chan.compute_sims) == ["img_embs", "cap_embs", "img_lens", "cap_lens", "model", "shard_size"]
    assert names(laps.xattn_score_two) == ["images", "captions", "cap_lens", "smooth_t2i", "smooth_i2t"]


def test_compute_sim() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((15, 4))
    np.testing.assert_allclose(vse_infinity.compute_sim(a, b), [[x @ y for y in b] for x in a])


@pytest.mark.parametrize("mapped", [False, True])
def test_fico_itr_gets_what_it_reads(mapped: bool) -> None:
    fico_itr = pytest.importorskip("fico_itr")
    v, _ = problem(12, dtype=torch.float32)
    words = torch.randn(60, 7, 8, generator=torch.Generator().manual_seed(1))
    scores = score_matrix(v, words, scorer=PairScorer.scan_t2i())
    owner = np.random.default_rng(0).permutation(np.repeat(np.arange(12), 5)) if mapped else None
    given = export.fico_itr_arguments(scores, caption_to_image=owner)
    i2t, t2i = fico_itr.instance_retrieval(**given)
    ours = recall_metrics(scores, caption_to_image=owner)
    for theirs, mine in ((i2t, ours.i2t), (t2i, ours.t2i)):
        assert [theirs["R@1"], theirs["R@5"], theirs["R@10"]] == pytest.approx([mine.r1, mine.r5, mine.r10])
    assert 0 < t2i["R@5"] < 100


def test_eccv_caption_items_are_rankings() -> None:
    scores = np.array([[0.1, 0.9, 0.9], [0.5, 0.2, 0.3]], dtype=np.float32)
    i2t, t2i = export.eccv_caption_items(scores, [70, 80], np.array([1, 2, 3]))
    assert i2t == {70: [2, 3, 1], 80: [1, 3, 2]}
    assert t2i == {1: [80, 70], 2: [70, 80], 3: [70, 80]}
    assert export.eccv_caption_items(torch.from_numpy(scores), [70, 80], [1, 2, 3], k=1)[0] == {70: [2], 80: [1]}
    for arguments, error in (
        ((scores, [70, 70], [1, 2, 3]), "image_ids: expected 2 different numbers, got 1"),
        ((scores, [70, 80], [1, 2]), "caption_ids: expected 3 different numbers"),
        ((scores, [70, 80], [1, 2, 3], 0), "k: expected None or an integer >= 1, got 0"),
        ((np.full((2, 3), np.nan), [70, 80], [1, 2, 3]), "no NaN"),
    ):
        with pytest.raises(ValueError, match=error):
            export.eccv_caption_items(*arguments)


def test_eccv_caption_gets_what_it_reads() -> None:
    """A matrix whose best captions are MS-COCO's own has 100 % there; random captions of other images have not."""
    eccv_caption = pytest.importorskip("eccv_caption")
    metrics = eccv_caption.Metrics()
    caption_ids = metrics.coco_ids[:250]
    owner = [metrics.coco_gts["t2i"][int(j)][0] for j in caption_ids]
    image_ids = list(dict.fromkeys(owner))
    match = np.array([[float(i == o) for o in owner] for i in image_ids])
    noise = np.random.default_rng(0).random(match.shape)
    for scores, perfect in ((match + 0.5 * noise, True), (noise, False)):
        i2t, t2i = export.eccv_caption_items(scores, image_ids, caption_ids)
        metrics.coco_gts = {
            "i2t": {i: metrics.coco_gts["i2t"][i] for i in image_ids},
            "t2i": {int(j): metrics.coco_gts["t2i"][int(j)] for j in caption_ids},
        }
        found = metrics.coco_5k_recalls({"i2t": i2t, "t2i": t2i}, "all", K=1)
        assert (found == {"i2t": 1.0, "t2i": 1.0}) is perfect
        assert perfect or found["t2i"] < 0.2
