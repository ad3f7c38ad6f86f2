"""Shared by all tests: one tiny pair of built-in domains, drawn once."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that at the end no core waits for one that has started late."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset root that holds what ``tests.tiny.overrides`` asks for (drawn on first use)."""
    return tmp_path_factory.mktemp("domains")


@pytest.fixture
def told() -> Iterator[Callable[[], str]]:
    """What crossreid has logged since the test began, whatever an earlier run made of its handlers."""
    stream, logger = io.StringIO(), logging.getLogger("crossreid")
    handler, level = logging.StreamHandler(stream), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream.getvalue
    logger.removeHandler(handler)
    logger.setLevel(level)
