"""Formulas of the pair score and their vector-Jacobian products, the same as in ``csrc/include/pair_math.h``.

All are elementwise, for any shape, in float32 or float64. ``d_x`` is the gradient of x. NaN stays NaN, because every
comparison is written so that one with NaN keeps the value.
"""

import triton
import triton.language as tl


@triton.jit
def at_least_eps(x):
    """max(x, 1e-8)."""
    return tl.where(x < 1e-8, 1e-8, x)


@triton.jit
def length(squared):
    """|x| from x·x; 0 where rounding has made x·x negative."""
    return tl.sqrt(tl.where(squared < 0, 0.0, squared))


@triton.jit
def length_vjp(length, d_length):
    """Gradient of x·x from that of its :func:`length`; 0 where the length is 0."""
    return tl.where(length == 0, 0.0, d_length / (2 * tl.where(length == 0, 1.0, length)))


@triton.jit
def within(dot, limit):
    """dot clamped to [−limit, limit], where limit is the product of the two lengths.

    Only rounding takes an inner product beyond that. Without the limit, vectors that cancel out, whose lengths are
    nothing but rounding, could have a cosine of any size.
    """
    return tl.where(dot > limit, limit, tl.where(dot < -limit, -limit, dot))


@triton.jit
def within_vjp(dot, limit, d_clamped):
    """Gradients of dot and limit from that of :func:`within`; a clamped dot passes all of it to the limit."""
    return tl.where((dot > limit) | (dot < -limit), 0.0, d_clamped), tl.where(
        dot > limit, d_clamped, tl.where(dot < -limit, -d_clamped, 0.0)
    )


@triton.jit
def cosine(dot, a, b):
    """dot / max(a b, 1e-8) of vectors of lengths a and b, with dot clamped to a b."""
    return within(dot, a * b) / at_least_eps(a * b)


@triton.jit
def cosine_vjp(cosine, limit, d_cosine):
    """Gradients of the clamped dot, for :func:`within_vjp`, and of limit, the product of the lengths."""
    inverse = 1 / at_least_eps(limit)
    return d_cosine * inverse, tl.where(limit < 1e-8, 0.0, -d_cosine * cosine * inverse)


@triton.jit
def unit_factor(length):
    """1 / max(|x|, 1e-8): the factor by which unit(x) multiplies x."""
    return 1 / at_least_eps(length)


@triton.jit
def unit_factor_vjp(length, d_factor):
    """Gradient of the length from that of :func:`unit_factor`."""
    factor = unit_factor(length)
    return tl.where(length < 1e-8, 0.0, -d_factor * factor * factor)


@triton.jit
def refine(gate_a, gate_b, r, q, u, dot):
    """Refinement Q' = unit((1 − g) unit(Q) + g unit(U)) = alpha Q + beta U, g = sigmoid(gate_a r + gate_b).

    Args:
        r: relevance of Q.
        q, u: lengths of Q and U.
        dot: Q·U, clamped to q u.

    Returns:
        the gate g, the factors x and y of Q and U before the last unit(), the norm of x Q + y U, then alpha, beta and
        the length of Q'.
    """
    gate = 1 / (1 + tl.exp(-(gate_a * r + gate_b)))
    x = (1 - gate) * unit_factor(q)
    y = gate * unit_factor(u)
    norm = length(x * x * q * q + y * y * u * u + 2 * x * y * dot)
    factor = unit_factor(norm)
    return gate, x, y, norm, x * factor, y * factor, norm * factor


@triton.jit
def refine_vjp(gate, x, y, norm, gate_a, q, u, dot, d_alpha, d_beta, d_length):
    """Gradients of r, q, u, the clamped dot and the gate's argument z = gate_a r + gate_b.

    Those of the gate's parameters are the sums over the queries of d_z r (gate_a) and of d_z (gate_b).
    """
    factor = unit_factor(norm)
    d_factor = d_alpha * x + d_beta * y + d_length * norm
    d_norm = d_length * factor + unit_factor_vjp(norm, d_factor)
    d_norm2 = length_vjp(norm, d_norm)
    d_x = d_alpha * factor + d_norm2 * 2 * (x * q * q + y * dot)
    d_y = d_beta * factor + d_norm2 * 2 * (y * u * u + x * dot)
    d_gate = d_y * unit_factor(u) - d_x * unit_factor(q)
    d_q = d_norm2 * 2 * x * x * q + unit_factor_vjp(q, d_x * (1 - gate))
    d_u = d_norm2 * 2 * y * y * u + unit_factor_vjp(u, d_y * gate)
    d_z = d_gate * gate * (1 - gate)
    return d_z * gate_a, d_q, d_u, d_norm2 * 2 * x * y, d_z
