"""Score a checkpoint or saved features: crossreid eval DEVICE CHECKPOINT [--dataset NAME] [KEY VALUE ...]."""

from __future__ import annotations


def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` default to the command line's."""
    from crossreid.engine.evaluate import main as evaluate

    evaluate(arguments)
