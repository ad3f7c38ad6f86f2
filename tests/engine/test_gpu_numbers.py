"""Evaluation, memory and loss on a GPU give the CPU's numbers; where there is no GPU, on a pretended one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from crossreid.engine.evaluation.rerank import evaluate_reranked
from crossreid.engine.evaluation.retrieval import Features, Retrieval, evaluate
from crossreid.losses.camera_blocks import CameraBlocks
from crossreid.losses.neighborhood import camera_aware_terms
from crossreid.modeling.memory import FeatureMemory
from tests.pretended import GPU, PretendGPU

pytestmark = pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this PyTorch knows no GPU")
ON_GPU: Callable[[], Any] = contextlib.nullcontext if torch.cuda.is_available() else PretendGPU
WAYS: dict[str, Callable[..., Retrieval]] = {
    "cosine": evaluate,
    "euclidean, trapezoidal": partial(evaluate, metric="euclidean", ap="trapezoidal"),
    "all scores": partial(evaluate, roc=True, camera_pairs=True),
    "expanded queries": partial(evaluate, aqe=3),
    "re-ranked": partial(evaluate_reranked, k1=8, k2=3),
    "re-ranked, all scores": partial(evaluate_reranked, k1=8, k2=1, roc=True, camera_pairs=True),
}


def _features(count: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    pids = torch.randint(12, (count,), generator=generator)
    vectors = torch.randn(count, 16, generator=generator) + 0.5 * pids[:, None]
    vectors[3:5] = vectors[:2]  # images twice
    return Features(
        vectors, pids, torch.randint(4, (count,), generator=generator), list(map(str, range(count)))
    )


@pytest.mark.parametrize("chunk_mb", [256, 0.01])
@pytest.mark.parametrize("name", WAYS)
def test_a_gpu_gives_the_cpu_s_scores(name: str, chunk_mb: float) -> None:
    query, gallery = _features(40, 0), _features(200, 1)
    expected = WAYS[name](query, gallery, chunk_mb=chunk_mb, device="cpu")
    with ON_GPU():
        found = WAYS[name](query, gallery, chunk_mb=chunk_mb, device=GPU)
    _same(dataclasses.asdict(found), dataclasses.asdict(expected))


def _same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            _same(found[key], expected[key])
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6, equal_nan=True)
    elif isinstance(expected, (str, list, type(None))):
        assert found == expected
    else:
        assert found == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_a_memory_and_its_loss_on_a_gpu() -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.nn.functional.normalize(torch.randn(6, 8, generator=generator))
    start = torch.nn.functional.normalize(torch.randn(300, 8, generator=generator))
    index, cams = torch.tensor([3, 290, 3, 7, 120, 0]), torch.randint(5, (300,), generator=generator)

    def losses(device: torch.device) -> list[torch.Tensor]:
        memory = FeatureMemory(300, 8)
        memory.features = start.clone().to(device)
        x, rows = features.to(device), index.to(device)
        blocks = CameraBlocks.of(cams.to(device))
        terms = camera_aware_terms(
            memory.similarity(x), rows, cams[index].to(device), blocks, scale=9, eps=0.5
        )
        memory.update(x, rows, keep=0.6, rounds=2)
        return [value.cpu() for value in (*terms, memory.features)]

    with torch.no_grad():
        expected = losses(torch.device("cpu"))
        with ON_GPU():
            found = losses(GPU)
    torch.testing.assert_close(found, expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a real GPU refuses by itself")
def test_the_pretended_gpu_refuses_what_a_gpu_refuses() -> None:
    with PretendGPU():
        x = torch.arange(3, device=GPU)
        assert x.device == GPU
        assert (x + 1)[torch.tensor([2])].tolist() == [3]  # indices may lie on the CPU
        assert x.cpu().numpy().tolist() == [0, 1, 2]
        with pytest.raises(RuntimeError, match="different devices"):
            x + torch.arange(3)
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
