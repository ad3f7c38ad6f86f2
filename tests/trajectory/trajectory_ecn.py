"""Whole training steps of METHOD ecn against a recording of the published ECN code (Zhong et al., CVPR 2019).

    python trajectory_ecn.py PRODUCT_DIR [--require VARIANT] [--tolerance 1e-5] [--set KEY VALUE ...] [-v]

Compared in float64, from the same weights on the same images (all from seeds), with a ResNet of four bottlenecks
[1, 1, 1, 1] that have a shortcut convolution in every stage, fixed dropout masks and no augmentation: both losses of every
step, the learning rates of every epoch, the exemplar memory, pooled features and all weights and running statistics at the
end. The epochs cross the overwriting first epoch of the memory, its growing momentum, the start of the neighbourhood term
and a fall of the learning rate.

Variants:
  original  as published, the one to meet: the first stages (stem, layer1, layer2) do not train, and of their batch norms
            those called bn* stay in evaluation mode; the batch norms of the SHORTCUTS of layer1 and layer2 are not called
            so: they normalise with the batch and their running statistics move, though their weights do not train
  frozen    the same, but those shortcut batch norms stay in evaluation mode, too
The product as of b4ff04b meets `frozen` and not `original`.
Exit code 0 if the variant named by --require (default: original) is met within --tolerance (relative), 1 if not.
"""
import argparse, os, sys, types
from pathlib import Path
os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch
import torch.nn.functional as F
from torchvision.models.resnet import Bottleneck, ResNet
torch.set_num_threads(1)

# ---------------------------------------------------------------- setup: sizes, seeds, hyper-parameters
SEED = 0
EPOCHS, STEPS, B, CLASSES, ROWS, DIM, H, W = 7, 2, 8, 5, 24, 32, 64, 32
DECAY = 4             # the rate falls to a tenth every so many epochs
NEIGHBOR_START = 6    # first epoch (from 1) with the neighbourhood term
LR, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4  # LR of new layers; the backbone's is a tenth
ALPHA, TEMPERATURE, KNN, LAMBDA, DROPOUT = 0.01, 0.05, 6, 0.3, 0.5
# ---------------------------------------------------------------- end of setup
VARIANTS = ("original", "frozen")
FAITHFUL = "original"


# ======================================================= ADAPT THIS when the product's interfaces move
def run_product(folder, overrides):
    """Drive the product: build(cfg, data) with stand-in data, train_step, scheduler; return what is compared."""
    sys.path.insert(0, str(folder)); os.chdir(folder)
    torch.set_default_dtype(torch.float64); torch.Tensor.float = torch.Tensor.double  # no rounding to float32 on the way
    from crossreid import configs
    from crossreid.datasets import Batch
    from crossreid.engine.distributed import Ranks
    from crossreid.engine.methods import common, ecn
    from crossreid.modeling.backbones import Backbone
    common.build_backbone = lambda name, *, last_stride, **_: Backbone(ResNet(Bottleneck, [1, 1, 1, 1]), last_stride)
    given = {"SOLVER.AMP": "float32", "SOLVER.EPOCHS": EPOCHS, "SOLVER.STEPS": list(range(DECAY, EPOCHS, DECAY)), "SOLVER.LR": LR / 10, "SOLVER.NEW_LR": LR,
             "SOLVER.MOMENTUM": MOMENTUM, "SOLVER.WEIGHT_DECAY": WEIGHT_DECAY, "DATALOADER.BATCH_SIZE": 2 * B,
             "MODEL.PRETRAINED": "none", "ECN.EMBEDDING": DIM, "ECN.DROPOUT": DROPOUT, "ECN.ALPHA": ALPHA, "ECN.TEMPERATURE": TEMPERATURE,
             "ECN.NEIGHBORS": KNN, "ECN.NEIGHBOR_START": NEIGHBOR_START, "ECN.LAMBDA": LAMBDA}
    cfg = configs.load("configs/ecn/market2duke.yml", [str(x) for pair in given.items() for x in pair] + list(overrides))
    NS = types.SimpleNamespace
    class Images:
        split = NS(name="stand-in")
        def __len__(self): return ROWS
    data = NS(ranks=Ranks(0, 1, torch.device("cpu")), seed=0, batch_size=B, streams=[None] * STEPS,
              domains={"source": NS(num_identities=CLASSES, images=Images()), "target": NS(images=Images(), num_identities=0)},
              augmented=lambda name, batch, step: batch.images, most_repeats=lambda name: 2)
    method = ecn.build(cfg, data)
    net, memory = method.state["model"], method.state["memory"]
    net.double(); memory.double()
    def rename(n):  # the product's names to the recording's
        for a, b in (("backbone.", "base."), ("embedding.", "feat."), ("norm.", "feat_bn.")):
            if n.startswith(a):
                return b + n.removeprefix(a)
        return n
    with torch.no_grad():
        fill({rename(n): t for n, t in net.state_dict().items()})
    log, step, seq = {"id": [], "inv": [], "lr": []}, 0, batches()
    for e in range(EPOCHS):
        net.train()
        log["lr"].append([g["lr"] for g in method.state["optimizer"].param_groups])
        for s, y, t, i in seq[e]:
            step += 1
            zero = torch.zeros(B, dtype=torch.long)
            out = method.train_step(NS(state=NS(iteration=step, epoch=e + 1)), {"source": Batch(s, y, zero, zero), "target": Batch(t, zero - 1, zero, i)})
            log["id"].append(float(out["id"])); log["inv"].append(float(out["invariance"]))
        method.scheduler.step()
    net.eval()
    with torch.no_grad():
        features = method.extractor(seq[0][0][0])
    return outcome(log, memory.features, features, {rename(n): t for n, t in net.state_dict().items()})
# ======================================================= end of what to adapt


def images(rng):
    base = rng.standard_normal((B, 3, 8, 4)).repeat(H // 8, 2).repeat(W // 4, 3)
    return torch.from_numpy(base + 0.3 * rng.standard_normal((B, 3, H, W)))


def batches():
    """[epoch][step] -> (source images, pids, target images, their rows of the memory)."""
    rng, out = np.random.default_rng(7 + SEED), []
    for _ in range(EPOCHS):
        order = rng.permutation(ROWS)
        out.append([(images(rng), torch.from_numpy(rng.integers(0, CLASSES, B)), images(rng),
                     torch.from_numpy(order[s * B:(s + 1) * B].copy())) for s in range(STEPS)])
    return out


def hash_(text):
    h = SEED
    for c in text.encode():
        h = (h * 131 + c) % (2**61 - 1)
    return h


def fill(state):
    """Weights by name; the running statistics differ from 0 and 1 as trained ones do."""
    for name in sorted(state):
        t = state[name]
        if "num_batches" in name:
            continue
        rng = np.random.default_rng(hash_(name) % 2**32)
        if name.endswith("running_mean"):
            v = 0.1 * rng.standard_normal(t.shape)
        elif name.endswith("running_var"):
            v = rng.uniform(0.5, 1.5, t.shape)
        elif t.dim() == 1 and name.endswith("weight"):
            v = rng.uniform(0.5, 1.2, t.shape)
        elif t.dim() == 1:
            v = 0.05 * rng.standard_normal(t.shape)
        else:
            v = rng.standard_normal(t.shape) * (2 / t[0].numel()) ** 0.5
        t.copy_(torch.from_numpy(np.asarray(v)))


def signature(name, t):
    """Few numbers that pin a tensor: eight random projections, norm, first entries."""
    x = t.detach().double().flatten().numpy()
    rng = np.random.default_rng(hash_(name + "#") % 2**32)
    proj = [float(x @ rng.choice([-1.0, 1.0], len(x))) for _ in range(8)]
    return np.array([*proj, np.linalg.norm(x), *x[:4].tolist(), *[0.0] * max(0, 4 - len(x))])


def outcome(log, memory, features, state):
    return {**{k: np.array(v) for k, v in log.items()}, "memory": memory.detach().numpy(), "features": features.numpy()[:, ::8],
            **{f"w/{n}": signature(n, t) for n, t in state.items() if "num_batches" not in n}}


def fix_dropout():
    """torch's dropout with masks by width alone: the same in every pass, the same for everyone."""
    def dropout(x, p=0.5, training=True, inplace=False):
        if not training or p == 0:
            return x
        mask = np.random.default_rng(x.shape[-1] + SEED).random(tuple(x.shape)) >= p
        return x * torch.from_numpy(mask).to(x.dtype) / (1 - p)
    F.dropout = dropout


def compare(mine, gold, variant, verbose):
    def rel(a, b): return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) if a.shape == b.shape else float("inf")
    get = lambda k: gold[f"{variant}/{k}"]
    print(f"== product against variant '{variant}' (relative differences)")
    for k in ("id", "inv"):
        d = np.abs(mine[k] - get(k)) / np.abs(get(k))
        print(f"  {k:4s} per step:", " ".join(f"{v:.0e}" for v in d))
        if verbose:
            print(np.c_[mine[k], get(k)])
    names = [k.split("/", 1)[1] for k in gold.files if k.startswith(f"{variant}/")]
    diffs = {k: rel(mine[k], get(k)) if k in mine else float("inf") for k in names}
    print(f"  learning rates {diffs['lr']:.1e}   memory {diffs['memory']:.1e}   pooled features {diffs['features']:.1e}")
    p = [k for k in names if k.startswith("w/") and "running" not in k]; r = [k for k in names if "running" in k]
    for label, group in (("weights", p), ("running statistics", r)):
        worst = sorted(group, key=diffs.get)[::-1][:6 if verbose else 1]
        print(f"  {label}: largest", ", ".join(f"{k[2:]} {diffs[k]:.1e}" for k in worst))
    return max(diffs.values())


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("product", type=Path); ap.add_argument("--require", default=FAITHFUL, choices=VARIANTS)
    ap.add_argument("--tolerance", type=float, default=1e-5); ap.add_argument("--set", nargs="*", default=[]); ap.add_argument("-v", action="store_true")
    a = ap.parse_args()
    gold = np.load(Path(__file__).resolve().with_suffix(".npz"))
    fix_dropout()
    mine = run_product(a.product.resolve(), a.set)
    worst = {v: compare(mine, gold, v, a.v) for v in VARIANTS}
    for v, w in worst.items():
        print(f"{'MET    ' if w <= a.tolerance else 'NOT MET'} {v}: largest relative difference {w:.1e}{'   <- required' if v == a.require else ''}")
    return int(not worst[a.require] <= a.tolerance)


if __name__ == "__main__":
    sys.exit(main())
