"""Camera proxies: golden arrays of O2CAP and CAP, loops, parts of a larger batch, cameras and negatives that lack."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.losses.clusters import centroids
from crossreid.losses.proxies import intra, offline, online, shares, split
from crossreid.modeling.memory import FeatureMemory
from tests.golden_arrays import relative, settings

TYPES = [(torch.float64, 1e-9), (torch.float32, 3e-5)]


class Case:
    def __init__(self, golden: dict[str, Tensor], dtype: torch.dtype) -> None:
        self.golden, self.dtype = golden, dtype
        images = golden["targets"]
        self.cluster, self.cameras = golden["labels"][images], golden["cams"][images]
        places = list(zip(golden["proxy_cluster"].tolist(), golden["proxy_camera"].tolist()))
        pairs = zip(self.cluster.tolist(), self.cameras.tolist())
        self.own = torch.tensor([places.index(pair) for pair in pairs])
        self.memory = FeatureMemory(*golden["proxies"].shape, dtype=dtype)
        self.memory.features.copy_(golden["proxies"])
        self.temperature, self.negatives = float(golden["temp"]), int(golden["bg_knn"])

    def intra(self, z: Tensor) -> Tensor:
        return intra(z, self.own, self.cameras, self.golden["proxy_camera"], temperature=self.temperature)

    def offline(self, z: Tensor) -> Tensor:
        return offline(
            z, self.cluster, self.cameras, self.golden["proxy_cluster"], temperature=self.temperature,
            negatives=self.negatives,
        )  # fmt: skip

    def online(self, z: Tensor) -> Tensor:
        return online(
            z, self.own, self.cameras, self.memory.features, self.golden["proxy_camera"], temperature=self.temperature,
            negatives=self.negatives, positives=int(self.golden["pos_k"]), weight=float(self.golden["balance_w"]),
        )  # fmt: skip

    def check(self, loss: Callable[[Tensor], Tensor], name: str, gradient: str, tolerance: float) -> None:
        x = self.golden["x"].to(self.dtype).clone().requires_grad_()
        value = loss(self.memory.similarity(x))
        value.backward()
        assert relative(value, self.golden[f"loss_{name}"]) < tolerance
        assert relative(x.grad, self.golden[f"grad_x_{gradient}"]) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("golden", settings("o2cap"))
def test_o2cap_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float) -> None:
    proxies = split(golden["labels"], golden["cams"])
    assert torch.equal(proxies, golden["proxy_labels"])
    assert relative(centroids(golden["features"].to(dtype), proxies), golden["proxies"]) < tolerance
    case = Case(golden, dtype)
    for name in ("intra", "offline", "online"):
        case.check(getattr(case, name), name, name, tolerance)
    case.memory.update(golden["x"].to(dtype), case.own, keep=float(golden["momentum"]))
    assert relative(case.memory.features, golden["memory_after"]) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("golden", settings("cap"))
def test_cap_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float) -> None:
    case = Case(golden, dtype)
    case.check(case.intra, "intra", "intra", tolerance)
    name = "cap_without_repeats"
    case.check(lambda z: case.intra(z) + 0.5 * case.offline(z), name, name, tolerance)


def test_a_half_of_the_batch_with_the_whole_batchs_shares() -> None:
    case = Case(settings("o2cap")[0], torch.float64)
    z = case.memory.similarity(case.golden["x"])
    share = shares(case.cameras)
    for loss in (case.intra, case.offline, case.online):
        whole = loss(z)
        halves = []
        for part in (slice(0, 5), slice(5, None)):
            half = Case(case.golden, torch.float64)
            half.own, half.cluster, half.cameras = (x[part] for x in (case.own, case.cluster, case.cameras))
            halves.append(_with_share(half, loss.__name__, z[part], share[part]))
        assert relative(sum(halves), whole) < 1e-12


def _with_share(case: Case, name: str, z: Tensor, share: Tensor) -> Tensor:
    options = {"temperature": case.temperature, "share": share}
    if name == "intra":
        return intra(z, case.own, case.cameras, case.golden["proxy_camera"], **options)
    options["negatives"] = case.negatives
    if name == "offline":
        return offline(z, case.cluster, case.cameras, case.golden["proxy_cluster"], **options)
    options |= {"positives": int(case.golden["pos_k"]), "weight": float(case.golden["balance_w"])}
    return online(z, case.own, case.cameras, case.memory.features, case.golden["proxy_camera"], **options)


def _slow_online(
    s: Tensor, own: Tensor, cams: Tensor, rows: Tensor, proxy_cams: Tensor, **o: float
) -> Tensor:
    losses: dict[int, list[Tensor]] = {}
    for b, c in enumerate(cams.tolist()):
        v = o["weight"] * s[b] + (1 - o["weight"]) * rows @ rows[own[b]]
        best = [max((j for j in range(len(rows)) if proxy_cams[j] == k), key=lambda j: v[j].item())
                for k in sorted(set(proxy_cams.tolist()))]  # fmt: skip
        pos = sorted(best, key=lambda j: -v[j].item())[: int(o["positives"])]
        rest = sorted((j for j in range(len(rows)) if j not in pos), key=lambda j: -v[j].item())
        used = pos + rest[: int(o["negatives"])]
        log_p = (s[b, used] / o["temperature"]).log_softmax(0)
        losses.setdefault(c, []).append(-log_p[: len(pos)].mean())
    return sum(torch.stack(x).mean() for x in losses.values())  # type: ignore[return-value]


@pytest.mark.parametrize(("positives", "negatives"), [(3, 50), (9, 2), (1, 1)])
def test_online_matches_the_loop_where_cameras_and_negatives_lack(positives: int, negatives: int) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = F.normalize(torch.randn(9, 6, generator=generator, dtype=torch.float64))
    x = F.normalize(torch.randn(7, 6, generator=generator, dtype=torch.float64))
    proxy_cams = torch.tensor([0, 4, 0, 2, 4, 2, 2, 0, 4])  # no proxy in cameras 1 and 3
    own = torch.tensor([0, 1, 2, 3, 4, 5, 8])
    options = {"temperature": 0.07, "negatives": negatives, "positives": positives, "weight": 0.15}
    mine = online(x @ rows.T, own, proxy_cams[own], rows, proxy_cams, **options)  # type: ignore[arg-type]
    theirs = _slow_online(x @ rows.T, own, proxy_cams[own], rows, proxy_cams, **options)
    assert relative(mine, theirs) < 1e-12


def test_one_proxy_alone_has_no_loss() -> None:
    zero = torch.zeros(2, dtype=torch.int64)
    z = torch.rand(2, 1, requires_grad=True)
    loss = offline(z, zero, zero, torch.zeros(1, dtype=torch.int64), temperature=0.07, negatives=50)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not z.grad.any()
