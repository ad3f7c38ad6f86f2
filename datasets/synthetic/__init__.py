"""Embedded pedestrian domains: drawn with NumPy and Pillow, written to disk in Market-1501 layout."""

from .domains import DOMAINS, DomainStyle
from .writer import SyntheticError, check, ensure

__all__ = ["DOMAINS", "DomainStyle", "SyntheticError", "check", "ensure"]
