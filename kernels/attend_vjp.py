"""Vector-Jacobian product of one direction of the pair score (axes: ``axes.py``, names: ``attend.py``).

``d_x`` is the gradient of x. Nothing is kept from the forward pass: the inner products of each step are computed again
from those of step 0, which takes K (K − 1) / 2 more attention steps for K steps, and no memory.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.attend import activated, aggregate, attend, normalise, refined, relevance
from cmsei_fast.kernels.axes import (
    along_context,
    along_queries,
    caption_to_queries,
    sum_context,
    sum_per_caption,
    sum_queries,
)
from cmsei_fast.kernels.formulas import cosine_vjp, length, length_vjp, refine, refine_vjp, within, within_vjp
from cmsei_fast.kernels.pair import load_gram
from cmsei_fast.kernels.products import gram_gradient, gram_product


@triton.jit
def add_to_slot(scalars, slot, values):
    """scalars (SLOTS,) with the sum of values (C,) added to one slot."""
    # The sum has shape (1,): Triton 3.7 cannot lay out a scalar sum after a product on sm_100.
    total = tl.sum(tl.expand_dims(values, 1), 0)
    return scalars + tl.where(tl.arange(0, scalars.shape[0]) == slot, total, 0.0)


@triton.jit
def normalise_vjp(a, d_y, query_mask, NORM: tl.constexpr, QUERY: tl.constexpr):
    """Gradient of a from d_y, that of Ã; all (BR, C, BL), d_y is 0 where a query is padding."""
    if NORM == "softmax":
        y = normalise(a, query_mask, NORM, QUERY)
        d_y = y * (d_y - along_queries(sum_queries(y * d_y, QUERY), QUERY))
    elif NORM == "l2norm" or NORM == "clipped_l2norm":
        x = activated(a, NORM)
        root = tl.sqrt(sum_queries(x * x, QUERY))
        scale = 1 / (root + 1e-8)
        pull = sum_queries(x * d_y, QUERY) * scale * scale / tl.where(root == 0, 1.0, root)
        d_y = along_queries(scale, QUERY) * d_y - x * along_queries(tl.where(root == 0, 0.0, pull), QUERY)
    elif NORM == "l1norm" or NORM == "clipped_l1norm":
        x = activated(a, NORM)
        scale = 1 / (sum_queries(tl.abs(x), QUERY) + 1e-8)
        sign = tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0))
        pull = sum_queries(x * d_y, QUERY) * scale * scale
        d_y = along_queries(scale, QUERY) * d_y - sign * along_queries(pull, QUERY)
    if NORM == "clipped_l2norm" or NORM == "clipped_l1norm" or NORM == "clipped":
        d_y = tl.where(a > 0, d_y, d_y * 0.1)
    return d_y


@triton.jit
def aggregate_vjp(r, query_mask, n_queries, guide, lse, d_value, AGGREGATE: tl.constexpr, QUERY: tl.constexpr):
    """The aggregate (C,), and from its gradient d_value (C,) those of r, of the guide and of lse (C,)."""
    value = aggregate(r, query_mask, n_queries, guide, lse, AGGREGATE, QUERY)
    d_value_q = caption_to_queries(d_value, QUERY)
    d_guide, d_lse = tl.zeros_like(r), tl.zeros_like(d_value)
    if AGGREGATE == "lse":
        softmax = tl.where(query_mask, tl.exp(lse * (r - caption_to_queries(value, QUERY))), 0.0)
        d_r = d_value_q * softmax
        d_lse = d_value * (sum_per_caption(softmax * r, QUERY) - value) / lse
    elif AGGREGATE == "max":  # equal maxima share the gradient
        is_largest = tl.where(query_mask & (r == caption_to_queries(value, QUERY)), 1.0, 0.0).to(r.dtype)
        d_r = d_value_q * is_largest / caption_to_queries(sum_per_caption(is_largest, QUERY), QUERY)
    elif AGGREGATE == "guided":
        d_r = tl.where(query_mask, d_value_q * guide, 0.0)
        d_guide = tl.where(query_mask, d_value_q * r, 0.0)
    elif AGGREGATE == "mean":
        d_r = tl.where(query_mask, d_value_q / caption_to_queries(n_queries, QUERY), 0.0)
    else:
        d_r = tl.where(query_mask, d_value_q, 0.0)
    return value, d_r, d_guide, d_lse


@triton.jit
def step_vjp(
    a,
    q,
    p,
    h,
    dot,
    u2,
    grams,
    captions_left,
    guide,
    query_mask,
    n_queries,
    context_mask,
    temperature,
    lse,
    gates,
    step,
    d_value,
    d_next_a,
    d_next_q,
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
    """Gradient of one step, whose inner products are a and whose queries' lengths are q.

    Args:
        p, h, dot, u2: as ``attend.attend`` returns them.
        grams, captions_left: as ``pair.load_gram`` takes them.
        d_value: (C,) gradient of the step's aggregate.
        d_next_a, d_next_q: gradients of the next step's inner products (BR, C, BL) and of its queries' lengths.
        is_refined: whether there is a next step; otherwise d_next_a and d_next_q are 0.
        d_guide, d_gram, d_scalars: added to; the slots of this direction's scalars follow from QUERY and GATES.

    Returns:
        the aggregate (C,), the gradients of a and q, then d_guide, d_gram and d_scalars.
    """
    tile_query_mask = along_context(query_mask, QUERY)
    BR: tl.constexpr = a.shape[0]
    C: tl.constexpr = a.shape[1]
    BL: tl.constexpr = a.shape[2]
    u = length(u2)
    r = relevance(dot, q, u, step, RELEVANCE, STEPS)
    value, d_r, d_guide_step, d_lse = aggregate_vjp(r, query_mask, n_queries, guide, lse, d_value, AGGREGATE, QUERY)
    d_guide += d_guide_step
    if AGGREGATE == "lse":
        d_scalars = add_to_slot(d_scalars, 5 + 2 * QUERY, d_lse)
    d_dot, d_q, d_u = tl.zeros_like(r), tl.zeros_like(r), tl.zeros_like(r)
    alpha, beta = tl.zeros_like(r), tl.zeros_like(r)
    if is_refined:
        gate_a, gate_b = tl.load(gates + 2 * step), tl.load(gates + 2 * step + 1)
        clamped_dot = within(dot, q * u)
        gate, x, y, norm, alpha, beta, _ = refine(gate_a, gate_b, r, q, u, clamped_dot)
        d_alpha, d_beta = sum_context(d_next_a * a, QUERY), sum_context(d_next_a * h, QUERY)
        d_r_refine, d_q, d_u, d_dot, d_z = refine_vjp(
            gate, x, y, norm, gate_a, q, u, clamped_dot, d_alpha, d_beta, d_next_q
        )
        d_r += d_r_refine
        d_z = tl.where(query_mask, d_z, 0.0)
        d_scalars = add_to_slot(d_scalars, GATES + 2 * step, sum_per_caption(d_z * r, QUERY))
        d_scalars = add_to_slot(d_scalars, GATES + 2 * step + 1, sum_per_caption(d_z, QUERY))
    if RELEVANCE == "cosine":
        d_dot_cosine, d_limit = cosine_vjp(r, q * u, d_r)
        d_dot, d_limit_clamp = within_vjp(dot, q * u, d_dot + d_dot_cosine)
        d_limit += d_limit_clamp
    else:
        d_unclamped, d_clamped = d_r, tl.zeros_like(r)
        if STEPS > 1:
            d_unclamped, d_clamped = tl.where(step > 0, 0.0, d_r), tl.where(step > 0, d_r, 0.0)
        d_dot, d_limit = within_vjp(dot, q * u, d_dot + d_clamped)
        d_dot += d_unclamped
    d_q += d_limit * u
    d_u += d_limit * q
    d_dot_tile, d_u2_tile = along_context(d_dot, QUERY), along_context(length_vjp(u, d_u), QUERY)
    d_h = d_u2_tile * p  # [BR, C, BL]
    # Gradients of refined vectors of length 0 pass float32's range at the third step; this keeps them finite.
    steepest: tl.constexpr = 1e30 if a.dtype == tl.float32 else 1e300
    if is_refined:
        d_h = within(d_h + along_context(beta, QUERY) * d_next_a, steepest)
    # Before d_a and d_p exist, because the product takes their registers.
    d_gram += gram_gradient(d_h, p, QUERY, PRECISION)
    d_a = d_dot_tile * p  # [BR, C, BL], as d_p
    d_p = d_dot_tile * a + d_u2_tile * h
    if is_refined:
        d_a = within(d_a + along_context(alpha, QUERY) * d_next_a, steepest)
        d_p += gram_product(d_h, load_gram(grams, captions_left, C, BL, BR, QUERY), QUERY, TURNED, PRECISION)
    else:
        d_p += d_u2_tile * h  # Gram · d_h, because d_h = d_u2 · p
    if ATTEND != "hard":  # hard attention is constant
        d_logit = p * (d_p - along_context(sum_context(p * d_p, QUERY), QUERY))
        d_logit = tl.where(tile_query_mask, d_logit, 0.0)
        d_temperature = tl.sum(tl.sum(d_logit * normalise(a, tile_query_mask, NORM, QUERY), 2), 0)
        d_scalars = add_to_slot(d_scalars, 4 + 2 * QUERY, d_temperature)
        d_a += normalise_vjp(a, temperature * d_logit, tile_query_mask, NORM, QUERY)
    return (
        value,
        tl.where(tile_query_mask & context_mask, d_a, 0.0),
        tl.where(query_mask, d_q, 0.0),
        d_guide,
        d_gram,
        d_scalars,
    )


@triton.jit
def direction_vjp(
    a,
    q,
    grams,
    captions_left,
    guide,
    query_mask,
    n_queries,
    context_mask,
    scalars,
    d_score,
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
    """Gradient of a direction; arguments as ``attend.direction`` takes them.

    Args:
        grams, captions_left: pointer to the context's Gram matrix, and the number of captions from this tile's first on
            (``pair.load_gram``). The matrix is loaded where it is used, because keeping it would cost registers.
        scalars: pointer to all scalars.
        d_score: (C,) gradient of the pair's score.
        d_gram, d_scalars: added to.

    Returns:
        the gradients of a (BR, C, BL), of q and of the guide, then d_gram and d_scalars.
    """
    BR: tl.constexpr = a.shape[0]
    C: tl.constexpr = a.shape[1]
    BL: tl.constexpr = a.shape[2]
    temperature, lse = tl.load(scalars + 4 + 2 * QUERY), tl.load(scalars + 5 + 2 * QUERY)
    gates = scalars + GATES
    tile_query_mask = along_context(query_mask, QUERY)
    d_value = d_score * (tl.load(scalars + QUERY - 1) / STEPS)
    d_a, d_q, d_guide, total = tl.zeros_like(a), tl.zeros_like(q), tl.zeros_like(q), tl.zeros_like(d_score)
    # All steps share one loop body, from the last step to the first: unrolled, they would need too many registers.
    for steps_done in tl.range(0, STEPS, disable_licm=True):
        step = STEPS - 1 - steps_done
        step_a, step_q = a, q
        p, h, dot, u2 = tl.zeros_like(a), tl.zeros_like(a), tl.zeros_like(q), tl.zeros_like(q)
        # The bound is step + 1, but the compiler cannot know that. So this loop stays a loop, and the compiler does not
        # take its product and those after it for a chain (``attend.direction``).
        for replayed in tl.range(0, tl.minimum(step, captions_left * STEPS) + 1, disable_licm=True):
            gram = load_gram(grams, captions_left, C, BL, BR, QUERY)
            p, h, dot, u2, _ = attend(
                step_a, gram, temperature, tile_query_mask, context_mask, NORM, ATTEND, QUERY, TURNED, PRECISION
            )
            if STEPS > 1:
                r = relevance(dot, step_q, length(u2), replayed, RELEVANCE, STEPS)
                gate = tl.minimum(replayed, STEPS - 2)
                next_a, next_q = refined(
                    step_a, step_q, h, dot, u2, r, gates, gate, tile_query_mask, context_mask, QUERY
                )
                # A select, because with a branch the compiler would attend a second time, in an operand's layout.
                step_a, step_q = tl.where(replayed < step, next_a, step_a), tl.where(replayed < step, next_q, step_q)
        value, d_a, d_q, d_guide, d_gram, d_scalars = step_vjp(
            step_a,
            step_q,
            p,
            h,
            dot,
            u2,
            grams,
            captions_left,
            guide,
            query_mask,
            n_queries,
            context_mask,
            temperature,
            lse,
            gates,
            step,
            d_value,
            d_a,
            d_q,
            steps_done > 0,
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
    d_scalars = add_to_slot(d_scalars, QUERY - 1, d_score * total / STEPS)
    return d_a, d_q, d_guide, d_gram, d_scalars
