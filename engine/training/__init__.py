"""From the command line to a finished run: launch, trainer, handlers, target evaluation, prefetch."""
