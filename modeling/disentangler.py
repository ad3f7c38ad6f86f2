"""Identity and pose encoders with a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from crossreid.modeling.errors import ModelError
from crossreid.modeling.pooling import upcast

SLOPE = 0.2  # of the decoder's LeakyReLUs
ANY = "any"  # the domain of a pose encoder that serves both


class DisentanglerOutput(NamedTuple):
    """What a training pass gives."""

    logits: torch.Tensor  # [S, C] of the source images
    identity: torch.Tensor  # [B, D] identity features
    pose: torch.Tensor  # [B, D] pose features
    images: torch.Tensor  # [B, 3, H, W] decoded images, in 0..1 where they are right


class Disentangler(nn.Module):
    """Identity encoder (the retrieval feature), pose encoder, decoder and source classifier.

    Args:
        identity: backbone, maps images to [B, D, h, w].
        poses: a backbone under the name ``any``; empty for evaluation.
        decoder: maps [B, 2 D, h, w] to [B, 3, H, W]; None for evaluation.
        num_classes: C, identities of the source; 0 leaves the classifier out.
        pool: max or avg, from maps to features.

    Source: an encoder-decoder built on Li et al., Adaptation and Re-Identification Network (ARN), CVPR-W 2018.
    """

    def __init__(
        self,
        identity: nn.Module,
        poses: Mapping[str, nn.Module],
        decoder: nn.Module | None,
        num_classes: int = 0,
        *,
        pool: str = "max",
    ) -> None:
        super().__init__()
        if pool not in ("max", "avg"):
            raise ModelError(f"pooling {pool!r}; it is max or avg")
        self.identity, self.poses, self.decoder, self.pool = identity, nn.ModuleDict(poses), decoder, pool
        channels: int = identity.out_channels  # type: ignore[assignment]
        self.classifier = nn.Linear(channels, num_classes) if num_classes else None
        if self.classifier is not None:
            nn.init.normal_(self.classifier.weight, std=0.001)
            nn.init.zeros_(self.classifier.bias)

    def forward(
        self,
        images: torch.Tensor,
        views: torch.Tensor | None = None,
        donors: torch.Tensor | None = None,
        *,
        sources: int = 0,
    ) -> torch.Tensor | DisentanglerOutput:
        """Features of images [B, 3, H, W], normalised; in training also decoded images.

        Args:
            images: the source's first.
            views: [B, 3, H, W] what the pose encoders see of them.
            donors: [B] the image whose pose each identity is decoded with, of the same domain.
            sources: S, how many images are the source's.

        Returns:
            In evaluation identity features [B, D]; in training ``DisentanglerOutput``.

        Raises:
            ModelError: in training, a size that the stride does not divide.
        """
        if not self.training:
            return self.pooled(self.identity(images))
        assert views is not None
        assert donors is not None
        assert self.classifier is not None, "a network without a classifier cannot train"
        check_size(images, int(self.identity.stride))  # type: ignore[arg-type]
        maps, pose_maps = self.identity(images), self.poses[ANY](views)
        features = self.pooled(maps)
        decoded = self.decode(maps, pose_maps[donors])
        return DisentanglerOutput(
            self.classifier(features[:sources]), features, self.pooled(pose_maps), decoded
        )

    def decode(self, identity: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] from identity and pose maps [B, D, h, w]."""
        assert self.decoder is not None, "a network without a decoder cannot draw"
        return self.decoder(torch.cat([identity, pose], dim=1))

    @torch.no_grad()
    def swapped(self, images: torch.Tensor, *, target: bool) -> torch.Tensor:
        """Every identity with every pose [N, N, 3, H, W], of images [N, 3, H, W] of one domain.

        Call it in evaluation mode; row i, column j shows the identity of image i in the pose of image j.
        """
        maps, poses = self.identity(images), self.poses[ANY](images)
        decoded = [self.decode(one.expand_as(poses), poses) for one in maps.split(1)]
        return torch.stack(decoded)

    def pooled(self, maps: torch.Tensor) -> torch.Tensor:
        """Features [B, D], at least float32, of maps [B, D, h, w]."""
        return pooled_features(maps, self.pool)


def pooled_features(maps: torch.Tensor, pool: str) -> torch.Tensor:
    """Features [B, D], at least float32, of maps [B, D, h, w]; ``pool`` is max or avg."""
    return upcast(maps.amax(dim=(2, 3)) if pool == "max" else maps.mean(dim=(2, 3)))


def check_size(images: torch.Tensor, stride: int) -> None:
    """Raise ModelError unless the stride divides both sides of images [B, 3, H, W]."""
    if any(side % stride for side in images.shape[2:]):
        raise ModelError(
            f"images of {images.shape[2]}x{images.shape[3]} pixels: both sides must be divisible by {stride}"
        )


def build_decoder(channels: int, stride: int, widths: Sequence[int], *, transposed: bool) -> nn.Sequential:
    """A decoder that doubles maps until the stride is undone: [B, channels, h, w] to [B, 3, stride h, stride w].

    Args:
        stride: a power of two, at least 2.
        widths: channels after each doubling but the last; if there are more, the last ones count.
        transposed: ARN's: three transposed convolutions a doubling, in the end tanh, so that images are in -1..1; else
            bilinear upsampling and three convolutions.

    Raises:
        ModelError: a stride that is no power of two, or too few widths.
    """
    doublings = stride.bit_length() - 1
    if stride < 2 or stride != 2**doublings:
        raise ModelError(f"a decoder undoes strides 2, 4, 8, …, not {stride}")
    if len(widths) < doublings - 1:
        raise ModelError(f"{len(widths)} decoder widths for a stride of {stride}; {doublings - 1} are needed")
    sizes = [channels, *list(widths)[len(widths) - doublings + 1 :]]
    if transposed:
        blocks = [_transposed(before, after) for before, after in pairwise([*sizes, 3])]
        blocks[-1][-1] = nn.Tanh()
        return nn.Sequential(*blocks)
    blocks = [_upsampling(before, after, last=False) for before, after in pairwise(sizes)]
    final = _upsampling(sizes[-1], 3, last=True)
    nn.init.constant_(final[-1].bias, 0.5)  # type: ignore[arg-type]  # the first pictures are grey
    return nn.Sequential(*blocks, final)


def _upsampling(before: int, after: int, *, last: bool) -> nn.Sequential:
    """Twice the size by bilinear upsampling, then three 3x3 convolutions; the very last one of a decoder is plain."""
    if last:
        convolutions = [
            *_convolution(before, before),
            *_convolution(before, before),
            nn.Conv2d(before, after, 3, 1, 1),
        ]
    else:
        convolutions = [
            *_convolution(before, after),
            *_convolution(after, after),
            *_convolution(after, after),
        ]
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), *convolutions)


def _convolution(before: int, after: int) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, a=SLOPE)
    return [convolution, nn.BatchNorm2d(after), nn.LeakyReLU(SLOPE, inplace=True)]


def _transposed(before: int, after: int) -> nn.Sequential:
    """Three transposed 3x3 convolutions, of which the first doubles the size, each with batch norm and LeakyReLU."""
    layers: list[nn.Module] = []
    for width, stride in ((before, 2), (after, 1), (after, 1)):
        layers += [
            nn.ConvTranspose2d(width, after, 3, stride, padding=1, output_padding=stride - 1, bias=False),
            nn.BatchNorm2d(after),
            nn.LeakyReLU(SLOPE, inplace=True),
        ]
    return nn.Sequential(*layers)
