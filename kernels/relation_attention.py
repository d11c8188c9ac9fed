"""Relation attention: softmax over the edges of labelled graphs; any number of nodes forward, a tile of them backward.

Forward, a head of a graph of 36 nodes, width 128, in bfloat16: it reads q, k, v (27 KB) and, from the cache, the
labels and tables, and writes 9 KB; products of 2 · 2 · 36² · 128 = 0.7 MFLOP on the tensor cores. It is bound by
memory: 128 graphs of 8 heads move 38 MB, 9 µs at 4 TB/s. P is summed by label first, so that each label's value is
multiplied once: n_labels masked sums over the tile. Backward reads one more array, writes three, and twice the
products.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.products import multiply

_NOT_SPECIALIZED = ["nodes", "n_labels"]


@triton.jit
def edge_logits(
    q,
    k,
    labels,
    edge,
    bias,
    confidence,
    places,
    head,
    heads,
    n_labels,
    scale,
    HAS_BIAS: tl.constexpr,
    HAS_VALUE: tl.constexpr,
    HAS_CONFIDENCE: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Logits (BQ, BK) of q (BQ, BD) with k (BK, BD), −inf where there is no edge; places: theirs in confidence.

    NaN where a label is outside the tables: nothing reads what the replays of a CUDA graph bring, nor do these.
    """
    logits = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=WIDE) * scale
    if HAS_BIAS:
        known = edge & (labels.to(tl.uint32, bitcast=True) < n_labels.to(tl.uint32))
        logits += tl.load(bias + labels * heads + head, mask=known, other=float("nan"))
    elif HAS_VALUE:
        logits = tl.where(labels.to(tl.uint32, bitcast=True) < n_labels.to(tl.uint32), logits, float("nan"))
    if HAS_CONFIDENCE:
        logits += tl.log(tl.load(confidence + places, mask=edge, other=1.0))
    return tl.where(edge, logits, float("-inf"))


@triton.jit
def seen_logits(logits, edge):
    """Logits as the largest is taken of them: above −inf, which stands for no edge."""
    lowest: tl.constexpr = -3e38 if logits.dtype == tl.float32 else -1e308
    return tl.where(edge & (logits < lowest), lowest, logits)


@triton.jit
def bin_labels(x, labels, first, B: tl.constexpr):
    """(BQ, B): x (BQ, BK) summed over the pairs of each of the labels first … first + B − 1."""
    column = tl.arange(0, B)
    out = tl.zeros((x.shape[0], B), x.dtype)
    for t in range(B):
        out = tl.where(column[None, :] == t, tl.sum(tl.where(labels == first + t, x, 0.0), 1)[:, None], out)
    return out


@triton.jit
def load_values(value, first, n_labels, head, heads, width, B: tl.constexpr, BD: tl.constexpr):
    """(B, BD): rows first … of the value table of a head; 0 for label 0, which no edge has, and past the last."""
    label, column = first + tl.arange(0, B), tl.arange(0, BD)
    mask = ((label > 0) & (label < n_labels))[:, None] & (column < width)[None, :]
    return tl.load(value + (label[:, None] * heads + head) * width + column[None, :], mask=mask, other=0.0)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
def relations_forward(
    q,
    k,
    v,
    labels,
    bias,
    value,
    confidence,
    out,
    qb,
    qh,
    qr,
    qd,
    kb,
    kh,
    kr,
    kd,
    vb,
    vh,
    vr,
    vd,
    heads,
    nodes,
    width,
    n_labels,
    scale: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_VALUE: tl.constexpr,
    HAS_CONFIDENCE: tl.constexpr,
    WIDE: tl.constexpr,
    NATIVE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid (B · H, queries / BQ): out (B, H, R, d) contiguous, softmax kept as it goes over blocks of BK keys.

    Args:
        q, k, v: (B, H, R, d) with strides ``?b ?h ?r ?d``.
        labels: (B, R, R) int32; confidence alike. bias (n_labels, H), value (n_labels, H, d), in WIDE, contiguous.
        scale: a compile-time number, because Triton passes any other Python float as a float32.
        NATIVE: how q · k is multiplied; PRECISION: how products with P are.
    """
    batch, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    head_64 = head.to(tl.int64)  # times a stride it may pass 32 bits, as a row may
    i, column = tl.program_id(1) * BQ + tl.arange(0, BQ), tl.arange(0, BD)
    inside = (i < nodes)[:, None] & (column < width)[None, :]
    q_tile = tl.load(
        q + batch * qb + head_64 * qh + i.to(tl.int64)[:, None] * qr + column[None, :] * qd, mask=inside, other=0.0
    )  # [BQ, BD]
    most = tl.full((BQ,), float("-inf"), WIDE)
    total = tl.zeros((BQ,), WIDE)
    acc = tl.zeros((BQ, BD), WIDE)
    for start in range(0, nodes, BK):
        j = start + tl.arange(0, BK)
        pairs = (i < nodes)[:, None] & (j < nodes)[None, :]
        places = (batch * nodes + i)[:, None] * nodes + j[None, :]
        label = tl.load(labels + places, mask=pairs, other=0)
        edge = label != 0
        # Whatever stands in a node that nobody here has an edge to (NaN included) must not meet a zero of P.
        key_mask = (tl.max(edge.to(tl.int32), 0) > 0)[:, None] & (column < width)[None, :]
        k_tile = tl.load(
            k + batch * kb + head_64 * kh + j.to(tl.int64)[:, None] * kr + column[None, :] * kd,
            mask=key_mask,
            other=0.0,
        )  # [BK, BD]
        v_tile = tl.load(
            v + batch * vb + head_64 * vh + j.to(tl.int64)[:, None] * vr + column[None, :] * vd,
            mask=key_mask,
            other=0.0,
        ).to(WIDE)
        logits = edge_logits(
            q_tile,
            k_tile,
            label,
            edge,
            bias,
            confidence,
            places,
            head,
            heads,
            n_labels,
            scale,
            HAS_BIAS,
            HAS_VALUE,
            HAS_CONFIDENCE,
            WIDE,
            NATIVE,
        )
        new_most = tl.maximum(most, tl.max(seen_logits(logits, edge), 1))
        base = tl.where(new_most == float("-inf"), 0.0, new_most)
        p = tl.exp(logits - base[:, None])
        rescale = tl.exp(most - base)
        total = total * rescale + tl.sum(p, 1)
        acc = acc * rescale[:, None] + multiply(p, v_tile, PRECISION)
        most = new_most
        if HAS_VALUE:
            for first in range(0, n_labels, 16):
                values = load_values(value, first, n_labels, head, heads, width, 16, BD)
                acc += multiply(bin_labels(p, label, first, 16), values, PRECISION)
    no_edges = (total == 0) & (most == float("-inf"))
    result = tl.where(no_edges[:, None], 0.0, acc / tl.where(no_edges, 1.0, total)[:, None])
    place = out + ((batch * heads + head) * nodes + i[:, None]) * width + column[None, :]
    tl.store(place, result.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
def relations_backward(
    grad,
    q,
    k,
    v,
    labels,
    bias,
    value,
    confidence,
    dq,
    dk,
    dv,
    p_bins,
    d_bins,
    d_logits,
    qb,
    qh,
    qr,
    qd,
    kb,
    kh,
    kr,
    kd,
    vb,
    vh,
    vr,
    vd,
    heads,
    nodes,
    width,
    n_labels,
    scale: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_VALUE: tl.constexpr,
    HAS_CONFIDENCE: tl.constexpr,
    WIDE: tl.constexpr,
    NATIVE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid (B · H): gradients of a head of a graph of at most BK nodes; arguments as in :func:`relations_forward`.

    Args:
        grad: (B, H, R, d) contiguous, in WIDE.
        dq, dk, dv: (B, H, R, d) contiguous, in WIDE.
        p_bins, d_bins: (B, H, R, n_labels) P and the gradient of the logits summed by label; written with HAS_VALUE and
            with HAS_BIAS.
        d_logits: (B, H, R, R), written with HAS_CONFIDENCE.
    """
    batch, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    head_64 = head.to(tl.int64)  # times a stride it may pass 32 bits, as a row may
    graph_head = batch * heads + head
    j, column = tl.arange(0, BK), tl.arange(0, BD)
    columns = (column < width)[None, :]
    dk_tile = tl.zeros((BK, BD), WIDE)
    dv_tile = tl.zeros((BK, BD), WIDE)
    for start in range(0, nodes, BQ):
        i = start + tl.arange(0, BQ)
        pairs = (i < nodes)[:, None] & (j < nodes)[None, :]
        places = (batch * nodes + i)[:, None] * nodes + j[None, :]
        label = tl.load(labels + places, mask=pairs, other=0)
        edge = label != 0
        query_mask = (tl.max(edge.to(tl.int32), 1) > 0)[:, None] & columns
        key_mask = (tl.max(edge.to(tl.int32), 0) > 0)[:, None] & columns
        rows = (graph_head * nodes + i[:, None]) * width + column[None, :]
        q_tile = tl.load(
            q + batch * qb + head_64 * qh + i.to(tl.int64)[:, None] * qr + column[None, :] * qd,
            mask=query_mask,
            other=0.0,
        )
        k_tile = tl.load(
            k + batch * kb + head_64 * kh + j.to(tl.int64)[:, None] * kr + column[None, :] * kd,
            mask=key_mask,
            other=0.0,
        )
        grad_tile = tl.load(grad + rows, mask=query_mask, other=0.0)  # [BQ, BD]
        logits = edge_logits(
            q_tile,
            k_tile,
            label,
            edge,
            bias,
            confidence,
            places,
            head,
            heads,
            n_labels,
            scale,
            HAS_BIAS,
            HAS_VALUE,
            HAS_CONFIDENCE,
            WIDE,
            NATIVE,
        )
        most = tl.max(seen_logits(logits, edge), 1)
        no_edges = most == float("-inf")
        p = tl.exp(logits - tl.where(no_edges, 0.0, most)[:, None])
        total = tl.sum(p, 1)
        p = p / tl.where((total == 0) & no_edges, 1.0, total)[:, None]  # [BQ, BK]
        dv_tile += multiply(tl.trans(p), grad_tile, PRECISION)
        v_tile = tl.load(
            v + batch * vb + head_64 * vh + j.to(tl.int64)[:, None] * vr + column[None, :] * vd,
            mask=key_mask,
            other=0.0,
        )
        d_p = multiply(grad_tile, tl.trans(v_tile.to(WIDE)), PRECISION)
        slot = tl.arange(0, 16)
        if HAS_VALUE:
            for first in range(0, n_labels, 16):
                values = load_values(value, first, n_labels, head, heads, width, 16, BD)
                d_label = multiply(grad_tile, tl.trans(values), PRECISION)  # [BQ, 16]
                for t in range(16):
                    d_column = tl.sum(tl.where(slot[None, :] == t, d_label, 0.0), 1)
                    d_p += tl.where(label == first + t, d_column[:, None], 0.0)
                bins = p_bins + (graph_head * nodes + i[:, None]) * n_labels + first + slot[None, :]
                mask = (i < nodes)[:, None] & (first + slot < n_labels)[None, :]
                tl.store(bins, bin_labels(p, label, first, 16), mask=mask)
        d_p = tl.where(edge, d_p, 0.0)
        d = p * (d_p - tl.sum(p * d_p, 1)[:, None])
        if HAS_BIAS:
            for first in range(0, n_labels, 16):
                bins = d_bins + (graph_head * nodes + i[:, None]) * n_labels + first + slot[None, :]
                mask = (i < nodes)[:, None] & (first + slot < n_labels)[None, :]
                tl.store(bins, bin_labels(d, label, first, 16), mask=mask)
        if HAS_CONFIDENCE:
            tl.store(d_logits + (graph_head * nodes + i)[:, None] * nodes + j[None, :], d, mask=pairs)
        d *= scale
        tl.store(dq + rows, multiply(d, k_tile.to(WIDE), PRECISION), mask=(i < nodes)[:, None] & columns)
        dk_tile += multiply(tl.trans(d), q_tile.to(WIDE), PRECISION)
    rows = (graph_head * nodes + j[:, None]) * width + column[None, :]
    tl.store(dk + rows, dk_tile, mask=(j < nodes)[:, None] & columns)
    tl.store(dv + rows, dv_tile, mask=(j < nodes)[:, None] & columns)
