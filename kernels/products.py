"""Small matrix products on the tensor cores, of operands that are float32 or float64 in registers."""

import triton
import triton.language as tl


@triton.jit
def round_tf32(x):
    """x (float32) to the nearest number of 11 bits: the tensor cores read no more, and would cut the rest off."""
    bits = x.to(tl.int32, bitcast=True)
    rounded = ((bits + 0x1000) & -8192).to(tl.float32, bitcast=True)
    return tl.where(tl.abs(x) < float("inf"), rounded, x)  # the carry would make another number of NaN or infinity


@triton.jit
def tf32_remainder(x):
    """x less :func:`round_tf32` of it; 0 where x is infinite."""
    rounded = round_tf32(x)
    return tl.where(x == rounded, 0.0, x - rounded)


@triton.jit
def multiply(x, y, PRECISION: tl.constexpr):
    """x (m, k) times y (k, n), in x's dtype.

    "tf32" rounds the operands. "tf32x3" adds three products of the rounded operands and their remainders: remainder ·
    rounded, rounded · remainder, rounded · rounded. "ieee" is for float64.
    """
    if PRECISION == "tf32":
        out = tl.dot(round_tf32(x), round_tf32(y), input_precision=PRECISION, out_dtype=x.dtype)
    elif PRECISION == "tf32x3":
        out = tl.zeros((x.shape[0], y.shape[1]), x.dtype)
        # One body for the three, as the compiler's own do not have: side by side, all parts of both operands are kept.
        for part in tl.range(0, 3, disable_licm=True):
            left = tl.where(part == 0, tf32_remainder(x), round_tf32(x))
            right = tl.where(part == 1, tf32_remainder(y), round_tf32(y))
            out = tl.dot(left, right, out, input_precision="tf32", out_dtype=x.dtype)
    else:
        out = tl.dot(x, y, input_precision=PRECISION, out_dtype=x.dtype)
    return out


@triton.jit
def nan_to_zero(x):
    """x with 0 for NaN, because in a product NaN times a structural zero is NaN."""
    return tl.where(x == x, x, 0.0)


@triton.jit
def gram_product(x, gram, QUERY: tl.constexpr, TURNED: tl.constexpr, PRECISION: tl.constexpr):
    """x (BR, C, BL) times the Gram matrix of its context.

    QUERY 1, words ask: gram (BR, BR) of the image's regions. QUERY 2, regions ask: gram (C BL, C BL), block-diagonal,
    of the captions' words; a caption of NaN must not reach its neighbours through the zeros beside its block.
    TURNED: whether QUERY 1 takes xᵀ · gram, whose rows are the words (``triton_launch.turned`` says why).
    """
    flat = tl.reshape(x, (x.shape[0], x.shape[1] * x.shape[2]))  # [BR, C BL]
    if QUERY == 2:
        out = multiply(nan_to_zero(flat), gram, PRECISION)
    elif TURNED:
        out = tl.trans(multiply(tl.trans(flat), gram, PRECISION))  # symmetric
    else:
        out = multiply(gram, flat, PRECISION)
    return tl.reshape(out, (x.shape[0], x.shape[1], x.shape[2]))


@triton.jit
def unrounded_square(x, h, gram, QUERY: tl.constexpr, PRECISION: tl.constexpr):
    """What sums to x · Gram · x over the context, from h = :func:`gram_product` of x.

    Of operands rounded to tf32, x̃ = x + δ and G̃, this takes back what the rounding of x does in first order, as
    x G x = (2 x − x̃) G x̃ + δ G δ, and what the rounding of G's diagonal does: where attention is on one context item
    nothing is left, where it is spread the roundings of G's other members partly cancel.
    """
    out = x * h
    if PRECISION == "tf32":
        i = tl.arange(0, gram.shape[0])
        remainder = tl.sum(tl.where(i[:, None] == i[None, :], gram - round_tf32(gram), 0.0), 1)
        remainder = (
            remainder[:, None, None] if QUERY == 1 else tl.reshape(remainder, (x.shape[1], x.shape[2]))[None, :, :]
        )
        out = (2 * x - round_tf32(x)) * h + x * x * remainder
    return out


@triton.jit
def gram_gradient(d, x, QUERY: tl.constexpr, PRECISION: tl.constexpr):
    """Gradient of the Gram matrix of :func:`gram_product` from that of its result, d (BR, C, BL).

    QUERY 1: (BR, BR). QUERY 2: (C BL, C BL), of which the blocks along the diagonal count.
    """
    d = tl.reshape(d, (d.shape[0], d.shape[1] * d.shape[2]))  # [BR, C BL]
    x = tl.reshape(x, (x.shape[0], x.shape[1] * x.shape[2]))
    out = multiply(d, tl.trans(x), PRECISION) if QUERY == 1 else multiply(tl.trans(x), d, PRECISION)
    return out
