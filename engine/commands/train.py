"""Train a model: crossreid train CONFIG [--devices 0,1] [KEY VALUE ...]."""

from __future__ import annotations


def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` default to the command line's."""
    from crossreid.engine.training.launch import main as launch

    launch(arguments)
