"""SGRAF's similarities, its loop over captions written out from the paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, leaky_relu, linear, normalize

from cmsei_fast.compat.similarity import EncoderSimilarity

WIDTH, VECTOR, REGIONS = 12, 6, 5
LENGTHS = [1, 4, 6, 3, 4]
MODULES = ("SGR", "SAF")
Weights = dict[str, Tensor]


def l2norm(x: Tensor) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True).sqrt() + 1e-8)


def layer(x: Tensor, s: Weights, name: str) -> Tensor:
    return linear(x, s[f"{name}.weight"], s[f"{name}.bias"])


def norm(x: Tensor, s: Weights, name: str, training: bool) -> Tensor:
    running = s[f"{name}.running_mean"], s[f"{name}.running_var"]
    return batch_norm(x, *running, s[f"{name}.weight"], s[f"{name}.bias"], training)


def glob(local: Tensor, s: Weights, name: str, image: bool, training: bool) -> Tensor:
    """(n, D) self-attention of regions or words (n, rows, D) by their mean."""
    parts = []
    for part, x in (("local", local), ("global", local.mean(1))):
        x = layer(x, s, f"{name}.embedding_{part}.0")
        parts.append((norm(x, s, f"{name}.embedding_{part}.1", training) if image else x).tanh())
    weights = layer(parts[0] * parts[1][:, None], s, f"{name}.embedding_common.0").softmax(1)
    return l2norm((weights * local).sum(1))


def literal(
    images: Tensor,
    captions: Tensor,
    s: Weights,
    module: str,
    training: bool = False,
    lengths: Any = LENGTHS,
    square: Callable[[Tensor], Tensor] = torch.square,
) -> Tensor:
    """(N, M), one caption with all images at a time, §3 of the paper; running statistics in s are updated."""
    whole = glob(images, s, "v_global_w", True, training)
    columns = []
    for caption, n in zip(captions, lengths, strict=True):
        q = caption[:n].expand(len(images), n, caption.shape[-1])
        a = leaky_relu(images @ q.mT, 0.1)  # (N, R, n)
        p = (9 * l2norm(a)).softmax(1)
        c = l2norm(p.mT @ images)
        local = l2norm(layer(square(c - q), s, "sim_tranloc_w"))
        sentence = glob(caption[None, :n], s, "t_global_w", False, training)
        x = torch.cat([l2norm(layer(square(whole - sentence), s, "sim_tranglo_w"))[:, None], local], 1)
        if module == "SGR":
            for i in range(3):
                query, key = (layer(x, s, f"SGR_module.{i}.graph_{name}_w") for name in ("query", "key"))
                x = layer((query @ key.mT).softmax(-1) @ x, s, f"SGR_module.{i}.sim_graph_w").relu()
            vector = x[:, 0]
        else:
            gate = norm(layer(x, s, "SAF_module.attn_sim_w").mT, s, "SAF_module.bn", training).sigmoid()
            vector = l2norm((gate / gate.sum(-1, keepdim=True) @ x)[:, 0])
        columns.append(layer(vector, s, "sim_eval_w").sigmoid())
    return torch.cat(columns, 1)


def problem(
    images: int = 7, regions: int = REGIONS, lengths: Any = LENGTHS, width: int = WIDTH
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(images)
    v = torch.randn(images, regions, width, generator=generator, dtype=torch.float64)
    w = torch.randn(len(lengths), max(lengths) + 2, width, generator=generator, dtype=torch.float64)
    w = normalize(w + 0.3, dim=-1)
    for row, n in zip(w, lengths, strict=True):
        row[n:] = torch.nan  # never read
    return normalize(v + 0.3, dim=-1), w


def encoder(
    module: str, dropout: float = 0.0, sizes: tuple[int, int] = (WIDTH, VECTOR), regions: int = REGIONS, **options: Any
) -> EncoderSimilarity:
    """Weights and statistics as of a model that has learned: none is at its first value."""
    torch.manual_seed(1)
    out = EncoderSimilarity(*sizes, module, num_region=regions, **options).double().eval()
    with torch.no_grad():
        for name, x in out.state_dict().items():
            if x.is_floating_point():
                x.copy_(3 * x + 0.3 * torch.randn_like(x) if "var" not in name else 0.5 + torch.rand_like(x))
    for x in out.modules():
        if isinstance(x, nn.Dropout):
            x.p = dropout
    return out
