"""The user's function, by "module:function" or "path.py:function"."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from importlib.machinery import PathFinder
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from refloss.cli.refusals import in_one_line


def load_function(text: str) -> Callable[..., Any]:
    """Return the function that "module:function" or "path.py:function" names.

    What the module prints goes to standard error. Whatever it raises, SystemExit included, becomes a ValueError.
    """
    place, _, attribute = text.rpartition(":")
    if not place or not attribute:
        raise ValueError(f"expected module:function or path.py:function, got {text!r}")
    try:
        with redirect_stdout(sys.stderr):
            module = load_file(Path(place)) if place.endswith(".py") else load_module(place)
            function = resolve(module, attribute)
    except BaseException as error:  # SystemExit and KeyboardInterrupt too
        raise ValueError(f"{place}: {type(error).__name__}: {in_one_line(error)}".removesuffix(": ")) from None
    if not callable(function):
        raise ValueError(f"{place} has no {attribute}" if function is None else f"{text} cannot be called")
    return cast("Callable[..., Any]", function)


def resolve(module: ModuleType, attribute: str) -> object:
    """Return what a dotted name means in a module, or None where it means nothing.

    `pkgutil.resolve_name` would refuse modules whose names are no identifiers, such as ``01-arcface``, which can be
    imported by name as well as run with ``python -m``.
    """
    try:
        return cast("object", attrgetter(attribute)(module))
    except AttributeError:
        return None


def load_module(name: str) -> ModuleType:
    """Import a module, looking in the current directory first, as ``python -m`` does."""
    sys.path.insert(0, str(Path.cwd()))
    return import_module(name)


def load_file(path: Path) -> ModuleType:
    """Run a file as a module, under a name that no installed module has; dataclasses look it up in `sys.modules`.

    The files beside it can be imported, and come first, as in ``python path.py``. They come last if the file has the
    name of an installed module, which it would hide otherwise.
    """
    hides = PathFinder.find_spec(path.stem) is not None
    sys.path.insert(len(sys.path) if hides else 0, str(path.resolve().parent))
    name = f"_refloss_check_{path.stem.replace('.', '_')}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the path ends in .py, so there is a loader
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
