"""From the command line to running ranks: checks everything first, then starts one process a device."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

from yacs.config import CfgNode

from crossreid import configs
from crossreid.configs.overrides import set_apart
from crossreid.engine.distributed import Nodes, connect, disconnect, parse_devices, read_nodes
from crossreid.engine.errors import InputError, fail, guarded
from crossreid.engine.training import watch


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The training command; bad input ends in one line and exit code 2, a signal in 128 + its number."""
    parser = argparse.ArgumentParser(
        prog="train.py", description="Train a cross-domain re-identification model."
    )
    parser.add_argument("--devices", default="cpu", help="GPU ids like 0,1, or cpu, or cpu:2 (two processes)")
    parser.add_argument("config", help="YAML file, for example configs/demo.yml")
    parser.add_argument("overrides", nargs=argparse.REMAINDER, help="KEY VALUE, KEY=VALUE or --KEY=VALUE")
    plain, assigned = set_apart(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(plain)
    cfg = configs.load(options.config, [*options.overrides, *assigned])
    if not cfg.FIRST_STAGE:
        raise SystemExit(start(cfg, options.devices))
    from crossreid.engine.training.stages import run_stages

    raise SystemExit(
        run_stages(cfg, [*options.overrides, *assigned], lambda stage: start(stage, options.devices))
    )


def start(cfg: CfgNode, devices: str) -> int:
    """Train on the devices of this machine, among those that the environment names; the exit code.

    Args:
        devices: GPU ids like ``0,1``, or ``cpu``, or ``cpu:2``.
    """
    count, nodes = len(parse_devices(devices)), read_nodes(os.environ)
    _check_batch(cfg, count * nodes.count)
    if count * nodes.count == 1:
        return _rank(cfg, devices)
    return _launch(cfg, devices, count, nodes)


def _check_batch(cfg: CfgNode, world: int) -> None:
    from crossreid.engine.data import stream_batch

    stream_batch(cfg, len(cfg.DATASETS.SOURCES) + bool(cfg.DATASETS.ADAPT), world)


def _rank(cfg: CfgNode, devices: str) -> int:
    """Train on this rank; the exit code."""
    from crossreid.engine.training.handlers import Stopped
    from crossreid.engine.training.trainer import run

    try:
        run(cfg, connect(parse_devices(devices)))
    except Stopped as stop:
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"stopped by signal {stop.signum}; continue with RESUME auto", flush=True)  # noqa: T201
        return 128 + stop.signum
    finally:
        disconnect()
    return 0


def _worker(config: str, devices: str, folder: str, parent: int) -> None:
    """One of several ranks: what goes wrong is left in a file, so that the parent reports it once."""
    watch.follow(Path(folder), parent)
    cfg = CfgNode.load_cfg(config)
    cfg.freeze()
    try:
        code = _rank(cfg, devices)
    except Exception as error:
        code = watch.report(Path(folder), error)
    finally:  # also of the interrupt that Linux sends where the parent was killed
        watch.tidy(Path(folder), parent)
    if code:
        sys.stdout.flush()
        os._exit(code)


def _launch(cfg: CfgNode, devices: str, processes: int, nodes: Nodes) -> int:
    """Start this machine's ranks under torch's elastic agent and wait for them; the exit code.

    Several machines number their ranks by ``NODE_RANK`` (torch's static rendezvous), so that the first rank, which
    writes logs and checkpoints, is always on machine 0.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are reported once, below
    with tempfile.TemporaryDirectory() as folder, watch.Watch(Path(folder)) as ranks:
        launch = LaunchConfig(
            min_nodes=nodes.count,
            max_nodes=nodes.count,
            nproc_per_node=processes,
            rdzv_backend="static" if nodes.endpoint else "c10d",
            rdzv_endpoint=nodes.endpoint or "localhost:0",
            rdzv_configs={"rank": nodes.rank, "timeout": 900},  # seconds that machines wait for each other
            run_id=cfg.NAME,
            max_restarts=0,
            monitor_interval=0.2,
            logs_specs=DefaultLogsSpecs(log_dir=folder),  # torch would leave a folder behind
        )
        usual, tempfile.tempdir = tempfile.tempdir, folder  # where torch makes a file for each rank's error
        try:
            elastic_launch(launch, _worker)(cfg.dump(), devices, folder, os.getpid())
        except SignalException as error:
            return 128 + int(error.sigval)
        except (RendezvousError, DistError) as error:
            fail(
                InputError(
                    f"RDZV_ENDPOINT {nodes.endpoint}: the {nodes.count} machines did not meet ({error})"
                )
            )
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            message, code = watch.explain(Path(folder), codes, ranks.ended)
            if message:
                watch.tell(message)
            return code
        finally:
            tempfile.tempdir = usual
    return 0
