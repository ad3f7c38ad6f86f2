"""Masks draw what their images draw, whatever else is drawn between; the order of the transforms."""

from __future__ import annotations

import pytest
import torch

from crossreid import configs
from crossreid.datasets.color_transfer import CameraStatistics, CameraStyle
from crossreid.datasets.transforms import AreaCrop, Compose
from crossreid.engine.augmentation import Undone, mask_transform, train_transform

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
    shown = train_transform(cfg)(images, generator(5))
    masks = mask_transform(cfg)(images, generator(5))
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
    style = CameraStyle(CameraStatistics(torch.tensor([1, 2]), numbers, numbers / 4), relative=True)
    images, cams = shapes(8), torch.ones(8, dtype=torch.long)
    shown = train_transform(cfg, style)(images, generator(2), cams)
    plain = train_transform(cfg)(images, generator(2))
    masks = mask_transform(cfg, style)(images, generator(2))
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


def test_undone_draws_and_leaves() -> None:
    class Count:
        drawn = 0

        def draw(self, images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor]:
            self.drawn += 1
            return (torch.rand(1, generator=generator),)

    count, first, second = Count(), generator(3), generator(3)
    images = torch.rand(2, 3, 4, 4)
    assert Undone(count)(images, first) is images
    assert count.drawn == 1
    assert not torch.equal(first.get_state(), second.get_state())
    assert isinstance(mask_transform(configs.load(None, [])), Compose)
