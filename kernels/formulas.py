"""Formulas of the pair score and their vector-Jacobian products, as ``csrc/include/pair_math.h`` has them.

All are elementwise and of any shape; float32 or float64. NaN stays NaN: a comparison that fails keeps the value.
"""

import triton
import triton.language as tl


@triton.jit
def at_least_eps(x):
    """max(x, 1e-8)."""
    return tl.where(x < 1e-8, 1e-8, x)


@triton.jit
def length(squared):
    """|x| from x·x, which rounding can make negative."""
    return tl.sqrt(tl.where(squared < 0, 0.0, squared))


@triton.jit
def length_vjp(length, d):
    """Gradient of the square; 0 at 0."""
    return tl.where(length == 0, 0.0, d / (2 * tl.where(length == 0, 1.0, length)))


@triton.jit
def within(dot, most):
    """An inner product held to the product of the lengths, beyond which rounding alone takes it.

    Of vectors that cancel out, whose lengths are 0 but for it, a cosine would be of any size.
    """
    return tl.where(dot > most, most, tl.where(dot < -most, -most, dot))


@triton.jit
def within_vjp(dot, most, d):
    """Gradients of (dot, most) from that of the held product: beyond the most, that has it all."""
    return tl.where((dot > most) | (dot < -most), 0.0, d), tl.where(dot > most, d, tl.where(dot < -most, -d, 0.0))


@triton.jit
def cosine(dot, a, b):
    """dot / max(a b, eps) of vectors of lengths a and b, dot held to a b."""
    return within(dot, a * b) / at_least_eps(a * b)


@triton.jit
def cosine_vjp(cosine, most, d):
    """Gradients of the held product, which ``within_vjp`` takes on, and of the product of the lengths, most."""
    inverse = 1 / at_least_eps(most)
    return d * inverse, tl.where(most < 1e-8, 0.0, -d * cosine * inverse)


@triton.jit
def unit_factor(length):
    """1 / max(|x|, eps), what unit(x) multiplies x by."""
    return 1 / at_least_eps(length)


@triton.jit
def unit_factor_vjp(length, d):
    """Gradient of the length."""
    f = unit_factor(length)
    return tl.where(length < 1e-8, 0.0, -d * f * f)


@triton.jit
def refine(gate_a, gate_b, r, q, u, dot):
    """Refinement Q' = unit((1 − g) unit(Q) + g unit(U)) = alpha Q + beta U, g = sigmoid(gate_a r + gate_b).

    q and u are the lengths of Q and U, not u² as it came, which rounding takes below 0; dot is Q·U, held to q u.
    Returns gate, x, y, norm (of x Q + y U), alpha, beta and the length of Q'.
    """
    gate = 1 / (1 + tl.exp(-(gate_a * r + gate_b)))
    x = (1 - gate) * unit_factor(q)
    y = gate * unit_factor(u)
    norm = length(x * x * q * q + y * y * u * u + 2 * x * y * dot)
    factor = unit_factor(norm)
    return gate, x, y, norm, x * factor, y * factor, norm * factor


@triton.jit
def refine_vjp(gate, x, y, norm, gate_a, q, u, dot, d_alpha, d_beta, d_length):
    """Gradients of (r, q, u, dot as it is held) and of the gate's argument (d_a = Σ d_z r, d_b = Σ d_z)."""
    factor = unit_factor(norm)
    d_factor = d_alpha * x + d_beta * y + d_length * norm
    d_norm = d_length * factor + unit_factor_vjp(norm, d_factor)
    d_squared = length_vjp(norm, d_norm)
    d_x = d_alpha * factor + d_squared * 2 * (x * q * q + y * dot)
    d_y = d_beta * factor + d_squared * 2 * (y * u * u + x * dot)
    d_gate = d_y * unit_factor(u) - d_x * unit_factor(q)
    d_q = d_squared * 2 * x * x * q + unit_factor_vjp(q, d_x * (1 - gate))
    d_u = d_squared * 2 * y * y * u + unit_factor_vjp(u, d_y * gate)
    d_z = d_gate * gate * (1 - gate)
    return d_z * gate_a, d_q, d_u, d_squared * 2 * x * y, d_z
