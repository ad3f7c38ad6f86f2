"""Whole training steps of METHOD central_feature against a recording of the published PAUL code (Yang et al., CVPR 2019).

    python trajectory_paul.py PRODUCT_DIR [--require ARM] [--stage 1|2] [--tolerance 1e-6] [--set KEY VALUE ...] [-v]

Stage 1 (identities of a source) and stage 2 (unlabelled target, LOSS pedal) in float64, from the same weights on the same
images (all from seeds), with a small backbone of stride 8, fixed views and no augmentation. Compared: the losses of every
step, in stage 2 the patch memory as first filled and at the end, and all weights and running statistics at the end. The
epochs cross the start and the end of the patch generator's training (stage 1) and a fall of the learning rate (both).

Arm `orig` is the published system, the one to meet. The other arms are the published system with one or more DEVIATIONS:
  wd                   weight decay 5e-4; published 1e-4
  sampling             a window is read at h/K x w places, pixel centres aligned; published: at as many places as the whole
                       map has (h x w), corners aligned
  no_relu              stage 1: a patch's reduced feature goes from batch norm to classifier and embedding without a ReLU
  no_bias              stage 1: classifiers and embeddings of the patches have no bias
  generator_trunk      the generator's 3x3 convolution is padded and pooled 2x2 (ceil); published: no padding, max-pool 3x3
                       of stride 2 with padding 1
  generator_detached   no gradient flows through the windows into the backbone
  generator_eval       where the generator does not train (outside its epochs, and in stage 2) its batch norm is in evaluation
                       mode; published: training mode throughout
  generator_still      stage 1: outside its epochs the generator's optimizer rests; published: it steps at rate 0, so that
                       momentum has gathered when the rate rises
  plain_memory         stage 2: the patch memory is filled in evaluation mode from plain images; published: in training mode
                       from the first views, one pass over the training batches (rows of `order2(-1)`)
  ipfl_on_patches      stage 2: the image-level loss compares the patches' features; published: their inner products with the
                       rows of the stage-1 embedding at unit length, side by side
  filled_image_memory  stage 2: the memory of the image-level loss is filled before training; published: a row is what its
                       first training step brings
Arm `all` has all of its stage's: the product as of b4ff04b meets it, and not `orig`. Recorded are the losses of every
combination (so the check says which deviations are still open, as long as nothing else differs), and memory and weights of
orig and all.
Exit code 0 if the arm named by --require (default: orig; or all; or deviations joined by commas, those of the other stage
being ignored) is met within --tolerance (relative) in the stages asked for (default both), 1 if not.
"""
from __future__ import annotations
import argparse, os, sys, tempfile
os.environ.setdefault("OMP_NUM_THREADS", "1")
from pathlib import Path
from types import SimpleNamespace as NS
import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

# ---------------------------------------------------------------- setup: sizes, seeds, hyper-parameters
SEED = 0
H, W, C, D, E, NCLS, N, B = 96, 48, 32, 16, 8, 6, 24, 8   # image, channels, patch and embedding dims; N images, B in a stage-2 step
LR2, SCALE, NEIGH, EPOCHS2, DROP2, KEEP = 0.01, 15.0, 4, 4, 2, 0.9
PATCH_WEIGHT, IMAGE_WEIGHT, IMAGE_MARGIN, MAX_RANK, NEAREST = 2.0, 1.0, 4.0, 15, 3
EPOCHS1, GEN, DROP1, LRNEW, LROLD, LRGEN = 6, (2, 4), 4, 0.01, 0.003, 3e-5   # the generator trains in 0-based epochs GEN[0] <= e < GEN[1]
TRIPLET_WEIGHT, TRIPLET_MARGIN = 0.1, 1.0
# ---------------------------------------------------------------- end of setup
K = 6  # patches
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
DEVIATIONS = {1: ("wd", "sampling", "no_relu", "no_bias", "generator_trunk", "generator_detached", "generator_eval", "generator_still"),
              2: ("wd", "sampling", "generator_trunk", "generator_detached", "generator_eval", "plain_memory", "ipfl_on_patches", "filled_image_memory")}


# ======================================================= ADAPT THIS when the product's interfaces move
def pairs():
    """(name here, name in the product, shape here or None), for weights that differ by name or shape alone.

    Here every convolution before a batch norm is without bias: in training it has no effect. A product that has such biases
    is given zeros, and its running mean is compared less the bias (BEFORE_NORM).
    """
    out = [(f"backbone.{n}", f"backbone.{n}", None) for n, t in Small().state_dict().items() if t.is_floating_point()]
    out += [("generator.conv.weight", "generator.trunk.0.weight", None)]
    out += [(f"generator.norm.{s}", f"generator.trunk.1.{s}", None) for s in ("weight", "bias", "running_mean", "running_var")]
    out += [(f"generator.fc1.{s}", f"generator.trunk.6.{s}", None) for s in ("weight", "bias")]
    out += [(f"generator.fc2.{s}", f"generator.last.{s}", None) for s in ("weight", "bias")]
    out += [("reduction.weight", "reduction.weight", (K, D, C))]
    out += [(f"reduction.norm.{s}", f"norm.{s}", (K, D)) for s in ("weight", "bias", "running_mean", "running_var")]
    out += [(f"{m}.{s}", f"{m}.{s}", None) for m in ("classifier", "embedding") for s in ("weight", "bias")]
    return out


BEFORE_NORM = {"generator.norm.running_mean": "generator.trunk.0.bias", "reduction.norm.running_mean": "reduction.bias"}


def load(net, weights):
    own = net.state_dict()
    given = {theirs: weights[mine].reshape(own[theirs].shape) for mine, theirs, _ in pairs()
             if theirs in own and mine in weights and weights[mine].numel() == own[theirs].numel()}
    given |= {b: torch.zeros_like(own[b]) for b in BEFORE_NORM.values() if b in own}
    if missing := [k for k in own if k not in given and "num_batches" not in k]:
        print("  product weights without a counterpart here:", missing)
    net.load_state_dict({**own, **given})


def unload(net):
    own, out = net.state_dict(), {}
    for mine, theirs, shape in pairs():
        if theirs in own:
            t = own[theirs] if shape is None else own[theirs].reshape(shape)
            bias = own.get(BEFORE_NORM.get(mine, ""))
            out[mine] = t if bias is None else t - bias.reshape(t.shape)
    return out


class StandInImages:
    def __init__(self, pids):
        self.split = NS(name="stand-in", pids=pids, cams=np.zeros(N, np.int64), paths=tuple(f"{r}.jpg" for r in range(N)), num_cameras=1)

    def __len__(self):
        return N

    def gather(self, rows):
        from crossreid.datasets import Batch
        rows = np.asarray(rows)
        return Batch(images=FIRST[rows], pids=torch.from_numpy(self.split.pids[rows]), cams=torch.zeros(len(rows), dtype=torch.long),
                     index=torch.from_numpy(rows.astype(np.int64)))

    __getitems__ = gather


class StandInData:
    def __init__(self, name, images, batch, classes):
        from crossreid.engine.distributed import Ranks
        self.ranks, self.batch_size, self.seed = Ranks(0, 1, torch.device("cpu")), batch, 0
        self.domains = {name: NS(images=images, num_identities=classes, transform=None)}
        self.streams = range(N // B)

    def plain(self, images, generator=None):
        return normal(images)

    def augmented(self, name, batch, step):
        return normal(batch.images)

    def second_view(self, name, batch, step, transform, view=1):
        return normal((SECOND if transform else FIRST)[batch.index.numpy()])  # the domain's own transform is None

    def most_repeats(self, name):
        return 1


def run_product(product, stage, overrides):
    """Drive the product: build(cfg, data) with stand-in data, prepare, train_step, scheduler; return what is compared."""
    os.chdir(product)
    sys.path.insert(0, str(product))
    from crossreid import configs
    from crossreid.engine.methods import central_feature as module
    module.build_backbone = lambda *a, **k: Small()
    module.filling_batches = lambda data: [[rows] for rows in order2(-1)]
    given = {"MODEL.PRETRAINED": "none", "INPUT.SIZE": [H, W], "SOLVER.AMP": "float32", "SOLVER.TF32": "false", "INPUT.FLIP": 0.0,
             "CENTRAL_FEATURE.PATCH_DIM": D, "CENTRAL_FEATURE.EMBED_DIM": E, "CENTRAL_FEATURE.PICTURES": 0}
    if stage == 1:
        name, file, images = "source", "msmt_pretrain", StandInImages((np.arange(N) // 4).astype(np.int64))
        given |= {"DATALOADER.BATCH_SIZE": 2 * NCLS, "SOLVER.EPOCHS": EPOCHS1, "SOLVER.STEPS": [DROP1], "SOLVER.LR": LROLD, "SOLVER.NEW_LR": LRNEW,
                  "CENTRAL_FEATURE.GENERATOR_START": GEN[0] + 1, "CENTRAL_FEATURE.GENERATOR_END": GEN[1], "CENTRAL_FEATURE.GENERATOR_LR": LRGEN,
                  "CENTRAL_FEATURE.TRIPLET_WEIGHT": TRIPLET_WEIGHT, "CENTRAL_FEATURE.TRIPLET_MARGIN": TRIPLET_MARGIN}
        data = StandInData(name, images, 2 * NCLS, NCLS)
    else:
        weights = Path(tempfile.mkdtemp()) / "weights.pt"  # only has to exist
        weights.write_bytes(b"")
        name, file, images = "target", "market", StandInImages(-np.ones(N, np.int64))
        given |= {"MODEL.WEIGHTS": weights, "DATALOADER.BATCH_SIZE": B, "SOLVER.EPOCHS": EPOCHS2, "SOLVER.STEPS": [DROP2], "SOLVER.LR": LR2,
                  "SOLVER.NEW_LR": LR2, "CENTRAL_FEATURE.SCALE": SCALE, "CENTRAL_FEATURE.NEIGHBORS": NEIGH, "CENTRAL_FEATURE.KEEP": KEEP,
                  "CENTRAL_FEATURE.PATCH_WEIGHT": PATCH_WEIGHT, "CENTRAL_FEATURE.IMAGE_WEIGHT": IMAGE_WEIGHT,
                  "CENTRAL_FEATURE.IMAGE_MARGIN": IMAGE_MARGIN, "CENTRAL_FEATURE.MAX_RANK": MAX_RANK, "CENTRAL_FEATURE.NEAREST": NEAREST}
        data = StandInData(name, images, B, 0)
    cfg = configs.load(f"configs/central_feature/{file}.yml", [str(x) for pair in given.items() for x in pair] + list(overrides))
    method = module.build(cfg, data)
    net = method.extractor
    load(net, start(stage))
    for memory in (method.state.get("patches"), method.state.get("image_memory")):
        if memory is not None:
            memory.double()
    net.train()
    method.prepare(1)
    losses, memory0, step = [], None, 0
    if stage == 2:
        memory0 = method.state["patches"].features.clone()
    for epoch in range(EPOCHS1 if stage == 1 else EPOCHS2):
        if epoch:
            method.prepare(epoch + 1)
        for rows in (order1(epoch) if stage == 1 else order2(epoch)):
            step += 1
            rows = np.concatenate(rows) if stage == 1 else rows
            net.train()
            out = method.train_step(NS(state=NS(iteration=step, epoch=epoch + 1)), {name: images.gather(rows)})
            losses.append([float(out[k]) for k in (("loss", "id", "triplet") if stage == 1 else ("loss", "pedal", "ipfl"))])
        method.scheduler.step()
    return outcome(losses, unload(net), memory0, method.state["patches"].features if stage == 2 else None)
# ======================================================= end of what to adapt


# ---------------------------------------------------------------- inputs and initial weights, from seeds
def pictures(seed, count):
    g = np.random.default_rng(seed + 100 * SEED)
    small = torch.from_numpy(g.random((count, 3, 12, 6)))
    big = F.interpolate(small, size=(H, W), mode="bilinear", align_corners=False) + 0.1 * torch.from_numpy(g.random((count, 3, H, W)))
    return (big.clamp(0, 1) * 255).round().to(torch.uint8)


FIRST = pictures(1, N)
SECOND = (FIRST.double() * 0.9 + pictures(2, N).double() * 0.1).round().to(torch.uint8)


def normal(u8):
    m, s = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    return (u8.double() / 255 - m) / s


def order2(epoch):
    """Rows of every batch of an epoch of stage 2; epoch -1: the pass that fills the memory."""
    return np.random.default_rng([7 + SEED, epoch + 1]).permutation(N).reshape(-1, B)


def order1(epoch):
    """(anchors, positives) of every step of stage 1: all identities once."""
    g, steps = np.random.default_rng([8 + SEED, epoch]), []
    for _ in range(2):
        two = np.stack([4 * p + g.permutation(4)[:2] for p in g.permutation(NCLS)])
        steps.append((two[:, 0], two[:, 1]))
    return steps


class Block(nn.Module):
    def __init__(self, a, b, s):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, s, 1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        self.down = nn.Sequential(nn.Conv2d(a, b, 1, s, bias=False), nn.BatchNorm2d(b)) if a != b or s != 1 else nn.Identity()

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.down(x))


class Small(nn.Module):
    """A backbone with ResNet's names, stride 8."""
    out_channels, stride = C, 8

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2, self.layer3, self.layer4 = Block(8, 16, 1), nn.Identity(), Block(16, C, 2), Block(C, C, 1)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def hash_(text):
    h = SEED
    for c in text.encode():
        h = (h * 131 + c) % (2**61 - 1)
    return h


def start(stage):
    """Initial weights by name. Stage 1: windows are the K stripes; stage 2: they depend on the image."""
    shapes = {f"backbone.{n}": t.shape for n, t in Small().state_dict().items() if t.is_floating_point()}
    shapes |= {"generator.conv.weight": (2 * C, C, 3, 3), "generator.fc1.weight": (512, 2 * C), "generator.fc1.bias": (512,),
               "generator.fc2.weight": (6 * K, 512), "reduction.weight": (K, D, C), "classifier.weight": (K, NCLS, D), "classifier.bias": (K, NCLS),
               "embedding.weight": (K, E, D), "embedding.bias": (K, E)}
    shapes |= {f"{m}.{s}": shape for m, shape in (("generator.norm", (2 * C,)), ("reduction.norm", (K, D))) for s in ("weight", "bias", "running_mean", "running_var")}
    out = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(hash_(name) % 2**32)
        norm = any(w in name for w in ("bn", "down.1", "norm."))
        if name.endswith("running_mean"):
            v = 0.1 * rng.standard_normal(shape)
        elif name.endswith("running_var"):
            v = rng.uniform(0.5, 1.5, shape)
        elif norm and name.endswith("weight"):
            v = rng.uniform(0.6, 1.2, shape)
        elif name.endswith("bias"):
            v = 0.1 * rng.standard_normal(shape)
        else:
            v = rng.standard_normal(shape) * 1.4 / np.sqrt(np.prod(shape[1 if len(shape) != 3 else 2:]))
        out[name] = torch.from_numpy(np.asarray(v))
    stripes = torch.zeros(K, 2, 3)
    stripes[:, 0, 0], stripes[:, 1, 1], stripes[:, 1, 2] = 1, 1 / K, (2 * torch.arange(K) + 1) / K - 1
    out["generator.fc2.weight"] *= 0.0 if stage == 1 else 0.03
    out["generator.fc2.bias"] = stripes.flatten()
    return out


# ---------------------------------------------------------------- comparison
def signature(name, t):
    """Few numbers that pin a tensor: eight random projections, norm, first entries."""
    x = t.detach().double().flatten().numpy()
    rng = np.random.default_rng(hash_(name + "#") % 2**32)
    proj = [float(x @ rng.choice([-1.0, 1.0], len(x))) for _ in range(8)]
    return np.array([*proj, np.linalg.norm(x), *x[:4].tolist(), *[0.0] * max(0, 4 - len(x))])


def outcome(losses, weights, memory0=None, memory=None):
    out = {"losses": np.array(losses), **{f"w/{n}": signature(n, t) for n, t in weights.items()}}
    if memory is not None:
        out |= {"memory0": memory0.detach().numpy().copy(), "memory": memory.detach().numpy().copy()}
    return out


def arm_name(stage, on):
    on = [d for d in DEVIATIONS[stage] if d in on]
    return "orig" if not on else "all" if len(on) == len(DEVIATIONS[stage]) else ",".join(on)


def rel(a, b):
    return float(np.abs(a - b).max() / max(1e-30, np.abs(b).max())) if a.shape == b.shape else float("inf")


def difference(mine, gold, stage, arm):
    """Largest relative difference of each group; an arm may have been recorded with its losses alone."""
    get = {k.split("/", 2)[2]: gold[k] for k in gold if k.startswith(f"{stage}/{arm}/")}
    a, b = mine["losses"], gold[f"{stage}/losses"][list(gold[f"{stage}/arms"]).index(arm)]
    out = {"losses": max(float((np.abs(a[:, 0] - b[:, 0]) / np.abs(b[:, 0])).max()), *(rel(a[:, i], b[:, i]) for i in (1, 2)))}
    for k in ("memory0", "memory"):
        if k in get:
            out[k] = rel(mine[k], get[k])
    for label, test in (("weights", lambda k: "running" not in k), ("running statistics", lambda k: "running" in k)):
        some = {k: rel(mine[k], get[k]) if k in mine else float("inf") for k in get if k.startswith("w/") and test(k)}
        if some:
            k = max(some, key=some.get)
            out[label + f" ({k[2:]})"] = some[k]
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("product", type=Path); ap.add_argument("--require", default="orig"); ap.add_argument("--stage", type=int, choices=(1, 2))
    ap.add_argument("--tolerance", type=float, default=1e-6); ap.add_argument("--set", nargs="*", default=[]); ap.add_argument("-v", action="store_true")
    a = ap.parse_args()
    asked = a.require.split(",")
    if unknown := {*asked} - {"orig", "all", *DEVIATIONS[1], *DEVIATIONS[2]}:
        ap.error(f"no such deviations: {sorted(unknown)}")
    gold, product = dict(np.load(Path(__file__).resolve().with_suffix(".npz"))), a.product.resolve()
    fine = True
    for stage in (1, 2) if a.stage is None else (a.stage,):
        names = DEVIATIONS[stage]
        required = arm_name(stage, names if "all" in asked else asked)
        mine = run_product(product, stage, a.set)
        arms = sorted(gold[f"{stage}/arms"].tolist(), key=lambda arm: (arm != "orig", arm.count(",") + 99 * (arm == "all")))
        found = {arm: difference(mine, gold, stage, arm) for arm in arms}
        worst = {arm: max(d.values()) for arm, d in found.items()}
        print(f"== stage {stage}: product against the published system and arms of it (largest relative differences)")
        for arm in [arm for arm in arms if arm in ("orig", "all", required, *names)]:
            print(f"  {'MET    ' if worst[arm] <= a.tolerance else 'NOT MET'} {arm}:", "  ".join(f"{k} {v:.1e}" for k, v in found[arm].items()))
        for left in names:
            arm = arm_name(stage, [d for d in names if d != left])
            print(f"  {'MET    ' if worst[arm] <= a.tolerance else 'NOT MET'} all but {left}: losses {worst[arm]:.1e}")
        met = [arm for arm in arms if worst[arm] <= a.tolerance]
        print(f"  of {len(arms)} arms the product meets: {'; '.join(met) or 'none; the nearest by its losses: ' + min(arms, key=lambda arm: found[arm]['losses'])}")
        if a.v:
            print("  losses of every step: product | published\n", np.c_[mine["losses"], gold[f"{stage}/losses"][gold[f"{stage}/arms"].tolist().index("orig")]])
        print(f"  required: {required}: {'met' if worst[required] <= a.tolerance else 'NOT MET'}")
        fine &= worst[required] <= a.tolerance
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
