"""Masks draw what their images draw, whatever else is drawn between; the order of the transforms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crossreid import configs
from crossreid.datasets.color_transfer import CameraStatistics, CameraStyle
from crossreid.datasets.decode import decode
from crossreid.datasets.raw_crops import RawCrops
from crossreid.datasets.transforms import AreaCrop, ColorJitter, PadCrop, RandomErasing
from crossreid.engine.augmentation import train_transform
from crossreid.engine.data import build_data, shown
from tests.tiny import CPU, overrides

EVERYTHING = ["INPUT.PAD_VALUE", "0", "INPUT.CROP_AREA", "[0.5, 0.9]", "INPUT.JITTER", "[0.2, 0.0, 0.0, 0.0]"]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shapes(count: int) -> torch.Tensor:
    """Black images with a white box of random place, uint8 [count, 3, 256, 128]."""
    images = torch.zeros(count, 3, 256, 128, dtype=torch.uint8)
    corners = torch.randint(10, 50, (count, 2), generator=generator(1)).tolist()
    for image, (top, left) in zip(images, corners):
        image[:, 2 * top : 2 * top + 120, left : left + 50] = 255
    return images


def test_masks_move_as_their_images_do() -> None:
    """More images than are computed in one piece; where nothing was erased, bright is bright and black is black."""
    cfg = configs.load(None, EVERYTHING)
    images = shapes(40)
    shown, masks = train_transform(cfg).together(images, images, generator(5))
    assert masks is not None
    assert torch.equal(shown, train_transform(cfg)(images, generator(5)))  # masks change nothing
    assert masks.shape == images.shape
    assert masks.min() >= 0
    assert masks.max() <= 1
    pixels = shown * torch.tensor(cfg.INPUT.STD).view(3, 1, 1) + torch.tensor(cfg.INPUT.MEAN).view(3, 1, 1)
    erased = (shown.abs() < 1e-6).all(dim=1, keepdim=True).expand_as(shown)
    assert 0.02 < erased.float().mean() < 0.3
    inside, outside = (masks == 1) & ~erased, (masks == 0) & ~erased
    assert inside.float().mean() > 0.1
    assert outside.float().mean() > 0.1
    assert pixels[inside].min() > 0.7
    assert pixels[outside].abs().max() < 1e-4
    moved = (masks != images / 255).flatten(1).any(dim=1)
    assert moved.all()


def test_camera_style_is_drawn_first_and_left_out_of_masks() -> None:
    cfg = configs.load(None, ["INPUT.PAD_VALUE", "0", "INPUT.ERASE", "0"])
    numbers = torch.tensor([[0.4, 0.0, 0.0], [0.9, 0.1, 0.1]])
    style = CameraStyle(CameraStatistics(torch.tensor([1, 2]), numbers, numbers / 4))
    images, cams = shapes(8), torch.ones(8, dtype=torch.long)
    shown, masks = train_transform(cfg, style).together(images, images, generator(2), cams)
    plain = train_transform(cfg)(images, generator(2))
    assert masks is not None
    own = style.draw(images, generator(2))[0] == 0  # these images keep their camera
    assert own.any()
    assert not own.all()
    mean, std = torch.tensor(cfg.INPUT.MEAN).view(3, 1, 1), torch.tensor(cfg.INPUT.STD).view(3, 1, 1)
    torch.testing.assert_close(shown[own] * std + mean, masks[own], rtol=0, atol=1e-5)
    assert not torch.allclose(shown[~own] * std + mean, masks[~own], atol=1e-2)
    assert not torch.equal(shown, plain)


@pytest.mark.parametrize("more", [[], ["INPUT.CROP_AREA", "[0.64, 1.0]", "INPUT.CROP", "false"]])
def test_area_crop_is_off_by_default(more: list[str]) -> None:
    kinds = [type(t) for t in train_transform(configs.load(None, more)).transforms]
    assert (AreaCrop in kinds) == bool(more)


def test_borders_of_masks_are_black_whatever_the_padding() -> None:
    cfg = configs.load(None, ["INPUT.PAD_VALUE", "[10, 200, 30]", "INPUT.ERASE", "0"])
    white = torch.full((30, 3, 256, 128), 255, dtype=torch.uint8)
    shown, masks = train_transform(cfg).together(white, white, generator(4))
    assert masks is not None
    mean, std = torch.tensor(cfg.INPUT.MEAN).view(3, 1, 1), torch.tensor(cfg.INPUT.STD).view(3, 1, 1)
    pixels = ((shown * std + mean) * 255).permute(0, 2, 3, 1)
    border = (masks == 0).all(dim=1)
    assert 0.02 < border.float().mean() < 0.2
    colour = torch.tensor([10.0, 200, 30]).expand_as(pixels[border])
    torch.testing.assert_close(pixels[border], colour, rtol=0, atol=1e-3)
    torch.testing.assert_close(pixels[~border], torch.full_like(pixels[~border], 255), rtol=0, atol=1e-3)


def test_keys_of_the_recipes_reach_the_transforms() -> None:
    def kinds(*more: str) -> list[type]:
        return [type(t) for t in train_transform(configs.load(None, [*JITTER, *more])).transforms]

    assert kinds().index(ColorJitter) == 1  # after flip and pad, which are one
    assert kinds("INPUT.JITTER_FIRST", "true").index(ColorJitter) == 0
    default = train_transform(configs.load(None, []))
    erasing = default.transforms[-1]
    assert isinstance(erasing, RandomErasing)
    assert (erasing.law, erasing.value) == ("log", (0.0, 0.0, 0.0))
    changed = [
        "INPUT.ERASE_ASPECT",
        "uniform",
        "INPUT.ERASE_VALUE",
        "[0.485, 0.456, 0.406]",
        "INPUT.FLIP",
        "0",
    ]
    steps = train_transform(configs.load(None, [*changed, "INPUT.PAD_VALUE", "[127, 0, 0]"])).transforms
    assert isinstance(steps[0], PadCrop)
    assert steps[0].value == (127.0, 0.0, 0.0)
    assert isinstance(steps[-1], RandomErasing)
    assert (steps[-1].law, steps[-1].value) == ("uniform", (0.485, 0.456, 0.406))
    with pytest.raises(configs.ConfigError, match=r"INPUT.PAD_VALUE must hold 1 or 3 values, got \[1, 2\]"):
        configs.load(None, ["INPUT.PAD_VALUE", "[1, 2]"])
    with pytest.raises(
        configs.ConfigError, match=r"INPUT.INTERPOLATION is 'nearest', allowed are bilinear, bicubic"
    ):
        configs.load(None, ["INPUT.INTERPOLATION", "nearest"])


def test_raw_crops_and_interpolation_reach_the_data(tmp_path: Path) -> None:
    more = [
        "CAMERA_AWARE.SOURCE_EPOCHS",
        "1",
        "INPUT.INTERPOLATION",
        "bicubic",
        "INPUT.CROP_RAW",
        "true",
        "INPUT.CROP_AREA",
        "[0.64, 1.0]",
    ]
    cfg = configs.load("configs/demo.yml", overrides(tmp_path, tmp_path, *more))
    data = build_data(cfg, CPU)
    with data.streams as streams:
        batch = next(streams)["source"]
    images, crops = data.domains["source"].images, shown(cfg, data.domains["source"], cfg.SEED, CPU)
    assert isinstance(crops, RawCrops)
    assert torch.equal(batch.images, crops.batch(batch.index.numpy(), 0).images)
    whole = images.gather(batch.index.numpy()).images
    assert not torch.equal(batch.images, whole)
    assert (whole[0].numpy() == decode(images.split.paths[batch.index[0]], 32, 16, "bicubic")).all()
    assert AreaCrop not in [type(t) for t in data.domains["source"].transform.transforms]
    assert shown(configs.load("configs/demo.yml", []), data.domains["source"], 0, CPU) is images


JITTER = ["INPUT.JITTER", "[0.1, 0.1, 0.1, 0.0]"]
