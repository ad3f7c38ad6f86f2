"""Disentangling: what each loss compares, masks, pictures, several ranks, resuming, bad input."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossreid import configs
from crossreid.engine.data import Data, build_data
from crossreid.engine.distributed import Ranks
from crossreid.engine.errors import InputError
from crossreid.engine.method import Method
from crossreid.engine.methods import arn_step, disentangle
from crossreid.modeling.arn import AdaptationNet
from crossreid.modeling.weights import read_checkpoint
from tests.no_sync import NoSync
from tests.ranks import run_ranks
from tests.tiny import CPU, differences, overrides, train

CONFIG = "configs/disentangle/demo.yml"
ADAPT = ["MODEL.LAST_STRIDE", "1", "DISENTANGLE.SOURCE_EPOCHS", "0", "DISENTANGLE.DECODER_WIDTHS", "[16, 8]"]
ARN = ["DISENTANGLE.VARIANT", "arn", "DISENTANGLE.JITTER", "false", "DISENTANGLE.APP_WEIGHT", "0"]
TERMS = {"cls", "app", "ctr", "rec", "dif", "mmd"}


def build(root: Path, out: Path, *more: str, ranks: Ranks = CPU) -> tuple[Data, Method]:
    cfg = configs.load(CONFIG, overrides(root, out, *ADAPT, *more))
    torch.manual_seed(cfg.SEED)
    data = build_data(cfg, ranks)
    return data, disentangle.build(cfg, data)


def at(step: int, epoch: int = 1) -> Any:
    return SimpleNamespace(state=SimpleNamespace(iteration=step, epoch=epoch))


def test_partner_is_the_next_image_of_the_identity() -> None:
    assert disentangle.next_of_identity(6, 2).tolist() == [1, 0, 3, 2, 5, 4]
    assert disentangle.next_of_identity(6, 3).tolist() == [1, 2, 0, 4, 5, 3]


def test_recoloured_permutes_and_negates_whole_images() -> None:
    torch.manual_seed(3)
    images = torch.rand(600, 3, 4, 2)
    torch.manual_seed(7)
    views = disentangle.recoloured(images, 2 / 3)
    assert views.min() >= 0
    assert views.max() <= 1, "a negative is 1 - x"
    seen = []
    for image, view in zip(images, views):
        fits = [
            (order, negative)
            for order in itertools.permutations(range(3))
            for negative in (True, False)
            if torch.equal(view, 1 - image[list(order)] if negative else image[list(order)])
        ]
        assert len(fits) == 1
        seen += fits
    assert np.mean([negative for _, negative in seen]) == pytest.approx(2 / 3, abs=0.06)
    counts = np.unique([order for order, _ in seen], axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert counts.min() > 60
    torch.manual_seed(7)
    assert torch.equal(views, disentangle.recoloured(images, 2 / 3))


class Seen:
    """Records what the step hands to the losses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: dict[str, tuple[Any, ...]] = {}
        for name in ("reconstruction", "masked_l2", "orthogonality", "contrastive", "mmd"):
            for module in (disentangle, arn_step):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, self._watch(name, getattr(module, name)))

    def _watch(self, name: str, loss: Any) -> Any:
        def watched(*arguments: Any, **options: Any) -> torch.Tensor:
            self.calls[name] = arguments
            return loss(*arguments, **options)

        return watched


def test_losses_compare_the_right_things(
    domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch)
    more = ["DISENTANGLE.MMD_UNIT", "false", "DISENTANGLE.APP_WEIGHT", "0.7"]
    data, method = build(domains, tmp_path, *more)
    with data.streams as streams:
        batches: Mapping[str, Any] = next(streams)
    told = method.train_step(at(1), batches)
    source = data.augmented("source", batches["source"], 1)
    target = data.augmented("target", batches["target"], 1)
    wanted = seen.calls["reconstruction"][1]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    back = (wanted - mean.view(3, 1, 1)) / std.view(3, 1, 1)  # 8 pictures of each domain
    torch.testing.assert_close(back[8:], target)
    for i, partner in enumerate([1, 0, 3, 2, 5, 4, 7, 6]):
        assert batches["source"].pids[i] == batches["source"].pids[partner]
        torch.testing.assert_close(back[i], source[partner])
    identity, pose = seen.calls["orthogonality"]
    assert identity.shape == pose.shape == (16, 128)
    assert torch.equal(seen.calls["contrastive"][0], identity[:8])
    assert torch.equal(seen.calls["contrastive"][1], batches["source"].pids)
    assert torch.equal(seen.calls["mmd"][0], identity[8:])
    assert torch.equal(seen.calls["mmd"][1], identity[:8])
    own = identity[:8].detach()
    expected = (own - own[[1, 0, 3, 2, 5, 4, 7, 6]]).square().mean()
    torch.testing.assert_close(told["app"], expected)
    assert set(told) == TERMS | {"loss"}
    weights = {"cls": 1, "rec": 0.1, "dif": 0.1, "app": 0.7, "ctr": 0.1, "mmd": 0.1}
    torch.testing.assert_close(
        told["loss"], sum((w * told[name] for name, w in weights.items()), torch.zeros(()))
    )


def test_the_source_phase_uses_the_source_alone(domains: Path, tmp_path: Path) -> None:
    data, method = build(domains, tmp_path, "DISENTANGLE.SOURCE_EPOCHS", "1", *ARN)
    net = method.extractor
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with data.streams as streams:
        told = method.train_step(at(1, 1), next(streams))
        assert set(told) == (TERMS | {"loss"}) - {"mmd", "app"}
        buffers = [
            k for k, v in net.named_buffers() if k.startswith("private.target") and v.is_floating_point()
        ]
        assert all(torch.equal(before[k], net.state_dict()[k]) for k in buffers)
        assert set(method.train_step(at(2, 2), next(streams))) == (TERMS | {"loss"}) - {"app"}
    assert not all(torch.equal(before[k], net.state_dict()[k]) for k in buffers)
    assert method.milestones == {1: "direct transfer"}


@pytest.mark.parametrize("variant", ["pose", "arn"])
def test_step_never_waits_for_the_device(domains: Path, tmp_path: Path, variant: str) -> None:
    more = ["SOLVER.OPTIMIZER", "sgd", "DISENTANGLE.SOURCE_EPOCHS", "1", *(ARN if variant == "arn" else [])]
    plain, _ = build(domains, tmp_path)
    data, method = build(domains, tmp_path, *more, *masks(tmp_path, plain))
    with data.streams as streams:
        for epoch in (1, 2):
            batches = next(streams)
            with NoSync():
                method.train_step(at(epoch, epoch), batches)


def test_it_learns_to_draw_and_to_tell_people_apart(domains: Path, tmp_path: Path) -> None:
    data, method = build(domains, tmp_path, "INPUT.FLIP", "0", "INPUT.CROP", "false")
    told = []
    with data.streams as streams:
        for step in range(1, 51):
            torch.manual_seed(step)
            values = method.train_step(at(step), next(streams))
            told.append([float(values[name]) for name in ("rec", "cls", "dif")])
    first, last = np.mean(told[:5], axis=0), np.mean(told[-5:], axis=0)
    assert last[0] < 0.6 * first[0]
    assert last[1] < 0.8 * first[1]
    assert last[2] < 0.8 * first[2]


# Masks ---------------------------------------------------------------------------------------------------------------


def masks(root: Path, data: Data, *, skip: int = -1, size: int = -1, mode: int = -1) -> list[str]:
    """A grey mask for every training image: 1 where its red is above 110; one can be left out or made wrong."""
    folder = root / "masks"
    for stream, name in (("source", "synthetic-summer"), ("target", "synthetic-winter")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i, path in enumerate(data.domains[stream].images.split.paths):
            with Image.open(path) as image:
                red = np.asarray(image.convert("RGB"))[:, :, 0]
            mask = Image.fromarray(np.where(red > 110, 255, 0).astype(np.uint8))
            if i == size:
                mask = mask.resize((20, 30))
            if i == mode:
                mask = mask.convert("RGB")
            if i != skip:
                mask.save(folder / name / f"{Path(path).stem}.png")
    return ["DISENTANGLE.MASK_DIR", str(folder)]


def test_masks_move_with_their_images(domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At full size, so that what is masked is exactly what was bright, wherever flip and crop have put it."""
    full = ["INPUT.SIZE", "[64, 32]", "INPUT.PAD_VALUE", "0", "INPUT.PAD", "6"]
    plain, _ = build(domains, tmp_path, *full)
    seen = Seen(monkeypatch)
    data, method = build(domains, tmp_path, *full, *masks(tmp_path, plain))
    with data.streams as streams:
        for step in (1, 2):
            method.train_step(at(step), next(streams))
            output, wanted, mask = seen.calls["masked_l2"]
            assert mask.shape == wanted.shape == output.shape == (16, 3, 64, 32)
            shown = mask[:, :1] > 0.5
            assert 0.02 < shown.float().mean() < 0.98
            assert bool((wanted[:, :1][shown] > 110 / 255).all())
            assert not wanted[~shown.expand_as(wanted)].any()
            assert not output[~shown.expand_as(output)].any()
    assert "reconstruction" not in seen.calls


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("skip", r"1 of \d+ training images of synthetic:winter have no mask, first .*\.png; add them"),
        (
            "size",
            r"masks/synthetic-winter/.*\.png has 20x30 pixels, its image .* has 32x64; a mask needs its",
        ),
        ("mode", r"\.png is not grey \(mode RGB\)"),
    ],
)
def test_bad_masks(domains: Path, tmp_path: Path, fault: str, told: str) -> None:
    plain, _ = build(domains, tmp_path)
    with pytest.raises(InputError, match=told) as caught:
        build(domains, tmp_path, *masks(tmp_path, plain, **{fault: 3}))
    assert "\n" not in str(caught.value)


def test_missing_mask_folder(domains: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"have no mask, first .*nowhere/synthetic-winter"):
        build(domains, tmp_path, "DISENTANGLE.MASK_DIR", str(tmp_path / "nowhere"))


# Pictures, resuming, ranks ------------------------------------------------------------------------------------------


def test_pictures_show_each_domain(domains: Path, tmp_path: Path) -> None:
    data, method = build(domains, tmp_path, "DISENTANGLE.GRID", "3", *ARN)
    net = method.extractor
    assert isinstance(net, AdaptationNet)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    pictures = method.pictures()
    assert net.training
    assert differences(before, net.state_dict()) == []
    assert {k: (v.dtype, tuple(v.shape)) for k, v in pictures.items()} == {
        "reconstruction": (torch.uint8, (3, 4 * 36, 3 * 20)),
        "swap_source": (torch.uint8, (3, 4 * 36, 4 * 20)),
        "swap_target": (torch.uint8, (3, 4 * 36, 4 * 20)),
    }
    last = data.domains["target"].images
    pixels = last.gather([len(last) - 1]).images[0]
    assert torch.equal(pictures["swap_target"][:, 2:34, 62:78], pixels)  # the last pose, top right
    assert torch.equal(pictures["swap_target"][:, 110:142, 2:18], pixels)  # the last identity, bottom left
    assert torch.equal(pictures["reconstruction"][:, 74:106, 42:58], pixels)
    assert torch.equal(
        pictures["reconstruction"][:, 110:142, 42:58], pictures["swap_target"][:, 110:142, 62:78]
    )
    assert (pictures["swap_source"][:, :36, :20] == 255).all()


def test_two_epochs_resumed_to_four_equal_four(domains: Path, tmp_path: Path) -> None:
    """Source phase, recolouring, masks' draws and pictures are in play; pictures lie beside the log."""
    more = [*ADAPT, "DISENTANGLE.SOURCE_EPOCHS", "1", "TEST.PERIOD", "4", "DATALOADER.ITERS_PER_EPOCH", "2"]
    for name, steps in (("straight", ["4"]), ("broken", ["2", "4"])):
        for epochs in steps:
            train(
                CONFIG, overrides(domains, tmp_path / name, *more, "SOLVER.EPOCHS", epochs, "RESUME", "auto")
            )
    saved = [
        read_checkpoint(tmp_path / name / "checkpoints" / "disentangle-demo" / "last.pt")
        for name in ("straight", "broken")
    ]
    for content in saved:
        content.pop("config")  # holds OUTPUT_DIR
        content.pop("progress")  # the shorter run evaluated once more
    assert differences(*saved) == []
    drawn = sorted(
        p.name for p in (tmp_path / "straight" / "logs" / "disentangle-demo" / "pictures").iterdir()
    )
    names = ("reconstruction", "swap_source", "swap_target")
    assert drawn == [f"{name}-{epoch:04d}.png" for name in names for epoch in (1, 4)]


def two_phases(rank: int, world: int, root: str, out: str) -> dict[str, torch.Tensor]:
    """A step of the source phase, where ARN's target encoder has nothing to do, and one of the adaptation."""
    ranks = Ranks(rank, world, torch.device("cpu"))
    more = ["DISENTANGLE.SOURCE_EPOCHS", "1", *ARN]
    data, method = build(Path(root), Path(out), *more, "SOLVER.OPTIMIZER", "sgd", ranks=ranks)
    start = {name: p.detach().clone() for name, p in method.extractor.named_parameters()}
    losses = {}
    with data.streams as streams:
        for step in (1, 2):
            torch.manual_seed(step * 10 + rank)
            losses[f"loss {step}"] = method.train_step(at(step, step), next(streams))["loss"]
    weights = {name: p.detach() for name, p in method.extractor.named_parameters()}
    assert all(not torch.equal(start[name], value) for name, value in weights.items())
    return {**weights, **losses}


@pytest.mark.ddp
def test_ranks_stay_alike_in_both_phases(domains: Path, tmp_path: Path) -> None:
    build(domains, tmp_path)  # draws the domains once
    first, second = run_ranks(two_phases, 2, str(domains), str(tmp_path))
    for name, value in first.items():
        assert torch.equal(value, second[name]) != name.startswith("loss"), name


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["DATALOADER.INSTANCES", "0"], "needs pairs of one person: DATALOADER.INSTANCES is 0"),
        (["DISENTANGLE.VARIANT", "ARN"], "allowed are pose, arn"),
        (["DISENTANGLE.MMD_SIGMAS", "[]"], "DISENTANGLE.MMD_SIGMAS is empty"),
        (["DATASETS.SOURCES", "[market, duke]"], "METHOD disentangle takes one source"),
    ],
)
def test_bad_config(domains: Path, tmp_path: Path, more: list[str], told: str) -> None:
    with pytest.raises(configs.ConfigError, match=told) as caught:
        configs.load(CONFIG, overrides(domains, tmp_path, *ADAPT, *more))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            ["INPUT.SIZE", "[30, 16]"],
            r"INPUT.SIZE \[30, 16\] must be divisible by 8, .* tiny_half, .* \[32, 16\] would do",
        ),
        (["MODEL.BACKBONE", "resnet18", "MODEL.LAST_STRIDE", "2"], "must be divisible by 32, the stride of"),
        (["MODEL.BACKBONE", "resnet18", "INPUT.SIZE", "[64, 32]"], r"DECODER_WIDTHS \[16, 8\] holds too few"),
    ],
)
def test_sizes_that_the_decoder_cannot_give(
    domains: Path, tmp_path: Path, more: list[str], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        build(domains, tmp_path, *ADAPT, *more)
