"""Readers, decoded image store, batch transforms, samplers and streams. Knows nothing of configs."""

from crossreid.datasets.readers import NAMES, load
from crossreid.datasets.splits import Batch, DatasetError, Split, Splits

__all__ = ["NAMES", "Batch", "DatasetError", "Split", "Splits", "load"]
