"""Stands in for the training of a run: writes what a run leaves, whose objective is its EPS and its seed / 100.

``STAND_IN`` in the environment: ``fail EPS`` lets that run fail; ``slow`` (``slow EPS``) lets runs wait for a signal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(words: list[str]) -> None:
    values = dict(zip(words[::2], words[1::2]))
    folder = Path(values["OUTPUT_DIR"]) / "logs" / values["NAME"]
    eps, seed = float(values.get("CAMERA_AWARE.EPS", 0.8)), int(values["SEED"])
    wish, _, which = os.environ.get("STAND_IN", "").partition(" ")
    mine = not which or float(which) == eps
    if wish == "fail" and mine:
        raise SystemExit("error: the stand-in was told to fail")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(
        f"NAME: {values['NAME']}\nMETHOD: camera_aware\nSEED: {seed}\nCAMERA_AWARE: {{EPS: {eps}}}\n"
    )
    signal.signal(signal.SIGTERM, leave)
    with (folder / "metrics.jsonl").open("w") as file:
        for epoch in range(1, 25):
            score = (eps + seed / 100) * epoch / 24
            title = "final" if epoch == 24 else "training"
            line = {
                "step": epoch,
                "epoch": epoch,
                "title": title,
                "criteria/silhouette": score,
                "target/mAP": score,
            }
            file.write(json.dumps(line) + "\n")
            file.flush()
            if wish == "slow" and mine:
                time.sleep(0.3)


def leave(number: int, frame: object) -> None:
    print("saved", flush=True)
    os._exit(143)


if __name__ == "__main__":
    try:
        main(sys.argv[5:])  # after PARENT --devices D CONFIG
    except SystemExit as stop:
        print(stop)
        sys.exit(2)
