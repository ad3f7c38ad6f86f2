"""Shared by all tests: one tiny pair of built-in domains, drawn once."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset root that holds what ``tests.tiny.overrides`` asks for (drawn on first use)."""
    return tmp_path_factory.mktemp("domains")
