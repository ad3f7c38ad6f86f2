"""The configuration: one tree of defaults, YAML files with what differs, overrides, and checks."""

from configs.errors import ConfigError
from configs.loading import load, restore

__all__ = ["ConfigError", "load", "restore"]
