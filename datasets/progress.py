"""A progress bar on the terminal; silent where there is none (logs get a line at the start and the end)."""

from __future__ import annotations

import sys
import time


class Progress:
    """Counts to ``total``, drawing at most five times a second."""

    def __init__(self, total: int, label: str, enabled: bool = True) -> None:
        self.total, self.label, self.done = total, label, 0
        self.enabled = enabled and sys.stderr.isatty()
        self.start = time.monotonic()
        self._drawn = 0.0

    def update(self, count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        if self.enabled and (now - self._drawn > 0.2 or self.done == self.total):
            self._drawn = now
            part = self.done / max(self.total, 1)
            rate = self.done / max(now - self.start, 1e-9)
            bar = "#" * int(30 * part) + "." * (30 - int(30 * part))
            sys.stderr.write(f"\r{self.label} [{bar}] {self.done:,}/{self.total:,} {rate:,.0f}/s ")
            sys.stderr.write("\n" if self.done == self.total else "")
            sys.stderr.flush()
