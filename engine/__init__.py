"""Everything that runs: the trainer, its methods, evaluation and checkpoints. Only this package sees the config."""
