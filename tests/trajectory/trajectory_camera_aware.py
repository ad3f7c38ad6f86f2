"""Whole training steps of METHOD camera_aware against a recording of the published code (Luo et al., ECCV 2020).

    python trajectory_camera_aware.py PRODUCT_DIR [--require published] [--tolerance 1e-7] [--only SETTING] [--set KEY VALUE ...] [-v]

In float64, from the same weights (a formula on integers) on the same images: the product reads the seed project's flat
YAML, PNG folders written here through its own `build_data`, and runs METHODS["camera_aware"].build, prepare, train_step and
the schedule. A setting is a list of steps with the epochs they belong to; the schedules are moved on by the epochs left out,
so that the first epoch (which fills the memory), the start of mixup, of the intra- and agnostic, of the inter-camera term and
a fall of the rate are crossed. No augmentation; the mixup's lambda is given. Compared: all losses and rates of every
step, the memory, and sums, norms, samples and momenta of all weights and running statistics at the end.

Settings: camera-aware neighbours on ResNet-18; the same on the product's tiny backbone; camera-agnostic neighbours; the
source alone. (The tiny backbone is the product's own in both: a change of it shows up as different losses from step 1.)

One variant, `published`: the published system but for one repair, that a target image without a neighbour adds 0 (published:
0 / 0, NaN from epoch 2 on). The product as of b4ff04b meets it.
Exit code 0 if all settings are met within --tolerance (relative), 1 if not.
"""
from __future__ import annotations

import argparse, contextlib, json, os, sys, tempfile
os.environ.setdefault("OMP_NUM_THREADS", "1")
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

torch.set_num_threads(1)
# ---------------------------------------------------------------- setup: sizes, seeds, hyper-parameters
SEED = 0
EPOCHS = [1, 1, 1, 2, 2, 10, 11, 11, 30, 31, 31, 31, 60, 60, 61, 61]   # of every step; those of epoch 1 show all target images
SETTINGS = {
    # name: (backbone, flat keys that differ from BASE, epochs of the steps)
    "resnet18_aware": ("resnet18", {}, [1, 1, 1, 2, 11, 31, 61]),
    "tiny_aware": ("tiny", {}, EPOCHS),
    "tiny_agnostic_nomix": ("tiny", {"neighbor_mode": 0, "mix": False, "drop_last_stride": False, "scale": 20}, EPOCHS),
    "tiny_source_only": ("tiny", {"joint_training": False, "lr_step": [2, 30]}, EPOCHS),
}
BASE = {"alpha": 0.6, "neighbor_eps": 0.8, "scale": 10, "new_params_lr": 0.05, "ft_lr": 0.01, "lr_step": [60], "wd": 5e-4}
INTRA, INTER, AGNOSTIC = (1.0, 11), (0.5, 31), (0.1, 11)   # weight and first epoch of the target's terms
KEEP = 0.6                                                  # share of a memory row that an update keeps after epoch 1
HALF, HEIGHT, WIDTH, SOURCE, TARGET, PEOPLE, CAMERAS = 8, 32, 16, 20, 24, 4, 2
# ---------------------------------------------------------------- end of setup
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAMPLES = 300


# ======================================================= ADAPT THIS when the product's interfaces move
def run_product(name, folder, overrides):
    """Drive the product through a setting; return what is compared."""
    from crossreid import configs
    from crossreid.engine import data as data_module
    from crossreid.engine.distributed import Ranks
    from crossreid.engine.methods import camera_aware, load_method
    backbone, changes, epochs = SETTINGS[name]
    images, rows, lams = make_images(), make_rows(len(epochs)), make_lams(len(epochs))
    path = folder / f"{name}.yml"
    path.write_text(flat_text(changes))
    cfg = configs.load(path, ["SOLVER.AMP", "float32", "DATASETS.SOURCES", f"[folder:{folder}/source]", "DATASETS.TARGET",
                              f"folder:{folder}/target", "MODEL.BACKBONE", backbone, "MODEL.PRETRAINED", "none",
                              "INPUT.SIZE", f"[{HEIGHT}, {WIDTH}]", "DATALOADER.BATCH_SIZE", str(2 * HALF if changes.get("joint_training", True) else HALF),
                              "DATASETS.CACHE", "ram", "OUTPUT_DIR", str(folder),
                              "CAMERA_AWARE.INTRA_WEIGHT", str(INTRA[0]), "CAMERA_AWARE.INTRA_START", str(INTRA[1]),
                              "CAMERA_AWARE.INTER_WEIGHT", str(INTER[0]), "CAMERA_AWARE.INTER_START", str(INTER[1]),
                              "CAMERA_AWARE.AGNOSTIC_WEIGHT", str(AGNOSTIC[0]), "CAMERA_AWARE.AGNOSTIC_START", str(AGNOSTIC[1]),
                              "CAMERA_AWARE.KEEP", str(KEEP), *overrides])
    ranks = Ranks(0, 1, torch.device("cpu"))
    torch.manual_seed(0)
    data = data_module.build_data(cfg, ranks)
    type(data).augmented = lambda self, stream, batch, step: floats(batch.images)
    method = load_method(cfg.METHOD).build(cfg, data)
    net = method.extractor
    fill(net)
    net.double()  # of weights rounded to float32, as recorded
    memory = method.state.get("memory")
    if memory is not None:
        memory.double()
    assert hasattr(camera_aware, "mixing_share"), "the product draws lambda elsewhere now: give it this one"
    camera_aware.mixing_share = lambda seed, step, alpha: float(lams[step - 1])
    place = {d: np.argsort(np.argsort(file_names(images, d))) for d in ("source", "target")}  # row here -> the product's row
    optimizer, losses, rates, previous = method.state["optimizer"], [], [], 0
    for step, epoch in enumerate(epochs):
        if previous:
            for _ in range(epoch - previous):
                method.scheduler.step()
        if epoch != previous:
            method.prepare(epoch)
        previous = epoch
        batches = {d: data.domains[d].images.gather(place[d][rows[d][step]]) for d in data.domains}
        for d, batch in batches.items():
            assert np.array_equal(batch.images.numpy(), images[d][0][rows[d][step]])
        net.train()
        rates.append([g["lr"] for g in optimizer.param_groups])
        told = method.train_step(SimpleNamespace(state=SimpleNamespace(iteration=step + 1, epoch=epoch)), batches)
        losses.append([float(told["loss"])] + [float(told[k]) if k in told else np.nan for k in ("intra", "inter", "agnostic")])
    return summary(net, memory.features[torch.from_numpy(place["target"])] if memory is not None else None, optimizer, losses, rates)
# ======================================================= end of what to adapt


# ---------------------------------------------------------------- inputs, from integers alone
def mix64(x):
    x = np.asarray(x, np.uint64)
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def uniforms(count, key):  # [-1, 1)
    with np.errstate(over="ignore"):
        start = mix64(np.uint64((key + 1000003 * SEED) % 2**64))
        bits = mix64(start + np.arange(count, dtype=np.uint64))
    return (bits >> np.uint64(11)).astype(np.float64) / 2**52 - 1


def weight_formula(name, shape):
    key = int.from_bytes(name.encode()[-7:], "little") ^ (len(name) << 56)
    key ^= sum((i + 1) * b for i, b in enumerate(name.encode())) << 20
    u = uniforms(int(np.prod(shape)), key & (2**64 - 1)).reshape(shape)
    if len(shape) == 4:
        return u * np.sqrt(3 * 2 / (shape[0] * shape[2] * shape[3]))  # He, fan out
    if len(shape) == 2:
        return u / np.sqrt(shape[1])  # nn.Linear's default range
    return None  # norms: 1 and 0


def fill(network):
    """Initial weights by name."""
    with torch.no_grad():
        for name, p in network.named_parameters():
            values = weight_formula(name, tuple(p.shape))
            if values is None:
                p.fill_(1.0 if name.endswith("weight") else 0.0)
            else:
                p.copy_(torch.from_numpy(values))


def ours(name):
    return name.removeprefix("module.").replace("bn_neck.", "neck.")


def make_images():
    """People with a colour pattern of their own seen by cameras with a cast, so that similarities are not all noise."""
    people = uniforms(2 * PEOPLE * 3 * 8 * 4, 11).reshape(2 * PEOPLE, 3, 8, 4)
    result = {}
    for k, (domain, count) in enumerate((("source", SOURCE), ("target", TARGET))):
        pids = np.arange(count) % PEOPLE
        cams = (np.arange(count) // PEOPLE) % CAMERAS
        base = people[pids + k * PEOPLE].repeat(HEIGHT // 8, 2).repeat(WIDTH // 4, 3)
        cast = uniforms(CAMERAS * 3, 21 + k).reshape(CAMERAS, 3, 1, 1)[cams]
        noise = uniforms(count * 3 * HEIGHT * WIDTH, 31 + k).reshape(count, 3, HEIGHT, WIDTH)
        pixels = 128 + 50 * base + 25 * cast + 6 * noise + (30 if k else 0)
        result[domain] = (pixels.round().clip(0, 255).astype(np.uint8), pids, cams)
    return result


def make_rows(steps):
    """[steps, HALF] rows of each domain: passes in shuffled order, so that epoch 1 fills the memory."""
    rows = {}
    for k, (domain, count) in enumerate((("source", SOURCE), ("target", TARGET))):
        passes = -(-steps * HALF // count)
        order = [np.argsort(uniforms(count, 1000 * (k + 1) + p), kind="stable") for p in range(passes)]
        rows[domain] = np.concatenate(order)[: steps * HALF].reshape(steps, HALF).astype(np.int64)
        assert all(len(set(r)) == HALF for r in rows[domain]) or domain == "source"
    return rows


def make_lams(steps):
    """Lambda of the mixup of every step; its own draw is not compared."""
    return (uniforms(steps, 77) + 1) / 2


def floats(images):
    x = torch.as_tensor(images).double() / 255
    return (x - torch.tensor(MEAN).double().view(1, 3, 1, 1)) / torch.tensor(STD).double().view(1, 3, 1, 1)


@contextlib.contextmanager
def doubles():
    saved = torch.Tensor.float
    torch.Tensor.float = lambda self, *a, **k: self if self.dtype == torch.float64 else saved(self, *a, **k)
    try:
        yield
    finally:
        torch.Tensor.float = saved


def summary(net, memory, optimizer, losses, rates):
    """What is compared: losses and rates a step, memory, and of every tensor sum, norm and samples."""
    out = {"losses": np.array(losses), "rates": np.array(rates)}
    if memory is not None:
        out["memory"] = memory.detach().double().numpy().copy()
    state = {ours(k): v.detach().double() for k, v in net.state_dict().items() if v.is_floating_point() and "exemplar" not in k}
    names = sorted(state)
    out["names"] = np.array(names)
    out["sums"] = np.array([float(state[n].sum()) for n in names])
    out["norms"] = np.array([float(state[n].norm()) for n in names])
    flat = torch.cat([state[n].flatten() for n in names])
    where = (mix64(np.arange(SAMPLES, dtype=np.uint64) + np.uint64(5)) % np.uint64(len(flat))).astype(np.int64)
    per = np.concatenate([[state[n].flatten()[0].item(), state[n].flatten()[-1].item()] for n in names])
    out["samples"], out["ends"] = flat[torch.from_numpy(where)].numpy(), per
    momenta = {ours(n): optimizer.state[p]["momentum_buffer"].double() for n, p in net.named_parameters() if "momentum_buffer" in optimizer.state.get(p, {})}
    out["momentum_norms"] = np.array([float(momenta[n].norm()) for n in sorted(momenta)])
    return out


def flat_text(changes):
    """The seed project's flat YAML."""
    base = {"prefix": "t", "fp16": True, "mix": True, "neighbor_mode": 1, "batch_size": 256, "joint_training": True,
            "source_dataset": "duke", "target_dataset": "market", "drop_last_stride": True, "optimizer": "sgd", "num_epoch": 70,
            "random_flip": False, "random_crop": False, "random_erase": False, "color_jitter": False, "padding": 10,
            "eval_interval": 10, **BASE}
    return json.dumps({**base, **changes})


def write_folder(folder):
    images = make_images()
    from PIL import Image
    for domain in ("source", "target"):
        for split in ("bounding_box_train", "query", "bounding_box_test"):
            (folder / domain / split).mkdir(parents=True, exist_ok=True)
            for file, image in zip(file_names(images, domain), images[domain][0]):
                Image.fromarray(image.transpose(1, 2, 0)).save(folder / domain / split / file)


def file_names(images, domain):
    pids, cams = images[domain][1], images[domain][2]
    return [f"{pid + 1:04d}_c{cam + 1}s1_{i:06d}_00.png" for i, (pid, cam) in enumerate(zip(pids, cams))]


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        return float("inf")
    seen = np.isfinite(a) & np.isfinite(b)
    return float(np.abs(a - b)[seen].max() / max(np.abs(b)[seen].max(), 1e-300)) if seen.any() else 0.0


def compare(ours_, theirs):
    result = {k: relative(ours_[k], theirs[k]) for k in ("rates", "norms", "sums", "samples", "ends", "momentum_norms")}
    result["loss"] = max(abs(a - b) / abs(b) for a, b in zip(ours_["losses"][:, 0], theirs["losses"][:, 0]))
    for column, term in ((1, "intra"), (2, "inter"), (3, "agnostic")):
        a, b = ours_["losses"][:, column], theirs["losses"][:, column]
        if (np.isfinite(a) & np.isfinite(b)).any():
            result[term] = relative(a, b)
    if "memory" in theirs:
        result["memory"] = relative(ours_["memory"], theirs["memory"])
    return result


def check(name, mine, gold, verbose):
    theirs = {k.split("/", 1)[1]: v for k, v in gold.items() if k.startswith(name + "/")}
    if list(mine["names"]) != list(theirs["names"]):
        print(f"  {name}: other weights than recorded:", sorted(set(mine["names"]) ^ set(theirs["names"])))
        return float("inf")
    difference = compare(mine, theirs)
    print(f"  {name}:", "  ".join(f"{k} {v:.1e}" for k, v in difference.items()))
    if verbose:
        for step, (epoch, a, b) in enumerate(zip(SETTINGS[name][2], mine["losses"], theirs["losses"])):
            print(f"     step {step + 1:2d} epoch {epoch:2d}  loss {a[0]:.12f} {b[0]:.12f}  {abs(a[0] - b[0]) / abs(b[0]):.1e}")
    return max(difference.values())


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("product", type=Path); ap.add_argument("--require", default="published", choices=("published",))
    ap.add_argument("--tolerance", type=float, default=1e-7); ap.add_argument("--only", default="", help="settings, by commas")
    ap.add_argument("--set", nargs="*", default=[]); ap.add_argument("-v", action="store_true")
    a = ap.parse_args()
    gold = dict(np.load(Path(__file__).resolve().with_suffix(".npz")))
    sys.path.insert(0, str(a.product.resolve()))
    print("== product against variant 'published' (largest relative differences)")
    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_folder(folder)
        for name in SETTINGS:
            if a.only and name not in a.only.split(","):
                continue
            with doubles():
                mine = run_product(name, folder, a.set)
            worst = max(worst, check(name, mine, gold, a.v))
    print(f"{'MET    ' if worst <= a.tolerance else 'NOT MET'} published: largest relative difference {worst:.1e}   <- required")
    return int(not worst <= a.tolerance)


if __name__ == "__main__":
    sys.exit(main())
