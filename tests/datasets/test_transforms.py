from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from torchvision import transforms as tv

from crossreid.datasets import Split
from crossreid.datasets.color_transfer import AXES, CameraStatistics, CameraStyle, camera_statistics
from crossreid.datasets.geometry import windows
from crossreid.datasets.images import ImageDataset
from crossreid.datasets.transforms import (
    AreaCrop,
    ColorJitter,
    Compose,
    Flip,
    Normalize,
    PadCrop,
    RandomErasing,
    Rotation,
    iteration_generator,
)
from tests.datasets import trees

B, H, W = 6, 32, 16
MANY = 4000
HALF = (torch.float16, torch.bfloat16)


def pictures(count: int = B, height: int = H, width: int = W) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=seeded(99), dtype=torch.uint8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


BLANK = torch.zeros(MANY, 3, 256, 128, dtype=torch.uint8, device="meta")  # only its shape is looked at


def close(value: float, expected: float, spread: float, count: int = MANY) -> bool:
    """Within 4.5 standard errors of a mean."""
    return abs(value - expected) < 4.5 * spread / math.sqrt(count)


def test_flip() -> None:
    images = pictures()
    chosen = torch.tensor([0, 1, 1, 0, 0, 1])
    result = Flip().apply(images, chosen)
    for image, out, flip in zip(images, result, chosen):
        assert torch.equal(out, TF.hflip(image) if flip else image)
    assert close(Flip(0.3).draw(BLANK, seeded())[0].double().mean().item(), 0.3, 0.46)
    assert Flip(0.0).draw(BLANK, seeded())[0].sum() == 0
    assert Flip(1.0).draw(BLANK, seeded())[0].sum() == MANY


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, *HALF])
def test_pad_crop_at_every_corner(dtype: torch.dtype) -> None:
    pad = 3
    places = torch.tensor(list(itertools.product((0, 3, 6), (0, 1, 6), (0, 1))))
    top, left, flip = places.unbind(1)
    images = pictures(len(places))
    images = images if dtype == torch.uint8 else (images / 255).to(dtype)
    fill = 127 if dtype == torch.uint8 else torch.tensor(127 / 255).to(dtype).item()
    result = windows(images, flip, top, left, pad, (127,) * 3)
    for k, image in enumerate(images):
        source = TF.hflip(image) if flip[k] else image
        padded = TF.pad(source, [pad], fill=fill)
        assert torch.equal(result[k], TF.crop(padded, int(top[k]), int(left[k]), H, W))
    assert result.dtype == dtype


def test_pad_crop_draws() -> None:
    for values in PadCrop(10).draw(BLANK, seeded()):
        assert values.unique().tolist() == list(range(21))
        assert close(values.double().mean().item(), 10, math.sqrt(440 / 12))


def test_flip_and_pad_crop_in_one_gather_or_two() -> None:
    images = pictures()
    joined = Compose([Flip(), PadCrop(4), Normalize()])
    assert len(joined.transforms) == 2
    random = seeded(5)
    apart = PadCrop(4)(Flip()(images, random), random)
    assert torch.equal(joined(images, seeded(5)), Normalize()(apart))


def test_normalize() -> None:
    images = pictures()
    expected = torch.stack([TF.normalize(i / 255, [0.1, 0.5, 0.7], [0.2, 0.3, 0.4]) for i in images])
    normalize = Normalize((0.1, 0.5, 0.7), (0.2, 0.3, 0.4))
    torch.testing.assert_close(normalize(images), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(normalize(images / 255), expected, rtol=0, atol=2e-6)


BOXES = torch.tensor(
    [[0, 0, 32, 16], [0, 0, 16, 8], [16, 8, 16, 8], [3, 2, 21, 9], [5, 0, 27, 16], [31, 15, 1, 1]]
)


def test_area_crop_at_given_boxes() -> None:
    images = pictures() / 255
    result = AreaCrop().apply(images, *BOXES.float().unbind(1))
    for image, out, (top, left, height, width) in zip(images, result, BOXES.tolist()):
        expected = TF.resized_crop(image, top, left, height, width, [H, W], antialias=False)
        torch.testing.assert_close(out, expected, rtol=0, atol=2e-5)
    as_bytes = AreaCrop().apply((images * 255).round().to(torch.uint8), *BOXES.float().unbind(1))
    assert (as_bytes / 255 - result).abs().max() <= 0.5 / 255 + 2e-5


def test_pad_crop_with_a_colour() -> None:
    images = pictures()
    colour = (127, 0, 30)
    for kind in (images, images / 255):
        result = PadCrop(4, colour).apply(
            kind, torch.tensor([0, 8, 4, 3, 0, 1]), torch.tensor([0, 8, 4, 8, 8, 2])
        )
        assert result.dtype == kind.dtype
        for image, out, top, left in zip(images, result, (0, 8, 4, 3, 0, 1), (0, 8, 4, 8, 8, 2)):
            padded = tv.functional.pad(tv.functional.to_pil_image(image), [4], fill=colour)
            expected = TF.crop(TF.pil_to_tensor(padded), top, left, H, W)
            torch.testing.assert_close(
                out * (1 if kind is images else 255), expected.to(out.dtype), rtol=0, atol=1e-4
            )


def area_crop_of_the_program(random: np.random.Generator) -> tuple[int, ...]:
    """ECN's random-sized rectangle crop of a 256 x 128 image, drawn one by one."""
    for _ in range(10):
        area, aspect = random.uniform(0.64, 1) * 256 * 128, random.uniform(2, 3)
        height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if height <= 256 and width <= 128:
            return random.integers(256 - height + 1), random.integers(128 - width + 1), height, width
    return 0, 0, 256, 128


def test_area_crop_draws_as_the_program() -> None:
    random = np.random.default_rng(0)
    theirs = torch.tensor([area_crop_of_the_program(random) for _ in range(MANY)]).double()
    compare(torch.stack(AreaCrop().draw(BLANK, seeded()), 1).double(), theirs)


def test_area_crop_with_a_free_aspect() -> None:
    top, left, height, width = AreaCrop((0.7, 0.95), None).draw(BLANK, seeded())
    share = height * width / (256 * 128)
    assert 0.69 < share.min() < 0.71
    assert 0.94 < share.max() < 0.96
    place = (width / 128 - share) / (1 - share)  # uniform between the narrowest and the whole width
    assert close(place.double().mean().item(), 0.5, 12**-0.5)
    assert abs(place.double().std().item() - 12**-0.5) < 0.01
    assert (top + height).max() == 256
    assert (left + width).max() == 128
    assert top.min() == left.min() == 0


def compare(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Two samples [MANY, values] agree in mean, spread, extremes and distribution."""
    spread = theirs.std(0)
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4.5 * spread * math.sqrt(2 / MANY)).all()
    assert ((ours.std(0) / spread - 1).abs() < 0.08).all()
    for a, b in zip(ours.T.numpy(), theirs.T.numpy()):  # Kolmogorov-Smirnov at 1e-4
        grid = np.unique(np.concatenate([a, b]))
        distance = np.searchsorted(np.sort(a), grid, "right") - np.searchsorted(np.sort(b), grid, "right")
        assert np.abs(distance).max() / MANY < 2.22 * math.sqrt(2 / MANY)


def test_area_crop_of_the_recipe_stays_inside() -> None:
    top, left, height, width = AreaCrop().draw(BLANK, seeded())
    area, aspect = height * width / (256 * 128), height / width
    assert area.min() > 0.62
    assert area.max() <= 1
    assert aspect.min() > 1.97
    assert aspect.max() < 3.04
    assert (top + height)[height < 256].max() == 256  # boxes lie against every side
    assert (left + width)[width < 128].max() == 128
    assert top[height < 256].min() == 0 == left[width < 128].min()


def test_area_crop_that_never_fits_takes_the_whole() -> None:
    top, left, height, width = AreaCrop((1.0, 1.0), (2.5, 3.0)).draw(BLANK, seeded())
    assert (height == 256).all()
    assert (width == 128).all()
    assert top.count_nonzero() + left.count_nonzero() == 0


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_rotation_at_given_angles(mode: str) -> None:
    images = pictures() / 255
    angles = torch.tensor([0.0, 10.0, -10.0, 33.3, 90.0, -3.21])
    result = Rotation(10, mode).apply(images, angles)
    for image, out, angle in zip(images, result, angles.tolist()):
        expected = TF.rotate(image, angle, TF.InterpolationMode(mode))
        differ = (out - expected).abs().amax(0) > 1e-4
        assert differ.float().mean() < 0.01  # nearest: a pixel exactly between two may go either way
    degrees = Rotation(10).draw(BLANK, seeded())[0]
    assert degrees.abs().max() <= 10
    assert close(degrees.mean().item(), 0, 20 / math.sqrt(12))
    assert abs(degrees.std().item() - 20 / math.sqrt(12)) < 0.2


def test_color_jitter_in_every_order() -> None:
    orders = torch.tensor(list(itertools.permutations(range(4))))
    images = pictures(24)
    factors = torch.stack(
        [
            torch.linspace(*ends, 24).roll(k * 5)
            for k, ends in enumerate([(0.4, 1.6), (0.3, 1.9), (0.0, 2), (-0.5, 0.5)])
        ],
        1,
    )
    result = ColorJitter(0.6, 0.9, 1.0, 0.5).apply(images, orders, factors)
    steps = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for image, out, order, factor in zip(images, result, orders.tolist(), factors.tolist()):
        expected = image / 255
        for step in order:
            expected = steps[step](expected, factor[step])
        torch.testing.assert_close(out, expected, rtol=0, atol=3e-5)


def test_color_jitter_draws() -> None:
    order, factors = ColorJitter(0.2, 1.5, 0.4, 0.1).draw(BLANK, seeded())
    assert torch.equal(order.sort(1).values, torch.arange(4).expand(MANY, 4))
    places = torch.bincount((order * torch.tensor([64, 16, 4, 1])).sum(1), minlength=256)
    assert (places > 0).sum() == 24
    assert abs(places[places > 0].double().std().item()) < 4 * math.sqrt(MANY / 24)
    for values, low, high in zip(factors.T, (0.8, 0.0, 0.6, -0.1), (1.2, 2.5, 1.4, 0.1)):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
        assert close(values.mean().item(), (low + high) / 2, (high - low) / math.sqrt(12))
    only_hue = ColorJitter(hue=0.1)
    assert not torch.equal(only_hue(pictures(), seeded()), pictures() / 255)
    torch.testing.assert_close(ColorJitter()(pictures(), seeded()), pictures() / 255)


def test_erasing_draws_as_torchvision() -> None:
    top, left, height, width = RandomErasing(1.0).draw(BLANK, seeded())
    erased = height > 0
    torch.manual_seed(0)
    image = torch.zeros(3, 256, 128)
    theirs = [
        tv.RandomErasing.get_params(image, (0.02, 0.25), (0.3, 1 / 0.3), [0.0])[:4] for _ in range(MANY)
    ]
    whole = torch.tensor([row[2:] == (256, 128) for row in theirs])
    assert abs(int(whole.sum()) - int((~erased).sum())) < 20  # where nothing fitted
    ours = torch.stack([top, left, height, width], 1).double()
    keep = min(int(erased.sum()), int((~whole).sum()))
    compare_rows = torch.tensor(theirs).double()[~whole][:keep]
    compare(ours[erased][:keep], compare_rows)


def test_erasing_probability_and_bounds() -> None:
    top, left, height, width = RandomErasing(0.4, (0.1, 0.3)).draw(BLANK, seeded())
    assert close((height > 0).double().mean().item(), 0.4, 0.49)
    assert (top + height)[height > 0].max() == 256
    assert (left + width)[height > 0].max() == 128
    area = (height * width)[height > 0] / (256 * 128)
    assert 0.095 < area.min() < area.max() < 0.305

    for never in (RandomErasing(1.0, (0.9, 0.95), (5.0, 6.0)), RandomErasing(1.0, (1.0, 1.0), (2.0, 2.0))):
        assert never.draw(BLANK, seeded())[2].max() == 0  # nothing fits, or the box would be the whole image


def test_erasing_with_a_uniform_aspect() -> None:
    """Three boxes in four are tall; area and aspect as the published program draws them."""
    top, left, height, width = RandomErasing(1.0, (0.02, 0.2), law="uniform").draw(BLANK, seeded())
    random = np.random.default_rng(0)
    theirs = []
    while len(theirs) < MANY:
        area, aspect = random.uniform(0.02, 0.2) * 256 * 128, random.uniform(0.3, 1 / 0.3)
        tall, wide = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if wide < 128 and tall < 256:
            theirs.append((random.integers(256 - tall + 1), random.integers(128 - wide + 1), tall, wide))
    assert (height > 0).all()
    compare(torch.stack([top, left, height, width], 1).double(), torch.tensor(theirs).double())
    assert 0.74 < (height > width).double().mean() < 0.8
    _, _, tall, wide = RandomErasing(1.0, (0.02, 0.05)).draw(BLANK, seeded())
    assert 0.45 < (tall > wide).double().mean() < 0.55  # by its logarithm: as many wide as tall
    with pytest.raises(ValueError, match="law 'linear' of the aspect is not one of log, uniform"):
        RandomErasing(law="linear")


@pytest.mark.parametrize("value", [0.0, 0.5, (0.485, 0.456, 0.406)])
def test_erasing_fills_exactly_the_box(value: float | tuple[float, ...]) -> None:
    erasing = RandomErasing(1.0, value=value)
    images = Normalize()(pictures())
    boxes = torch.tensor(
        [[0, 0, 5, 7], [27, 9, 5, 7], [3, 4, 1, 1], [0, 0, 31, 15], [9, 9, 0, 4], [8, 2, 10, 3]]
    )
    result = erasing.apply(images.clone(), *boxes.float().unbind(1))
    fill = torch.tensor(value if isinstance(value, tuple) else [value] * 3).view(3, 1, 1)
    for k, (top, left, height, width) in enumerate(boxes.tolist()):
        torch.testing.assert_close(result[k], TF.erase(images[k], top, left, height, width, fill))


def recipe() -> Compose:
    first = [ColorJitter(0.2, 0.2, 0.2, 0.1), Rotation(10), AreaCrop(), Flip(), PadCrop(4)]
    return Compose([*first, Normalize(), RandomErasing()])


def test_masks_change_nothing_and_move_with_their_images() -> None:
    images = pictures(40)
    shown, masks = recipe().together(images, images, seeded(7))
    assert masks is not None
    assert torch.equal(shown, recipe()(images, seeded(7)))
    plain = Compose([Rotation(10), AreaCrop(), Flip(), PadCrop(4, 0), Normalize((0.0,) * 3, (1.0,) * 3)])
    moved, same = plain.together(images, images, seeded(7))
    torch.testing.assert_close(moved, same)
    assert recipe().together(images, None, seeded(7))[1] is None


def test_the_same_generator_gives_the_same_bits() -> None:
    images = pictures(40)
    before = images.clone()
    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    results = [recipe()(images, iteration_generator("cpu", *key)) for key in keys]
    assert torch.equal(images, before)
    for a, b in itertools.combinations(results, 2):
        assert not torch.equal(a, b)
    for key, result in zip(keys, results):
        assert torch.equal(recipe()(images, iteration_generator("cpu", *key)), result)


@pytest.mark.parametrize(
    "transform", [Flip(), PadCrop(3), AreaCrop(), Rotation(20), ColorJitter(0.2, 0.2, 0.2, 0.1)]
)
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_in_and_out(transform: Flip, dtype: torch.dtype) -> None:
    images = (pictures() / 255).to(dtype)
    result = transform(images, seeded())
    assert result.dtype == dtype
    expected = transform(images.float(), seeded())
    assert (result.float() - expected).abs().max() <= torch.finfo(dtype).eps


@pytest.mark.parametrize(
    "transform", [Flip(), PadCrop(3), AreaCrop(), Rotation(9), ColorJitter(0.2, 0.2, 0.2, 0.1)]
)
def test_nothing_waits_for_the_device(transform: Flip) -> None:
    """On the meta device there are no values: whatever would read one fails."""
    drawn = [values.to("meta") for values in transform.draw(pictures(), seeded())]
    assert transform.apply(pictures().to("meta"), *drawn).shape == (B, 3, H, W)
    erasing = RandomErasing()
    boxes = [values.to("meta") for values in erasing.draw(pictures(), seeded())]
    assert erasing.apply(Normalize()(pictures().to("meta")), *boxes).shape == (B, 3, H, W)


def test_order_of_a_compose() -> None:
    for wrong in (
        [Flip()],
        [RandomErasing(), Normalize()],
        [Normalize(), Flip()],
        [Normalize(), Normalize()],
    ):
        with pytest.raises(ValueError, match="Normalize"):
            Compose(wrong)
    torch.testing.assert_close(Compose([Normalize()])(pictures()), Normalize()(pictures()))


def soft_pictures(count: int) -> torch.Tensor:
    """Images of little contrast, each with a colour of its own: nothing is clamped at black or white."""
    noise = torch.rand(count, 3, H, W, generator=seeded(1)) * 0.2
    return noise + 0.3 + 0.2 * torch.rand(count, 3, 1, 1, generator=seeded(2))


def moments(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    projected = torch.einsum("kc,bchw->bkhw", AXES.double(), images.double())
    return projected.mean((2, 3)), projected.std((2, 3), correction=0)


STATISTICS = CameraStatistics(
    torch.tensor([2, 5, 11]),
    torch.tensor([[0.7, 0.02, 0.01], [0.8, -0.03, 0.02], [0.9, 0.05, -0.02]]),
    torch.tensor([[0.05, 0.03, 0.02], [0.08, 0.02, 0.03], [0.06, 0.05, 0.04]]),
)


def test_camera_style_takes_the_other_cameras_moments() -> None:
    images = soft_pictures(6)
    cams, target = torch.tensor([2, 5, 11, 2, 5, 11]), torch.tensor([0, 2, 1, 1, 0, 0])
    result = CameraStyle(STATISTICS).apply(images, cams, target)
    mean, std = moments(result)
    changed = torch.tensor([1, 2, 3, 4, 5])
    assert torch.equal(result[0], images[0])  # its own camera
    torch.testing.assert_close(mean[changed].float(), STATISTICS.mean[target[changed]], rtol=0, atol=1e-4)
    torch.testing.assert_close(std[changed].float(), STATISTICS.std[target[changed]], rtol=0, atol=1e-4)


def test_camera_style_draws_all_cameras_alike() -> None:
    drawn = CameraStyle(STATISTICS).draw(BLANK, seeded())[0]
    assert (torch.bincount(drawn) / MANY - 1 / 3).abs().max() < 0.035
    images = pictures()
    chain = Compose([CameraStyle(STATISTICS), Flip(), Normalize()])
    cams = torch.full((B,), 5)
    assert torch.equal(chain(images, seeded(3), cams), chain(images, seeded(3), cams))
    with pytest.raises(ValueError, match="needs a generator and the cameras"):
        chain(images, seeded(3))
    flat = CameraStyle(STATISTICS).apply(
        torch.full((1, 3, 8, 8), 100, dtype=torch.uint8), cams[:1], drawn[:1] * 0
    )
    assert flat.dtype == torch.uint8
    assert flat.float().std((2, 3)).max() == 0


def test_camera_statistics_of_a_dataset(tmp_path: Path) -> None:
    trees.pictures(tmp_path, [f"{k}.png" for k in range(9)])
    paths = tuple(str(tmp_path / f"{k}.png") for k in range(9))
    cams = np.array([7, 7, 7, 7, 3, 3, 3, 3, 3])
    dataset = ImageDataset(Split(paths, cams * 0, cams, "own"), (H, W), cache_dir=tmp_path / "cache")
    found = camera_statistics(dataset, batch_size=2)
    assert found.cams.tolist() == [3, 7]
    for row, cam in enumerate((3, 7)):
        mean, std = moments(dataset.gather(np.flatnonzero(cams == cam)).images / 255)
        torch.testing.assert_close(found.mean[row].double(), mean.mean(0), rtol=0, atol=1e-5)
        torch.testing.assert_close(found.std[row].double(), std.mean(0), rtol=0, atol=1e-4)
