"""The configuration: one tree of defaults, YAML files with what differs, overrides, and checks."""

from crossreid.configs.checks import METHODS
from crossreid.configs.errors import ConfigError
from crossreid.configs.loading import load, restore

__all__ = ["METHODS", "ConfigError", "load", "restore"]
