"""One training run: data, method, handlers in one visible order, go."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from yacs.config import CfgNode

from crossreid import configs
from crossreid.engine import checkpoint
from crossreid.engine.data import Data, build_data, build_target_evaluation
from crossreid.engine.distributed import Ranks, StopRequest, agree, barrier, unwrap
from crossreid.engine.errors import InputError
from crossreid.engine.hardware import prepare_backbones, set_arithmetic
from crossreid.engine.log import LOGGER, Recorder, setup_text
from crossreid.engine.method import Method
from crossreid.engine.methods import load_method
from crossreid.engine.training.handlers import Handlers, Monitor
from crossreid.engine.training.prefetch import on_device
from crossreid.engine.training.summary import conclude, introduce
from crossreid.engine.training.target import EvaluationHistory, TargetEvaluation

KEPT = [("SOLVER", name) for name in ("LR", "NEW_LR", "MOMENTUM", "NESTEROV", "WEIGHT_DECAY")]
KEPT += [("CENTRAL_FEATURE", "GENERATOR_LR")]  # what an optimizer brings back from a checkpoint


def run(cfg: CfgNode, ranks: Ranks) -> None:
    """Train as the config says, on this rank.

    Raises:
        Stopped: after SIGTERM or SIGINT, with the checkpoint saved.
        InputError, DatasetError, ModelError: input that cannot be used; nothing was overwritten.
    """
    logs, saved = Path(cfg.OUTPUT_DIR) / "logs" / cfg.NAME, Path(cfg.OUTPUT_DIR) / "checkpoints" / cfg.NAME
    resume = checkpoint.find_resume(cfg.RESUME, saved)
    _make_folders(cfg, ranks, (logs, saved))
    setup_text(logs / "train.log" if ranks.first else None, quiet=not ranks.first)
    set_arithmetic(cfg)
    torch.manual_seed(cfg.SEED)  # initial weights; the same on all ranks

    target, data = (
        build_target_evaluation(cfg),
        build_data(cfg, ranks),
    )  # the sources, the slow part, come last
    method, progress = load_method(cfg.METHOD).build(cfg, data), EvaluationHistory()
    if not resume:
        _load_weights(cfg, method)
    prepare_backbones(cfg, method.state["model"], ranks.device)
    state = {**method.state, "progress": progress}
    done, length = _restore(cfg, ranks, data, state, resume), len(data.streams)
    if ranks.first:
        (logs / "config.yml").write_text(cfg.dump(), encoding="utf-8")
        introduce(cfg, ranks, data, target, resume, done)
    own = resume is not None and resume.resolve().parent == saved.resolve()
    recorder = Recorder(
        logs if ranks.first else None, tensorboard=cfg.LOG.TENSORBOARD, after=done if own else 0
    )
    monitor = Monitor(cfg, data, method, recorder, done)
    evaluation = TargetEvaluation(cfg, method.extractor, target, data, recorder, progress)
    stop, save = StopRequest(ranks), partial(_save, cfg, ranks, saved, state)

    engine = Engine(method.train_step)
    engine.logger.disabled = True  # its errors reach the user once, from the entry point
    if ranks.first and not own:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=done + 1), lambda: set_aside(saved))
    Handlers(cfg, ranks, method, monitor, evaluation, recorder, stop, save, length, done).attach(engine)
    try:
        with stop:
            _train(engine, data, done, cfg.SOLVER.EPOCHS)
    finally:
        monitor.bar.close()
        data.streams.close()
        recorder.close()
    if ranks.first:
        conclude(evaluation, logs, saved)


def _train(engine: Engine, data: Data, done: int, epochs: int) -> None:
    """All steps from ``done`` on."""
    length = len(data.streams)
    data.streams.start(done)
    if done < length * epochs:  # ignite would start a finished run anew
        engine.load_state_dict({"iteration": done, "epoch_length": length, "max_epochs": epochs})
        batches = on_device(data.streams, data.ranks.device, pause=data.streams.at_epoch_end)
        engine.run(batches, max_epochs=epochs, epoch_length=length)


def set_aside(saved: Path) -> None:
    """Keep an earlier run's checkpoints, once this run has finished a step."""
    if moved := checkpoint.set_aside(saved):
        LOGGER.info("an earlier run of this name: its checkpoints are kept as %s", ", ".join(moved))


def _make_folders(cfg: CfgNode, ranks: Ranks, folders: tuple[Path, ...]) -> None:
    """Make the run's folders, and see that they can be written to."""
    if ranks.first:
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            (folders[0] / "train.log").open("a").close()
        except OSError as error:
            raise InputError(f"cannot write below OUTPUT_DIR {cfg.OUTPUT_DIR!r}: {error}") from None
    barrier(ranks)


def _load_weights(cfg: CfgNode, method: Method) -> None:
    if cfg.MODEL.WEIGHTS:
        network = unwrap(method.state["model"])
        skipped = checkpoint.load_weights(network, cfg.MODEL.WEIGHTS, optional=("classifier.",))
        LOGGER.info(
            "weights from %s%s", cfg.MODEL.WEIGHTS, f"; skipped {', '.join(skipped)}" if skipped else ""
        )


def _restore(cfg: CfgNode, ranks: Ranks, data: Data, state: dict[str, Any], path: Path | None) -> int:
    """Load a run's state; returns its finished steps (0 for a new run), the same on all ranks."""
    done = _load(cfg, ranks, data, state, path) if path else 0
    if not agree(done, ranks):
        raise InputError(
            "RESUME: the processes found different checkpoints; all machines must share OUTPUT_DIR"
        )
    return done


def _load(cfg: CfgNode, ranks: Ranks, data: Data, state: dict[str, Any], path: Path) -> int:
    content = checkpoint.read_checkpoint(path)
    checkpoint.check_format(content, f"RESUME {path}")
    if content.get("method") != cfg.METHOD or not isinstance(content.get("engine"), dict):
        raise InputError(
            f"RESUME {path}: not a checkpoint of METHOD {cfg.METHOD} but of {content.get('method')!r}; to start "
            "from its weights alone, set MODEL.WEIGHTS"
        )
    length, saved_length = len(data.streams), content["engine"]["epoch_length"]
    if saved_length != length:
        raise InputError(
            f"RESUME {path}: its epochs have {saved_length} steps, this run's have {length}; use the same data, batch "
            "size and DATALOADER.ITERS_PER_EPOCH"
        )
    if isinstance(content.get("config"), str):
        _check_solver(cfg, ranks, content, path)
    checkpoint.restore(state, content, f"RESUME {path}")
    if "rank_buffers" in content:
        checkpoint.restore_buffers(state["model"], content["rank_buffers"], ranks)
    return int(content["engine"]["iteration"])


def _check_solver(cfg: CfgNode, ranks: Ranks, content: dict[str, Any], path: Path) -> None:
    """The optimizer comes from the checkpoint: refuse another kind, name what else would change."""
    saved = configs.restore(content["config"])[0]
    if saved.SOLVER.OPTIMIZER != cfg.SOLVER.OPTIMIZER:
        raise InputError(
            f"RESUME {path}: its SOLVER.OPTIMIZER is {saved.SOLVER.OPTIMIZER}, this run's {cfg.SOLVER.OPTIMIZER}; "
            "resume with the same one, or start from its weights with MODEL.WEIGHTS"
        )
    kept = [f"{part}.{key} {saved[part][key]}" for part, key in KEPT if saved[part][key] != cfg[part][key]]
    if kept and ranks.first:
        LOGGER.warning(
            "RESUME goes on with the checkpoint's %s; a new run would take other values", ", ".join(kept)
        )


def _save(
    cfg: CfgNode,
    ranks: Ranks,
    folder: Path,
    state: dict[str, Any],
    engine: Engine,
    *,
    also: tuple[str, ...] = (),
    mid_epoch: bool = False,
) -> None:
    """Write last.pt, others that this state is chosen for, and a numbered one if wanted; the first rank writes."""
    buffers = checkpoint.rank_buffers(state["model"], ranks) if mid_epoch else None
    if ranks.first:
        content = {
            **checkpoint.collect(state),
            "engine": {"iteration": engine.state.iteration, "epoch_length": engine.state.epoch_length},
            "method": cfg.METHOD,
            "config": cfg.dump(),
            "format": checkpoint.FORMAT,
        }
        if buffers is not None:
            content["rank_buffers"] = buffers
        checkpoint.save(folder / "last.pt", content)
        for name in also:
            checkpoint.save(folder / name, content)
        if cfg.CHECKPOINT.N_SAVED and not mid_epoch:
            checkpoint.save(folder / f"epoch-{engine.state.epoch:05d}.pt", content)
            for old in sorted(folder.glob("epoch-*.pt"))[: -cfg.CHECKPOINT.N_SAVED]:
                old.unlink()
    barrier(ranks)
