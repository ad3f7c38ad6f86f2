"""Sweeps: what is varied, who runs what, one child process a slot, and what comes of it."""
