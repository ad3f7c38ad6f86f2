"""Score a checkpoint: ``python eval.py GPU|cpu CHECKPOINT [--dataset NAME] [--rerank] [--flip] [KEY VALUE ...]``."""

from __future__ import annotations

import sys

from crossreid.engine.commands import main

if __name__ == "__main__":
    main(["eval", *sys.argv[1:]])
