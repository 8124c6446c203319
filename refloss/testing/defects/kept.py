"""Results that are kept, since hundreds of defects are tried on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from refloss.error_free import Array

T = TypeVar("T")


class Kept(Generic[T]):
    """Results of a computation on arrays, those of the inputs asked for last; threads may share them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._results: dict[Hashable, T] = {}

    def once(self, arrays: Iterable[Array], compute: Callable[[], T], *key: Hashable) -> T:
        """Return the result for arrays and what else it depends on, which is computed if it is not there."""
        whole = *key, *((entry.tobytes(), entry.shape, entry.dtype) for entry in arrays)
        result = self._results.get(whole)
        if result is None:
            if len(self._results) >= self.most:
                self._results.clear()
            result = self._results[whole] = compute()
        return result
