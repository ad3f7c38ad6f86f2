"""M3L: its gradient against one explicit graph, ranks, resume, mixed precision, statistics, bad input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import crossreid.engine.data as engine_data
from crossreid import configs
from crossreid.configs import ConfigError
from crossreid.engine.data import build_data
from crossreid.engine.distributed import Ranks, averaged
from crossreid.engine.errors import InputError
from crossreid.engine.methods import m3l
from crossreid.engine.methods.m3l import Learner, class_means, inner_adam
from crossreid.engine.methods.m3l_inner import MetaGradient, meta_gradient
from crossreid.engine.optim import Precision
from crossreid.losses.triplet import batch_hard
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.memory import FeatureMemory
from crossreid.modeling.meta_reid import MetaReIDNet
from crossreid.modeling.weights import read_checkpoint
from tests.golden_arrays import relative, settings
from tests.ranks import run_ranks
from tests.tiny import CPU, differences, overrides, train

DEMO = "configs/m3l/demo.yml"
NAMES = ("fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias")
Group = dict[str, Tensor]


def arguments(domains: Path, out: Path, *more: str) -> list[str]:
    own = ["DATALOADER.BATCH_SIZE", "24", "SOLVER.WARMUP_EPOCHS", "0", "M3L.PLAIN_EPOCHS", "1"]
    return overrides(domains, out, *own, *more)


# ---- the gradient


def mlp(x: Tensor, y: Tensor, params: Group) -> Tensor:
    hidden = torch.tanh(F.linear(x, params["fc1_weight"], params["fc1_bias"]))
    return F.cross_entropy(F.linear(hidden, params["fc2_weight"], params["fc2_bias"]), y)


def inner(params: Group, grads: Group, lr: float = 0.05) -> Group:
    return inner_adam(params, grads, lr=lr, weight_decay=5e-4)


def toy(seed: int = 0, rows: int = 8) -> tuple[Group, list[tuple[Tensor, Tensor]]]:
    """Parameters and batches of two meta-train domains and the meta-test one, float64."""
    random = torch.Generator().manual_seed(seed)
    shapes = {"fc1_weight": (6, 5), "fc1_bias": (6,), "fc2_weight": (4, 6), "fc2_bias": (4,)}
    params = {
        n: torch.randn(s, generator=random, dtype=torch.float64).mul(0.5).requires_grad_()
        for n, s in shapes.items()
    }
    batches = [
        (
            torch.randn(rows, 5, generator=random, dtype=torch.float64),
            torch.randint(4, (rows,), generator=random),
        )
        for _ in range(3)
    ]
    return params, batches


def ours(params: Group, batches: list[tuple[Tensor, Tensor]], *, full: bool, **options: Any) -> MetaGradient:
    train_losses = [partial(mlp, x, y, params) for x, y in batches[:-1]]
    if options.pop("recompute", False):
        options["recompute"] = train_losses
    return meta_gradient(params, train_losses, partial(mlp, *batches[-1]), inner, full=full, **options)


def explicit(
    params: Group, batches: list[tuple[Tensor, Tensor]], *, full: bool, test_weight: float = 1.0
) -> Group:
    """The same in one graph, differentiated once more by autograd."""
    leaves = list(params.values())
    train_loss = sum(mlp(x, y, params) for x, y in batches[:-1]) / (len(batches) - 1)
    grads = dict(zip(params, torch.autograd.grad(train_loss, leaves, create_graph=True)))
    start = params if full else {n: p.detach() for n, p in params.items()}
    total = train_loss + test_weight * mlp(*batches[-1], inner(start, grads))
    return dict(zip(params, torch.autograd.grad(total, leaves)))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_meta_gradient_equals_one_explicit_graph(full: bool, recompute: bool) -> None:
    params, batches = toy()
    found = ours(params, batches, full=full, recompute=recompute, test_weight=0.7)
    expected = explicit(params, batches, full=full, test_weight=0.7)
    other = explicit(params, batches, full=not full, test_weight=0.7)
    for name in params:
        assert relative(found.grads[name], expected[name]) < 1e-12
        assert relative(found.grads[name], other[name]) > 1e-3
    assert all(p.grad is None for p in params.values())
    assert not any(g.requires_grad for g in found.grads.values())


@pytest.mark.parametrize("golden", settings("m3l_inner_adam"))
def test_meta_gradient_matches_the_original(golden: Group) -> None:
    params = {n: golden[f"param_{n}"].clone().requires_grad_() for n in NAMES}
    step = partial(
        inner_adam, lr=float(golden["lr_inner"]), weight_decay=float(golden["weight_decay"]),
        betas=(float(golden["beta1"]), float(golden["beta2"])),
    )  # fmt: skip
    train_loss = partial(mlp, golden["x_train"], golden["y_train"], params)
    test_loss = partial(mlp, golden["x_test"], golden["y_test"])
    for full in (False, True):
        found = meta_gradient(params, [train_loss], test_loss, step, full=full)
        assert relative(found.train_loss, golden["meta_train_loss"]) < 1e-9
        assert relative(found.test_loss, golden["meta_test_loss"]) < 1e-9
        for name in NAMES:
            kind = "samevar_meta_test_grad" if full else "meta_test_grad"
            expected = golden[f"meta_train_grad_{name}"] + golden[f"{kind}_{name}"]
            assert relative(found.grads[name], expected) < 1e-9


@pytest.mark.parametrize("full", [False, True])
def test_a_loss_scale_leaves_the_numbers_alone(full: bool) -> None:
    params, batches = toy()
    plain = ours(params, batches, full=full)
    scale = torch.tensor(2.0**16, dtype=torch.float64)
    for recompute in (False, True):
        scaled = ours(params, batches, full=full, scale=scale, recompute=recompute)
        for name in params:
            assert relative(scaled.grads[name] / scale, plain.grads[name]) < 1e-12


def test_an_overflow_reaches_the_gradient_but_not_the_meta_test_pass() -> None:
    params, batches = toy()
    found = ours(params, batches, full=False, scale=torch.tensor(float("inf"), dtype=torch.float64))
    assert bool(found.test_loss.isfinite())
    assert not all(bool(g.isfinite().all()) for g in found.grads.values())


def test_a_parameter_that_a_loss_does_not_read_counts_as_zero() -> None:
    params, batches = toy()
    params["idle"] = torch.ones(3, dtype=torch.float64, requires_grad=True)
    found = ours(params, batches, full=False)
    assert torch.equal(found.grads["idle"], torch.zeros(3, dtype=torch.float64))


def halves(rank: int, world: int) -> Group:
    params, batches = toy()
    ranks = Ranks(rank, world, torch.device("cpu"))
    mine = [(x.chunk(world)[rank], y.chunk(world)[rank]) for x, y in batches]
    return ours(params, mine, full=True, average=partial(averaged, ranks=ranks)).grads


@pytest.mark.ddp
def test_two_ranks_give_the_gradient_of_the_joined_batch() -> None:
    params, batches = toy()
    whole = ours(params, batches, full=True).grads
    first, second = run_ranks(halves, 2)
    for name in params:
        assert torch.equal(first[name], second[name])
        assert relative(first[name], whole[name]) < 1e-12


# ---- the step


class TinyMaps(nn.Module):
    """A backbone of one convolution and batch norm."""

    out_channels = 6

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), nn.Tanh())

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def learner(
    *more: str,
    dtype: torch.dtype = torch.float64,
    scaler: torch.amp.GradScaler | None = None,
    backbone: nn.Module | None = None,
) -> Learner:
    cfg = configs.load(DEMO, ["SOLVER.AMP", "float32", *more])
    torch.manual_seed(0)
    network = MetaReIDNet(backbone or TinyMaps(), scale="variance").to(dtype)
    memories = {f"source_{i}": FeatureMemory(5, network.dim).to(dtype) for i in range(3)}
    for memory in memories.values():
        memory.features.copy_(F.normalize(torch.randn(5, network.dim)))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=5e-4)
    precision = Precision("float32", torch.device("cpu"))
    if scaler is not None:
        precision.scaler = scaler
    return Learner(cfg.M3L, 3, 2, network, memories, optimizer, precision, CPU)


def batches_of(dtype: torch.dtype = torch.float64) -> tuple[Group, Group]:
    random = torch.Generator().manual_seed(1)
    images = {f"source_{i}": torch.randn(8, 3, 9, 7, generator=random).to(dtype) + i for i in range(3)}
    return images, {name: torch.arange(4).repeat_interleave(2) for name in images}


def held_out(it: Learner, images: Group, pids: Group, step: int) -> str:
    """Which source a step holds out: the one whose statistics are in no slot."""
    seen: list[str] = []
    original = Learner.loss

    def spy(self: Learner, name: str, *rest: Any, **options: Any) -> Tensor:
        if options.get("store") is not None:
            seen.append(name)
        return original(self, name, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "loss", spy)
        it.meta_step(images, pids, step)
    return next(name for name in images if name not in seen)


def one_graph(it: Learner, images: Group, pids: Group, held: str, lam: float, *, full: bool) -> Group:
    """The step's gradient written down directly, MetaBN's mixing included."""
    network, cfg = it.network, it.settings
    params = dict(network.named_parameters())
    buffers = {n: b.clone() for n, b in network.named_buffers()}

    def terms(name: str, pooled: Tensor, necks: list[Tensor]) -> Tensor:
        losses = [
            F.cross_entropy(F.normalize(n) @ it.memories[name].features.T / cfg.TEMPERATURE, pids[name])
            for n in necks
        ]
        return sum(losses) / len(losses) + batch_hard(pooled, pids[name], margin=cfg.TRIPLET_MARGIN)

    rest = [name for name in images if name != held]
    train_loss, statistics = torch.zeros(()), []
    for name in rest:
        maps = functional_call(network.backbone, _under("backbone.", {**params, **buffers}), (images[name],))
        pooled = maps.mean((2, 3))
        statistics.append((pooled.detach().mean(0), pooled.detach().var(0, correction=0)))
        neck = F.batch_norm(pooled, None, None, params["neck.weight"], params["neck.bias"], True)
        train_loss = train_loss + terms(name, pooled, [neck]) / len(rest)
    grads = dict(zip(params, torch.autograd.grad(train_loss, list(params.values()), create_graph=True)))
    start = params if full else {n: p.detach() for n, p in params.items()}
    moved = inner_adam(start, grads, lr=0.1, weight_decay=5e-4)
    maps = functional_call(network.backbone, _under("backbone.", {**moved, **buffers}), (images[held],))
    pooled, necks = maps.mean((2, 3)), []
    for mean, var in statistics:
        sample = mean + torch.randn(pooled.shape, dtype=pooled.dtype) * var  # "variance", as published
        mixture = lam * sample + (1 - lam) * pooled
        necks.append(F.batch_norm(mixture, None, None, moved["neck.weight"], moved["neck.bias"], True))
    total = train_loss + terms(held, pooled, necks)
    return dict(zip(params, torch.autograd.grad(total, list(params.values()))))


def _under(prefix: str, tensors: Group) -> Group:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


@pytest.mark.parametrize("kind", ["original", "full"])
@pytest.mark.parametrize("recompute", ["false", "true"])
def test_the_step_takes_the_gradient_of_the_paper(kind: str, recompute: str) -> None:
    images, pids = batches_of()
    options = ["M3L.META_GRADIENT", kind, "M3L.RECOMPUTE", recompute]
    held = held_out(learner(*options), images, pids, 5)
    it = learner(*options)
    random = np.random.default_rng((3, 5))
    random.integers(3)
    lam = float(random.beta(1.0, 1.0))
    reference = learner(*options)
    torch.manual_seed(7)
    expected = one_graph(reference, images, pids, held, lam, full=kind == "full")
    torch.manual_seed(7)
    values = it.meta_step(images, pids, 5)
    for name, parameter in it.network.named_parameters():
        assert parameter.grad is not None
        assert relative(parameter.grad, expected[name]) < 1e-9, name
    assert not any(v.requires_grad for v in values.values())


def test_every_source_is_held_out_and_the_draw_repeats() -> None:
    images, pids = batches_of()
    draws = [held_out(learner(), images, pids, step) for step in range(1, 25)]
    assert set(draws) == set(images)
    assert draws == [held_out(learner(), images, pids, step) for step in range(1, 25)]


def test_plain_step_is_the_mean_loss_of_all_sources() -> None:
    images, pids = batches_of()
    it, reference = learner(), learner()
    values = it.plain_step(images, pids, 1)
    loss = torch.stack([reference.loss(n, images[n], pids[n]) for n in images]).mean()
    loss.backward()
    assert relative(values["loss"], loss.detach()) < 1e-12
    for parameter, other in zip(it.network.parameters(), reference.network.parameters()):
        assert relative(parameter.grad, other.grad) < 1e-9


@pytest.mark.parametrize("recompute", ["false", "true"])
def test_only_passes_with_the_own_parameters_move_the_statistics(recompute: str) -> None:
    images, pids = batches_of()
    it, reference = learner("M3L.RECOMPUTE", recompute), learner()
    held = held_out(it, images, pids, 5)
    for name in images:
        if name != held:
            reference.network(images[name])
    for (name, buffer), other in zip(it.network.named_buffers(), reference.network.buffers()):
        assert torch.equal(buffer, other), name
    it.refresh(images, pids)
    assert it.network.neck.num_batches_tracked == 5


def test_refresh_moves_every_memory_with_features_of_the_new_parameters() -> None:
    images, pids = batches_of()
    it, reference = learner(), learner()
    it.meta_step(images, pids, 1)
    reference.network.load_state_dict(it.network.state_dict())
    it.refresh(images, pids)
    for name, memory in reference.memories.items():
        rows = memory.features.clone()
        for unit, pid in zip(reference.network(images[name]).units[0].detach(), pids[name]):
            rows[pid] = F.normalize(0.2 * rows[pid] + 0.8 * unit, dim=0)  # one after the other
        assert relative(it.memories[name].features, rows) < 1e-6


def test_an_overflow_skips_the_step_and_halves_the_scale() -> None:
    images, pids = batches_of(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    it = learner(dtype=torch.float32, scaler=scaler)
    before = {n: p.detach().clone() for n, p in it.network.named_parameters()}
    values = it.meta_step(images, pids, 1)
    assert all(bool(v.isfinite()) for v in values.values())
    assert any(not torch.equal(p, before[n]) for n, p in it.network.named_parameters())
    assert scaler.get_scale() == 2.0**8
    before = {n: p.detach().clone() for n, p in it.network.named_parameters()}
    scaler.update(3e38)
    values = it.meta_step(images, pids, 2)
    assert all(bool(v.isfinite()) for v in values.values())
    assert all(torch.equal(p, before[n]) for n, p in it.network.named_parameters())
    assert scaler.get_scale() < 3e38
    assert all(bool(b.isfinite().all()) for b in it.network.buffers())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_gives_nearly_the_same_gradient(dtype: torch.dtype, tolerance: float) -> None:
    images, pids = batches_of(torch.float32)
    mild = ["M3L.META_GRADIENT", "full", "M3L.INNER_RATE", "0.01", "M3L.TEMPERATURE", "1.0"]
    exact = learner(*mild, dtype=torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=dtype == torch.float16)
    half = learner(*mild, dtype=torch.float32, scaler=scaler)
    half.precision.dtype = dtype
    for it in (exact, half):
        torch.manual_seed(7)
        it.meta_step(images, pids, 1)
    for (name, a), b in zip(exact.network.named_parameters(), half.network.parameters()):
        assert relative(b.grad, a.grad) < tolerance, name


@pytest.mark.parametrize("name", ["resnet18", "resnet50_ibn_a"])
def test_second_order_through_real_backbones(name: str) -> None:
    images = {n: F.interpolate(x[:4], (32, 32)) for n, x in batches_of(torch.float32)[0].items()}
    pids = {n: torch.tensor([0, 0, 1, 1]) for n in images}
    it = learner("M3L.META_GRADIENT", "full", backbone=build_backbone(name), dtype=torch.float32)
    it.meta_step(images, pids, 1)
    for key, parameter in it.network.named_parameters():
        assert bool(parameter.grad.isfinite().all()), key
    assert bool(it.network.backbone.conv1.weight.grad.abs().sum() > 0)


def test_class_means() -> None:
    units = F.normalize(torch.randn(7, 4, generator=torch.Generator().manual_seed(0)))
    pids = torch.tensor([0, 2, 1, 0, 2, 2, 1])
    expected = torch.stack([F.normalize(units[pids == c].mean(0), dim=0) for c in range(3)])
    assert relative(class_means(units, pids, 3), expected) < 1e-6


# ---- whole runs


def content(out: Path) -> dict[str, Any]:
    found = read_checkpoint(out / "checkpoints" / "m3l-demo" / "last.pt")
    found.pop("config")
    found["progress"]["history"] = [
        {k: v for k, v in entry.items() if k != "title"} for entry in found["progress"]["history"]
    ]
    return found


def test_two_epochs_resumed_to_four_equal_four(domains: Path, tmp_path: Path) -> None:
    schedule = ["SOLVER.STEPS", "[2]", "SOLVER.EPOCHS"]
    train(DEMO, arguments(domains, tmp_path / "a", *schedule, "4"))
    train(DEMO, arguments(domains, tmp_path / "b", *schedule, "2"))
    told = train(DEMO, arguments(domains, tmp_path / "b", *schedule, "4", "RESUME", "auto"))
    assert "after 6 steps" in told
    whole = content(tmp_path / "a")
    assert differences(content(tmp_path / "b"), whole) == []
    assert {f"source_{i}.features" for i in range(3)} == set(whole["memories"])


def test_bfloat16_full_gradient_and_recompute_stay_finite(domains: Path, tmp_path: Path) -> None:
    more = [
        "SOLVER.AMP",
        "bfloat16",
        "M3L.META_GRADIENT",
        "full",
        "M3L.RECOMPUTE",
        "true",
        "M3L.PLAIN_EPOCHS",
        "0",
        "DATALOADER.ITERS_PER_EPOCH",
        "1",  # emulated on many CPUs
        "TEST.PERIOD",
        "0",
    ]
    train(DEMO, arguments(domains, tmp_path, *more))
    assert all(bool(v.isfinite().all()) for v in content(tmp_path)["model"].values())


def state_after_steps(rank: int, world: int, domains: str) -> dict[str, Any]:
    cfg = configs.load(DEMO, arguments(Path(domains), Path(domains), "DATALOADER.BATCH_SIZE", "48"))
    ranks = Ranks(rank, world, torch.device("cpu"))
    torch.manual_seed(0)
    data = build_data(cfg, ranks)
    method = m3l.build(cfg, data)
    method.prepare(1)
    data.streams.start(0)
    for step in range(1, 4):
        torch.manual_seed(step * 100 + rank)
        epoch = 1 if step == 1 else 2  # one plain step, two meta steps
        method.train_step(
            SimpleNamespace(state=SimpleNamespace(iteration=step, epoch=epoch)), next(data.streams)
        )
    data.streams.close()
    network = method.extractor
    return {
        "params": {n: p.detach() for n, p in network.named_parameters()},
        "memories": method.state["memories"].state_dict(),
        "statistics": network.neck.running_mean,
    }


@pytest.mark.ddp
def test_ranks_stay_identical(domains: Path, tmp_path: Path) -> None:
    train(DEMO, arguments(domains, tmp_path, "SOLVER.EPOCHS", "2"))  # draws the domains once
    first, second = run_ranks(state_after_steps, 2, str(domains))
    assert differences(first["params"], second["params"]) == []
    assert differences(first["memories"], second["memories"]) == []
    assert not torch.equal(first["statistics"], second["statistics"]), "ranks must have seen other images"


# ---- bad input


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["DATASETS.SOURCES", "['synthetic:summer']"], ["one source out", "M3L.META false"]),
        (["DATASETS.ADAPT", "true"], ["DATASETS.ADAPT false"]),
        (["DATASETS.SOURCES", "[duke, duke]"], ["twice"]),
        (["DATALOADER.INSTANCES", "1"], ["DATALOADER.INSTANCES is 1"]),
        (["MODEL.SYNC_BN", "true"], ["MODEL.SYNC_BN"]),
        (["M3L.META_GRADIENT", "ful"], ["did you mean full?"]),
        (["M3L.PLAIN_EPOCHS", "2"], ["M3L.PLAIN_EPOCHS 2", "SOLVER.EPOCHS 2"]),
        (["M3L.MEMORY_WEIGHT", "0", "M3L.TRIPLET_WEIGHT", "0"], ["both 0"]),
    ],
)
def test_contradictions_are_named(tmp_path: Path, more: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        configs.load(DEMO, arguments(tmp_path, tmp_path, *more))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_few_identities_and_a_batch_of_one(domains: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"summer/train has 8 identities, a batch wants 12"):
        train(DEMO, arguments(domains, tmp_path, "DATALOADER.BATCH_SIZE", "144"))
    with pytest.raises(InputError, match=r"holds one identity of DATALOADER.INSTANCES 4"):
        train(DEMO, arguments(domains, tmp_path, "DATALOADER.BATCH_SIZE", "12"))


def test_identities_with_one_image_are_told(
    domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reduced(read: Callable[..., Any], cfg: Any, name: str) -> Any:
        splits = read(cfg, name)
        if "night" not in name:
            return splits
        pids = splits.train.pids
        kept = torch.tensor([i for i in range(len(pids)) if pids[i] != 3 or i == list(pids).index(3)])
        return dataclasses.replace(splits, train=splits.train.take(kept.numpy()))

    monkeypatch.setattr(engine_data, "read", partial(reduced, engine_data.read))
    told = train(DEMO, arguments(domains, tmp_path, "SOLVER.EPOCHS", "2", "DATALOADER.ITERS_PER_EPOCH", "1"))
    assert "source_1 (synthetic:night/train): 1 identity of one image" in told
