"""What most commands begin with: the application's own code, and the log."""

from __future__ import annotations

import importlib
import logging
import operator
import os
import sys
import traceback
from typing import Any

from .hooks import Hooks
from .listening import Failure


def hooks_of(reference: str | None) -> Hooks | None:
    """The object of that name, if one is given. Raises Failure if it cannot be imported."""
    if reference is None:
        return None
    hooks = imported(reference)
    if not isinstance(hooks, Hooks):
        raise Failure(f"{reference} is not an aiotus_server.Hooks but {type(hooks).__name__}")
    return hooks


def imported(reference: str) -> Any:
    """What ``module:name`` refers to; modules are looked for in the current directory too.
    Raises Failure."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    module, _, name = reference.partition(":")
    try:
        return operator.attrgetter(name)(importlib.import_module(module))
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise Failure(f"cannot import {reference}: {what}{_place_of(error)}") from error


def _place_of(error: Exception) -> str:
    """Where in the application's code, if it was there."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if last.filename == __file__ or last.filename.startswith("<frozen"):
        return ""
    return f" ({last.filename}, line {last.lineno})"


def start_logging(level: str) -> None:
    """To standard error."""
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Whoever asks for it wants it at any level.
    logging.getLogger("aiohttp.access").setLevel(logging.INFO)
