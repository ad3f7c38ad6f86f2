"""Score a checkpoint: ``python eval.py GPU|cpu CHECKPOINT [--dataset NAME] [--rerank] [--flip] [KEY VALUE ...]``."""

from __future__ import annotations

from engine.environment import ensure_packages

if __name__ == "__main__":
    ensure_packages()
    from engine.scoring import main

    main()
