"""Memory-based multi-source meta-learning (M3L): trains on several labelled sources for a target it never sees.

Source: Zhao et al., Learning to Generalize Unseen Domains via Memory-based Multi-Source Meta-Learning, CVPR 2021.

Which passes move batch norm's running statistics: those with the network's own parameters, that is the meta-train
passes and the passes that refresh the memories. The meta-test pass uses parameters that no evaluation ever sees; it
works, like the repeated passes of ``M3L.RECOMPUTE``, on copies of the buffers, which are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from yacs.config import CfgNode

from crossreid.datasets import Batch
from crossreid.engine.data import Data, Domain
from crossreid.engine.distributed import Ranks, averaged, gathered
from crossreid.engine.errors import InputError, counted
from crossreid.engine.evaluation.extraction import extract
from crossreid.engine.log import LOGGER
from crossreid.engine.method import Method
from crossreid.engine.methods.common import new_backbone, pooling, training_parts
from crossreid.engine.methods.m3l_inner import Parameters, inner_adam, meta_gradient
from crossreid.engine.optim import Precision
from crossreid.losses.triplet import batch_hard
from crossreid.modeling.memory import FeatureMemory
from crossreid.modeling.meta_reid import MetaReIDNet

__all__ = ["build", "build_extractor", "inner_adam"]


def build_extractor(cfg: CfgNode) -> nn.Module:
    """The network, with weights still to be loaded."""
    return build_network(cfg, pretrained=False)


def build_network(cfg: CfgNode, *, pretrained: bool = True) -> MetaReIDNet:
    """The network; ``M3L.STEM_RELU`` false takes the ReLU out of a ResNet's stem.

    Raises:
        InputError: a backbone that has none there, or one that PyTorch cannot differentiate twice.
    """
    backbone = new_backbone(cfg, pretrained=pretrained)
    if cfg.M3L.META and any("hardsigmoid" in type(module).__name__.lower() for module in backbone.modules()):
        raise InputError(
            f"METHOD m3l differentiates twice, and PyTorch cannot do so with the hard sigmoids of MODEL.BACKBONE "
            f"{cfg.MODEL.BACKBONE}: set another, mobilenet_v2 for example"
        )
    if not cfg.M3L.STEM_RELU:
        if not isinstance(getattr(backbone, "relu", None), nn.ReLU):
            raise InputError(
                f"M3L.STEM_RELU false is for ResNets, not for MODEL.BACKBONE {cfg.MODEL.BACKBONE}: set true"
            )
        backbone.relu = nn.Identity()
    return MetaReIDNet(backbone, scale=cfg.M3L.METABN_SCALE, pool=pooling(cfg))


def build(cfg: CfgNode, data: Data) -> Method:
    """Network, one identity memory a source, optimizer and training step."""
    ranks = data.ranks
    check_batches(cfg, data)
    network = build_network(cfg)
    new = chain(network.pool.parameters(), network.neck.parameters())
    groups = [(network.backbone.parameters(), cfg.SOLVER.LR), (new, cfg.SOLVER.NEW_LR)]
    parts = training_parts(cfg, data, network, groups, wrap=False)
    memories = {name: FeatureMemory(d.num_identities, network.dim) for name, d in data.domains.items()}
    banks = nn.ModuleDict(memories).to(ranks.device)
    learner = Learner(
        cfg.M3L,
        cfg.SEED,
        cfg.DATALOADER.INSTANCES,
        network,
        memories,
        parts.optimizer,
        parts.precision,
        ranks,
    )

    def train_step(engine: Engine, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        step = engine.state.iteration
        images = {name: data.augmented(name, batch, step) for name, batch in batches.items()}
        pids = {name: batch.pids for name, batch in batches.items()}
        meta = cfg.M3L.META and engine.state.epoch > cfg.M3L.PLAIN_EPOCHS
        learn = learner.meta_step if meta else learner.plain_step
        values = learn(images, pids, step)
        learner.refresh(images, pids)
        return values

    def prepare(epoch: int) -> None:
        if epoch == 1:
            for name, domain in data.domains.items():
                LOGGER.info("filling the memory of %s with the means of its identities", name)
                found = extract(network, domain.images, data.plain, ranks, parts.precision, label=name)
                means = class_means(F.normalize(found.vectors), found.pids, domain.num_identities)
                memories[name].features.copy_(means)

    state = {**parts.state, "memories": banks}
    plain = cfg.M3L.PLAIN_EPOCHS if cfg.M3L.META else 0
    return Method(
        train_step, network, state, parts.scheduler, prepare, {plain: "joint training"} if plain else {}
    )


@dataclass(frozen=True)
class Learner:
    """The passes that a step is made of. ``images`` and ``pids`` hold one batch a source, by name."""

    settings: CfgNode
    seed: int
    instances: int  # images of an identity in a batch
    network: MetaReIDNet
    memories: Mapping[str, FeatureMemory]
    optimizer: Optimizer
    precision: Precision
    ranks: Ranks

    def meta_step(
        self, images: Mapping[str, Tensor], pids: Mapping[str, Tensor], step: int
    ) -> dict[str, Tensor]:
        """Hold one source out, take the inner step on the others, the outer step on both losses."""
        settings, network = self.settings, self.network
        random = np.random.default_rng((self.seed, step))  # the same on all ranks
        rest = list(images)
        held = rest.pop(random.integers(len(rest)))
        lam = float(random.beta(settings.METABN_ALPHA, settings.METABN_ALPHA))
        network.neck.forget()

        def loss(name: str, params: Parameters | None = None, /, **options: float | None) -> Tensor:
            return self.loss(name, images[name], pids[name], params, **options)

        recompute = [partial(loss, name, {}) for name in rest] if settings.RECOMPUTE else []
        with sdpa_kernel(SDPBackend.MATH):  # the attention kernel that can be differentiated twice
            result = meta_gradient(
                dict(network.named_parameters()),
                [partial(loss, name, store=slot) for slot, name in enumerate(rest)],
                partial(loss, held, mixed=settings.METABN, lam=lam),
                self.inner_step,
                full=settings.META_GRADIENT == "full",
                test_weight=settings.META_TEST_WEIGHT,
                scale=self.loss_scale() if self.precision.scaler.is_enabled() else None,
                recompute=recompute,
                average=partial(averaged, ranks=self.ranks),
            )
        self.apply(result.grads)
        total = result.train_loss + settings.META_TEST_WEIGHT * result.test_loss
        return {"loss": total, "meta_train": result.train_loss, "meta_test": result.test_loss}

    def plain_step(
        self, images: Mapping[str, Tensor], pids: Mapping[str, Tensor], step: int
    ) -> dict[str, Tensor]:
        """Joint training: one step on the mean loss of all sources; a source's graph is freed before the next's."""
        params = dict(self.network.named_parameters())
        scale = self.loss_scale()
        grads, losses = [torch.zeros_like(p) for p in params.values()], []
        for name in images:
            loss = self.loss(name, images[name], pids[name])
            found = torch.autograd.grad(
                loss * scale / len(images), list(params.values()), allow_unused=True, materialize_grads=True
            )
            grads = [total + g for total, g in zip(grads, found)]
            losses.append(loss.detach())
        self.apply(dict(zip(params, averaged(grads, self.ranks))))
        return {"loss": torch.stack(losses).mean()}

    def loss(
        self,
        name: str,
        images: Tensor,
        pids: Tensor,
        params: Parameters | None = None,
        **options: float | None,
    ) -> Tensor:
        """Memory and triplet loss of a source's batch.

        Args:
            name: of the source.
            images: [B, 3, H, W].
            pids: [B].
            params: used instead of the network's, which then keeps its running statistics, unless
                ``M3L.TEST_STATISTICS`` says otherwise; {}: the network's own parameters without touching those.
                None: an ordinary pass.
            options: of ``MetaReIDNet.forward``.
        """
        settings = self.settings
        with self.precision.autocast():
            if params is None:
                features = self.network(images, **options)
            else:
                buffers = {key: buffer.clone() for key, buffer in self.network.named_buffers()}
                if params and settings.TEST_STATISTICS == "network":
                    buffers = {}
                features = functional_call(self.network, {**params, **buffers}, (images,), options)
        terms = []
        if settings.MEMORY_WEIGHT:
            similarities = [self.memories[name].similarity(unit) for unit in features.units]  # [B, C] each
            losses = [F.cross_entropy(s / settings.TEMPERATURE, pids) for s in similarities]
            terms.append(settings.MEMORY_WEIGHT * torch.stack(losses).mean())
        if settings.TRIPLET_WEIGHT:
            pooled = features.pooled
            if settings.TRIPLET_BATCH == "all":
                pooled, pids = gathered(pooled, self.ranks), gathered(pids, self.ranks)
            triplet = batch_hard(pooled, pids, margin=settings.TRIPLET_MARGIN)
            terms.append(settings.TRIPLET_WEIGHT * triplet)
        return torch.stack(terms).sum()

    def inner_step(self, params: Parameters, grads: Parameters) -> dict[str, Tensor]:
        """θ': one Adam step at the current rate of each of the optimizer's groups."""
        rates = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        adapted: dict[str, Tensor] = {}
        for name, parameter in self.network.named_parameters():
            group = rates[id(parameter)]
            rate = group["lr"] * self.settings.INNER_RATE
            adapted |= inner_adam(
                {name: params[name]}, {name: grads[name]}, lr=rate, weight_decay=group["weight_decay"]
            )
        return adapted

    def loss_scale(self) -> Tensor:
        """What float16 losses are multiplied with before they are differentiated; 1 otherwise."""
        return self.precision.scaler.scale(torch.ones((), device=self.ranks.device))

    def apply(self, grads: Mapping[str, Tensor]) -> None:
        """The outer step with gradients times the loss scale; one that overflowed is left out by the scaler."""
        for name, parameter in self.network.named_parameters():
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)  # in the parameter's memory format
            parameter.grad.copy_(grads[name])
        self.precision.apply(self.optimizer)

    @torch.no_grad()
    def refresh(self, images: Mapping[str, Tensor], pids: Mapping[str, Tensor]) -> None:
        """Move the memories towards features of the new parameters, batch norm in training mode."""
        for name in images:
            with self.precision.autocast():
                features = self.network(images[name])
            self.memories[name].update(
                features.units[0], pids[name], keep=self.settings.KEEP, rounds=self.instances
            )


def class_means(units: Tensor, pids: Tensor, classes: int) -> Tensor:
    """Mean of the unit features [N, D] of each identity 0..C-1, at unit length: [C, D]."""
    return F.normalize(torch.zeros(classes, units.shape[1]).index_add_(0, pids, units))


def check_batches(cfg: CfgNode, data: Data) -> None:
    """Every process needs two identities in a batch of each source; identities with one image are logged.

    Raises:
        InputError: one identity, for which the triplet loss has no negative.
    """
    instances = cfg.DATALOADER.INSTANCES
    identities = data.batch_size // data.ranks.world // instances
    if identities < 2:
        raise InputError(
            f"a batch of {data.batch_size} images a source on {counted(data.ranks.world, 'process', 'processes')} "
            f"holds one identity of DATALOADER.INSTANCES {instances} images; the triplet loss needs "
            "two: raise DATALOADER.BATCH_SIZE"
        )
    for name, domain in data.domains.items():
        if single := single_images(domain):
            LOGGER.warning(
                "%s (%s): %s of one image, which a batch shows %d times: the triplet loss has no true positive there",
                name, domain.images.split.name, counted(single, "identity", "identities"), instances,
            )  # fmt: skip


def single_images(domain: Domain) -> int:
    """How many identities have one image."""
    return int((np.bincount(domain.images.split.pids) == 1).sum())
