"""Built-in pedestrian domains: drawn with NumPy and Pillow, written to disk in Market-1501 layout."""

from .domains import DOMAINS, DomainStyle
from .plan import Sizes
from .studio import Studio
from .writer import SyntheticError, check, ensure

__all__ = ["DOMAINS", "DomainStyle", "Sizes", "Studio", "SyntheticError", "check", "ensure"]
