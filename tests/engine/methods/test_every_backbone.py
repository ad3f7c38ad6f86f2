"""Every method takes two steps with every family of backbones, or refuses it in one line."""

from __future__ import annotations

import pkgutil
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from crossreid import configs
from crossreid.configs import ConfigError
from crossreid.engine import methods
from crossreid.engine.data import Data, build_data
from crossreid.engine.distributed import Ranks
from crossreid.engine.errors import InputError
from crossreid.engine.hardware import missing_for_compiling, prepare_backbones
from crossreid.engine.methods import load_method
from crossreid.modeling import ModelError
from tests.ranks import run_ranks
from tests.small_nets import FAMILIES, VARIANTS, shrink
from tests.tiny import CPU, differences, overrides

DEMOS = {
    "camera_aware": ["CAMERA_AWARE.SOURCE_EPOCHS", "0", "CAMERA_AWARE.INTRA_START", "1"],
    "ecn": ["ECN.SOURCE_EPOCHS", "0", "ECN.EMBEDDING", "16", "ECN.FROZEN_STAGES", "1", "ECN.NEIGHBORS", "2"],
    "disentangle": ["DISENTANGLE.SOURCE_EPOCHS", "0", "DISENTANGLE.DECODER_WIDTHS", "[8, 8, 8, 8]"],
    "arn": ["DISENTANGLE.SOURCE_EPOCHS", "0", "DISENTANGLE.DECODER_WIDTHS", "[8, 8, 8, 8]"]
    + ["DISENTANGLE.VARIANT", "arn", "DISENTANGLE.JITTER", "false", "DISENTANGLE.APP_WEIGHT", "0"],
    "m3l": ["M3L.PLAIN_EPOCHS", "0", "DATALOADER.INSTANCES", "2", "DATALOADER.BATCH_SIZE", "12"],
    "cluster_contrast": ["CLUSTER_CONTRAST.SOURCE_EPOCHS", "0", "CLUSTER_CONTRAST.CLUSTER.K1", "10"]
    + ["DATALOADER.INSTANCES", "2", "CLUSTER_CONTRAST.CLUSTER.DISTANCE", "jaccard"],
    "camera_proxy": ["CAMERA_PROXY.CLUSTER.K1", "10", "DATALOADER.INSTANCES", "2", "INPUT.SIZE", "[64, 32]"],
    "bau": ["DATALOADER.INSTANCES", "2", "DATALOADER.BATCH_SIZE", "12"],
    "supervised": ["DATALOADER.INSTANCES", "2", "SOLVER.LAYER_DECAY", "0.75"],
    "central_feature": ["INPUT.SIZE", "[96, 96]", "CENTRAL_FEATURE.PATCH_DIM", "8"],
}
SMALL = ["INPUT.SIZE", "[32, 32]", "DATALOADER.BATCH_SIZE", "8"]
YAMLS = {"arn": "configs/disentangle/demo.yml", "camera_aware": "configs/demo.yml"}
YAMLS["cluster_contrast"] = "configs/cluster_contrast/joint.yml"
YAMLS["central_feature"] = "configs/central_feature/demo_pretrain.yml"
TOKENS = ("swin_t", "vit_tiny", "vit_tiny_ics", "solider_swin_tiny", "clip_vit_b_16", "timm:test_vit")
REFUSED = {  # and no others
    **{("m3l", name): "differentiates twice" for name in FAMILIES if "mobilenet" in name},
    **{
        ("bau", name): r"BAU.INSTANCE_STAGES 3 normalises maps, and the stages of \w+ give tokens"
        for name in TOKENS
    },
    **{
        ("arn", name): r"DISENTANGLE.VARIANT arn splits a backbone before its last stage, and \w+ has no"
        for name in FAMILIES
        if not name.startswith("resnet")
    },
}


def at(step: int) -> Any:
    return SimpleNamespace(state=SimpleNamespace(iteration=step, epoch=1))


def two_steps(
    domains: Path, out: Path, demo: str, *more: str, ranks: Ranks = CPU
) -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]]]:
    """Build a demo's method and take two steps; returns the trained network and the losses."""
    yaml = YAMLS.get(demo, f"configs/{demo}/demo.yml")
    cfg = configs.load(yaml, overrides(domains, out, *SMALL, *DEMOS[demo], *more))
    torch.manual_seed(0)
    data: Data = build_data(cfg, ranks)
    method = load_method(cfg.METHOD).build(cfg, data)
    prepare_backbones(cfg, method.state["model"], CPU.device)
    before = [p.detach().clone() for p in method.extractor.parameters() if p.requires_grad]
    method.extractor.train()
    with data.streams as streams:
        method.prepare(1)
        streams.start(0)
        told = [method.train_step(at(step), next(streams)) for step in (1, 2)]
    after = [p.detach() for p in method.extractor.parameters() if p.requires_grad]
    moved = sum(not torch.equal(a, b) for a, b in zip(before, after))
    assert moved > 0.8 * len(before), f"{moved} of {len(before)} parameters moved"
    return method.extractor, told


def test_every_method_is_here() -> None:
    known = {m.name for m in pkgutil.iter_modules(methods.__path__) if hasattr(load_method(m.name), "build")}
    assert known <= set(DEMOS)


@pytest.mark.parametrize(
    ("demo", "family"),
    [(d, f) for d in DEMOS for f in FAMILIES if f not in VARIANTS or d == "cluster_contrast"],
)
def test_two_steps_or_one_line(
    demo: str, family: str, domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if family.startswith("timm:"):
        pytest.importorskip("timm")
    shrink(monkeypatch)
    more = ["MODEL.BACKBONE", family, "MODEL.LAST_STRIDE", "1", *FAMILIES[family]]
    if (demo, family) in REFUSED:
        with pytest.raises((ConfigError, InputError, ModelError), match=REFUSED[demo, family]) as caught:
            two_steps(domains, tmp_path, demo, *more)
        assert "\n" not in str(caught.value)
        assert re.search(r": set |set it to", str(caught.value)), "says what to do"
        return
    network, told = two_steps(domains, tmp_path, demo, *more)
    assert all(bool(torch.isfinite(loss)) for values in told for loss in values.values())
    network.eval()
    with torch.no_grad():
        features = network(
            torch.randn(
                2,
                3,
                *(
                    (96, 96)
                    if demo == "central_feature"
                    else (64, 32)
                    if demo == "camera_proxy"
                    else (32, 32)
                ),
            )
        )
    assert features.dim() == 2
    assert bool(torch.isfinite(features).all())


ARITHMETIC = ["vit_tiny", "osnet_ain_x0_25", "solider_swin_tiny", "convnext_tiny", "clip_vit_b_16"]


def options(family: str) -> list[str]:
    return ["MODEL.BACKBONE", family, "MODEL.LAST_STRIDE", "1", *FAMILIES[family]]


@pytest.mark.parametrize("family", ARITHMETIC)
def test_recomputed_stages_and_mixed_precision(
    family: str, domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recomputed stages change no number; bfloat16 stays near float32."""
    shrink(monkeypatch)
    plain, told = two_steps(domains, tmp_path, "supervised", *options(family))
    lean, told_lean = two_steps(
        domains, tmp_path, "supervised", *options(family), "MODEL.CHECKPOINT_STAGES", "3"
    )
    assert told == told_lean
    assert differences(plain.state_dict(), lean.state_dict()) == []
    net, mixed = two_steps(domains, tmp_path, "supervised", *options(family), "SOLVER.AMP", "bfloat16")
    torch.testing.assert_close(mixed[0]["loss"], told[0]["loss"], rtol=3e-2, atol=3e-2)
    assert all(p.dtype == torch.float32 for p in net.parameters())
    assert mixed[1]["loss"].dtype == torch.float32


@pytest.mark.skipif(bool(missing_for_compiling(CPU.device)), reason="no compiler here")
def test_compiled_backbones_train_alike(
    domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As graphs, forwards and backwards, in one piece; what the C++ compiler makes of them is PyTorch's to test."""
    shrink(monkeypatch)
    whole = torch.nn.Module.compile
    graphs = partial(whole, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net, **more: graphs(net, **more))
    more = [*options("vit_tiny"), "MODEL.DROP_PATH", "0"]
    _, plain = two_steps(domains, tmp_path, "supervised", *more)
    _, fast = two_steps(domains, tmp_path, "supervised", *more, "MODEL.COMPILE", "true")
    for a, b in zip(plain, fast):
        torch.testing.assert_close(b["loss"], a["loss"], rtol=1e-2, atol=1e-3)


def _rank(rank: int, world: int, root: str, out: str) -> dict[str, torch.Tensor]:
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        ranks = Ranks(rank, world, torch.device("cpu"))
        for family in ("vit_tiny", "osnet_x0_25"):
            network, _ = two_steps(Path(root), Path(out), "supervised", *options(family), ranks=ranks)
            found |= {f"{family}.{name}": p.detach() for name, p in network.named_parameters()}
    return found


@pytest.mark.ddp
def test_two_ranks_stay_alike(domains: Path, tmp_path: Path) -> None:
    """Tokens with drop path, and maps with batch norms."""
    first, second = run_ranks(_rank, 2, str(domains), str(tmp_path))
    assert len(first) > 100
    assert differences(first, second) == []
