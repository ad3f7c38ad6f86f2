"""Extras: the packages that are named are those that ``setup.py`` installs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from crossreid.engine.errors import InputError
from crossreid.engine.extras import EXTRAS, need

ROOT = Path(__file__).parents[2]


def test_extras_are_those_of_the_package() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text())
    (told,) = (
        n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "EXTRAS"
    )
    names = {
        extra: tuple(re.split("[>=]", line)[0].removesuffix("-skinny") for line in lines)
        for extra, lines in ast.literal_eval(told).items()
    }
    assert names == {**EXTRAS, "timm": ("timm",)}  # timm is asked for by modeling


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "fastapi" or None)
    with pytest.raises(
        InputError, match=r'^serve needs uvicorn, python-multipart: pip install "crossreid\[serve\]"$'
    ):
        need("serve", "serve")
    need("serve", "serve", "fastapi")
