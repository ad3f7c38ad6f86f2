"""The evaluation command: a checkpoint or saved features in, a table, ``metrics.json`` and features out."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import torch
from yacs.config import CfgNode

from crossreid import configs
from crossreid.configs.overrides import set_apart
from crossreid.engine.deploy.network import load_extractor
from crossreid.engine.deploy.report_page import Subject, write_report
from crossreid.engine.deploy.report_subject import subject
from crossreid.engine.distributed import Ranks, parse_devices
from crossreid.engine.errors import InputError, guarded
from crossreid.engine.evaluation.extraction import extract_query_gallery
from crossreid.engine.evaluation.options import RetrievalOptions
from crossreid.engine.evaluation.report import (
    camera_table,
    load_features,
    save_features,
    score,
    table,
    write_metrics,
)
from crossreid.engine.evaluation.retrieval import Features
from crossreid.engine.extras import need
from crossreid.engine.files import write_whole
from crossreid.engine.log import LOGGER, setup_text
from crossreid.engine.reading import build_evaluation, dataset_root, read

__all__ = ["load_extractor", "main"]
CONFIG = "-config.yml"  # beside features: how they were made
PLACE = "dataset.txt"  # in a folder of features: of what
HELP = """examples:
  python eval.py 0 checkpoints/duke2market/best.pt --dataset market --rerank
  python eval.py cpu checkpoints/demo/best.pt TEST.CAMERA_PAIRS true TEST.ROC true
  python eval.py cpu features/synthetic-winter/demo-query.npz --ap trapezoidal   scores saved features again
"""


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="eval.py",
        description="Score a checkpoint on a dataset.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("device", help="a GPU's id, or cpu")
    parser.add_argument("checkpoint", help="a checkpoint, or a *-query.npz that this command wrote")
    parser.add_argument("overrides", nargs="*", help="KEY VALUE, KEY=VALUE or --KEY=VALUE")
    parser.add_argument("--dataset", help="what to evaluate on; default: the target of the training")
    parser.add_argument("--config", help="YAML of the network, for checkpoints of others")
    parser.add_argument(
        "--rerank", action="store_true", help="also with k-reciprocal re-ranking (TEST.RERANK)"
    )
    parser.add_argument("--flip", action="store_true", help="add the features of mirrored images (TEST.FLIP)")
    parser.add_argument("--ap", help="rectangular or trapezoidal (TEST.AP)")
    parser.add_argument("--report", metavar="FILE.html", help="also write one HTML page of the evaluation")
    parser.add_argument("--features-only", action="store_true", help="write the features and stop")
    plain, assigned = set_apart(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_intermixed_args(plain)
    options.overrides = [*options.overrides, *assigned]
    return options


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command; bad input ends in one line and exit code 2."""
    options = _parse(arguments)
    setup_text(None, quiet=False)
    devices = parse_devices(options.device)
    if options.report:
        need("a report", "report")
    if len(devices) > 1:
        raise InputError(f"eval.py runs on one device, got {options.device}")
    overrides = list(options.overrides)
    overrides += ["TEST.AP", options.ap] if options.ap else []
    overrides += ["TEST.FLIP", "true"] if options.flip else []
    overrides += ["DATASETS.TARGET", options.dataset] if options.dataset else []
    path = Path(options.checkpoint).expanduser()
    if path.suffix == ".npz":
        unused = {
            "--flip": options.flip,
            "--dataset": options.dataset,
            "--features-only": options.features_only,
        }
        if given := [name for name, value in unused.items() if value]:
            raise InputError(f"{path} holds features already: {', '.join(given)} needs a checkpoint")
        folder, run = path.parent, path.stem.removesuffix("-query").removesuffix("-gallery")
        cfg = _saved_config(folder / f"{run}{CONFIG}", options.config, overrides)
        query, gallery = load_features(folder, run)
        _score(cfg, devices[0], folder, run, folder.name, (query, gallery), options.rerank, str(path))
        if options.report:
            _report(options.report, Subject(f"{run} on {folder.name}", cfg, [], query, gallery))
        return
    cfg, extractor = load_extractor(path, options.config, overrides)
    ranks = Ranks(0, 1, devices[0])
    target = build_evaluation(cfg, cfg.DATASETS.TARGET)
    extractor.to(ranks.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    features = extract_query_gallery(cfg, extractor, target, ranks)
    folder, told = features_folder(Path(cfg.OUTPUT_DIR) / "features", cfg, target.name)
    run = f"{cfg.NAME}-{path.stem}"
    try:
        write_whole(folder / PLACE, lambda file: file.write(told.encode(errors="surrogateescape")))
        files = save_features(folder, run, *features)
        write_whole(folder / f"{run}{CONFIG}", lambda file: file.write(cfg.dump().encode()))
    except OSError as error:
        raise InputError(f"cannot write features to {folder}: {error}; change OUTPUT_DIR") from None
    LOGGER.info("features %s, %s", *files)
    if not options.features_only:
        _score(cfg, devices[0], folder, run, target.name, features, options.rerank, str(path))
    if options.report:
        _report(
            options.report, subject(cfg, [], *features, extractor, read(cfg, target.name, training=False))
        )


def _report(path: str, about: Subject) -> None:
    print(f"\n{write_report(Path(path), about)}")  # noqa: T201


def features_folder(parent: Path, cfg: CfgNode, dataset: str) -> tuple[Path, str]:
    """The folder of a dataset's features, and what its file ``dataset.txt`` says, so that no two targets share it.

    The folder bears the dataset's name, with a digest behind it for one's own data, and for a known dataset whose name
    is taken by one in another root, of another subset, or of other sizes.
    """
    kind, _, place = dataset.partition(":")
    if place and kind != "synthetic":
        told, name = str(Path(place).expanduser().resolve()), Path(place).expanduser().resolve().stem
        return parent / f"{name}-{_digest(told)}", told
    told = f"{dataset} in {Path(dataset_root(cfg)).expanduser().resolve()}"
    told += f", {cfg.DATASETS.SUBSET}" * kind.startswith("cuhk")
    told += "".join(f", {k} {v}" for k, v in sorted(cfg.DATASETS.SYNTHETIC.items())) * bool(place)
    folder = parent / dataset.replace(":", "-")
    try:
        taken = (folder / PLACE).read_bytes() != told.encode(errors="surrogateescape")
    except OSError:
        taken = False
    return (parent / f"{folder.name}-{_digest(told)}" if taken else folder), told


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


def _saved_config(file: Path, config: str | None, overrides: list[str]) -> CfgNode:
    """The config that features were made with, or the one named, or the defaults."""
    if config is None and file.is_file():
        text = file.read_bytes().decode(errors="replace")
        return configs.restore(text, overrides, origin=str(file))[0]
    return configs.load(config, overrides)


def _score(
    cfg: CfgNode,
    device: torch.device,
    folder: Path,
    run: str,
    dataset: str,
    features: tuple[Features, Features],
    rerank: bool,
    origin: str,
) -> None:
    options = RetrievalOptions.of(cfg.TEST)
    results = score(*features, options, rerank=rerank, device=device, progress=True)
    print(f"\n{table(results, dataset)}")  # noqa: T201
    for name, result in results.items():
        if result.camera_pairs is not None:
            print(f"\n{name}\n{camera_table(result.camera_pairs, result.ap)}")  # noqa: T201
    write_metrics(
        folder / "metrics.json", run, results, dataset=dataset, origin=origin, metric=options.metric
    )
    print(f"\n{folder / 'metrics.json'}")  # noqa: T201
