"""The rows of the report: what each compares, its target, and the processors that the target applies to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RATIO, FRACTION, SECONDS, HOURS, MEBIBYTES, ERROR = "×", "%", "s", "h", "MiB", "error"


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Args:
        title: what is compared with what.
        better: "higher" or "lower".
        target: the least (higher) or the most (lower) that it should be; None where nothing was promised.
        needs: the instruction sets of which one must be in use for the target to apply; empty: any processor.
        unit: RATIO, FRACTION, SECONDS, HOURS, MEBIBYTES or ERROR.
    """

    title: str
    better: str = "higher"
    target: float | None = None
    needs: tuple[str, ...] = ()
    unit: str = RATIO

    def wanted(self) -> str:
        """The target as text."""
        if self.target is None:
            return "–"
        return f"{'≥' if self.better == 'higher' else '≤'} {figure(self.target, self.unit)}"

    def verdict(self, median: float, isa: str | None) -> str:
        """One of "met", "missed", "no target", or "not applicable: …" saying what is missing here."""
        if self.target is None:
            return "no target"
        if self.needs and isa not in self.needs:
            return f"not applicable: needs {self.needs[0]}, ran {isa or 'without native'}"
        met = median >= self.target if self.better == "higher" else median <= self.target
        return "met" if met else "missed"


WIDE = ("avx512", "avx512bf16", "avx512amx")
WIDE_BF16 = ("avx512bf16", "avx512amx")

_LARGE = "SCAN t2i, {}, {}: time over the bare torch.mm"

ROWS = {
    "scan_field_fp32": Row("SCAN t2i, fp32: native over the field's code", target=25.0, needs=WIDE),
    "scan_field_bf16": Row("SCAN t2i, bf16: native over the field's code", target=35.0, needs=WIDE_BF16),
    "scan_i2t_field_fp32": Row("SCAN i2t, fp32: native over the field's code"),
    "cmsei_field_fp32": Row("CMSEI, fp32: native over the literal form"),
    "scan_mm_fp32": Row("SCAN t2i, fp32: native over a bare torch.mm", target=2.0, needs=WIDE),
    "scan_onednn_fp32": Row("SCAN t2i, fp32: native over oneDNN's product alone"),
    "scan_mm_bf16": Row("SCAN t2i, bf16: native over a bare torch.mm", target=0.7, needs=WIDE_BF16),
    "scan_mm_int8": Row("SCAN t2i, int8: native over a bare torch.mm in bf16"),
    "scan_int8": Row("SCAN t2i: int8 over bf16, native"),
    "cmsei_int8": Row("CMSEI: int8 over bf16, native"),
    "scan_peak_fp32": Row("SCAN t2i, fp32: share of the measured FMA peak", unit=FRACTION),
    "cmsei_over_scan": Row("CMSEI over SCAN t2i, fp32: time", better="lower", target=1.7),
    "scan_compiled": Row("SCAN t2i, fp32: native over eager, its epilogue compiled by torch.compile"),
    "maxsim_cpu": Row("MaxSim, fp32, D 128: native over the package maxsim-cpu, a call a caption"),
    "maxsim_mm": Row("MaxSim, fp32: native over a bare torch.mm"),
    "training_time": Row("Training step, SCAN t2i: native over the field's code", target=12.0),
    "training_hardest": Row("Training step, SCAN t2i, hardest negatives: native over the field's code"),
    "training_maxsim": Row("Training step, MaxSim: native over one batched product of torch"),
    "training_memory": Row("Training step, SCAN t2i: extra memory, of the field's code", better="lower", target=0.1),
    "training_cmsei": Row("Training step, CMSEI: native over the literal form"),
    "epoch": Row(
        "Training epoch of CMSEI: 5,070 captions, batch 128, D 256", better="lower", target=15.0, unit=SECONDS
    ),
    "sgraf_saf_fp32": Row("SGRAF with SAF, fp32: native over the field's code", target=3.0),
    "sgraf_sgr_fp32": Row("SGRAF with SGR, fp32: native over the field's code", target=3.0),
    "sgraf_saf_bf16": Row("SGRAF with SAF, bf16: native over the field's code"),
    "sgraf_sgr_bf16": Row("SGRAF with SGR, bf16: native over the field's code"),
    "relation_spatial_forward": Row("Relation attention, spatial, forward: native over eager", target=2.0),
    "relation_spatial_both": Row("Relation attention, spatial, forward + backward: native over eager", target=2.0),
    "relation_semantic_forward": Row("Relation attention, semantic, forward: native over eager", target=2.0),
    "relation_semantic_both": Row("Relation attention, semantic, forward + backward: native over eager", target=2.0),
    "relation_compiled": Row("Relation attention, spatial, forward: native over torch.compile of eager"),
    "scale_time": Row("Time per pair, slowest size over fastest size", better="lower", target=1.1),
    "scale_memory": Row("Peak extra memory, most pairs over fewest", better="lower", target=1.1),
    "distributed": Row("SCAN t2i, fp32: two processes with a thread each over one", target=1.7),
    "large_1k": Row(_LARGE.format("bf16", "1,000 × 5,000"), better="lower", target=1.7, needs=WIDE_BF16),
    "large_5k": Row(_LARGE.format("bf16", "5,000 × 25,000"), better="lower", target=1.7, needs=WIDE_BF16),
    "large_5k_int8": Row(_LARGE.format("int8", "5,000 × 25,000") + " in bf16", better="lower"),
    "large_10k": Row(_LARGE.format("bf16", "10,000 × 50,000, shortened"), better="lower", target=1.7, needs=WIDE_BF16),
    "large_5k_seconds": Row("SCAN t2i, bf16, 5,000 × 25,000: total time", better="lower", unit=SECONDS),
    "large_5k_int8_seconds": Row("SCAN t2i, int8, 5,000 × 25,000: total time", better="lower", unit=SECONDS),
    "large_10k_seconds": Row("SCAN t2i, bf16, 10,000 × 50,000: total time, extrapolated", better="lower", unit=SECONDS),
    "large_5k_field": Row("SCAN t2i, bf16, 5,000 × 25,000: the field's code, extrapolated", better="lower", unit=HOURS),
    "large_memory": Row("SCAN t2i, bf16, 5,000 × 25,000: peak extra memory", better="lower", unit=MEBIBYTES),
    "accuracy": Row(
        "SCAN t2i, fp32: largest error of a score, against float64", better="lower", target=1e-5, unit=ERROR
    ),
}


def figure(value: float, unit: str) -> str:
    """A number with three digits, more before the point."""
    if unit == FRACTION:
        return f"{100 * value:.0f} %"
    if unit == SECONDS:
        return f"{value:.1f} s"
    if unit == HOURS:
        return f"{value:.2f} h" if value < 1 else f"{value:.1f} h"
    if unit == MEBIBYTES:
        return f"{value:.0f} MiB"
    if unit == ERROR:
        return f"{value:.1e}"
    return f"{value:.0f}×" if value >= 100 else f"{value:.1f}×" if value >= 10 else f"{value:.2f}×"


def extent(result: dict[str, Any], unit: str) -> str:
    """The quartiles, or nothing where there was one round."""
    if result["rounds"] < 2:
        return ""
    return f"{figure(result['q1'], unit)} – {figure(result['q3'], unit)}"
