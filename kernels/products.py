"""Small matrix products on the tensor cores, of operands that are float32 or float64 in registers."""

import triton
import triton.language as tl


@triton.jit
def round_tf32(x):
    """x (float32) rounded to tf32's 11 bits of significand: the tensor cores would truncate the other bits."""
    bits = x.to(tl.int32, bitcast=True)
    rounded = ((bits + 0x1000) & -8192).to(tl.float32, bitcast=True)
    return tl.where(tl.abs(x) < float("inf"), rounded, x)  # rounding the bits of NaN or infinity would change them


@triton.jit
def tf32_remainder(x):
    """x − :func:`round_tf32` (x); 0 where x is infinite."""
    rounded = round_tf32(x)
    return tl.where(x == rounded, 0.0, x - rounded)


@triton.jit
def multiply(x, y, PRECISION: tl.constexpr):
    """x (m, k) times y (k, n), in x's dtype.

    PRECISION "tf32" rounds the operands. "tf32x3" splits each operand into its rounded value and the remainder, and
    adds three products: remainder · rounded, rounded · remainder, rounded · rounded. "ieee" is for float64.
    """
    if PRECISION == "tf32":
        out = tl.dot(round_tf32(x), round_tf32(y), input_precision=PRECISION, out_dtype=x.dtype)
    elif PRECISION == "tf32x3":
        out = tl.zeros((x.shape[0], y.shape[1]), x.dtype)
        # A loop, because unrolled (as Triton's own tf32x3) all parts of both operands would be in registers at once.
        for part in tl.range(0, 3, disable_licm=True):
            left = tl.where(part == 0, tf32_remainder(x), round_tf32(x))
            right = tl.where(part == 1, tf32_remainder(y), round_tf32(y))
            out = tl.dot(left, right, out, input_precision="tf32", out_dtype=x.dtype)
    else:
        out = tl.dot(x, y, input_precision=PRECISION, out_dtype=x.dtype)
    return out


@triton.jit
def nan_to_zero(x):
    """x with NaN replaced by 0: in a matrix product, even NaN times a zero outside the diagonal blocks is NaN."""
    return tl.where(x == x, x, 0.0)


@triton.jit
def gram_product(x, gram, QUERY: tl.constexpr, TURNED: tl.constexpr, PRECISION: tl.constexpr):
    """x (BR, C, BL) times the Gram matrix of its context.

    Args:
        gram: (BR, BR) of the image's regions if words are the queries (QUERY 1); block-diagonal (C BL, C BL) of the
            captions' words if regions are (QUERY 2). NaN in one caption does not reach the others.
        TURNED: whether QUERY 1 computes xᵀ · gram, whose rows are the words (``triton_launch.turned`` says why).
    """
    flat = tl.reshape(x, (x.shape[0], x.shape[1] * x.shape[2]))  # [BR, C BL]
    if QUERY == 2:
        out = multiply(nan_to_zero(flat), gram, PRECISION)
    elif TURNED:
        out = tl.trans(multiply(tl.trans(flat), gram, PRECISION))  # gram is symmetric
    else:
        out = multiply(gram, flat, PRECISION)
    return tl.reshape(out, (x.shape[0], x.shape[1], x.shape[2]))


@triton.jit
def unrounded_square(x, h, gram, QUERY: tl.constexpr, PRECISION: tl.constexpr):
    """Terms (BR, C, BL) whose sum over the context is x · Gram · x, from h = :func:`gram_product` of x.

    With operands x̃ = x + δ and G̃ rounded to tf32, two errors are undone. The rounding of x is undone to first order:
    x G x = (2 x − x̃) G x̃ + δ G δ. The rounding of G's diagonal is undone too. If the attention is on one context
    item, no error of G is left; if it is spread, the errors of the other elements of G partly cancel.
    """
    out = x * h
    if PRECISION == "tf32":
        index = tl.arange(0, gram.shape[0])
        remainder = tl.sum(tl.where(index[:, None] == index[None, :], gram - round_tf32(gram), 0.0), 1)
        remainder = (
            remainder[:, None, None] if QUERY == 1 else tl.reshape(remainder, (x.shape[1], x.shape[2]))[None, :, :]
        )
        out = (2 * x - round_tf32(x)) * h + x * x * remainder
    return out


@triton.jit
def gram_gradient(d_out, x, QUERY: tl.constexpr, PRECISION: tl.constexpr):
    """Gradient of the Gram matrix of :func:`gram_product`, from the gradient d_out (BR, C, BL) of its result.

    It is (BR, BR) for QUERY 1. For QUERY 2 it is (C BL, C BL), and only the blocks along the diagonal are meaningful.
    """
    d_out = tl.reshape(d_out, (d_out.shape[0], d_out.shape[1] * d_out.shape[2]))  # [BR, C BL]
    x = tl.reshape(x, (x.shape[0], x.shape[1] * x.shape[2]))  # [BR, C BL]
    out = multiply(d_out, tl.trans(x), PRECISION) if QUERY == 1 else multiply(tl.trans(x), d_out, PRECISION)
    return out
