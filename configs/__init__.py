"""The configuration: one tree of defaults, YAML files with what differs, overrides, and checks."""

from configs.errors import ConfigError
from configs.loading import load

__all__ = ["ConfigError", "load"]
