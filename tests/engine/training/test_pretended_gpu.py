"""Every method's forward pass and memory update on a pretended GPU: no tensor lies on the wrong device, no shape
depends on values. Backward passes need a real one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from crossreid import configs
from crossreid.engine.data import build_data
from crossreid.engine.distributed import Ranks
from crossreid.engine.methods import load_method
from crossreid.engine.optim import Precision
from crossreid.losses.camera_blocks import CameraBlocks
from tests.engine.training.test_no_sync import CASES
from tests.tiny import CPU, overrides

GPU = Ranks(0, 1, torch.device("cuda", 0))


pytestmark = [
    pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this PyTorch knows no GPU"),
    pytest.mark.filterwarnings("ignore:.*CUDA is not available"),
]


class Generator(torch.Generator):
    """Says that it is the GPU's; pretended draws never ask it for a number."""

    device = GPU.device


def _zeros(_: torch.Tensor, inputs: Any, *__: Any, **___: Any) -> tuple[torch.Tensor, ...]:
    """Gradients without autograd's engine, which wants a real device."""
    return tuple(torch.zeros_like(x) for x in inputs)


def _apply(self: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """Moves a network by new parameters: pretended ones cannot take another's place."""
    for module in self.modules():
        for key, x in module._parameters.items():
            if x is not None:
                module._parameters[key] = nn.Parameter(change(x.detach()), requires_grad=x.requires_grad)
        for key, x in module._buffers.items():
            if x is not None:
                module._buffers[key] = change(x)
    return self


@pytest.mark.parametrize("amp", ["float32", "float16"])
@pytest.mark.parametrize("name", CASES)
def test_a_step_stays_on_its_device(
    name: str, amp: str, domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, *more = CASES[name]
    arguments = overrides(domains, tmp_path, *more, "SOLVER.AMP", amp)
    if "second" in name:
        (tmp_path / "first.pt").touch()
        arguments += ["MODEL.WEIGHTS", str(tmp_path / "first.pt")]
    cfg = configs.load(config, arguments)
    data = build_data(cfg, CPU)
    batches = next(iter(data.streams))
    data.streams.close()
    steps: list[torch.Tensor] = []
    monkeypatch.setattr(Precision, "step", lambda self, loss, optimizer: steps.append(loss))
    monkeypatch.setattr(torch.autograd, "grad", _zeros)
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)  # its grid sampler has no fake kernel
    monkeypatch.setattr(nn.Module, "_apply", _apply)
    monkeypatch.setattr("crossreid.engine.data.iteration_generator", lambda *_: Generator())
    blocks = {name: vars(CameraBlocks.of(domain.cams)) for name, domain in data.domains.items()}
    monkeypatch.setattr(
        CameraBlocks, "of", lambda _: CameraBlocks(*(x.to(GPU.device) for x in blocks["target"].values()))
    )
    with FakeTensorMode(allow_non_fake_inputs=True):
        for stream, domain in data.domains.items():
            data.domains[stream] = dataclasses.replace(domain, cams=domain.cams.to(GPU.device))
        method = load_method(cfg.METHOD).build(cfg, dataclasses.replace(data, ranks=GPU))
        engine = Engine(method.train_step)
        engine.state.iteration, engine.state.epoch = len(data.streams) + 1, 2
        told = method.train_step(engine, {n: batch.to(GPU.device) for n, batch in batches.items()})
    assert told
    assert {value.device for value in [*told.values(), *steps]} == {GPU.device}


def test_the_pretence_sees_what_is_wrong() -> None:
    with FakeTensorMode():
        x = torch.zeros(3, device=GPU.device)
        with pytest.raises(RuntimeError, match="device"):
            x + torch.zeros(3)
        with pytest.raises(DataDependentOutputException):
            x.sum().item()
