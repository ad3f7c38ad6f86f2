"""Readers, decoded image store, batch transforms, samplers and streams. Knows nothing of configs."""

from datasets.readers import NAMES, load
from datasets.splits import Batch, DatasetError, Split, Splits

__all__ = ["NAMES", "Batch", "DatasetError", "Split", "Splits", "load"]
