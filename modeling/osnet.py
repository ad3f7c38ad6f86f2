"""OSNet in torchreid's names: x1_0 to x0_25, with instance norm (IBN) and the searched placement of it (AIN)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from crossreid.modeling.errors import ModelError
from crossreid.modeling.interface import BaseBackbone, Pooled, strict

WIDTHS = {"x1_0": 1.0, "x0_75": 0.75, "x0_5": 0.5, "x0_25": 0.25}
NAMES = {
    f"osnet_{'' if variant == 'plain' else variant + '_'}{width}": (factor, variant)
    for variant in ("plain", "ibn", "ain")
    for width, factor in WIDTHS.items()
}
CHANNELS = (64, 256, 384, 512)
AIN = (("ain", "ain"), ("plain", "ain"), ("ain", "plain"))  # the searched blocks of stages 2, 3 and 4
ORDINARY = (("plain", "plain"),) * 3
WITH_IN = (("in", "in"), ("plain", "plain"), ("plain", "plain"))  # torchreid: stage 2 alone


class _Conv(nn.Module):
    """Convolution, norm and, if wanted, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        relu: bool = True,
        norm: str = "bn",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        if norm != "none":
            self.bn = nn.BatchNorm2d(outputs) if norm == "bn" else nn.InstanceNorm2d(outputs, affine=True)
        self.norm, self.relu = norm, relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = x if self.norm == "none" else self.bn(x)
        return x.relu() if self.relu else x


class _Light(nn.Module):
    """1 x 1, then depthwise 3 x 3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv2(self.conv1(x))).relu()


class _Stream(nn.Module):
    """Light convolutions in a row."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_Light(channels, channels) for _ in range(depth)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class _Gate(nn.Module):
    """A weight for every channel from the map's mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc2(self.fc1(x.mean(dim=(2, 3), keepdim=True)).relu()).sigmoid()


class _Block(nn.Module):
    """Four streams of one to four light convolutions, summed through one gate, with a shortcut.

    Args:
        kind: plain; in: instance norm after the sum; ain: instance norm before it.
        nested: streams as ``conv2.K.layers`` (the AIN files), else as ``conv2a`` to ``conv2d``.
    """

    def __init__(self, inputs: int, outputs: int, kind: str, *, nested: bool) -> None:
        super().__init__()
        middle = outputs // 4
        self.kind, self.nested = kind, nested
        self.conv1 = _Conv(inputs, middle)
        if nested:
            self.conv2 = nn.ModuleList(_Stream(middle, depth) for depth in (1, 2, 3, 4))
        else:
            self.conv2a = _Light(middle, middle)
            for name, depth in zip("bcd", (2, 3, 4)):
                setattr(self, f"conv2{name}", nn.Sequential(*(_Light(middle, middle) for _ in range(depth))))
        self.gate = _Gate(middle)
        self.conv3 = _Conv(middle, outputs, relu=False, norm="none" if kind == "ain" else "bn")
        self.downsample = _Conv(inputs, outputs, relu=False) if inputs != outputs else None
        self.IN = nn.InstanceNorm2d(outputs, affine=True) if kind != "plain" else None

    def streams(self) -> list[nn.Module]:
        """The four streams."""
        return list(self.conv2) if self.nested else [self.get_submodule(f"conv2{name}") for name in "abcd"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = x if self.downsample is None else self.downsample(x)
        middle = self.conv1(x)
        gated = [self.gate(stream(middle)) for stream in self.streams()]
        out = self.conv3(gated[0] + gated[1] + gated[2] + gated[3])
        if self.kind == "ain":
            assert self.IN is not None
            return (self.IN(out) + short).relu()
        out = out + short
        return (out if self.IN is None else self.IN(out)).relu()


class OSNet(BaseBackbone):
    """OSNet; its vector is 512 numbers after a linear layer, batch norm and ReLU.

    Args:
        width: of all channels, relative to x1_0.
        variant: plain, ibn or ain.

    Source: Zhou et al., Omni-Scale Feature Learning, ICCV 2019; Learning Generalisable Omni-Scale Representations,
        TPAMI 2021.
    """

    stride = 16

    def __init__(self, width: float = 1.0, variant: str = "plain") -> None:
        super().__init__()
        channels = [int(c * width) for c in CHANNELS]
        kinds = {"plain": ORDINARY, "ibn": WITH_IN, "ain": AIN}[variant]
        self.conv1 = _Conv(3, channels[0], 7, 2, norm="bn" if variant == "plain" else "in")
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        for k, (a, b) in enumerate(itertools.pairwise(channels)):
            stage = self._stage(a, b, kinds[k], pool=k < 2, nested=variant == "ain")
            setattr(self, f"conv{k + 2}", stage)
            if variant == "ain" and k < 2:
                self.add_module(f"pool{k + 2}", nn.Sequential(_Conv(b, b), nn.AvgPool2d(2)))
        self.variant = variant
        self.conv5 = _Conv(channels[3], channels[3])
        self.fc = nn.Sequential(nn.Linear(channels[3], 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True))
        self.out_channels = 512
        pools = [(f"pool{k}",) if variant == "ain" else () for k in (2, 3)]
        self.stage_names = (
            ("conv1",), ("conv2", *pools[0]), ("conv3", *pools[1]), ("conv4",), ("conv5",),
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(a: int, b: int, kinds: tuple[str, str], *, pool: bool, nested: bool) -> nn.Sequential:
        blocks: list[nn.Module] = [
            _Block(a, b, kinds[0], nested=nested),
            _Block(b, b, kinds[1], nested=nested),
        ]
        if pool and not nested:
            blocks.append(nn.Sequential(_Conv(b, b), nn.AvgPool2d(2)))
        return nn.Sequential(*blocks)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """Maps [B, 512 width, h, w] after conv5."""
        x = self.maxpool(self.conv1(images))
        for names in self.stage_names[1:]:
            for name in names:
                x = self.get_submodule(name)(x)
        return x

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Maps [B, 512, h, w]: those of conv5 through the linear layer, batch norm and ReLU, column by column."""
        x = self.trunk(images)
        shape = x.shape
        x = self.fc(x.permute(0, 2, 3, 1).reshape(-1, shape[1]))
        return x.view(shape[0], shape[2], shape[3], -1).permute(0, 3, 1, 2)

    def vector(self, images: torch.Tensor, pool: nn.Module) -> torch.Tensor:
        """512 numbers: the linear layer, batch norm and ReLU after pooling."""
        return self.fc(pool(self.trunk(images)))


def named(name: str) -> OSNet:
    """OSNet by torchreid's name: osnet_x1_0 … osnet_x0_25, osnet_ibn_x1_0 …, osnet_ain_x1_0 ….

    Raises:
        ModelError: no such name.
    """
    if name not in NAMES:
        raise ModelError(f"MODEL.BACKBONE {name!r} is unknown, OSNets are {', '.join(NAMES)}")
    return OSNet(*NAMES[name])


def build(config: Any, state: Mapping[str, torch.Tensor]) -> Pooled:
    """OSNet with weights.

    Args:
        config: its name, "osnet_x0_25" or "osnet_ibn, widths x0.25".
        state: all its weights by torchreid's names; the classifier is left out.

    Raises:
        ModelError: an unknown name, or weights that do not fit.
    """
    name, _, width = str(config if isinstance(config, str) else config["name"]).partition(", widths ")
    if width:
        name = f"{name}_{width.replace('.', '_')}"
    net = named(name if "_x" in name else f"{name}_x1_0")
    strict(net, {k: v for k, v in state.items() if not k.startswith("classifier.")})
    return Pooled(net)
