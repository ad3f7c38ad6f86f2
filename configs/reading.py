"""Reads a YAML file: no key twice, ``_BASE_`` inherited, bounded in what hostile text can make it do."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Hashable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from crossreid.configs.errors import ConfigError
from crossreid.configs.paths import expand

BASE = "_BASE_"
LARGEST = 2**20  # bytes of a config file
FAULTS = (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 3


def shown(value: Any) -> str:
    """A value as an error message shows it: its beginning, however large or deep it is."""
    text = _SHORT.repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."


class _Loader(yaml.SafeLoader):
    """``SafeLoader`` that refuses a key given twice; a number or date that is none stays text, to be refused by key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in seen:
                    lines = f"in lines {seen[key.value]} and {line}"
                    raise ConfigError(
                        f"the key {shown(key.value)} stands twice in {self.name}, {lines}: keep one"
                    )
                seen[key.value] = line
        return super().construct_mapping(node, deep)


def _lenient(construct: Callable[[Any, Any], Any]) -> Callable[[_Loader, Any], Any]:
    def tolerant(loader: _Loader, node: Any) -> Any:
        try:
            return construct(loader, node)
        except (ValueError, KeyError, IndexError, AttributeError):
            return node.value

    return tolerant


for _kind in ("int", "float", "bool"):
    _tag = f"tag:yaml.org,2002:{_kind}"
    _Loader.add_constructor(_tag, _lenient(yaml.SafeLoader.yaml_constructors[_tag]))


def parse(text: str, name: str) -> Any:
    """The value of a YAML text.

    Args:
        name: where it stands, for errors.

    Raises:
        ConfigError: text that is not YAML, a key given twice.
    """
    try:
        loader = _Loader(text)
        loader.name = name
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError(f"{name} is nested too deeply to be a config") from None
    except FAULTS as error:
        raise ConfigError(f"{name} is not YAML: {' '.join(str(error).split())[:300]}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file over those of the file that its ``_BASE_`` names, and so on.

    Raises:
        ConfigError: a file that is missing, unreadable, too large or not YAML, or that inherits from itself.
    """
    return _read(path, [])


def _read(path: Path, above: list[Path]) -> dict[str, Any]:
    values = parse(_text(path, above), str(path))
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys and values, it holds a {type(values).__name__}")
    _check_spellings(values, path)
    values = _unfolded(values)
    base = values.pop(BASE, None)
    if base is None:
        return values
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{BASE} in {path} must be the path of a YAML file, got {shown(base)}")
    chain = [*above, path.resolve()]
    inherited = path.parent / expand(f"_BASE_ in {path}", str(base))
    if inherited.resolve() in chain:
        names = " -> ".join(file.name for file in [*chain, inherited])
        raise ConfigError(f"{BASE}: these files inherit from each other: {names}")
    return overlaid(_read(inherited, chain), values)


def _check_spellings(values: dict[Any, Any], path: Path) -> None:
    """Refuse a key that stands twice in different spellings: SOLVER.LR, and LR below SOLVER; LR and lr."""
    seen: dict[str, str] = {}
    for name in islice(_names(values, "", 4), 10_000):  # more, or deeper, is refused for another reason
        if name.upper() in seen:
            raise ConfigError(
                f"the key {shown(name)} stands twice in {path}, as {shown(seen[name.upper()])}, too: keep one"
            )
        seen[name.upper()] = name


def _names(values: dict[Any, Any], above: str, depth: int) -> Iterator[str]:
    """The full names of all values of a tree."""
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, dict) and depth:
            yield from _names(value, f"{name}.", depth - 1)
        else:
            yield name


def _unfolded(values: dict[Any, Any]) -> dict[Any, Any]:
    """A tree whose first level has no dotted keys: ``SOLVER.LR: 0.1`` becomes LR below SOLVER."""
    tree: dict[Any, Any] = {}
    for key, value in values.items():
        head, _, rest = key.partition(".") if isinstance(key, str) else ("", "", "")
        name, found = (head, {rest: value}) if head and rest else (key, value)
        both = isinstance(found, dict) and isinstance(tree.get(name), dict)
        tree[name] = overlaid(tree[name], found) if both else found
    return tree


def overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """One tree over another; sections are merged, other values replaced."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = overlaid(merged[key], value) if both else value
    return merged


def _text(path: Path, above: list[Path]) -> str:
    ours = Path(__file__).parent.joinpath(*path.parts[1:])
    try:
        if path.parts[:1] == ("configs",) and not path.exists() and ours.is_file():
            path = ours  # a template, asked for from another folder
        text = (
            path.read_text(encoding="utf-8-sig")
            if path.is_file() and path.stat().st_size <= LARGEST
            else None
        )
        large = text is None and path.is_file()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{shown(str(path))} cannot be read: {error}"[:300]) from None
    if large:
        raise ConfigError(f"{shown(str(path))} has more than {LARGEST:,} bytes: that is no config")
    if text is not None:
        return text
    if above:
        raise ConfigError(f"{BASE} of {above[-1].name}: there is no file {path}")
    near = sorted(str(p) for p in Path("configs").glob("**/*.yml"))
    hint = difflib.get_close_matches(str(path)[:200], near, n=1, cutoff=0.5) or near[:1]
    raise ConfigError(f"no config file {str(path)[:200]}" + (f"; did you mean {hint[0]}?" if hint else ""))
