"""The errors that are the user's to mend: one line and exit code 2; everything else keeps its traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec

from crossreid.configs import ConfigError
from crossreid.datasets import DatasetError
from crossreid.modeling import ModelError

P = ParamSpec("P")


class InputError(ValueError):
    """Bad input found inside ``engine``: a checkpoint, a device, a folder, a feature file."""


class NonFiniteLossError(InputError):
    """Training met NaN or an infinite loss; the message names the step and its images."""


USER_ERRORS = (InputError, ConfigError, DatasetError, ModelError)


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number and its noun: 1 process, 2 processes."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def fail(error: Exception) -> NoReturn:
    """Print the error as the user's and leave with exit code 2."""
    print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201
    raise SystemExit(2)


def guarded(main: Callable[P, None]) -> Callable[P, None]:
    """Decorates an entry point: errors of input end in one line and exit code 2."""

    @functools.wraps(main)
    def run(*arguments: P.args, **keys: P.kwargs) -> None:
        try:
            main(*arguments, **keys)
        except USER_ERRORS as error:
            fail(error)
        except KeyboardInterrupt:  # before or after training, which saves a checkpoint first
            raise SystemExit(130) from None

    return run
