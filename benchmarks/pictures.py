"""The pictures of the README: queries before and after adaptation, and the target's score by epoch.

bash train.sh cpu configs/demo.yml CHECKPOINT.N_SAVED 100 TEST.PERIOD 1
python benchmarks/pictures.py demo EPOCH        # EPOCH: the last one on the source alone

It reads logs/NAME and checkpoints/NAME and writes docs/img/{before_after,curve}.png.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from PIL import Image

from crossreid.engine.deploy.report_page import read_history
from crossreid.engine.deploy.report_subject import subject_of
from crossreid.engine.evaluation.ranklist import draw_rank_list

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "img"
QUERIES, GAP = 4, 60


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
    name, start = sys.argv[1], int(sys.argv[2])
    folder, sheets = Path("checkpoints", name), []
    for file in (f"epoch-{start:05d}.pt", "last.pt"):
        about = subject_of(folder / file, "cpu", [])
        assert about.query is not None
        assert about.gallery is not None
        with tempfile.NamedTemporaryFile(suffix=".png") as sheet:
            draw_rank_list(Path(sheet.name), about.query, about.gallery, queries=QUERIES)
            sheets.append(Image.open(sheet.name).convert("RGB"))
    both = Image.new("RGB", (2 * sheets[0].width + GAP, sheets[0].height), "white")
    for x, sheet_image in zip((0, sheets[0].width + GAP), sheets):
        both.paste(sheet_image, (x, 0))
    both.resize((both.width * 2 // 3, both.height * 2 // 3), Image.Resampling.LANCZOS).save(
        IMAGES / "before_after.png"
    )
    curve(
        read_history(Path("logs", name, "metrics.jsonl")),
        about.cfg.SOLVER.EPOCHS,
        start,
        IMAGES / "curve.png",
    )


if __name__ == "__main__":
    main()
