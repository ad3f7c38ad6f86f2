"""TF32, compiling and recomputation: what a run sets, and that numbers and names stay the same."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from torch import Tensor, nn

from crossreid import configs
from crossreid.configs import ConfigError
from crossreid.engine import hardware
from crossreid.engine.errors import InputError
from crossreid.engine.hardware import compiled, for_evaluation, prepare_backbones, set_arithmetic
from crossreid.losses.classification import mixup_virtual_class
from crossreid.losses.disentangle import mmd
from crossreid.losses.invariance import exemplar_invariance
from crossreid.losses.patch import ipfl, nearest_positive_triplet, pedal
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.reid import ReIDNet
from crossreid.modeling.weights import read_checkpoint
from tests.tiny import differences, overrides, train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    saved = cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32
    yield
    cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32 = saved
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def _traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile to PyTorch's own kernels: graphs, their gradients and what recompiles, without a C++ compiler."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


@pytest.mark.parametrize("wanted", [True, False])
def test_tf32_is_for_convolutions_in_training_alone(wanted: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    set_arithmetic(configs.load(None, ["SOLVER.TF32", str(wanted)]))
    assert torch.backends.cudnn.allow_tf32 is wanted
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.benchmark
    with for_evaluation():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.allow_tf32 is wanted
    set_arithmetic(configs.load(None, ["DETERMINISTIC", "true"]))
    assert not torch.backends.cudnn.benchmark


def test_evaluation_runs_without_tf32(domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = ReIDNet.forward

    def watched(self: ReIDNet, *args: object, **options: object) -> object:
        seen.append((self.training, torch.backends.cudnn.allow_tf32))
        return forward(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ReIDNet, "forward", watched)
    train(
        "configs/demo.yml",
        overrides(domains, tmp_path, "SOLVER.EPOCHS", "1", "CAMERA_AWARE.SOURCE_EPOCHS", "0"),
    )
    assert set(seen) == {(True, True), (False, False)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["MODEL.COMPILE", "true", "MODEL.CHECKPOINT_STAGES", "1"], "CHECKPOINT_STAGES to 0"),
        (["MODEL.CHECKPOINT_STAGES", "5"], "MODEL.CHECKPOINT_STAGES is 5, allowed is 0 to 4"),
        (["SOLVER.ACCUMULATE", "0"], "SOLVER.ACCUMULATE is 0, allowed is 1"),
        (["SOLVER.GRAD_CLIP", "-1"], "SOLVER.GRAD_CLIP"),
        (["CAMERA_AWARE.MEMORY_DTYPE", "float8"], "float32, float16"),
    ],
)
def test_keys_that_contradict(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configs.load(None, arguments)


@pytest.mark.parametrize("key", ["MODEL.COMPILE true", "MODEL.CHECKPOINT_STAGES 1", "SOLVER.ACCUMULATE 2"])
def test_m3l_says_what_to_use_instead(key: str) -> None:
    with pytest.raises(ConfigError, match=f"m3l.*{key.split()[0]}"):
        configs.load("configs/m3l/demo.yml", key.split())


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    cfg = configs.load(None, ["MODEL.COMPILE", "true"])
    with pytest.raises(InputError, match=r"MODEL.COMPILE true needs a C\+\+ compiler.*MODEL.COMPILE false"):
        prepare_backbones(cfg, build_backbone("tiny"), CPU)


def test_compiling_marks_the_backbone_and_no_name_changes() -> None:
    network = ReIDNet(build_backbone("tiny"), 4)
    names = list(network.state_dict())
    if hardware.missing_for_compiling(CPU):
        pytest.skip("no compiler here")
    prepare_backbones(configs.load(None, ["MODEL.COMPILE", "true"]), network, CPU)
    assert network.backbone._compiled_call_impl is not None
    assert list(network.state_dict()) == names


@pytest.mark.usefixtures("_traced")
@pytest.mark.skipif(bool(hardware.missing_for_compiling(CPU)), reason="no compiler here")
def test_compiled_gradients_and_statistics_are_the_same() -> None:
    torch.manual_seed(0)
    plain = ReIDNet(build_backbone("tiny"), 4).to(memory_format=torch.channels_last)
    fast = copy.deepcopy(plain)
    prepare_backbones(configs.load(None, ["MODEL.COMPILE", "true"]), fast, CPU)
    images = torch.randn(4, 3, 32, 16)
    for network in (plain, fast):
        network(images).logits.square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), fast.parameters()):
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-4, msg=name)
    for (name, a), b in zip(plain.named_buffers(), fast.buffers()):
        torch.testing.assert_close(b, a, msg=name)
    no_more = torch._dynamo.config.patch(error_on_recompile=True)
    with no_more, for_evaluation(), torch.no_grad():  # other sizes are not compiled
        torch.testing.assert_close(fast.eval()(images[:3]), plain.eval()(images[:3]), rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("_traced")
@pytest.mark.skipif(bool(hardware.missing_for_compiling(CPU)), reason="no compiler here")
def test_a_backbone_that_is_a_sequence_of_layers_is_compiled() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    plain.stage_names = (("0",), ("1", "2"))  # type: ignore[assignment]
    fast, images = copy.deepcopy(plain), torch.randn(2, 3, 8, 8)
    prepare_backbones(configs.load(None, ["MODEL.COMPILE", "true"]), fast, CPU)
    torch._dynamo.utils.counters.clear()
    torch.testing.assert_close(fast(images), plain(images))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.usefixtures("_traced")
@pytest.mark.skipif(bool(hardware.missing_for_compiling(CPU)), reason="no compiler here")
def test_compiled_losses_are_the_same() -> None:
    """As the methods call them: a share that changes every step is no reason to compile every step."""
    cfg = configs.load(None, ["MODEL.COMPILE", "true"])
    torch.manual_seed(0)
    x, y, index, rows = torch.randn(6, 8), torch.randn(6, 8), torch.arange(6), torch.randn(2, 30, 8)
    cases: list[tuple[Callable[..., Tensor], tuple[Tensor, ...], list[dict[str, Any]]]] = [
        (exemplar_invariance, (x @ rows[0].T, index), [{"temperature": 0.5, "k": k} for k in (0, 4)]),
        (mmd, (x, y), [{"sigmas": (1.0, 5.0)}]),
        (pedal, (torch.stack([x, y]), rows, index), [{"scale": 2.0, "k": 3}]),
        (nearest_positive_triplet, (x, index // 2), [{"margin": 1.0, "normalize": True}]),
        (ipfl, (x, y[:3]), [{"views": 2, "margin": 2.0, "max_rank": 5, "nearest": 1}]),
        (mixup_virtual_class, (x, y, index, y + 1), [{"lam": lam} for lam in (0.1, 0.2, 0.3, 0.4)]),
    ]
    for loss, tensors, numbers in cases:
        fast = compiled(cfg, loss)
        torch._dynamo.utils.counters.clear()
        for some in numbers[:2]:
            for a, b in zip(_gradient(fast, *tensors, **some), _gradient(loss, *tensors, **some)):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"], f"{loss.__name__} was not compiled"
        with torch.compiler.set_stance("fail_on_recompile"):
            for some in numbers:
                _gradient(fast, *tensors, **some)


@pytest.mark.slow
@pytest.mark.skipif(bool(hardware.missing_for_compiling(CPU)), reason="no compiler here")
def test_a_compiled_run_trains_alike(domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, small = [], ("MODEL.BACKBONE", "tests.tiny_backbone")
    monkeypatch.setattr(
        torch._inductor.config, "compile_threads", 1
    )  # more are processes that import PyTorch
    for name in ("false", "true"):
        arguments = overrides(domains, tmp_path / name, "MODEL.COMPILE", name, "SOLVER.EPOCHS", "1", *small)
        torch._dynamo.utils.counters.clear()
        arguments += ["ECN.SOURCE_EPOCHS", "0", "ECN.NEIGHBORS", "2", "ECN.NEIGHBOR_START", "1"]
        train("configs/ecn/demo.yml", [*arguments, "ECN.MMD", "true", "LOG.PERIOD", "1"])
        lines = (tmp_path / name / "logs" / "ecn-demo" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["train/loss"] for line in lines if "train/loss" in line])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 3  # backbone, invariance, MMD
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def _gradient(loss: Callable[..., Tensor], *tensors: Tensor, **numbers: Any) -> tuple[Tensor, Tensor]:
    """The loss and its gradient by the first tensor."""
    first = tensors[0].detach().clone().requires_grad_()
    value = loss(first, *tensors[1:], **numbers)
    return value.detach(), torch.autograd.grad(value, first)[0]


def test_recomputed_stages_end_in_the_same_bytes(domains: Path, tmp_path: Path) -> None:
    models = []
    for stages in ("0", "4"):
        arguments = overrides(
            domains, tmp_path / stages, "MODEL.CHECKPOINT_STAGES", stages, "SOLVER.EPOCHS", "1"
        )
        train("configs/demo.yml", [*arguments, "CAMERA_AWARE.SOURCE_EPOCHS", "0"])
        models.append(read_checkpoint(tmp_path / stages / "checkpoints" / "demo" / "last.pt")["model"])
    assert differences(*models) == []


def test_half_precision_memory(domains: Path, tmp_path: Path) -> None:
    more = ["CAMERA_AWARE.SOURCE_EPOCHS", "0", "CAMERA_AWARE.MIXUP", "true", "CAMERA_AWARE.MIXUP_START", "2"]
    arguments = overrides(domains, tmp_path, "CAMERA_AWARE.MEMORY_DTYPE", "float16", *more)
    train("configs/demo.yml", arguments)
    content = read_checkpoint(tmp_path / "checkpoints" / "demo" / "last.pt")
    rows = content["memory"]["features"]
    assert rows.dtype == torch.float16
    torch.testing.assert_close(rows.float().norm(dim=1), torch.ones(len(rows)), atol=2e-3, rtol=0)
    assert all(math.isfinite(entry["mAP"]) for entry in content["progress"]["history"])
