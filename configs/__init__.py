"""The configuration: one tree of defaults, YAML files with what differs, overrides, and checks."""

from crossreid.configs.errors import ConfigError
from crossreid.configs.loading import load, restore
from crossreid.configs.methods import method_names

__all__ = ["ConfigError", "load", "method_names", "restore"]
