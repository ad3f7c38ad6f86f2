"""The pictures of the README: queries before and after adaptation, and the target's score by epoch.

bash train.sh cpu configs/demo.yml CHECKPOINT.N_SAVED 100 TEST.PERIOD 1
python benchmarks/pictures.py demo EPOCH        # EPOCH: the last one on the source alone

It reads logs/NAME and checkpoints/NAME and writes docs/img/{before,after,curve}.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

from crossreid.engine.deploy.report_page import read_history
from crossreid.engine.deploy.report_subject import subject_of
from crossreid.engine.evaluation.ranklist import draw_rank_list

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "img"
QUERIES = 4


def curve(history: list[dict[str, float]], epochs: int, start: int, path: Path) -> None:
    """mAP and Rank-1 by epoch; a line where adaptation begins."""
    rows = [entry for entry in history if "target/mAP" in entry]
    epoch = [row["step"] * epochs / rows[-1]["step"] for row in rows]
    figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
    for key, name in (("target/mAP", "mAP"), ("target/rank1", "Rank-1")):
        axes.plot(epoch, [100 * row[key] for row in rows], marker="o", markersize=3, label=name)
    axes.axvline(start, color="grey", linestyle=":")
    axes.text(start, 96, " adaptation begins", color="grey", va="top")
    axes.set(xlabel="epoch", ylabel="% on the target", ylim=(0, 100))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    name, epoch = sys.argv[1], int(sys.argv[2])
    folder = Path("checkpoints", name)
    for file, picture in ((f"epoch-{epoch:05d}.pt", "before"), ("last.pt", "after")):
        about = subject_of(folder / file, "cpu", [])
        assert about.query is not None
        assert about.gallery is not None
        epochs = about.cfg.SOLVER.EPOCHS
        draw_rank_list(IMAGES / f"{picture}.png", about.query, about.gallery, queries=QUERIES)
    curve(read_history(Path("logs", name, "metrics.jsonl")), epochs, epoch, IMAGES / "curve.png")


if __name__ == "__main__":
    main()
