"""Vector-Jacobian product of one direction of the pair score; axes as ``axes.py`` says.

Nothing is kept from the forward pass: the inner products of step k are computed again from those of step 0, which takes
K (K − 1) / 2 more attention steps and no memory.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.attend import activated, aggregate, attend, normalise, refined, relevance
from cmsei_fast.kernels.axes import along_context, along_queries, each, sum_context, sum_of, sum_queries
from cmsei_fast.kernels.formulas import cosine_vjp, length, length_vjp, refine, refine_vjp, within, within_vjp
from cmsei_fast.kernels.pair import load_gram
from cmsei_fast.kernels.products import gram_gradient, gram_product


@triton.jit
def add_to_slot(scalars, slot, values):
    """scalars (NS,) with the sum of values (C,) added in one place."""
    # A sum to (1,), not to a scalar: Triton (3.7) cannot lay out the latter after a product on sm_100.
    value = tl.sum(tl.expand_dims(values, 1), 0)
    return scalars + tl.where(tl.arange(0, scalars.shape[0]) == slot, value, 0.0)


@triton.jit
def normalise_vjp(a, d, queries, NORM: tl.constexpr, QUERY: tl.constexpr):
    """Gradient of a from d, that of Ã; d is 0 where a query is padding."""
    if NORM == "softmax":
        y = normalise(a, queries, NORM, QUERY)
        d = y * (d - along_queries(sum_queries(y * d, QUERY), QUERY))
    elif NORM == "l2norm" or NORM == "clipped_l2norm":
        x = activated(a, NORM)
        root = tl.sqrt(sum_queries(x * x, QUERY))
        scale = 1 / (root + 1e-8)
        pull = sum_queries(x * d, QUERY) * scale * scale / tl.where(root == 0, 1.0, root)
        d = along_queries(scale, QUERY) * d - x * along_queries(tl.where(root == 0, 0.0, pull), QUERY)
    elif NORM == "l1norm" or NORM == "clipped_l1norm":
        x = activated(a, NORM)
        scale = 1 / (sum_queries(tl.abs(x), QUERY) + 1e-8)
        sign = tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0))
        pull = sum_queries(x * d, QUERY) * scale * scale
        d = along_queries(scale, QUERY) * d - sign * along_queries(pull, QUERY)
    if NORM == "clipped_l2norm" or NORM == "clipped_l1norm" or NORM == "clipped":
        d = tl.where(a > 0, d, d * 0.1)
    return d


@triton.jit
def aggregate_vjp(r, mask, count, guide, lse, d, AGGREGATE: tl.constexpr, QUERY: tl.constexpr):
    """The aggregate (C,), and from its gradient d (C,) those of r, of the guide and of lse (C,)."""
    value = aggregate(r, mask, count, guide, lse, AGGREGATE, QUERY)
    one = each(d, QUERY)
    d_guide, d_lse = tl.zeros_like(r), tl.zeros_like(d)
    if AGGREGATE == "lse":
        share = tl.where(mask, tl.exp(lse * (r - each(value, QUERY))), 0.0)
        d_r = one * share
        d_lse = d * (sum_of(share * r, QUERY) - value) / lse
    elif AGGREGATE == "max":  # ties share
        top = tl.where(mask & (r == each(value, QUERY)), 1.0, 0.0).to(r.dtype)
        d_r = one * top / each(sum_of(top, QUERY), QUERY)
    elif AGGREGATE == "guided":
        d_r = tl.where(mask, one * guide, 0.0)
        d_guide = tl.where(mask, one * r, 0.0)
    elif AGGREGATE == "mean":
        d_r = tl.where(mask, one / each(count, QUERY), 0.0)
    else:
        d_r = tl.where(mask, one, 0.0)
    return value, d_r, d_guide, d_lse


@triton.jit
def step_vjp(
    a,
    q,
    p,
    h,
    dot,
    quad,
    grams,
    captions,
    guide,
    mask,
    count,
    context,
    temperature,
    lse,
    gates,
    k,
    d,
    later,
    d_length,
    is_refined,
    d_guide,
    d_gram,
    d_scalars,
    NORM: tl.constexpr,
    ATTEND: tl.constexpr,
    RELEVANCE: tl.constexpr,
    AGGREGATE: tl.constexpr,
    STEPS: tl.constexpr,
    QUERY: tl.constexpr,
    GATES: tl.constexpr,
    TURNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Back through step k, whose inner products are a and whose queries' lengths q.

    Args:
        p, h, dot, quad: as ``attend.attend`` gives them.
        d: (C,) gradient of the step's aggregate.
        later: (BR, C, BL) gradient of the next step's inner products and d_length of its queries' lengths.
        is_refined: whether there is a next step; otherwise both are 0.
        d_guide, d_gram, d_scalars: added to; the slots of this direction's scalars follow from QUERY and GATES.

    Returns:
        the aggregate (C,), the gradients of a and q, then d_guide, d_gram and d_scalars.
    """
    queries = along_context(mask, QUERY)
    BR: tl.constexpr = a.shape[0]
    C: tl.constexpr = a.shape[1]
    BL: tl.constexpr = a.shape[2]
    u = length(quad)
    r = relevance(dot, q, u, k, RELEVANCE, STEPS)
    value, d_r, from_guide, d_lse = aggregate_vjp(r, mask, count, guide, lse, d, AGGREGATE, QUERY)
    d_guide += from_guide
    if AGGREGATE == "lse":
        d_scalars = add_to_slot(d_scalars, 5 + 2 * QUERY, d_lse)
    d_dot, d_q, d_u = tl.zeros_like(r), tl.zeros_like(r), tl.zeros_like(r)
    alpha, beta = tl.zeros_like(r), tl.zeros_like(r)
    if is_refined:
        gate_a, gate_b = tl.load(gates + 2 * k), tl.load(gates + 2 * k + 1)
        held = within(dot, q * u)
        gate, x, y, norm, alpha, beta, _ = refine(gate_a, gate_b, r, q, u, held)
        d_alpha, d_beta = sum_context(later * a, QUERY), sum_context(later * h, QUERY)
        more, d_q, d_u, d_dot, d_z = refine_vjp(gate, x, y, norm, gate_a, q, u, held, d_alpha, d_beta, d_length)
        d_r += more
        d_z = tl.where(mask, d_z, 0.0)
        d_scalars = add_to_slot(d_scalars, GATES + 2 * k, sum_of(d_z * r, QUERY))
        d_scalars = add_to_slot(d_scalars, GATES + 2 * k + 1, sum_of(d_z, QUERY))
    if RELEVANCE == "cosine":
        from_dot, d_most = cosine_vjp(r, q * u, d_r)
        d_dot, from_held = within_vjp(dot, q * u, d_dot + from_dot)
        d_most += from_held
    else:
        free, bound = d_r, tl.zeros_like(r)
        if STEPS > 1:
            free, bound = tl.where(k > 0, 0.0, d_r), tl.where(k > 0, d_r, 0.0)
        d_dot, d_most = within_vjp(dot, q * u, d_dot + bound)
        d_dot += free
    d_q += d_most * u
    d_u += d_most * q
    each_dot, each_quad = along_context(d_dot, QUERY), along_context(length_vjp(u, d_u), QUERY)
    d_h = each_quad * p
    # What pair_math.h says of kSteepest.
    steepest: tl.constexpr = 1e30 if a.dtype == tl.float32 else 1e300
    if is_refined:
        d_h = within(d_h + along_context(beta, QUERY) * later, steepest)
    # Before d_a and d_p, whose registers the product takes.
    d_gram += gram_gradient(d_h, p, QUERY, PRECISION)
    d_a = each_dot * p
    d_p = each_dot * a + each_quad * h
    if is_refined:
        d_a = within(d_a + along_context(alpha, QUERY) * later, steepest)
        d_p += gram_product(d_h, load_gram(grams, captions, C, BL, BR, QUERY), QUERY, TURNED, PRECISION)
    else:
        d_p += each_quad * h  # Gram · d_h is quad · h here
    if ATTEND != "hard":  # whose choice is a constant
        d_logit = p * (d_p - along_context(sum_context(p * d_p, QUERY), QUERY))
        d_logit = tl.where(queries, d_logit, 0.0)
        of_temperature = tl.sum(tl.sum(d_logit * normalise(a, queries, NORM, QUERY), 2), 0)
        d_scalars = add_to_slot(d_scalars, 4 + 2 * QUERY, of_temperature)
        d_a += normalise_vjp(a, temperature * d_logit, queries, NORM, QUERY)
    return value, tl.where(queries & context, d_a, 0.0), tl.where(mask, d_q, 0.0), d_guide, d_gram, d_scalars


@triton.jit
def direction_vjp(
    a,
    q,
    grams,
    captions,
    guide,
    mask,
    count,
    context,
    scalars,
    d,
    d_gram,
    d_scalars,
    NORM: tl.constexpr,
    ATTEND: tl.constexpr,
    RELEVANCE: tl.constexpr,
    AGGREGATE: tl.constexpr,
    STEPS: tl.constexpr,
    QUERY: tl.constexpr,
    GATES: tl.constexpr,
    TURNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Back through a direction; arguments as ``attend.direction`` takes them.

    Args:
        grams, captions: pointer to the context's Gram matrix and how many of the tile's captions exist (``load_gram``):
            it is loaded where it is used, because kept it would take the registers of the tile.
        scalars: pointer to all scalars.
        d: (C,) gradient of the pair's score; d_gram, d_scalars are added to.

    Returns:
        the gradients of a (BR, C, BL), of q and of the guide, then d_gram and d_scalars.
    """
    BR: tl.constexpr = a.shape[0]
    C: tl.constexpr = a.shape[1]
    BL: tl.constexpr = a.shape[2]
    temperature, lse = tl.load(scalars + 4 + 2 * QUERY), tl.load(scalars + 5 + 2 * QUERY)
    gates = scalars + GATES
    queries = along_context(mask, QUERY)
    each = d * (tl.load(scalars + QUERY - 1) / STEPS)
    later, d_length, d_guide, total = tl.zeros_like(a), tl.zeros_like(q), tl.zeros_like(q), tl.zeros_like(d)
    # One body for all steps, from the last to the first: written out, they need more registers than there are.
    for i in tl.range(0, STEPS, disable_licm=True):
        step = STEPS - 1 - i
        at, length_at = a, q
        p, h, dot, quad = tl.zeros_like(a), tl.zeros_like(a), tl.zeros_like(q), tl.zeros_like(q)
        # Always 0 … step, which the compiler cannot know: in a block of its own a product does not feed those behind
        # it, or they would be taken for a chain (``attend.direction``).
        for k in tl.range(0, tl.minimum(step, captions * STEPS) + 1, disable_licm=True):
            gram = load_gram(grams, captions, C, BL, BR, QUERY)
            p, h, dot, quad, _ = attend(at, gram, temperature, queries, context, NORM, ATTEND, QUERY, TURNED, PRECISION)
            if STEPS > 1:
                r = relevance(dot, length_at, length(quad), k, RELEVANCE, STEPS)
                gate = tl.minimum(k, STEPS - 2)
                more, length_more = refined(at, length_at, h, dot, quad, r, gates, gate, queries, context, QUERY)
                # Not a branch, which would have the compiler attend twice: once more in the layout of an operand.
                at, length_at = tl.where(k < step, more, at), tl.where(k < step, length_more, length_at)
        value, later, d_length, d_guide, d_gram, d_scalars = step_vjp(
            at,
            length_at,
            p,
            h,
            dot,
            quad,
            grams,
            captions,
            guide,
            mask,
            count,
            context,
            temperature,
            lse,
            gates,
            step,
            each,
            later,
            d_length,
            i > 0,
            d_guide,
            d_gram,
            d_scalars,
            NORM,
            ATTEND,
            RELEVANCE,
            AGGREGATE,
            STEPS,
            QUERY,
            GATES,
            TURNED,
            PRECISION,
        )
        total += value
    d_scalars = add_to_slot(d_scalars, QUERY - 1, d * total / STEPS)
    return later, d_length, d_guide, d_gram, d_scalars
