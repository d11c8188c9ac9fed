"""Relation attention: softmax over the edges of labelled graphs, with any number of nodes forward and BK backward.

Counted for one head of a graph of 36 nodes, width 128, in bfloat16: forward reads q, k and v (27 KB) and, from the
cache, labels and tables, writes 9 KB, and computes 2 · 2 · 36² · 128 = 0.7 MFLOP on the tensor cores. That is bound by
memory: 128 graphs of 8 heads move 38 MB, 9 µs at 4 TB/s. P is first summed by label, in n_labels masked sums over the
tile, so that each label's value is multiplied once. Backward reads one more array, writes three, and computes twice as
many products.
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
    pair_offsets,
    head,
    heads,
    n_labels,
    scale,
    HAS_BIAS: tl.constexpr,
    HAS_VALUE: tl.constexpr,
    HAS_CONFIDENCE: tl.constexpr,
    ACC_TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Logits (BQ, BK) of q (BQ, BD) with k (BK, BD): −inf where there is no edge, NaN where the tables lack the label.

    pair_offsets (BQ, BK) are those of the edges in confidence. A replayed CUDA graph can bring labels that nobody has
    checked; such a label gives NaN instead of a read outside the tables.
    """
    logits = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=ACC_TYPE) * scale
    if HAS_BIAS:
        label_mask = edge & (labels.to(tl.uint32, bitcast=True) < n_labels.to(tl.uint32))
        logits += tl.load(bias + labels * heads + head, mask=label_mask, other=float("nan"))
    elif HAS_VALUE:
        logits = tl.where(labels.to(tl.uint32, bitcast=True) < n_labels.to(tl.uint32), logits, float("nan"))
    if HAS_CONFIDENCE:
        logits += tl.log(tl.load(confidence + pair_offsets, mask=edge, other=1.0))
    return tl.where(edge, logits, float("-inf"))


@triton.jit
def floored_logits(logits, edge):
    """Logits with those of edges raised above −inf, so that a maximum of −inf means that there is no edge."""
    lowest: tl.constexpr = -3e38 if logits.dtype == tl.float32 else -1e308
    return tl.where(edge & (logits < lowest), lowest, logits)


@triton.jit
def bin_labels(x, labels, first_label, B: tl.constexpr):
    """x (BQ, BK) summed by label: (BQ, B) for the labels first_label … first_label + B − 1."""
    bin_index = tl.arange(0, B)
    out = tl.zeros((x.shape[0], B), x.dtype)
    for slot in range(B):
        out = tl.where(
            bin_index[None, :] == slot, tl.sum(tl.where(labels == first_label + slot, x, 0.0), 1)[:, None], out
        )
    return out


@triton.jit
def load_values(value, first_label, n_labels, head, heads, width, B: tl.constexpr, BD: tl.constexpr):
    """Values (B, BD) of a head for the labels from first_label on; 0 for label 0 (no edge) and past the last label."""
    label, column = first_label + tl.arange(0, B), tl.arange(0, BD)
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
    stride_qb,
    stride_qh,
    stride_qr,
    stride_qd,
    stride_kb,
    stride_kh,
    stride_kr,
    stride_kd,
    stride_vb,
    stride_vh,
    stride_vr,
    stride_vd,
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
    ACC_TYPE: tl.constexpr,
    QK_PRECISION: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Relation attention with an online softmax over blocks of BK keys. Grid (B · H, queries / BQ).

    Args:
        q, k, v: (B, H, R, d) with strides ``stride_{q,k,v}{b,h,r,d}``.
        labels, confidence: (B, R, R) contiguous, int32 and ACC_TYPE.
        bias, value: (n_labels, H) and (n_labels, H, d), contiguous, in ACC_TYPE.
        out: output (B, H, R, d), contiguous.
        scale: a compile-time number, because Triton would pass a Python float as float32.
        QK_PRECISION, PRECISION: how q · k is multiplied, and how products with P are.
    """
    batch, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    head_64 = head.to(tl.int64)  # offsets of heads and rows may need more than 32 bits
    query, column = tl.program_id(1) * BQ + tl.arange(0, BQ), tl.arange(0, BD)
    query_mask = (query < nodes)[:, None] & (column < width)[None, :]
    q_tile = tl.load(
        q
        + batch * stride_qb
        + head_64 * stride_qh
        + query.to(tl.int64)[:, None] * stride_qr
        + column[None, :] * stride_qd,
        mask=query_mask,
        other=0.0,
    )  # [BQ, BD]
    row_max = tl.full((BQ,), float("-inf"), ACC_TYPE)
    row_sum = tl.zeros((BQ,), ACC_TYPE)
    acc = tl.zeros((BQ, BD), ACC_TYPE)
    for key_start in range(0, nodes, BK):
        key = key_start + tl.arange(0, BK)
        pair_mask = (query < nodes)[:, None] & (key < nodes)[None, :]
        pair_offsets = (batch * nodes + query)[:, None] * nodes + key[None, :]
        label = tl.load(labels + pair_offsets, mask=pair_mask, other=0)  # [BQ, BK]
        edge = label != 0
        # Keys without an edge from any of these queries are not read: they may be NaN, and in P · V 0 · NaN is NaN.
        key_mask = (tl.max(edge.to(tl.int32), 0) > 0)[:, None] & (column < width)[None, :]  # [BK, BD]
        k_tile = tl.load(
            k
            + batch * stride_kb
            + head_64 * stride_kh
            + key.to(tl.int64)[:, None] * stride_kr
            + column[None, :] * stride_kd,
            mask=key_mask,
            other=0.0,
        )  # [BK, BD]
        v_tile = tl.load(
            v
            + batch * stride_vb
            + head_64 * stride_vh
            + key.to(tl.int64)[:, None] * stride_vr
            + column[None, :] * stride_vd,
            mask=key_mask,
            other=0.0,
        ).to(ACC_TYPE)  # [BK, BD]
        logits = edge_logits(
            q_tile,
            k_tile,
            label,
            edge,
            bias,
            confidence,
            pair_offsets,
            head,
            heads,
            n_labels,
            scale,
            HAS_BIAS,
            HAS_VALUE,
            HAS_CONFIDENCE,
            ACC_TYPE,
            QK_PRECISION,
        )
        new_row_max = tl.maximum(row_max, tl.max(floored_logits(logits, edge), 1))
        shift = tl.where(new_row_max == float("-inf"), 0.0, new_row_max)
        p = tl.exp(logits - shift[:, None])  # [BQ, BK]
        rescale = tl.exp(row_max - shift)
        row_sum = row_sum * rescale + tl.sum(p, 1)
        acc = acc * rescale[:, None] + multiply(p, v_tile, PRECISION)
        row_max = new_row_max
        if HAS_VALUE:
            for first_label in range(0, n_labels, 16):
                values = load_values(value, first_label, n_labels, head, heads, width, 16, BD)
                acc += multiply(bin_labels(p, label, first_label, 16), values, PRECISION)
    no_edges = (row_sum == 0) & (row_max == float("-inf"))
    result = tl.where(no_edges[:, None], 0.0, acc / tl.where(no_edges, 1.0, row_sum)[:, None])
    out_ptrs = out + ((batch * heads + head) * nodes + query[:, None]) * width + column[None, :]
    tl.store(out_ptrs, result.to(out.dtype.element_ty), mask=query_mask)


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
    stride_qb,
    stride_qh,
    stride_qr,
    stride_qd,
    stride_kb,
    stride_kh,
    stride_kr,
    stride_kd,
    stride_vb,
    stride_vh,
    stride_vr,
    stride_vd,
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
    ACC_TYPE: tl.constexpr,
    QK_PRECISION: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of one head of a graph of at most BK nodes. Grid (B · H).

    Args:
        grad: (B, H, R, d) contiguous, in ACC_TYPE.
        q to confidence, and strides: as :func:`relations_forward` takes them.
        dq, dk, dv: outputs (B, H, R, d), contiguous, in ACC_TYPE.
        p_bins: output (B, H, R, n_labels), P summed by label, if HAS_VALUE.
        d_bins: output (B, H, R, n_labels), the gradient of the logits summed by label, if HAS_BIAS.
        d_logits: output (B, H, R, R), if HAS_CONFIDENCE.
    """
    batch, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    head_64 = head.to(tl.int64)  # offsets of heads and rows may need more than 32 bits
    graph_head = batch * heads + head
    key, column = tl.arange(0, BK), tl.arange(0, BD)
    column_mask = (column < width)[None, :]
    dk_tile = tl.zeros((BK, BD), ACC_TYPE)
    dv_tile = tl.zeros((BK, BD), ACC_TYPE)
    for query_start in range(0, nodes, BQ):
        query = query_start + tl.arange(0, BQ)
        pair_mask = (query < nodes)[:, None] & (key < nodes)[None, :]
        pair_offsets = (batch * nodes + query)[:, None] * nodes + key[None, :]
        label = tl.load(labels + pair_offsets, mask=pair_mask, other=0)  # [BQ, BK]
        edge = label != 0
        query_mask = (tl.max(edge.to(tl.int32), 1) > 0)[:, None] & column_mask
        key_mask = (tl.max(edge.to(tl.int32), 0) > 0)[:, None] & column_mask
        row_offsets = (graph_head * nodes + query[:, None]) * width + column[None, :]
        q_tile = tl.load(
            q
            + batch * stride_qb
            + head_64 * stride_qh
            + query.to(tl.int64)[:, None] * stride_qr
            + column[None, :] * stride_qd,
            mask=query_mask,
            other=0.0,
        )
        k_tile = tl.load(
            k
            + batch * stride_kb
            + head_64 * stride_kh
            + key.to(tl.int64)[:, None] * stride_kr
            + column[None, :] * stride_kd,
            mask=key_mask,
            other=0.0,
        )
        grad_tile = tl.load(grad + row_offsets, mask=query_mask, other=0.0)  # [BQ, BD]
        logits = edge_logits(
            q_tile,
            k_tile,
            label,
            edge,
            bias,
            confidence,
            pair_offsets,
            head,
            heads,
            n_labels,
            scale,
            HAS_BIAS,
            HAS_VALUE,
            HAS_CONFIDENCE,
            ACC_TYPE,
            QK_PRECISION,
        )
        row_max = tl.max(floored_logits(logits, edge), 1)
        no_edges = row_max == float("-inf")
        p = tl.exp(logits - tl.where(no_edges, 0.0, row_max)[:, None])
        row_sum = tl.sum(p, 1)
        p = p / tl.where((row_sum == 0) & no_edges, 1.0, row_sum)[:, None]  # [BQ, BK]
        dv_tile += multiply(tl.trans(p), grad_tile, PRECISION)
        v_tile = tl.load(
            v
            + batch * stride_vb
            + head_64 * stride_vh
            + key.to(tl.int64)[:, None] * stride_vr
            + column[None, :] * stride_vd,
            mask=key_mask,
            other=0.0,
        )
        d_p = multiply(grad_tile, tl.trans(v_tile.to(ACC_TYPE)), PRECISION)  # [BQ, BK]
        bin_index = tl.arange(0, 16)
        if HAS_VALUE:
            for first_label in range(0, n_labels, 16):
                values = load_values(value, first_label, n_labels, head, heads, width, 16, BD)
                d_label = multiply(grad_tile, tl.trans(values), PRECISION)  # [BQ, 16]
                for bin_number in range(16):
                    d_column = tl.sum(tl.where(bin_index[None, :] == bin_number, d_label, 0.0), 1)
                    d_p += tl.where(label == first_label + bin_number, d_column[:, None], 0.0)
                bin_ptrs = p_bins + (graph_head * nodes + query[:, None]) * n_labels + first_label + bin_index[None, :]
                bin_mask = (query < nodes)[:, None] & (first_label + bin_index < n_labels)[None, :]
                tl.store(bin_ptrs, bin_labels(p, label, first_label, 16), mask=bin_mask)
        d_p = tl.where(edge, d_p, 0.0)
        d_logits_tile = p * (d_p - tl.sum(p * d_p, 1)[:, None])
        if HAS_BIAS:
            for first_label in range(0, n_labels, 16):
                bin_ptrs = d_bins + (graph_head * nodes + query[:, None]) * n_labels + first_label + bin_index[None, :]
                bin_mask = (query < nodes)[:, None] & (first_label + bin_index < n_labels)[None, :]
                tl.store(bin_ptrs, bin_labels(d_logits_tile, label, first_label, 16), mask=bin_mask)
        if HAS_CONFIDENCE:
            tl.store(
                d_logits + (graph_head * nodes + query)[:, None] * nodes + key[None, :], d_logits_tile, mask=pair_mask
            )
        d_logits_tile *= scale
        tl.store(
            dq + row_offsets,
            multiply(d_logits_tile, k_tile.to(ACC_TYPE), PRECISION),
            mask=(query < nodes)[:, None] & column_mask,
        )
        dk_tile += multiply(tl.trans(d_logits_tile), q_tile.to(ACC_TYPE), PRECISION)
    row_offsets = (graph_head * nodes + key[:, None]) * width + column[None, :]
    tl.store(dk + row_offsets, dk_tile, mask=(key < nodes)[:, None] & column_mask)
    tl.store(dv + row_offsets, dv_tile, mask=(key < nodes)[:, None] & column_mask)
