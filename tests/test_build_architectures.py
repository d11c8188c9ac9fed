"""The build's choice of the GPUs to compile for."""

from __future__ import annotations

import re

import pytest


@pytest.mark.parametrize(
    ("text", "archs"),
    [
        ("80;90a", ["80", "90a"]),
        ("90a, 80", ["80", "90a"]),
        ("8.0 9.0a 12.0", ["80", "90a", "120"]),
        ("90;80;90a", ["80", "90a"]),
        ("sm_86", ["86"]),
        ("80;80", ["80"]),
        ("100f;100a;100", ["100", "100a", "100f"]),
    ],
)
def test_architectures_are_parsed(building, text, archs):
    assert building.architectures.parse_archs(text) == archs


@pytest.mark.parametrize("text", ["", ";", "hopper", "8", "80+PTX", "80;;x", "90b"])
def test_a_wrong_architecture_is_named(building, text):
    with pytest.raises(
        building.errors.BuildError,
        match=r"CMSEI_CUDA_ARCHS: expected numbers such as 80;90a, got " + re.escape(repr(text)),
    ):
        building.architectures.parse_archs(text)


@pytest.mark.parametrize(
    ("archs", "ptx"),
    [
        (["80", "90a"], "80"),
        (["80", "90a", "100"], "100"),
        (["86", "89"], "89"),
        (["90a"], "90"),
        (["100f", "90a"], "100"),
    ],
)
def test_ptx_is_of_the_highest_plain_architecture(building, archs, ptx):
    assert building.architectures.gencode_flags(archs) == [
        *(f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs),
        f"-gencode=arch=compute_{ptx},code=compute_{ptx}",
    ]


@pytest.mark.parametrize(
    ("archs", "mma"), [(["80", "90a"], ["80"]), (["90a"], ["90a"]), (["86", "90a", "100"], ["86", "100"])]
)
def test_the_kernel_by_mma_sync_is_for_gpus_without_the_hopper_kernel(building, archs, mma):
    assert building.architectures.archs_for("csrc/cuda/ampere_scores.cu", archs) == mma
    assert building.architectures.archs_for("csrc/cuda/pair_scores.cu", archs) == archs


def test_architectures_asked_for_come_before_those_present(building, monkeypatch):
    monkeypatch.setattr(
        building.tools,
        "output_of",
        lambda *command: "9.0\n8.9\n" if command[0] == "nvidia-smi" else "sm_80\nsm_89\nsm_90\n",
    )
    assert building.architectures.choose_archs({"CMSEI_CUDA_ARCHS": "75"}, "nvcc") == ["75"]
    assert building.architectures.choose_archs({}, "nvcc") == ["89", "90a"]
    monkeypatch.setattr(
        building.tools, "output_of", lambda *command: None if command[0] == "nvidia-smi" else "sm_80\nsm_86\n"
    )
    assert building.architectures.choose_archs({}, "nvcc") == ["80"]
    monkeypatch.setattr(building.tools, "output_of", lambda *command: None if command[0] == "nvidia-smi" else "sm_70\n")
    with pytest.raises(building.errors.BuildError, match="nvcc knows none of the architectures 80;90a"):
        building.architectures.choose_archs({}, "nvcc")
