"""MODEL.SIE: a ViT learns an embedding of each camera; training and evaluation pass it, all else refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from crossreid import Embedder, configs
from crossreid.engine.commands import main
from crossreid.engine.deploy.network import load_extractor
from crossreid.engine.distributed import Ranks
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.extraction import extract_split
from crossreid.engine.methods import load_method
from crossreid.engine.reading import build_evaluation
from crossreid.engine.training.adapt import adapt_config
from crossreid.modeling import ModelError
from crossreid.modeling.side_information import camera_rows, camera_table, for_cameras
from crossreid.modeling.strong_net import StrongNet
from crossreid.modeling.vit import ViT
from crossreid.modeling.weights import load_backbone, load_network, read_checkpoint
from tests.ranks import run_ranks
from tests.small_nets import shrink
from tests.tiny import CPU, differences, overrides, train

SUPERVISED = "configs/supervised/demo.yml"
SIE = [
    *("MODEL.SIE", "true", "MODEL.BACKBONE", "vit_tiny", "MODEL.LAST_STRIDE", "1", "DATALOADER.INSTANCES", "2"),
    *("DATASETS.SOURCES", "[synthetic:winter]", "DATASETS.TARGET", "synthetic:winter"),
]  # fmt: skip
CLUSTERS = [
    *("CLUSTER_CONTRAST.SOURCE_EPOCHS", "0", "CLUSTER_CONTRAST.CLUSTER.K1", "10", "MODEL.SIE", "true"),
    *("DATALOADER.INSTANCES", "2", "MODEL.BACKBONE", "vit_tiny", "MODEL.LAST_STRIDE", "1"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def vit(cameras: torch.Tensor | None = None) -> ViT:
    torch.manual_seed(0)
    net = ViT(size=(32, 16), dim=8, depth=2, heads=2, patch=8)
    if cameras is not None:
        net.know_cameras(cameras)
    return net


@pytest.mark.parametrize("parts", [0, 2])
def test_each_image_gets_its_camera_s_row(parts: int) -> None:
    """By hand: the row times the weight is added to every token, the class token's among them."""
    table = camera_table({"a": np.array([3, 1, 3]), "b": np.array([1])})
    assert table[:, 1].tolist() == [1, 3, 1]
    net = StrongNet(vit(table), 0, parts=parts).eval()
    rows = camera_rows(net, "a", np.array([3, 1]))
    assert rows is not None
    assert rows.tolist() == [1, 0]
    images = torch.randn(2, 3, 32, 16)
    with torch.no_grad():
        found, without = net(images, cameras=rows), net(images)
        backbone = net.backbone
        kept = backbone.pos_embed.clone()
        for image, row in enumerate(rows):
            backbone.pos_embed.copy_(kept + backbone.sie_weight * backbone.sie_embed[row])
            torch.testing.assert_close(found[image : image + 1], net(images[image : image + 1]))
    assert not torch.allclose(found, without, atol=1e-4)


def test_cameras_that_are_not_known() -> None:
    net = vit(camera_table({"a": np.array([1, 2])}))
    for dataset, cameras, told in (("a", [2, 7], "camera 7 of a"), ("b", [1, 2], "cameras 1, 2 of b")):
        with pytest.raises(ModelError, match=f"not trained with {told}; MODEL.SIE false leaves"):
            camera_rows(net, dataset, np.array(cameras))
    with pytest.raises(ModelError, match="without a camera"):
        camera_rows(net, "a", np.array([-1]))
    with pytest.raises(ModelError, match="1 of 2 images of a have none"):
        camera_table({"a": np.array([1, -1])})
    with pytest.raises(ModelError, match="needs several cameras, a has one"):
        camera_table({"a": np.array([1, 1])})
    assert camera_rows(vit(), "a", np.array([1])) is None


def test_rows_of_other_cameras_are_left_in_the_file() -> None:
    """Of the same number of cameras, too; a network that knows none takes the file's."""
    source, other = (torch.nn.ModuleDict({"backbone": vit(camera_table({d: np.arange(3)}))}) for d in "ab")
    weights = source.state_dict()
    skipped = load_network(other, weights, "file", optional=("backbone.sie_",))
    assert skipped == ["backbone.sie_cameras", "backbone.sie_embed"]
    new = torch.nn.ModuleDict({"backbone": vit(torch.empty(0, 2, dtype=torch.int64))})
    assert load_network(new, weights, "file") == []
    assert torch.equal(new["backbone"].sie_embed, source["backbone"].sie_embed)
    assert for_cameras(source, weights) is weights


@pytest.mark.parametrize("cameras", [3, 5])
def test_rows_of_a_transreid_file(cameras: int, tmp_path: Path, told: Callable[[], str]) -> None:
    """Taken where their number is that of the training cameras, else told."""
    state = vit().state_dict() | {"sie_embed": torch.randn(cameras, 1, 8)}
    torch.save({f"base.{k}": v for k, v in state.items()}, tmp_path / "theirs.pth")
    net = vit(camera_table({"a": np.arange(3)}))
    load_backbone(net, "vit", str(tmp_path / "theirs.pth"))
    assert torch.equal(net.sie_embed, state["sie_embed"]) == (cameras == 3)
    assert net.sie_cameras[:, 1].tolist() == [0, 1, 2]
    missing = "none; left over: none" if cameras == 3 else "sie_embed; left over: sie_embed"
    assert f"not in the file: {missing}" in told()


def test_training_evaluation_and_what_is_refused(
    domains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = overrides(domains, tmp_path, *SIE)
    train(SUPERVISED, given)
    last = tmp_path / "checkpoints" / "supervised-demo" / "last.pt"
    model = read_checkpoint(last)["model"]
    assert model["backbone.sie_embed"].shape == (3, 1, 24)
    assert model["backbone.sie_embed"].abs().max() > 0.03, "the rows learn"

    cfg, network = load_extractor(last, None, [])
    network.eval()
    query = build_evaluation(cfg, "synthetic:winter").query
    plain = build_evaluation(cfg, "synthetic:winter").plain
    found = extract_split(cfg, network, query, plain, CPU, "query").vectors
    rows = camera_rows(network, "synthetic:winter", query.split.cams)
    assert rows is not None
    for k in (0, len(query) - 1):
        pixels = plain(query.__getitems__([k]).images, None)
        with torch.no_grad():
            torch.testing.assert_close(
                found[k : k + 1], network(pixels, cameras=rows[k : k + 1]), rtol=1e-4, atol=1e-4
            )
    main(["eval", "cpu", str(last)])
    told = capsys.readouterr()
    assert "mAP" in told.out
    assert train(SUPERVISED, [*given, "RESUME", str(last)])  # goes on with the same table

    with pytest.raises(SystemExit):
        main(["eval", "cpu", str(last), "--dataset", "synthetic:summer"])
    assert "not trained with cameras 1, 2, 3 of synthetic:summer; MODEL.SIE false" in capsys.readouterr().err
    main(["eval", "cpu", str(last), "--dataset", "synthetic:summer", "MODEL.SIE", "false"])
    assert "mAP" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"photos alone tell none: MODEL\.SIE false"):
        Embedder(last, device="cpu")
    assert Embedder(last, device="cpu", overrides=["MODEL.SIE", "false"]).dim == 24


def test_clusters_of_two_domains(domains: Path, tmp_path: Path) -> None:
    """Both domains' cameras have rows, although they bear the same numbers."""
    train("configs/cluster_contrast/joint.yml", overrides(domains, tmp_path, *CLUSTERS))
    model = read_checkpoint(next(tmp_path.glob("checkpoints/*/last.pt")))["model"]
    assert model["backbone.sie_embed"].shape == (6, 1, 24)
    assert len(set(model["backbone.sie_cameras"][:, 0].tolist())) == 2


def _rank(rank: int, world: int, root: str, out: str) -> dict[str, torch.Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        ranks = Ranks(rank, world, torch.device("cpu"))
        train(SUPERVISED, overrides(Path(root), Path(out), *SIE), ranks)
    if rank:
        return {}
    return dict(read_checkpoint(Path(out) / "checkpoints" / "supervised-demo" / "last.pt")["model"])


@pytest.mark.ddp
def test_two_ranks(domains: Path, tmp_path: Path) -> None:
    first, _ = run_ranks(_rank, 2, str(domains), str(tmp_path))
    assert first["backbone.sie_cameras"].shape == (3, 2)
    assert torch.isfinite(first["backbone.sie_embed"]).all()
    assert differences(first["backbone.sie_cameras"][:, 1], torch.tensor([1, 2, 3])) == []


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["DATASETS.TARGET", "synthetic:summer"], "not trained with cameras 1, 2, 3 of synthetic:summer"),
        (["MODEL.BACKBONE", "resnet18"], "resnet18 has no camera embedding: set MODEL.SIE false"),
    ],
)
def test_refused_before_the_first_step(more: list[str], told: str, domains: Path, tmp_path: Path) -> None:
    with pytest.raises((InputError, ModelError), match=told):
        train(SUPERVISED, overrides(domains, tmp_path, *SIE, *more))
    assert not list(tmp_path.rglob("*.pt"))


def test_other_methods_and_adapt_refuse() -> None:
    cfg = configs.load(
        "configs/demo.yml", ["MODEL.SIE", "true", "MODEL.BACKBONE", "vit_tiny", "MODEL.LAST_STRIDE", "1"]
    )
    with pytest.raises(InputError, match="METHOD camera_aware passes no cameras"):
        load_method("camera_aware").build_extractor(cfg)
    with pytest.raises(InputError, match=r"MODEL\.SIE true embeds the cameras of one dataset"):
        adapt_config("synthetic:winter", "configs/demo.yml", "cpu", ["MODEL.SIE", "true"])
