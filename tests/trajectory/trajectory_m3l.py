"""Whole training steps of METHOD m3l against a recording of the published M3L code (Zhao et al., CVPR 2021).

    python trajectory_m3l.py PRODUCT_DIR [--require VARIANT] [--tolerance 1e-5] [--set KEY VALUE ...] [-v]

Compared in float64, from the same weights on the same three image sets (all from seeds), with a ResNet of four narrow
bottlenecks, last stride 1 and no augmentation; which domain is held out, lambda and MetaBN's noise are given. Compared:
meta-train and meta-test loss of every step, the learning rate of every epoch, the memories as first filled and at the end,
features and all weights and running statistics at the end.

Variants:
  original  as published, the one to meet: the stem is convolution, batch norm, max-pool WITHOUT a ReLU between them; and the
            meta-test pass, made with the inner step's weights, moves the network's own running statistics
  relu      the same with torchvision's ReLU in the stem
  own       relu, and the meta-test pass works on copies of the backbone's running statistics, which are dropped
The product as of b4ff04b meets `own` and not the others.
Exit code 0 if the variant named by --require (default: original) is met within --tolerance (relative), 1 if not.
"""
import argparse, os, sys, types
from pathlib import Path
os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch
from torchvision.models.resnet import Bottleneck, ResNet
torch.set_num_threads(1)

# ---------------------------------------------------------------- setup: sizes, seeds, hyper-parameters
SEED = 0
EPOCHS, STEPS, P, K, H, W = 5, 2, 4, 2, 64, 32           # P identities x K images of each domain in a step
CLASSES, PER, WIDTH = (6, 5, 7), 3, 8                    # identities of each domain, images of one, channels of the stem
LR, WEIGHT_DECAY, KEEP, TEMPERATURE, MARGIN = 3.5e-3, 5e-4, 0.2, 0.05, 0.3
FALLS, WARMUP, WARMUP_FACTOR = [30, 50], 10, 0.01        # epochs after which the rate falls, of linear warm-up
HELD = [0, 1, 2, 2, 0, 1, 1, 2, 0, 1]                    # the held-out domain of every step
# ---------------------------------------------------------------- end of setup
VARIANTS = ("original", "relu", "own")
FAITHFUL = "original"
DIM = 32 * WIDTH
LAM = np.random.default_rng(3 + SEED).uniform(0, 1, EPOCHS * STEPS)


# ======================================================= ADAPT THIS when the product's interfaces move
def run_product(folder, overrides):
    """Drive the product: build(cfg, data) with stand-in data, prepare, train_step, scheduler; return what is compared."""
    sys.path.insert(0, str(folder)); os.chdir(folder)
    torch.set_default_dtype(torch.float64); torch.Tensor.float = torch.Tensor.double  # no rounding to float32 on the way
    from crossreid import configs
    from crossreid.datasets import Batch
    from crossreid.engine.distributed import Ranks
    from crossreid.engine.methods import common, m3l
    from crossreid.modeling import meta_bn
    from crossreid.modeling.backbones import Backbone
    common.build_backbone = lambda name, *, last_stride, **_: Backbone(small_torchvision(), last_stride)
    count = {"step": 0}
    plain_rng = np.random.default_rng
    class Drawn:  # in the place of the generator that the product draws from in a step
        integers = staticmethod(lambda n: HELD[count["step"]])
        beta = staticmethod(lambda a, b: LAM[count["step"]])
    given = {"SOLVER.AMP": "float32", "SOLVER.LR": LR, "SOLVER.NEW_LR": LR, "SOLVER.WEIGHT_DECAY": WEIGHT_DECAY, "SOLVER.STEPS": FALLS,
             "SOLVER.WARMUP_EPOCHS": WARMUP, "SOLVER.WARMUP_FACTOR": WARMUP_FACTOR, "SOLVER.EPOCHS": 60,
             "DATALOADER.BATCH_SIZE": 3 * P * K, "DATALOADER.INSTANCES": K, "MODEL.PRETRAINED": "none",
             "M3L.KEEP": KEEP, "M3L.TEMPERATURE": TEMPERATURE, "M3L.TRIPLET_MARGIN": MARGIN}
    cfg = configs.load("configs/m3l/b_market.yml", [str(x) for pair in given.items() for x in pair] + list(overrides))
    NS = types.SimpleNamespace
    class Images:
        def __init__(self, d):
            self.x, p = domain(d); n = len(p)
            self.split = NS(name=f"s{d}", pids=p.numpy(), cams=np.zeros(n, np.int64), paths=[str(i) for i in range(n)], num_cameras=1)
        def __len__(self): return len(self.x)
        def __getitems__(self, rows): return NS(images=self.x[rows])
    data = NS(ranks=Ranks(0, 1, torch.device("cpu")), seed=0, batch_size=P * K, streams=[None] * STEPS, plain=lambda x, g: x,
              domains={f"source_{d}": NS(num_identities=CLASSES[d], images=Images(d)) for d in range(3)},
              augmented=lambda name, batch, step: batch.images, most_repeats=lambda name: K)
    method = m3l.build(cfg, data)
    net, banks = method.state["model"], method.state["memories"]
    net.double(); banks.double()
    rename = lambda n: n.replace("backbone.", "base.", 1).replace("neck.", "feat_bn.", 1)  # to the recording's names
    with torch.no_grad():
        fill({rename(n): t for n, t in net.state_dict().items()})
    log = {"train": [], "test": [], "lr": []}
    for e in range(EPOCHS):
        net.train()
        method.prepare(e + 1)
        if e == 0:
            first = [banks[f"source_{d}"].features.clone() for d in range(3)]
        log["lr"].append(method.state["optimizer"].param_groups[0]["lr"])
        for s in range(STEPS):
            b, z = {}, torch.zeros(P * K, dtype=torch.long)
            for d in range(3):
                i = rows(d, count["step"]); im = data.domains[f"source_{d}"].images
                b[f"source_{d}"] = Batch(im.x[i], torch.from_numpy(im.split.pids[i]), z, torch.from_numpy(i))
            made = [noise(2 * count["step"]), noise(2 * count["step"] + 1)]  # two draws a step, one for each other domain
            meta_bn._random = lambda draw, shape, like, generator, it=iter(made): next(it).to(like.dtype)
            np.random.default_rng = lambda *a: Drawn
            out = method.train_step(NS(state=NS(iteration=count["step"] + 1, epoch=e + 1)), b)
            np.random.default_rng = plain_rng
            count["step"] += 1
            log["train"].append(float(out["meta_train"])); log["test"].append(float(out["meta_test"]))
        method.scheduler.step()
    net.eval()
    with torch.no_grad():
        features = torch.nn.functional.normalize(method.extractor(data.domains["source_0"].images.x[:6]))
    last = [banks[f"source_{d}"].features for d in range(3)]
    return outcome(log, first, last, features, {rename(n): t for n, t in net.state_dict().items()})
# ======================================================= end of what to adapt


def noise(call):
    return torch.from_numpy(np.random.default_rng((11 + SEED, call)).standard_normal((P * K, DIM)))


def domain(d):
    """All training images of a domain [N, 3, H, W] and their identities."""
    rng = np.random.default_rng((5 + SEED, d))
    n = CLASSES[d] * PER
    look = rng.standard_normal((CLASSES[d], 3, 8, 4))
    pids = np.repeat(np.arange(CLASSES[d]), PER)
    x = look[pids].repeat(H // 8, 2).repeat(W // 4, 3) + 0.5 * rng.standard_normal((n, 3, H, W)) + 0.2 * d
    return torch.from_numpy(x), torch.from_numpy(pids)


def rows(d, step):
    """The images of a domain in a step: K of each of P identities."""
    rng = np.random.default_rng((9 + SEED, d, step))
    return np.concatenate([p * PER + rng.permutation(PER)[:K] for p in rng.permutation(CLASSES[d])[:P]])


def small_torchvision():
    """A ResNet of four narrow bottlenecks and a narrow stem."""
    net = ResNet(Bottleneck, [1, 1, 1, 1])
    net.inplanes = WIDTH
    net.conv1, net.bn1 = torch.nn.Conv2d(3, WIDTH, kernel_size=7, stride=2, padding=3, bias=False), torch.nn.BatchNorm2d(WIDTH)
    for i, stride in enumerate((1, 2, 2, 2)):
        setattr(net, f"layer{i + 1}", net._make_layer(Bottleneck, WIDTH * 2**i, 1, stride=stride))
    net.fc = torch.nn.Linear(DIM, 2)
    return net


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


def outcome(log, first, last, features, state):
    return {**{k: np.array(v) for k, v in log.items()}, "features": features.numpy(),
            **{f"m0/{d}": x.numpy() for d, x in enumerate(first)}, **{f"m/{d}": x.numpy() for d, x in enumerate(last)},
            **{f"w/{n}": signature(n, t) for n, t in state.items() if "num_batches" not in n}}


def compare(mine, gold, variant, verbose):
    def rel(a, b): return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) if a.shape == b.shape else float("inf")
    get = lambda k: gold[f"{variant}/{k}"]
    print(f"== product against variant '{variant}' (relative differences)")
    for k in ("train", "test"):
        d = np.abs(mine[k] - get(k)) / np.abs(get(k))
        print(f"  meta-{k:5s} per step:", " ".join(f"{v:.0e}" for v in d))
        if verbose:
            print(np.c_[mine[k], get(k)])
    names = [k.split("/", 1)[1] for k in gold.files if k.startswith(f"{variant}/")]
    worst = {k: rel(mine[k], get(k)) if k in mine else float("inf") for k in names}
    group = lambda p: max(v for k, v in worst.items() if k.startswith(p))
    print(f"  learning rates {worst['lr']:.1e}   first memory {group('m0/'):.1e}   last memory {group('m/'):.1e}   features {worst['features']:.1e}")
    for label, some in (("weights", [k for k in worst if k.startswith("w/") and "running" not in k]), ("running statistics", [k for k in worst if "running" in k])):
        top = sorted(some, key=worst.get)[::-1][:6 if verbose else 1]
        print(f"  {label}: largest", ", ".join(f"{k[2:]} {worst[k]:.1e}" for k in top))
    return max(worst.values())


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("product", type=Path); ap.add_argument("--require", default=FAITHFUL, choices=VARIANTS)
    ap.add_argument("--tolerance", type=float, default=1e-5); ap.add_argument("--set", nargs="*", default=[]); ap.add_argument("-v", action="store_true")
    a = ap.parse_args()
    gold = np.load(Path(__file__).resolve().with_suffix(".npz"))
    mine = run_product(a.product.resolve(), a.set)
    worst = {v: compare(mine, gold, v, a.v) for v in VARIANTS}
    for v, w in worst.items():
        print(f"{'MET    ' if w <= a.tolerance else 'NOT MET'} {v}: largest relative difference {w:.1e}{'   <- required' if v == a.require else ''}")
    return int(not worst[a.require] <= a.tolerance)


if __name__ == "__main__":
    sys.exit(main())
