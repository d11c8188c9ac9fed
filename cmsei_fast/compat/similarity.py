"""SGRAF's similarity of an image and a sentence (Diao et al. 2021): similarity vectors, reasoned over or filtered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .. import engines
from ..checks import is_whole
from ..compiling import outside_graphs
from ..encoded import length_mask
from ..engines import native_similarity
from ..engines.affine import Affine
from ..ops.attended import AttendedTile, attended_scores
from ..scorer import Attention
from ..transforms import has_tangent, is_transformed
from . import scores
from .sgraf_layers import EPS, AttentionFiltration, GlobalAttention, GraphReasoning, Statistics

_ATTENTION = Attention(temperature=9.0)  # clipped_l2norm, SCAN's t2i
_BLOCK = 256  # images, or captions whose words are padded, at a time


class EncoderSimilarity(nn.Module):
    """SGRAF's similarity of all images with all captions, on :func:`cmsei_fast.attended_scores`; with gradients.

    It replaces the class of that name in SGRAF's ``model.py``, with the same arguments, parameters and scores. In
    training mode its dropout draws other random numbers.

    Args:
        embed_size: D of regions and words.
        sim_dim: width of a similarity vector.
        module_name: ``"SGR"``, graph reasoning, or ``"SAF"``, attention filtration.
        sgr_step: steps of the reasoning.
        num_region: number of regions of every image.
        precision: ``"float32"``, or ``"bfloat16"``, which rounds the squared differences and the weights that they are
            multiplied with to form similarity vectors; sums and everything else stay as they are.
        engine: ``"native"``, the compiled CPU engine, which evaluates without gradients; ``"eager"``, torch;
            ``"auto"``, the first if it can, else the second.

    Raises:
        ValueError: for another module, precision or engine, or a size that is not an integer of at least 1.
    """

    def __init__(
        self,
        embed_size: int,
        sim_dim: int,
        module_name: str = "SGR",
        sgr_step: int = 3,
        *,
        num_region: int = 36,
        precision: str = "float32",
        engine: str = "auto",
    ) -> None:
        super().__init__()
        sizes = {"embed_size": embed_size, "sim_dim": sim_dim, "sgr_step": sgr_step, "num_region": num_region}
        for name, size in sizes.items():
            if not is_whole(size):
                raise ValueError(f"{name}: expected an integer >= 1, got {size!r}")
        if module_name not in ("SGR", "SAF"):
            raise ValueError(f"module_name: expected 'SGR' or 'SAF', got {module_name!r}")
        self.module_name, self.num_region = module_name, num_region
        self.precision = check_precision(precision)
        if engine not in ("auto", "native", "eager"):
            raise ValueError(f"engine: expected 'auto', 'native' or 'eager', got {engine!r}")
        self.engine = engine
        self.v_global_w = GlobalAttention(embed_size, num_region)
        self.t_global_w = GlobalAttention(embed_size)
        self.sim_tranloc_w = nn.Linear(embed_size, sim_dim)
        self.sim_tranglo_w = nn.Linear(embed_size, sim_dim)
        self.sim_eval_w = nn.Linear(sim_dim, 1)
        if module_name == "SGR":
            self.SGR_module = nn.ModuleList(GraphReasoning(sim_dim) for _ in range(sgr_step))
        else:
            self.SAF_module = AttentionFiltration(sim_dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    @classmethod
    def from_state(cls, state: dict[str, Tensor], precision: str = "float32", name: str = "state") -> EncoderSimilarity:
        """A module in evaluation mode with the weights of SGRAF's own, whose sizes say what it is.

        ``name``: of the weights in the public function, for errors.

        Raises:
            ValueError: if they are not those of an ``EncoderSimilarity`` with SAF or SGR.
        """
        if not isinstance(state, Mapping):
            raise ValueError(f"{name}: expected the weights of SGRAF's EncoderSimilarity, got {type(state).__name__}")
        steps = len({name.split(".")[1] for name in state if name.startswith("SGR_module.")})
        known = "sim_tranloc_w.weight" in state and "v_global_w.embedding_local.1.weight" in state
        if not known or bool(steps) == ("SAF_module.bn.weight" in state):
            raise ValueError(f"{name}: expected the weights of SGRAF's EncoderSimilarity, got {sorted(state)[:5]} …")
        sim_dim, embed_size = state["sim_tranloc_w.weight"].shape
        regions = len(state["v_global_w.embedding_local.1.weight"])
        kind = "SGR" if steps else "SAF"
        out = cls(embed_size, sim_dim, kind, steps or 3, num_region=regions, precision=precision)
        expected = {part: tuple(x.shape) for part, x in out.state_dict().items()}
        counts = {part: x for part, x in expected.items() if part.endswith("num_batches_tracked")}  # old torch has none
        got_shapes = counts | {part: tuple(x.shape) for part, x in state.items()}
        if wrong := [x for x in sorted({*expected, *got_shapes}) if expected.get(x) != got_shapes.get(x)]:
            sizes = [x.get(wrong[0], "none") for x in (expected, got_shapes)]
            raise ValueError(f"{name}[{wrong[0]!r}]: expected shape {sizes[0]}, got {sizes[1]}")
        out.load_state_dict(state)
        return out.eval()

    @outside_graphs
    def forward(self, img_emb: Tensor, cap_emb: Tensor, cap_lens: Any) -> Tensor:
        """(n_image, n_caption) similarities from 0 to 1.

        Args:
            img_emb: (n_image, num_region, D).
            cap_emb: (n_caption, max_n_word, D); padding is not read.
            cap_lens: (n_caption,) number of words of each caption.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what came.
        """
        _, words, _, offsets = scores.pack_inputs(img_emb, cap_emb, cap_lens, names=("img_emb", "cap_emb"))
        return self.similarities(img_emb, words, offsets.diff())

    def similarities(
        self, images: Tensor, words: Tensor, lengths: Tensor, names: tuple[str, str] = ("img_emb", "cap_emb")
    ) -> Tensor:
        """The same of packed words (ΣL, D) and their lengths (n_caption,) int64 on the CPU.

        ``names``: of images and captions in the public function, for errors.

        Raises:
            TypeError: for another dtype than the weights', outside autocast, or weights of less than float32.
            ValueError: for another number of regions or another width than the module's.
        """
        width = self.sim_tranloc_w.in_features
        if images.dim() != 3 or images.shape[1] != self.num_region:
            raise ValueError(f"{names[0]}: expected {self.num_region} regions each, got shape {tuple(images.shape)}")
        for name, x in zip(names, (images, words), strict=True):
            if x.shape[-1] != width:
                raise ValueError(f"{name}: expected a last dimension of {width} (as the module), got {x.shape[-1]}")
        if 0 in (len(images), len(lengths)):
            return images.new_empty(len(images), len(lengths))
        filtered = self.module_name == "SAF"
        if self._runs_native(images, words):
            vectors = self._image_vectors(images), self._sentence_vectors(words, lengths)
            return native_similarity.similarity(images, words, lengths, *vectors, self._weights())
        weight_dtype = self.sim_tranloc_w.weight.dtype
        if weight_dtype not in (torch.float32, torch.float64):
            raise TypeError(f"weights: expected float32 or float64, got {str(weight_dtype).removeprefix('torch.')}")
        for name, x in zip(names, (images, words), strict=True):
            if x.dtype != weight_dtype and not torch.is_autocast_enabled(x.device.type):
                dtypes = [str(dtype).removeprefix("torch.") for dtype in (weight_dtype, x.dtype)]
                raise TypeError(f"{name}: expected {dtypes[0]} (as the module's weights), got {dtypes[1]}")
        statistics: Statistics = {}
        out = attended_scores(
            images,
            words,
            lengths,
            head=self._head(statistics),
            attention=_ATTENTION,
            unit=True,
            image_state=self._image_vectors(images),
            caption_state=self._sentence_vectors(words, lengths),
            all_images=self.training and filtered,
        )
        if self.training and filtered:
            self.SAF_module.follow(statistics)
        return out

    def _why_not_native(self, images: Tensor, words: Tensor) -> str | None:
        """Why the compiled CPU engine does not compute this; None where it does."""
        weight = self.sim_tranloc_w.weight
        if self.training or torch.is_grad_enabled():
            return "it evaluates only: call eval(), and the module inside torch.no_grad()"
        if is_transformed() or has_tangent(images, words):
            return "it has no part in the transforms of torch.func, nor in forward-mode derivatives"
        if any(x.device.type != "cpu" for x in (images, words, weight)):
            return "the features or the weights are not on the CPU"
        if not images.dtype == words.dtype == weight.dtype or weight.dtype not in (torch.float32, torch.float64):
            return f"it takes all in float32 or float64, got {images.dtype}, {words.dtype} and weights {weight.dtype}"
        if self.precision != "float32" and weight.dtype != torch.float32:
            return f"precision={self.precision!r} goes with weights in float32, got {weight.dtype}"
        return engines.unavailable("native")

    def _runs_native(self, images: Tensor, words: Tensor) -> bool:
        if self.engine == "eager":
            return False
        reason = self._why_not_native(images, words)
        if reason is not None and self.engine == "native":
            raise engines.EngineUnavailable(f"engine 'native' cannot run here: {reason}. Ask for engine='auto'")
        return reason is None

    def _weights(self) -> native_similarity.SimilarityWeights:
        """The module as the CPU engine reads it."""
        rounded = self.precision == "bfloat16"
        layers: list[native_similarity.Layer] = [(x.weight, x.bias) for x in (self.sim_tranloc_w, self.sim_tranglo_w)]
        if rounded:
            layers = [(weight.bfloat16().float(), bias.bfloat16().float()) for weight, bias in layers]
        (local, whole), evaluate = layers, (self.sim_eval_w.weight[0], float(self.sim_eval_w.bias))
        temperature = _ATTENTION.temperature
        make = partial(
            native_similarity.SimilarityWeights, local, whole, evaluate, temperature=temperature, rounded=rounded
        )
        if self.module_name == "SAF":
            return make(gate=self.SAF_module.gate())
        return make(steps=[step.layers() for step in self.SGR_module if isinstance(step, GraphReasoning)])

    def _image_vectors(self, images: Tensor) -> Tensor:
        # A batch norm in training sees all images.
        blocks = [images] if self.training else images.split(_BLOCK)
        return torch.cat([self.v_global_w(block) for block in blocks])

    def _sentence_vectors(self, words: Tensor, lengths: Tensor) -> Tensor:
        out = []
        blocks = lengths.split(_BLOCK)
        for block_lengths, rows in zip(blocks, words.split([int(x.sum()) for x in blocks]), strict=True):
            mask = length_mask(block_lengths).to(words.device)  # (n, longest)
            row_indices = (mask.flatten().cumsum(0) - 1).unflatten(0, mask.shape)
            padded = torch.where(mask[..., None], rows[row_indices], 0)  # as pad_sequence, which vmap does not take
            out.append(self.t_global_w(padded, block_lengths.to(words.device)))
        return torch.cat(out)

    def _head(self, statistics: Statistics) -> Callable[[AttendedTile], Tensor]:
        local, whole = (Affine(x.weight, x.bias, self.precision) for x in (self.sim_tranloc_w, self.sim_tranglo_w))
        steps = []
        if self.module_name == "SGR":
            for i, module in enumerate(self.SGR_module):
                assert isinstance(module, GraphReasoning)
                steps.append(module.prepared(i + 1 == len(self.SGR_module)))

        def head(tile: AttendedTile) -> Tensor:
            assert tile.image_state is not None
            assert tile.caption_state is not None
            x = torch.cat(
                [
                    _vectors(whole, tile.image_state[:, None] - tile.caption_state).unsqueeze(2),
                    _vectors(local, tile.attended.sub_(tile.queries)),
                ],
                2,
            )  # (I, J, n + 1, d)
            if self.module_name == "SAF":
                vector = self.SAF_module(x, tile.captions, None if tile.again else statistics)
            else:
                nodes = x.flatten(0, 1)
                for step in steps:
                    nodes = step(nodes)
                vector = nodes[:, 0].unflatten(0, x.shape[:2])
            return self.sim_eval_w(vector).squeeze(-1).sigmoid()

        return head


def _vectors(project: Affine, differences: Tensor) -> Tensor:
    """Similarity vectors of differences, which are overwritten where no derivative and no transform needs them."""
    keep = differences.requires_grad or is_transformed() or has_tangent(differences)
    square = differences * differences if keep else differences.square_()
    return normalize(project(square), dim=-1, eps=EPS)


def check_precision(precision: str) -> str:
    """The precision, one of two.

    Raises:
        ValueError: for another.
    """
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision: expected 'float32' or 'bfloat16', got {precision!r}")
    return precision
