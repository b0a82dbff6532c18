"""Defaults that follow from the machine, and the report of it."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch

from luthier.system import hardware
from luthier.system.hardware import (
    CPU_TOKENS,
    GPU_TOKENS,
    LIBRARIES,
    bf16_is_native,
    choose_precision,
    environment,
    micro_batch_tokens,
    peak_memory_bytes,
    share_busy_cores,
)


@pytest.mark.parametrize(
    ("others", "decided", "shares"),
    [(90.0, None, True), (3.0, None, False), (90.0, "OMP_WAIT_POLICY", False), (90.0, "GOMP_SPINCOUNT", False)],
)
def test_busy_cores_are_shared(
    monkeypatch: pytest.MonkeyPatch, others: float, decided: str | None, shares: bool
) -> None:
    import psutil

    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    if decided:
        monkeypatch.setenv(decided, "ACTIVE")
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: others)
    assert share_busy_cores() is shares
    assert (os.environ.get("OMP_WAIT_POLICY") == "PASSIVE") is shares


@pytest.mark.parametrize(
    ("setting", "device", "gpu_has_bf16", "expected"),
    [
        ("auto", "cpu", True, "fp32"),
        ("auto", "cuda", True, "bf16"),
        ("auto", "cuda", False, "fp32"),
        ("bf16", "cpu", False, "bf16"),
        ("fp16", "cuda", True, "fp16"),
        ("fp32", "cuda", True, "fp32"),
    ],
)
def test_precision(
    monkeypatch: pytest.MonkeyPatch, setting: Any, device: str, gpu_has_bf16: bool, expected: str
) -> None:
    def supported(*, including_emulation: bool) -> bool:
        return gpu_has_bf16 or including_emulation  # emulated bf16 is slower than fp32

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_precision(setting, device) == expected


@pytest.mark.parametrize(
    ("flags", "native"), [("flags : fpu avx512_bf16", True), ("flags : fpu avx2", False), ("", False)]
)
def test_bf16_of_the_cpu(monkeypatch: pytest.MonkeyPatch, flags: str, native: bool) -> None:
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: flags)
    assert bf16_is_native("cpu") is native


@pytest.mark.parametrize(
    ("setting", "device", "expected"),
    [("auto", "cpu", CPU_TOKENS), ("auto", "cuda", GPU_TOKENS), (77, "cpu", 77), (77, "cuda", 77)],
)
def test_micro_batch_tokens(setting: Any, device: str, expected: int) -> None:
    assert micro_batch_tokens(setting, device) == expected


def test_environment() -> None:
    report = environment()
    assert json.loads(json.dumps(report)) == report
    assert set(report["libraries"]) == set(LIBRARIES) and report["libraries"]["torch"] == torch.__version__
    assert report["memory_bytes"] > 2**28 and report["cpu_cores"] >= 1 and report["cpu"]


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "LIBRARIES", ("luthier-of-nobody",))
    assert environment()["libraries"] == {"luthier-of-nobody": None}


def test_peak_memory_is_in_bytes() -> None:
    import psutil

    held = psutil.Process().memory_info().rss
    assert 0.9 * held < peak_memory_bytes() < 100 * held
