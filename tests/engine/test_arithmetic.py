"""``SOLVER.AMP auto`` takes what the device does natively, and says why."""

from __future__ import annotations

import logging

import pytest
import torch

from crossreid.configs import load
from crossreid.engine import arithmetic
from crossreid.engine.errors import InputError
from crossreid.engine.optim import Precision

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def fresh() -> None:
    arithmetic.resolve.cache_clear()
    arithmetic.slowdown.cache_clear()


def flags(monkeypatch: pytest.MonkeyPatch, native: bool, capability: str, factor: float) -> None:
    for name in arithmetic.CPU_FLAGS:
        monkeypatch.setattr(torch.cpu, name, lambda: native, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(arithmetic, "slowdown", lambda: factor)


@pytest.mark.parametrize(
    ("native", "capability", "factor", "chosen"),
    [
        (False, "AVX512", 0.5, "float32"),  # no instructions: not even measured
        (True, "AVX2", 0.5, "float32"),  # kept from using them
        (True, "AVX512", 0.5, "bfloat16"),
        (True, "AVX512", 12.0, "float32"),  # they are there, and do not help
    ],
)
def test_auto_on_a_cpu(
    native: bool, capability: str, factor: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags(monkeypatch, native, capability, factor)
    assert arithmetic.resolve("auto", CPU)[0] == chosen
    assert Precision("auto", CPU).dtype == arithmetic.DTYPES[chosen]


def test_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, chosen in ((True, "bfloat16"), (False, "float16")):
        arithmetic.resolve.cache_clear()
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, n=native: n)
        assert arithmetic.resolve("auto", GPU)[0] == chosen


def test_bfloat16_by_name_where_it_is_slow_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flags(monkeypatch, False, "AVX2", 12.0)
    monkeypatch.setattr(logging.getLogger("crossreid"), "propagate", True)
    assert arithmetic.resolve("bfloat16", CPU)[0] == "bfloat16"
    assert "takes 12 times the time" in caplog.text
    with pytest.raises(InputError, match=r"needs a GPU: set SOLVER\.AMP auto"):
        arithmetic.resolve("float16", CPU)


def test_the_measurement_is_a_ratio_of_two_times() -> None:
    assert 0.05 < arithmetic.slowdown() < 1000


def test_templates_leave_the_arithmetic_to_the_device() -> None:
    assert load("configs/demo.yml").SOLVER.AMP == "auto"
    assert load("configs/duke2market.yml").SOLVER.AMP == "auto"
