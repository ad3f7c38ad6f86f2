"""Every interface that users and checkers rely on is where ``tests/golden/names.json`` says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

NAMES = json.loads((Path(__file__).parent / "golden" / "names.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_name_leads_somewhere(name: str) -> None:
    module, _, attribute = NAMES[name].rpartition(".")
    assert callable(getattr(importlib.import_module(module), attribute))
