"""The commands of ``python -m crossreid`` and of the console script ``crossreid``, a module each.

A command is a module of this package with ``main(arguments)``; the first line of its docstring is its help.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import os
import pkgutil
import re
import sys
from pathlib import Path

from crossreid.engine.environment import ensure_packages


def names() -> list[str]:
    """All commands, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name[0] != "_")


def main(arguments: list[str] | None = None) -> None:
    """Run a command; an unknown one ends in one line and exit code 2."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        print(_usage())
        raise SystemExit(0 if given else 2)
    if given[0] not in names():
        near = difflib.get_close_matches(given[0], names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"error: no command {given[0]!r}: choose {', '.join(names())}{hint}", file=sys.stderr)
        raise SystemExit(2)
    _let_threads_sleep()
    ensure_packages()
    importlib.import_module(f"{__name__}.{given[0]}").main(given[1:])


def _let_threads_sleep() -> None:
    """Threads without work wait some microseconds for the next, then leave their core to others: read with torch."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def command_parser(name: str, text: str | None) -> argparse.ArgumentParser:
    """The parser of a command; ``text`` is its help as it stands."""
    return argparse.ArgumentParser(
        prog=f"crossreid {name}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def key_values(words: list[str]) -> tuple[list[str], list[str]]:
    """Positional words and the KEY VALUE pairs that trail them; a key is a dotted capital name like ``TEST.FLIP``."""
    for position, word in enumerate(words):
        if re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*", word) and not Path(word).exists():
            return words[:position], words[position:]
    return words, []


def _usage() -> str:
    lines = ["usage: crossreid COMMAND [ARGUMENTS ...]   (crossreid COMMAND --help)", ""]
    for name in names():
        text = (Path(__path__[0]) / f"{name}.py").read_text(encoding="utf-8")
        lines.append(f"  {name:<12}{(ast.get_docstring(ast.parse(text)) or '').splitlines()[0]}")
    return "\n".join(lines)
