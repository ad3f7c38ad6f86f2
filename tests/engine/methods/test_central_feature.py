"""Central/patch features: stage 1 into stage 2, what a step computes, ranks, resume, pictures, bad input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from crossreid import configs
from crossreid.configs import ConfigError
from crossreid.engine.data import Data, build_data
from crossreid.engine.distributed import Ranks
from crossreid.engine.errors import InputError
from crossreid.engine.method import Method
from crossreid.engine.methods import central_feature
from crossreid.engine.methods.windows import draw_windows
from crossreid.losses.patch import ipfl, pedal
from crossreid.modeling import ModelError
from crossreid.modeling.weights import load_network, read_checkpoint, state_dict_of
from tests.golden_arrays import relative
from tests.ranks import run_ranks
from tests.tiny import CPU, differences, overrides, train

FIRST, SECOND = "configs/central_feature/demo_pretrain.yml", "configs/central_feature/demo.yml"


def arguments(domains: Path, out: Path, *more: str) -> list[str]:
    own = ["INPUT.SIZE", "[48, 24]", "DATALOADER.BATCH_SIZE", "12", "CENTRAL_FEATURE.GENERATOR_START", "2"]
    return overrides(domains, out, *own, "CENTRAL_FEATURE.GENERATOR_END", "2", *more)


def last(out: Path, stage: str) -> Path:
    name = "central_feature-demo_pretrain" if stage == FIRST else "central_feature-demo"
    return out / "checkpoints" / name / "last.pt"


def content(file: Path) -> dict[str, Any]:
    found = read_checkpoint(file)
    found.pop("config")
    found["progress"]["history"] = [
        {k: v for k, v in entry.items() if k != "title"} for entry in found["progress"]["history"]
    ]
    return found


@pytest.fixture(scope="module")
def pretrained(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage-1 run of two epochs; the generator trains in the second."""
    out = tmp_path_factory.mktemp("pretrained")
    train(FIRST, arguments(domains, out))
    return out


@pytest.fixture
def second(domains: Path, tmp_path: Path, pretrained: Path) -> list[str]:
    """Arguments of a stage-2 run."""
    weights = ["MODEL.WEIGHTS", str(last(pretrained, FIRST))]
    return arguments(domains, tmp_path, *weights, "CENTRAL_FEATURE.NEIGHBORS", "4")


def built(config: str, given: list[str], ranks: Ranks = CPU) -> tuple[Method, Data]:
    """A method with its weights loaded and its memories filled, and its data."""
    cfg = configs.load(config, given)
    torch.manual_seed(0)
    data = build_data(cfg, ranks)
    method = central_feature.build(cfg, data)
    if cfg.MODEL.WEIGHTS:
        weights = state_dict_of(read_checkpoint(cfg.MODEL.WEIGHTS), "weights")
        load_network(method.extractor, weights, "weights")
    method.prepare(1)
    return method, data


def at(step: int, epoch: int = 1) -> Any:
    return SimpleNamespace(state=SimpleNamespace(iteration=step, epoch=epoch))


def parameters(method: Method) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in method.extractor.named_parameters()}


# ---- stage 1


def test_the_generator_moves_in_its_epochs_alone(domains: Path, tmp_path: Path, pretrained: Path) -> None:
    """Outside of them its rate is 0; its momentum gathers all the same."""
    method, data = built(FIRST, arguments(domains, tmp_path))
    data.streams.start(0)
    seen = [parameters(method)]
    for epoch in (1, 2, 3):
        method.train_step(at(epoch, epoch=epoch), next(data.streams))
        method.scheduler.step()
        seen.append(parameters(method))
    data.streams.close()
    for name in seen[0]:
        inside = name.startswith("generator.")
        assert torch.equal(seen[0][name], seen[1][name]) == inside, name
        assert torch.equal(seen[2][name], seen[3][name]) == inside, name
    assert not torch.equal(seen[1]["generator.last.weight"], seen[2]["generator.last.weight"])
    weights = read_checkpoint(last(pretrained, FIRST))["model"]
    assert bool(weights["generator.last.weight"].any())


def test_stage_one_sums_the_patches_cross_entropies(domains: Path, tmp_path: Path) -> None:
    given = arguments(domains, tmp_path, "CENTRAL_FEATURE.TRIPLET_WEIGHT", "0.25")
    method, data = built(FIRST, given)
    batch = data.rows(1)["source"]
    batches = {"source": data.domains["source"].images.gather(batch)}
    images, pids = data.augmented("source", batches["source"], 1), batches["source"].pids
    other, _ = built(FIRST, given)
    found = other.extractor(images)
    expected = sum(F.cross_entropy(logits, pids) for logits in found.logits)
    values = method.train_step(at(1), batches)
    assert relative(values["id"], expected.detach()) < 1e-5
    assert relative(values["loss"], values["id"] + 0.25 * values["triplet"]) < 1e-6
    assert torch.equal(pids[::2], pids[1::2]), "every image comes with another image of its identity"


# ---- stage 2


@pytest.mark.parametrize("memory", ["momentum", "controlled", "latest"])
def test_stage_two_step(second: list[str], memory: str) -> None:
    """Memories take in the batch before the losses read them; the patch memory sees the first view alone."""
    given = [*second, "CENTRAL_FEATURE.MEMORY", memory, "CENTRAL_FEATURE.EMBEDDING_WEIGHT", "0.5"]
    given += ["CENTRAL_FEATURE.NEIGHBOR_GROWTH", "4"]  # two epochs: 4 neighbours, then 6
    method, data = built(SECOND, given)
    other, _ = built(SECOND, given)
    rows = data.streams.rows(0)["target"]
    batches = {"target": data.domains["target"].images.gather(rows)}
    assert set(batches["target"].pids.tolist()) == {-1}
    index, transform = batches["target"].index, central_feature.second_view(configs.load(SECOND, given))
    first = data.augmented("target", batches["target"], 1)
    view = data.second_view("target", batches["target"], 1, transform)
    assert not torch.allclose(first, view)
    found = other.extractor(torch.cat([first, view]))
    own = found.patches[:, :12]  # [K, B, D]
    both = torch.stack([found.embedding[:12], found.embedding[12:]], dim=1)  # [B, 2, K E]
    patches = other.state["patches"].features.clone()
    keep = {"momentum": 0.9, "controlled": 1 - 0.1 - 0.2, "latest": 0.0}[
        memory
    ]  # the last visit left no error
    patches[:, index] = keep * patches[:, index] + (1 - keep) * own
    means = both.mean(1)  # the first visits
    expected = pedal(own, patches, index, scale=15.0, k=6)
    image = ipfl(both.flatten(0, 1), means, views=2, margin=2.0, max_rank=15, nearest=3)
    values = method.train_step(at(1, epoch=2), batches)
    assert relative(values["pedal"], expected.detach()) < 1e-4
    assert relative(values["ipfl"], image.detach()) < 1e-5
    total = 2 * values["pedal"] + values["ipfl"] + 0.5 * values["embedding"]
    assert relative(values["loss"], total) < 1e-6
    assert relative(method.state["patches"].features, patches.detach()) < 1e-6
    assert relative(method.state["image_memory"].features[0, index], means.detach()) < 1e-6
    assert method.state["image_memory"].visited.nonzero().flatten().tolist() == sorted(index.tolist())


def test_stage_two_starts_where_stage_one_ended(
    second: list[str], tmp_path: Path, domains: Path, pretrained: Path
) -> None:
    told = train(SECOND, [*second, "TEST.AT_START", "true"])
    found, before = content(last(tmp_path, SECOND)), content(last(pretrained, FIRST))
    start = next(e for e in found["progress"]["history"] if e["epoch"] == 0)
    end = before["progress"]["history"][-1]
    assert {k: start[k] for k in end if k != "epoch"} == {k: v for k, v in end.items() if k != "epoch"}
    assert "skipped classifier.bias, classifier.weight, embedding.bias" in told
    assert "identities hidden" in told
    for name, value in found["model"].items():
        if name.startswith(("generator.", "embedding.")) and not name.startswith("generator.trunk.1."):
            assert torch.equal(value, before["model"][name]), f"{name} must stay frozen"
    assert not torch.equal(found["model"]["reduction.weight"], before["model"]["reduction.weight"])


def test_stage_two_goes_on_without_the_file_of_stage_one(second: list[str], tmp_path: Path) -> None:
    train(SECOND, [*second, "SOLVER.EPOCHS", "1"])
    gone = [*second, "MODEL.WEIGHTS", str(tmp_path / "gone.pt"), "RESUME", "auto"]
    assert "after 3 steps" in train(SECOND, [*gone, "SOLVER.EPOCHS", "2"])
    with pytest.raises(InputError, match=r"gone\.pt"):
        train(SECOND, [*gone, "NAME", "new"])


def test_the_memory_is_filled_in_training_mode(second: list[str]) -> None:
    """Every row once, by batch statistics over both views; the running statistics move to the target."""
    given = [*second, "INPUT.FLIP", "0"]
    method, data = built(SECOND, given)
    features = method.state["patches"].features
    assert torch.allclose(features.norm(dim=2), torch.ones_like(features[:, :, 0])), "no row is left empty"
    assert not method.state["image_memory"].visited.any(), "an image begins at its first visit"
    assert int(method.extractor.norm.num_batches_tracked) > 6, "more than stage 1's steps"
    other, _ = built(SECOND, given)
    batches = central_feature.filling_batches(data)
    assert sorted(np.concatenate([shares[0] for shares in batches])) == list(range(features.shape[1]))
    other.extractor.train()
    batch = data.domains["target"].images.gather(batches[0][0])
    view = central_feature.second_view(configs.load(SECOND, given))
    domain = data.domains["target"].transform
    pair = [data.second_view("target", batch, 1, t, view=v) for t, v in ((domain, 2), (view, 3))]
    with torch.no_grad():
        found = other.extractor(torch.cat(pair)).patches[:, : len(batch)]
    assert relative(features[:, batch.index], found) < 1e-5


# ---- both


@pytest.mark.parametrize("stage", [FIRST, SECOND])
def test_two_epochs_resumed_to_four_equal_four(
    stage: str, domains: Path, tmp_path: Path, pretrained: Path
) -> None:
    schedule = ["SOLVER.STEPS", "[3]", "CENTRAL_FEATURE.NEIGHBORS", "4"]
    schedule += ["MODEL.WEIGHTS", str(last(pretrained, FIRST))] if stage == SECOND else []
    schedule += ["CENTRAL_FEATURE.GENERATOR_END", "3", "SOLVER.EPOCHS"]
    train(stage, arguments(domains, tmp_path / "a", *schedule, "4"))
    train(stage, arguments(domains, tmp_path / "b", *schedule, "2"))
    told = train(stage, arguments(domains, tmp_path / "b", *schedule, "4", "RESUME", "auto"))
    assert "after 6 steps" in told
    assert differences(content(last(tmp_path / "b", stage)), content(last(tmp_path / "a", stage))) == []


def test_bfloat16_stays_finite(domains: Path, tmp_path: Path) -> None:
    short = [
        "SOLVER.AMP",
        "bfloat16",
        "DATALOADER.ITERS_PER_EPOCH",
        "1",
        "TEST.PERIOD",
        "0",
    ]  # emulated on many CPUs
    train(FIRST, arguments(domains, tmp_path, *short))
    more = ["MODEL.WEIGHTS", str(last(tmp_path, FIRST)), *short]
    train(SECOND, arguments(domains, tmp_path, *more))
    for stage in (FIRST, SECOND):
        assert all(bool(v.isfinite().all()) for v in content(last(tmp_path, stage))["model"].values())


def state_after_steps(rank: int, world: int, config: str, given: list[str]) -> Mapping[str, Any]:
    ranks = Ranks(rank, world, torch.device("cpu"))
    method, data = built(config, given, ranks)
    data.streams.start(0)
    for step in range(1, 4):
        torch.manual_seed(step * 100 + rank)
        method.train_step(at(step, epoch=step), next(data.streams))
    data.streams.close()
    memories = [
        method.state[name].state_dict() for name in ("patches", "image_memory") if name in method.state
    ]
    statistics = method.extractor.norm.running_mean
    return {"params": parameters(method), "memories": memories, "statistics": statistics}


@pytest.mark.ddp
@pytest.mark.parametrize("stage", [FIRST, SECOND])
def test_ranks_stay_identical(stage: str, domains: Path, tmp_path: Path, second: list[str]) -> None:
    """The generator takes part in the second of three steps alone (stage 1)."""
    given = second if stage == SECOND else arguments(domains, tmp_path)
    first, other = run_ranks(state_after_steps, 2, stage, given)
    assert differences(first["params"], other["params"]) == []
    assert differences(first["memories"], other["memories"]) == []
    assert not torch.equal(first["statistics"], other["statistics"]), "ranks must have seen other images"


def test_pictures_of_the_windows(pretrained: Path) -> None:
    folder = pretrained / "logs" / "central_feature-demo_pretrain" / "pictures"
    assert sorted(p.name for p in folder.iterdir()) == ["patch_windows-0001.png", "patch_windows-0002.png"]
    with Image.open(folder / "patch_windows-0002.png") as picture:
        assert picture.size == (8 * (128 + 8), 256 + 8)


def test_a_window_is_drawn_where_it_is() -> None:
    """The lower right quarter of a black image."""
    window = torch.tensor([[[[0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]]])
    sheet = draw_windows(torch.zeros(1, 3, 64, 32, dtype=torch.uint8), window)  # [3, 264, 136]
    lit = (sheet[:, 4:-4, 4:-4].float().sum(0) > 0).nonzero()
    assert (lit.amin(0) - torch.tensor([128, 64])).abs().max() <= 1
    assert (lit.amax(0) - torch.tensor([255, 127])).abs().max() <= 1


# ---- bad input


@pytest.mark.parametrize(
    ("config", "more", "words"),
    [
        (
            SECOND,
            ["MODEL.WEIGHTS", "", "FIRST_STAGE", ""],
            ["starts from a stage-1 checkpoint", "MODEL.WEIGHTS"],
        ),
        (SECOND, ["DATASETS.SOURCES", "[duke]"], ["target alone", "DATASETS.SOURCES []"]),
        (SECOND, ["DATASETS.ADAPT", "false"], ["nothing to train on"]),
        (SECOND, ["CENTRAL_FEATURE.PATCH_WEIGHT", "0", "CENTRAL_FEATURE.IMAGE_WEIGHT", "0"], ["all 0"]),
        (SECOND, ["CENTRAL_FEATURE.VIEW_AREA", "[0.9, 0.7]"], ["[smallest, largest]"]),
        (SECOND, ["CENTRAL_FEATURE.MEMORY", "last"], ["momentum, controlled, latest"]),
        (FIRST, ["DATASETS.ADAPT", "true"], ["DATASETS.ADAPT false"]),
        (FIRST, ["DATALOADER.INSTANCES", "0"], ["INSTANCES is 0", "2 or more"]),
        (FIRST, ["DATASETS.SOURCES", "[duke, market]"], ["one source"]),
    ],
)
def test_contradictions_are_named(tmp_path: Path, config: str, more: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        configs.load(config, arguments(tmp_path, tmp_path, *more))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_weights_name_stage_one(domains: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"MODEL.WEIGHTS: no checkpoint nowhere.pt"):
        train(SECOND, arguments(domains, tmp_path, "MODEL.WEIGHTS", "nowhere.pt"))


def test_weights_of_another_architecture_name_the_first_keys(second: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        train(SECOND, [*second, "CENTRAL_FEATURE.PATCHES", "2"])
    assert "another architecture" in str(caught.value)
    assert "generator.last.weight (24x512 in the file, 12x512 here)" in str(caught.value)


def test_images_too_small_for_the_generator(domains: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"feature map of 4x2 is too small .* raise INPUT.SIZE"):
        train(FIRST, arguments(domains, tmp_path, "INPUT.SIZE", "[32, 16]"))


def test_batches_that_cannot_work(domains: Path, tmp_path: Path, second: list[str]) -> None:
    with pytest.raises(InputError, match="holds one identity"):
        train(FIRST, arguments(domains, tmp_path, "DATALOADER.BATCH_SIZE", "2"))
    more = ["DATALOADER.BATCH_SIZE", "40", "DATALOADER.ANCHORS", "identities"]
    with pytest.raises(InputError, match=r"8 identities, a batch wants 20"):
        train(FIRST, arguments(domains, tmp_path, *more))
    with pytest.raises(InputError, match=r"3 images .* CENTRAL_FEATURE.NEAREST 3"):
        train(SECOND, [*second, "DATALOADER.BATCH_SIZE", "3"])
    with pytest.raises(InputError, match=r"NEIGHBORS 5000 .*leaves nothing"):
        train(SECOND, [*second, "CENTRAL_FEATURE.NEIGHBORS", "5000"])
