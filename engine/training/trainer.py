"""One training run: data, method, handlers in one visible order, go."""

from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Engine
from yacs.config import CfgNode

from crossreid.datasets.readers import check_name
from crossreid.engine import checkpoint
from crossreid.engine.data import Data, build_data
from crossreid.engine.distributed import Ranks, barrier, unwrap
from crossreid.engine.errors import InputError
from crossreid.engine.extras import need
from crossreid.engine.files import remove_stale, write_whole
from crossreid.engine.hardware import prepare_backbones, set_arithmetic
from crossreid.engine.identity import claim
from crossreid.engine.log import LOGGER, Means, setup_text
from crossreid.engine.method import Method
from crossreid.engine.methods import load_method
from crossreid.engine.reading import build_target_evaluation
from crossreid.engine.recorder import Recorder
from crossreid.engine.stopping import StopRequest
from crossreid.engine.trackers import Trackers
from crossreid.engine.training.handlers import Handlers, Monitor
from crossreid.engine.training.prefetch import on_device
from crossreid.engine.training.saving import RunCheckpoints
from crossreid.engine.training.summary import conclude, introduce, write_page
from crossreid.engine.training.target import EvaluationHistory, TargetEvaluation
from crossreid.modeling import families
from crossreid.modeling.checkpoints import located


def run(cfg: CfgNode, ranks: Ranks) -> None:
    """Train as the config says, on this rank.

    Raises:
        Stopped: after SIGTERM or SIGINT, with the checkpoint saved.
        InputError, DatasetError, ModelError: input that cannot be used; nothing was overwritten.
    """
    resume = checkpoint.find_resume(cfg.RESUME, Path(cfg.OUTPUT_DIR) / "checkpoints" / cfg.NAME)
    cfg = claim(cfg, resume)
    logs, saved = (Path(cfg.OUTPUT_DIR) / name / cfg.NAME for name in ("logs", "checkpoints"))
    if resume:
        checkpoint.check_resume(cfg, resume)
    if cfg.LOG.TRACKERS:
        need("LOG.TRACKERS", "trackers", *cfg.LOG.TRACKERS, otherwise=", or leave it empty")
    for name in (*cfg.DATASETS.SOURCES, cfg.DATASETS.TARGET):
        check_name(name)
    _check_weights(cfg, resume)
    _make_folders(cfg, ranks, (logs, saved))
    setup_text(logs / "train.log" if ranks.first else None, quiet=not ranks.first)
    set_arithmetic(cfg)
    torch.manual_seed(cfg.SEED)  # initial weights; the same on all ranks

    target = build_target_evaluation(cfg)
    data = build_data(cfg, ranks)
    method, progress = load_method(cfg.METHOD).build(cfg, data), EvaluationHistory()
    if not resume:
        _load_weights(cfg, method)
    prepare_backbones(cfg, method.state["model"], ranks.device)
    state, means = {**method.state, "progress": progress}, Means()
    kept = RunCheckpoints(cfg, data, saved, state, means)
    done = kept.restore(resume)
    if ranks.first:
        _write_config(kept.about["config"], logs / "config.yml")
        introduce(cfg, ranks, data, target, resume, done)
    own = resume is not None and resume.resolve().parent == saved.resolve()
    recorder = Recorder(
        logs if ranks.first else None,
        tensorboard=cfg.LOG.TENSORBOARD,
        after=done if own else 0,
        trackers=Trackers(cfg.LOG.TRACKERS, cfg, logs, resumed=own) if ranks.first else None,
    )
    monitor = Monitor(cfg, data, method, recorder, done, means)
    evaluation = TargetEvaluation(cfg, method.extractor, target, data, recorder, progress)
    stop = StopRequest(ranks)

    engine = Engine(method.train_step)
    engine.logger.disabled = True  # its errors reach the user once, from the entry point
    Handlers(cfg, method, monitor, evaluation, stop, kept.save, done).attach(engine)
    try:
        with stop:
            _train(engine, data, done, cfg.SOLVER.EPOCHS)
    finally:
        monitor.bar.close()
        data.streams.close()
        recorder.close()
    if ranks.first:
        conclude(evaluation, logs, saved)
        if cfg.LOG.REPORT:
            write_page(cfg, evaluation, logs)


def _train(engine: Engine, data: Data, done: int, epochs: int) -> None:
    """All steps from ``done`` on."""
    length = len(data.streams)
    data.streams.start(done)
    if done < length * epochs:  # ignite would start a finished run anew
        engine.load_state_dict({"iteration": done, "epoch_length": length, "max_epochs": epochs})
        batches = on_device(data.streams, data.ranks.device, pause=data.streams.at_epoch_end)
        engine.run(batches, max_epochs=epochs, epoch_length=length)


def _check_weights(cfg: CfgNode, resume: Path | None) -> None:
    """Say which weight file is not there, or that the backbone is unknown, before any data are read."""
    backbone = cfg.MODEL.BACKBONE
    if "." not in backbone and not backbone.startswith("timm:") and backbone not in families.names():
        raise families.unknown(backbone)
    named = {} if resume else {"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS, "MODEL.PRETRAINED": cfg.MODEL.PRETRAINED}
    for key, path in named.items():
        unused = path in ("", "none", "imagenet") or (key == "MODEL.PRETRAINED" and cfg.MODEL.WEIGHTS)
        if not unused and not located(path).is_file():
            raise InputError(f"{key}: no checkpoint {path}")


def _make_folders(cfg: CfgNode, ranks: Ranks, folders: tuple[Path, ...]) -> None:
    """Make the run's folders, and see that they can be written to."""
    if ranks.first:
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                remove_stale(folder)
            (folders[0] / "train.log").open("a").close()
        except OSError as error:
            raise InputError(f"cannot write below OUTPUT_DIR {cfg.OUTPUT_DIR!r}: {error}") from None
    barrier(ranks)


def _write_config(text: str, path: Path) -> None:
    try:
        write_whole(path, lambda file: file.write(text.encode()))
    except OSError as error:
        LOGGER.warning("no %s, checkpoints hold the config, too: %s", path, error)


def _load_weights(cfg: CfgNode, method: Method) -> None:
    if cfg.MODEL.WEIGHTS:
        network = unwrap(method.state["model"])
        skipped = checkpoint.load_weights(
            network, cfg.MODEL.WEIGHTS, optional=("classifier.", "pool.", "backbone.sie_")
        )
        LOGGER.info(
            "weights from %s%s", cfg.MODEL.WEIGHTS, f"; skipped {', '.join(skipped)}" if skipped else ""
        )
