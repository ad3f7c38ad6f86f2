"""What a run says of itself on the screen before it starts and when it is done."""

from __future__ import annotations

from pathlib import Path

import torch
from yacs.config import CfgNode

from crossreid.engine import checkpoint
from crossreid.engine.arithmetic import resolve
from crossreid.engine.data import Data
from crossreid.engine.distributed import Ranks
from crossreid.engine.errors import InputError, counted
from crossreid.engine.log import LOGGER
from crossreid.engine.method import Method
from crossreid.engine.reading import Evaluation, read
from crossreid.engine.training.target import TargetEvaluation


def introduce(
    cfg: CfgNode, ranks: Ranks, data: Data, target: Evaluation | None, resume: Path | None, done: int
) -> None:
    """Say what is about to run."""
    device = (
        torch.cuda.get_device_name(ranks.device)
        if ranks.device.type == "cuda"
        else f"CPU, {counted(torch.get_num_threads(), 'thread')}"
    )
    LOGGER.info(
        "run %s: METHOD %s, %s on %s, torch %s",
        cfg.NAME,
        cfg.METHOD,
        counted(ranks.world, "process", "processes"),
        device,
        torch.__version__,
    )
    amp, why = resolve(cfg.SOLVER.AMP, ranks.device)
    LOGGER.info("arithmetic of the network: %s (%s)", amp, why)
    for name, domain in data.domains.items():
        known = (
            counted(domain.num_identities, "identity", "identities") + ", "
            if domain.num_identities
            else "identities hidden, "
        )
        LOGGER.info(
            "%s: %s, %d images, %s%d cameras",
            name,
            domain.images.split.name,
            len(domain.images),
            known,
            domain.num_cameras,
        )
    if target is None:
        LOGGER.info("%s has no query and gallery with identities: nothing is scored", cfg.DATASETS.TARGET)
    else:
        LOGGER.info(
            "evaluated on %s: %d query, %d gallery images",
            target.name,
            len(target.query),
            len(target.gallery),
        )
    share = data.batch_size // ranks.world
    together = cfg.MODEL.BN_GROUP or share * len(data.domains)
    LOGGER.info(
        "batch %d: %d images a domain, %d a domain on each process, and batch norm sees %d at once%s",
        data.batch_size * len(data.domains), data.batch_size, share, together,
        " (synchronised)" if cfg.MODEL.SYNC_BN and ranks.world > 1 else "",
    )  # fmt: skip
    if data.batch_size * len(data.domains) != cfg.DATALOADER.BATCH_SIZE:
        LOGGER.warning(
            "DATALOADER.ROUND_BATCH: a batch of %d does not divide over %d domains and %d processes, it is %d",
            cfg.DATALOADER.BATCH_SIZE, len(data.domains), ranks.world, data.batch_size * len(data.domains),
        )  # fmt: skip
    if resume:
        LOGGER.info("resuming %s after %d steps (%.2f epochs)", resume, done, done / len(data.streams))
    elif cfg.RESUME == "auto":
        LOGGER.info("RESUME auto: no checkpoint yet, starting anew")


def evaluation_title(cfg: CfgNode, method: Method, epoch: int) -> str:
    """What to call the evaluation after an epoch; empty where none is due."""
    if epoch in method.milestones:
        return method.milestones[epoch]
    if epoch == cfg.SOLVER.EPOCHS:
        return "final"
    return "training" if cfg.TEST.PERIOD and epoch % cfg.TEST.PERIOD == 0 else ""


def write_page(cfg: CfgNode, evaluation: TargetEvaluation, logs: Path) -> None:
    """The run as one HTML page; a run that is done does not fail for want of a package."""
    from crossreid.engine.deploy.report_page import read_history, write_report
    from crossreid.engine.deploy.report_subject import subject, subject_of_network

    history, network = read_history(logs / "metrics.jsonl"), evaluation.extractor
    try:
        if evaluation.features is None:
            page = subject_of_network(cfg, network, history, evaluation.ranks.device)
        else:
            splits = read(cfg, cfg.DATASETS.TARGET, training=cfg.DATASETS.ADAPT)
            page = subject(cfg, history, *evaluation.features, network, splits)
        LOGGER.info("report %s", write_report(logs / "report.html", page))
    except InputError as error:
        LOGGER.warning("no report: %s", error)


def conclude(evaluation: TargetEvaluation, logs: Path, saved: Path) -> None:
    """The table of the run and where everything lies."""
    picture = logs / "ranklist.png"
    LOGGER.info("results\n\n%s\n", evaluation.table())
    LOGGER.info("logs %s/ (train.log, metrics.jsonl, config.yml, tensorboard)", logs)
    written = {name: saved / name for name in checkpoint.KEPT if (saved / name).is_file()}
    if written:
        LOGGER.info("checkpoints %s", ", ".join(map(str, written.values())))
    name = evaluation.result_file
    if name in written:
        why = {"last.pt": "last epoch", "best.pt": "oracle: chosen by the target's labels"}
        LOGGER.info("result %s (%s)", name, why.get(name, f"highest {evaluation.cfg.CHECKPOINT.SELECT}"))
    if evaluation.draw(picture):
        LOGGER.info("rank list %s (query blue, right green, wrong red)", picture)
