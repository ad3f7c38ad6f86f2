"""The checkpoints of a run: what they hold beside the method's state, when they are read, which are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignite.engine import Engine
from yacs.config import CfgNode

from crossreid.engine import checkpoint
from crossreid.engine.data import Data
from crossreid.engine.distributed import agree, barrier
from crossreid.engine.errors import InputError
from crossreid.engine.identity import check_same_images, digest
from crossreid.engine.log import Means
from crossreid.engine.reading import with_absolute_data


class RunCheckpoints:
    """Reads and writes the checkpoints of a run.

    Args:
        folder: where they lie.
        state: of the method and its history, by name; ``model`` is the network.
        means: of the steps since the last report.

    Attributes:
        about: what a checkpoint says of its run: method, config with absolute paths, format, digests of the images.
    """

    def __init__(self, cfg: CfgNode, data: Data, folder: Path, state: dict[str, Any], means: Means) -> None:
        self.cfg, self.data, self.ranks, self.folder = cfg, data, data.ranks, folder
        self.state, self.means = state, means
        self.about: dict[str, Any] = {
            "method": cfg.METHOD,
            "config": with_absolute_data(cfg).dump(),
            "format": checkpoint.FORMAT,
            "images": {name: digest(domain.images.split) for name, domain in data.domains.items()},
        }

    def restore(self, path: Path | None) -> int:
        """Load a run's state; its finished steps (0 for a new run), the same on all ranks.

        Raises:
            InputError: a checkpoint of another run, or another one on each rank.
        """
        done = self._load(path) if path else 0
        if not agree(done, self.ranks):
            raise InputError(
                "RESUME: the processes found different checkpoints; all machines must share OUTPUT_DIR"
            )
        return done

    def _load(self, path: Path) -> int:
        content, origin = checkpoint.check_resume(self.cfg, path), f"RESUME {path}"
        names = {name: domain.images.split.name for name, domain in self.data.domains.items()}
        check_same_images(content.get("images", {}), self.about["images"], names, origin)
        length, saved = len(self.data.streams), content["engine"]["epoch_length"]
        if saved != length:
            raise InputError(
                f"{origin}: its epochs have {saved} steps, this run's have {length}; use the same data, batch size "
                "and DATALOADER.ITERS_PER_EPOCH"
            )
        checkpoint.restore(self.state, content, origin)
        if "means" in content and self.ranks.first:  # the rows are the first rank's
            checkpoint.restore({"means": self.means}, content, origin)
        if "rank_buffers" in content:
            checkpoint.restore_buffers(self.state["model"], content["rank_buffers"], self.ranks, origin)
        return int(content["engine"]["iteration"])

    def save(self, engine: Engine, *, also: tuple[str, ...] = (), mid_epoch: bool = False) -> None:
        """Write last.pt, others that this state is chosen for, and a numbered one if wanted; the first rank writes."""
        buffers = checkpoint.rank_buffers(self.state["model"], self.ranks) if mid_epoch else None
        if self.ranks.first:
            steps = {"iteration": engine.state.iteration, "epoch_length": engine.state.epoch_length}
            content = {**checkpoint.collect(self.state), "engine": steps, **self.about}
            if buffers is not None:
                content |= {"rank_buffers": buffers, "means": self.means.state_dict()}
            numbered = 0 if mid_epoch else self.cfg.CHECKPOINT.N_SAVED
            names = [*also, *([f"epoch-{engine.state.epoch:05d}.pt"] if numbered else []), "last.pt"]
            for name in names:  # last.pt last: a run that stops in between goes on from before the others
                checkpoint.save(self.folder / name, content)
            if numbered:
                for old in sorted(self.folder.glob("epoch-*.pt"))[:-numbered]:
                    old.unlink(missing_ok=True)
        barrier(self.ranks)
