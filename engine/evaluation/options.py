"""What an evaluation is asked for: ``TEST`` of the config as one frozen value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from yacs.config import CfgNode

from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.metrics import AVERAGE_PRECISIONS

ROC_RATES = (1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class RetrievalOptions:
    """How retrieval is scored.

    Args:
        ap: ``rectangular`` (precision at each match) or ``trapezoidal`` (Market-1501's own code).
        ranks: of the CMC curve, from 1; beyond the end of a small gallery the curve is flat.
        metric: ``cosine`` or ``euclidean``.
        chunk_mb: memory for scores in MiB; at least 512 queries (on a GPU 1024) are scored together.
        camera_pairs: also give the table of query camera x gallery camera.
        roc: false positive rates for which true positive rates are wanted; True: 1e-4, 1e-3, 1e-2.
        aqe: replace each query by its mean with its ``aqe`` nearest gallery images; 0: no query expansion.
        camera_norm: normalise each camera's features by the gallery's images of it first, see ``camera_norm``; what a
            query is compared with then depends on the whole gallery.
        k1, k2, lambda_value: of re-ranking, see ``rerank.k_reciprocal``.

    Raises:
        InputError: a value that is not allowed.
    """

    ap: str = "rectangular"
    ranks: Sequence[int] = (1, 5, 10)
    metric: str = "cosine"
    chunk_mb: float = 256
    camera_pairs: bool = False
    roc: bool | Sequence[float] = False
    aqe: int = 0
    camera_norm: bool = False
    k1: int = 20
    k2: int = 6
    lambda_value: float = 0.3

    def __post_init__(self) -> None:
        if self.ap not in AVERAGE_PRECISIONS:
            allowed = " or ".join(AVERAGE_PRECISIONS)
            raise InputError(f"average precision {self.ap!r} does not exist: choose {allowed}")
        if not len(self.ranks) or min(self.ranks) < 1:
            raise InputError(f"ranks {list(self.ranks)} must be one or more numbers from 1 on")
        if not isinstance(self.roc, bool) and not all(0 < rate < 1 for rate in self.roc):
            raise InputError(f"false positive rates {list(self.roc)} must lie between 0 and 1")

    @property
    def rates(self) -> tuple[float, ...]:
        """The false positive rates of the ROC points; empty where none is wanted."""
        return ROC_RATES if self.roc is True else tuple(self.roc or ())

    @staticmethod
    def of(test: CfgNode) -> RetrievalOptions:
        """The options of a config's ``TEST``."""
        return RetrievalOptions(
            ap=test.AP,
            ranks=tuple(test.RANKS),
            metric=test.METRIC,
            chunk_mb=test.CHUNK_MB,
            camera_pairs=test.CAMERA_PAIRS,
            roc=test.ROC,
            aqe=test.AQE,
            camera_norm=test.CAMERA_NORM,
            k1=test.RERANK.K1,
            k2=test.RERANK.K2,
            lambda_value=test.RERANK.LAMBDA,
        )
