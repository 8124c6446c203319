"""How kernels are compiled: options, types, the cache on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast
from warnings import warn

import llvmlite.binding
import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import overload
from numpy.typing import NDArray

from refloss.engines.locks import Lock, forks_wait_for
from refloss.error_free import Array

Float: TypeAlias = float | np.floating[Any]
FloatArray: TypeAlias = NDArray[np.floating[Any]]
Kernel = TypeVar("Kernel", bound=Callable[..., Any])
T = TypeVar("T")
R = TypeVar("R")

READ = numba.types.Array(numba.float64, 2, "A", readonly=True)
WRITE = numba.types.Array(numba.float64, 2, "A")
_OPTIONS: Any = {"nogil": True, "error_model": "numpy"}
"""No fastmath, which would destroy error-free sums; no threads of its own."""

_compile_lock = Lock()
forks_wait_for(global_compiler_lock, llvmlite.binding.ffi.lib._lock)


def njit(function: Kernel) -> Kernel:
    """Compile a function for the types of its arguments.

    Compiled code is kept where numba keeps it (NUMBA_CACHE_DIR says where else), unless REFLOSS_JIT_CACHE is 0 or no
    folder can be written to. Files are replaced atomically, so many processes may write them at once. They contain
    code: nobody else may be able to write to that folder. Where files are damaged or the disk is full, kernels are
    compiled anew, with a RuntimeWarning.
    """
    kernel = numba.njit(**_OPTIONS)(function)
    if kernel is not function and os.environ.get("REFLOSS_JIT_CACHE", "1") != "0":  # NUMBA_DISABLE_JIT returns function
        with suppress(RuntimeError, OSError):  # numba finds no place for its cache
            kernel.enable_caching()
            kernel._cache = _Cache(kernel._cache)
    return cast(Kernel, kernel)


def njit_for(*types: Any) -> Callable[[Kernel], Kernel]:
    """Compile for these types and no others, at the first call."""

    def compiled(function: Kernel) -> Kernel:
        kernel: Any = njit(function)
        if kernel is function:
            return function
        ready: list[bool] = []

        def compile_once() -> None:
            if not kernel.signatures:
                kernel.compile(numba.void(*types))
            kernel.disable_compile()
            ready.append(True)

        @wraps(function)
        def with_types(*arrays: Array) -> None:
            if not ready:
                _compile_lock.run(compile_once)
            kernel(*arrays)

        return cast(Kernel, with_types)

    return compiled


def by_dtype(in_float64: Callable[[T], R], in_float32: Callable[[T], R]) -> Callable[[T], R]:
    """Join two functions of a number, for kernels that are one text for both dtypes; numba chooses by type."""

    def function(x: T) -> R:
        return (in_float32 if isinstance(x, np.float32) else in_float64)(x)

    def by_type(x: Any) -> Callable[[T], R]:
        return in_float32 if x == numba.float32 else in_float64

    overload(function, jit_options=_OPTIONS, strict=False)(by_type)
    return function


# ------------------------------------------------------------------------------------------------------------ the cache

_SOURCES = tuple((file.stat().st_mtime, file.stat().st_size) for file in sorted(Path(__file__).parent.glob("*.py")))
"""Versions of the files of this package. numba compares that of a kernel's own file alone, and not of what it calls."""
_cache_errors: list[Exception] = []


class _Cache:
    """A cache of numba that may fail: kernels are then compiled."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        cache._cache_file._source_stamp = cache._cache_file._source_stamp, _SOURCES

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *kernel: Any) -> Any:
        """Return compiled code; None, and a new index, if it cannot be loaded."""
        try:
            return self._cache.load_overload(*kernel)
        except Exception as error:
            with suppress(Exception):
                self._cache.flush()
            _warn_once(error)
            return None

    def save_overload(self, *kernel: Any) -> None:
        """Save compiled code if that is possible."""
        try:
            self._cache.save_overload(*kernel)
        except Exception as error:
            _warn_once(error)


def _warn_once(error: Exception) -> None:
    """Warn, once per process, that kernels are compiled which might have been loaded or saved."""
    _cache_errors.append(error)
    if len(_cache_errors) == 1:
        reason = f"{type(error).__name__}: {error}"
        warn(f"the cache of numba fails here ({reason}); kernels are compiled without it", RuntimeWarning, stacklevel=2)


# --------------------------------------------------------------------------------------------------------- the compiler


@njit
def _identity(x: float) -> float:
    return x


def ready() -> None:
    """Raise an exception where the compiler does not work."""
    _identity(1.0)
