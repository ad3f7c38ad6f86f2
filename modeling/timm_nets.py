"""Networks of timm, an optional package, as backbones: ``timm:NAME``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from crossreid.modeling.efficientnet_names import is_efficientnet, to_timm
from crossreid.modeling.errors import ModelError
from crossreid.modeling.interface import BaseBackbone, four_stages
from crossreid.modeling.pooling import Average


class TimmNet(BaseBackbone):
    """A network of timm without its classifier, under timm's parameter names.

    Args:
        name: timm's, with or without the tag of its weights: ``vit_small_patch16_224.dino``.
        size: height and width of the images, pixels.
        last_stride: 1 for networks of tokens, 2 for others: timm's networks stay as they are.
        pretrained: load the weights that timm knows.
        drop_path: stochastic depth, where the network has it.

    Raises:
        ModelError: no timm, no such network, no map, or weights that cannot be fetched.
    """

    def __init__(
        self, name: str, size: tuple[int, int], *, last_stride: int, pretrained: bool, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.network = _create(name, size, pretrained, drop_path)
        self.out_channels = int(self.network.num_features)
        config = self.network.pretrained_cfg
        self.normalisation = tuple(config["mean"]), tuple(config["std"])
        mode = self.network.training
        self.network.eval()
        with torch.no_grad():
            features = self.network.forward_features(torch.zeros(1, 3, *size))
            head = self.network.forward_head(features, pre_logits=True)
        self.network.train(mode)
        shape = tuple(features.shape)
        self.layout = _layout(shape, self.out_channels, name)
        self.grid = _grid(self.network, shape, self.layout, name)
        self.own_head = tuple(head.shape) == (1, self.out_channels)
        self.stride = round(size[1] / self.grid[1])
        if last_stride != (wanted := 1 if self.layout == "tokens" else 2):
            raise ModelError(
                f"MODEL.BACKBONE timm:{name} cannot have MODEL.LAST_STRIDE {last_stride}: set {wanted}"
            )
        self.stages_give_maps = self.layout == "channels"
        self.stage_names = _stages(self.network)

    def fitted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """timm's names, with the position embedding resized to this grid; those of ``efficientnet_pytorch``, too."""
        from timm.layers import resample_abs_pos_embed

        fitted = dict(weights)
        if is_efficientnet(fitted):
            fitted = to_timm(fitted, self.network.state_dict())
        own = getattr(self.network, "pos_embed", None)
        if own is not None and "pos_embed" in fitted and fitted["pos_embed"].shape != own.shape:
            fitted["pos_embed"] = resample_abs_pos_embed(
                fitted["pos_embed"], list(self.grid), num_prefix_tokens=self.network.num_prefix_tokens
            )
        return {f"network.{name}": value for name, value in fitted.items()}

    def maps(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to maps [B, D, h, w]."""
        return self._as_map(self.network.forward_features(images))

    def vector(self, images: Tensor, pool: nn.Module) -> Tensor:
        """What the network gives its classifier [B, D]; with GeM, its pooled map."""
        x = self.network.forward_features(images)
        if self.own_head and isinstance(pool, Average):
            return self.network.forward_head(x, pre_logits=True)
        return pool(self._as_map(x))

    def _as_map(self, x: Tensor) -> Tensor:
        if self.layout == "channels":
            return x
        if self.layout == "last":
            return x.permute(0, 3, 1, 2)
        patches = x[:, x.shape[1] - self.grid[0] * self.grid[1] :]
        return patches.transpose(1, 2).unflatten(2, self.grid)


def _create(name: str, size: tuple[int, int], pretrained: bool, drop_path: float) -> Any:
    """The network, told the size of the images where it must know: transformers must, others take none."""
    try:
        import timm
    except ModuleNotFoundError:
        raise ModelError(
            f"MODEL.BACKBONE timm:{name} needs the package timm: pip install 'crossreid[timm]' or pip install timm"
        ) from None
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:3]
        hint = f", for example {', '.join(near)}" if near else ""
        raise ModelError(f"MODEL.BACKBONE timm:{name}: timm {timm.__version__} has no such network{hint}")
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    if drop_path:
        options["drop_path_rate"] = drop_path
    for sized in ({**options, "img_size": size}, options):
        try:
            return timm.create_model(name, **sized)
        except TypeError as error:
            refused = error
        except (OSError, RuntimeError) as error:
            text = next(iter(str(error).splitlines()), type(error).__name__)[:160]
            raise ModelError(
                f"MODEL.BACKBONE timm:{name}: its weights cannot be had ({text}): set MODEL.PRETRAINED to a file, or "
                "none"
            ) from None
    raise ModelError(f"MODEL.BACKBONE timm:{name}: {refused}; set MODEL.DROP_PATH 0") from None


def _layout(shape: tuple[int, ...], channels: int, name: str) -> str:
    if len(shape) == 3 and shape[2] == channels:
        return "tokens"
    if len(shape) == 4 and shape[1] == channels:
        return "channels"
    if len(shape) == 4 and shape[3] == channels:
        return "last"
    raise ModelError(f"MODEL.BACKBONE timm:{name} gives features of shape {shape}, which are no map")


def _grid(network: Any, shape: tuple[int, ...], layout: str, name: str) -> tuple[int, int]:
    if layout != "tokens":
        return (shape[2], shape[3]) if layout == "channels" else (shape[1], shape[2])
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if grid is None:
        raise ModelError(f"MODEL.BACKBONE timm:{name} does not tell the grid of its patches")
    return int(grid[0]), int(grid[1])


def _stages(network: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Stem and stages by the names that timm's networks use; nothing where they use others."""
    children = [name for name, child in network.named_children() if any(True for _ in child.parameters())]
    for container in ("stages", "blocks", "layers"):
        if container in children:
            inner = [f"network.{container}.{n}" for n, _ in network.get_submodule(container).named_children()]
            stem = tuple(f"network.{name}" for name in children[: children.index(container)])
            return (stem, *(four_stages(inner) if len(inner) > 7 else [(name,) for name in inner]))
    if "layer1" in children:
        stem = tuple(f"network.{name}" for name in children[: children.index("layer1")])
        return (stem, *((f"network.layer{k}",) for k in (1, 2, 3, 4) if f"layer{k}" in children))
    return ()
