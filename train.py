"""Train: ``python train.py --devices 0,1 configs/duke2market.yml [KEY VALUE ...]`` (``train.sh`` does just this)."""

from __future__ import annotations

import sys

from crossreid.engine.commands import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
