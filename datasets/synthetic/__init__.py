"""Pedestrians of four domains, drawn with NumPy and Pillow: what there is to draw, and who draws it."""

from .domains import DOMAINS, DomainStyle
from .plan import GALLERY, QUERY, TRAIN, Job, Shot, Sizes, make_plan
from .studio import Studio

__all__ = [
    "DOMAINS",
    "GALLERY",
    "QUERY",
    "TRAIN",
    "DomainStyle",
    "Job",
    "Shot",
    "Sizes",
    "Studio",
    "make_plan",
]
