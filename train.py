"""Train: ``python train.py --devices 0,1 configs/duke2market.yml [KEY VALUE ...]`` (``train.sh`` does just this)."""

from __future__ import annotations

from engine.environment import ensure_packages

if __name__ == "__main__":
    ensure_packages()
    from engine.launch import main

    main()
