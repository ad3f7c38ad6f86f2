"""METHOD supervised: the loss of a step by hand, two ranks against one, what it refuses, where it leads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crossreid import configs
from crossreid.engine.data import Data, build_data
from crossreid.engine.distributed import Ranks
from crossreid.engine.method import Method
from crossreid.engine.methods import supervised
from crossreid.engine.optim import decayed
from crossreid.modeling.vit import ViT
from crossreid.modeling.weights import read_checkpoint
from tests.ranks import run_ranks
from tests.small_nets import shrink
from tests.tiny import CPU, differences, overrides, train

CONFIG = "configs/supervised/demo.yml"
STILL = ["INPUT.FLIP", "0", "INPUT.CROP", "false", "INPUT.ERASE", "0", "DATALOADER.INSTANCES", "2"]
TWO = ["DATASETS.SOURCES", "[synthetic:summer, synthetic:night]"]


def build(root: Path, out: Path, *more: str, ranks: Ranks = CPU) -> tuple[Data, Method]:
    cfg = configs.load(CONFIG, overrides(root, out, *STILL, *more))
    torch.manual_seed(cfg.SEED)
    data = build_data(cfg, ranks)
    return data, supervised.build(cfg, data)


def at(step: int) -> Any:
    return SimpleNamespace(state=SimpleNamespace(iteration=step, epoch=1))


def by_hand(pooled: Tensor, logits: Tensor, pids: Tensor, kind: str) -> Tensor:
    """Label smoothing 0.1 and batch-hard triplets, image by image."""
    classes = logits.shape[1]
    wanted = torch.full_like(logits, 0.1 / classes)
    wanted[torch.arange(len(pids)), pids] += 0.9
    id_loss = -(wanted * logits.log_softmax(1)).sum(1).mean()
    terms = []
    for i in range(len(pids)):
        far = max(float((pooled[i] - pooled[j]).norm()) for j in range(len(pids)) if pids[j] == pids[i])
        near = min(float((pooled[i] - pooled[j]).norm()) for j in range(len(pids)) if pids[j] != pids[i])
        terms.append(
            max(0.0, far - near + 0.3) if kind == "margin" else float(F.softplus(torch.tensor(far - near)))
        )
    return id_loss + sum(terms) / len(terms)


@pytest.mark.parametrize("kind", ["margin", "soft"])
def test_a_step_s_loss(kind: str, domains: Path, tmp_path: Path) -> None:
    """Of two domains, whose identities follow each other."""
    data, method = build(domains, tmp_path, *TWO, "SUPERVISED.TRIPLET", kind)
    net = method.extractor
    counts = [domain.num_identities for domain in data.domains.values()]
    assert net.classifier[0].out_features == sum(counts)
    with data.streams as streams:
        batches = next(streams)
    images = torch.cat([data.augmented(name, batches[name], 1) for name in data.domains])
    pids = torch.cat([batches["source_0"].pids, batches["source_1"].pids + counts[0]])
    net.train()
    out = net(images)
    expected = by_hand(out.pooled[0].detach(), out.logits[0].detach(), pids, kind)
    told = method.train_step(at(1), batches)
    torch.testing.assert_close(told["loss"], expected, rtol=1e-4, atol=1e-5)


def one_step(rank: int, world: int, root: str, out: str) -> dict[str, Tensor]:
    """The gradients' effect of a step of plain SGD without batch statistics, on this rank's share."""
    ranks = Ranks(rank, world, torch.device("cpu"))
    more = [
        *TWO,
        "SOLVER.OPTIMIZER",
        "sgd",
        "SOLVER.MOMENTUM",
        "0",
        "SOLVER.LR",
        "0.1",
        "SOLVER.NEW_LR",
        "0.1",
    ]
    data, method = build(Path(root), Path(out), *more, ranks=ranks)
    for module in method.extractor.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
    with data.streams as streams:
        method.train_step(at(1), next(streams))
    return {name: p.detach() for name, p in method.extractor.named_parameters()}


@pytest.mark.ddp
def test_two_ranks_are_one(domains: Path, tmp_path: Path) -> None:
    build(domains, tmp_path, *TWO)  # draws the domains once
    first, second = run_ranks(one_step, 2, str(domains), str(tmp_path))
    (alone,) = run_ranks(one_step, 1, str(domains), str(tmp_path))
    assert differences(first, second) == []
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_its_checkpoint_starts_an_adaptation(domains: Path, tmp_path: Path) -> None:
    train(CONFIG, overrides(domains, tmp_path, *STILL))
    last = str(tmp_path / "checkpoints" / "supervised-demo" / "last.pt")
    told = train(
        "configs/cluster_contrast/demo.yml",
        overrides(
            domains, tmp_path / "adapted", "DATASETS.SOURCES", "[]", "CLUSTER_CONTRAST.SOURCE_EPOCHS", "0",
            "CLUSTER_CONTRAST.CLUSTER.K1", "10", "DATALOADER.INSTANCES", "2", "MODEL.WEIGHTS", last,
            "MODEL.BACKBONE", "tiny", "MODEL.LAST_STRIDE", "1",
        ),
    )  # fmt: skip
    assert f"weights from {last}; skipped classifier.0.weight" in told
    assert "classifier.0.weight" in read_checkpoint(last)["model"]


def test_a_vit_with_parts_trains(domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    more = [
        "MODEL.BACKBONE",
        "vit_tiny",
        "SUPERVISED.PARTS",
        "4",
        "INPUT.SIZE",
        "[64, 32]",
        "MODEL.PATCH_STRIDE",
        "12",
    ]
    train(CONFIG, overrides(domains, tmp_path, *STILL, *more, "SUPERVISED.FEATURE", "pooled"))
    model = read_checkpoint(tmp_path / "checkpoints" / "supervised-demo" / "last.pt")["model"]
    assert model["backbone.pos_embed"].shape == (1, 1 + 5 * 2, 24)
    assert model["part_necks.3.running_mean"].abs().sum() > 0


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["DATASETS.ADAPT", "true"], "never trains on the target: set DATASETS.ADAPT false"),
        (["DATALOADER.INSTANCES", "1"], "TRIPLET_WEIGHT 1 needs several images of an identity"),
        (["SUPERVISED.TRIPLET", "hard"], "allowed are margin, soft"),
    ],
)
def test_bad_config(more: list[str], told: str) -> None:
    with pytest.raises(configs.ConfigError, match=told):
        configs.load(CONFIG, more)


def test_layers_learn_at_falling_rates() -> None:
    vit = ViT(size=(32, 16), dim=8, depth=4, heads=2, patch=8)
    net = torch.nn.ModuleDict({"backbone": vit, "head": torch.nn.Linear(8, 2)})
    groups = decayed([(net["backbone"].parameters(), 1.0), (net["head"].parameters(), 3.0)], net, 0.5)
    rate = {id(p): r for parameters, r in groups for p in parameters}
    found = {name: rate[id(p)] for name, p in net.named_parameters()}
    assert len(found) == sum(len(parameters) for parameters, _ in groups)
    assert found["backbone.norm.weight"] == 1.0
    assert [found[f"backbone.blocks.{k}.attn.qkv.weight"] for k in range(4)] == [0.0625, 0.125, 0.25, 0.5]
    assert found["backbone.patch_embed.proj.weight"] == found["backbone.pos_embed"] == 0.03125
    assert found["head.weight"] == 3.0
