"""Ordered parallel work, and the BLAS limited to one thread.

Items are shared out among `THREADS` threads, the caller's and those of a pool. They begin in order and their results
come in order, so that no result depends on the number of threads: those that cannot start are not needed.

An interrupt may come anywhere in the caller's thread. The caller and the pool therefore share only objects that single
calls into C change: a queue, a deque, a set; see `refloss.engines.locks`.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from functools import cache, partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from refloss.engines.locks import Lock, surely

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")


def _threads() -> int:
    setting = os.environ.get("REFLOSS_THREADS")
    if not setting:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not setting.isdecimal() or int(setting) < 1:
        raise ValueError(f"REFLOSS_THREADS must be a whole number from 1 on; got {setting!r}")
    return int(setting)


THREADS = _threads()
"""Number of threads, the caller's included: REFLOSS_THREADS in the environment, or the processors of this process."""


# ------------------------------------------------------------------------------------------------------------- the BLAS


@cache
def _blas() -> Any:
    """Return the controller of the BLAS's threads; None without threadpoolctl, or without a BLAS that it knows."""
    try:
        from threadpoolctl import ThreadpoolController

        controller = ThreadpoolController().select(user_api="blas")
        return controller if controller.lib_controllers else None
    except Exception:  # a broken threadpoolctl counts as a missing one
        return None


class _OneThread:
    """The limit of the BLAS to one thread, shared by all calls that need it at the same time."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.calls = set[object]()
        """Calls that need the limit now."""
        self.restorer: Any = None
        """The limits before, as threadpoolctl restores them; None while there is no limit."""

    def hold(self, call: object) -> bool:
        """Limit the BLAS to one thread until the call releases it; False if that cannot be done."""
        if _blas() is None:
            return False
        try:
            self.lock.run(partial(self._hold, call))
        except Exception:
            self.release(call)
            return False
        return True

    def release(self, call: object) -> None:
        """Restore the limits of before, unless another call needs one thread. A second release changes nothing."""
        try:
            self.lock.run(partial(self._release, call))
        except Exception:
            return

    def renew(self) -> None:
        """Forget the calls of other threads, which a forked process does not have."""
        self.calls.clear()
        self.release(None)

    def _hold(self, call: object) -> None:
        if not self.calls:
            if self.restorer is None:  # kept first: an interrupt may come before the limit
                self.restorer = _blas().limit(limits=None)
            _blas().limit(limits=1)
        self.calls.add(call)

    def _release(self, call: object) -> None:
        self.calls.discard(call)
        if self.restorer is not None and not self.calls:
            self.restorer.restore_original_limits()
            self.restorer = None


_one_thread = _OneThread()


# ------------------------------------------------------------------------------------------------------------- the pool


def _serve(tasks: SimpleQueue[Callable[[], None]]) -> None:
    """Run tasks one by one; debuggers, profilers and coverage trace this thread like those of threading."""
    sys.settrace(threading.gettrace())
    sys.setprofile(threading.getprofile())
    while True:
        tasks.get()()


class _Pool:
    """Threads that run tasks from a queue; the process ends without waiting for them."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Start with no threads, as after a fork."""
        self.tasks = SimpleQueue[Callable[[], None]]()
        self.missing = deque(range(THREADS - 1))
        """One entry per thread that was not started yet."""

    def start(self, count: int) -> bool:
        """Start threads until `count` run, as far as the system allows; return whether any do."""
        while len(self.missing) > THREADS - 1 - count:
            try:
                place = self.missing.pop()
            except IndexError:  # another call started the last one
                break
            try:
                _thread.start_new_thread(_serve, (self.tasks,))
            except (RuntimeError, MemoryError):
                self.missing.append(place)
                break
        return len(self.missing) < THREADS - 1


_pool = _Pool()
if hasattr(os, "register_at_fork"):  # pragma: no branch
    os.register_at_fork(after_in_child=_pool.renew)
    os.register_at_fork(after_in_child=_one_thread.renew)


# --------------------------------------------------------------------------------------------------------- ordered work


class _Batch(Generic[T, R]):
    """Work on items by several threads at once, with results in order."""

    def __init__(self, work: Callable[[T], R], items: Sequence[T]) -> None:
        self.work, self.items = work, items
        self.pending = deque[int]()
        """Items that may begin; at most 2 `THREADS` have begun without their result being used."""
        self.results = dict[int, R]()
        self.errors = dict[int, BaseException]()
        self.running = set[int]()
        """Threads of the pool that work on an item."""
        self.finished = SimpleQueue[None]()
        """One entry per task that the pool has finished."""
        self.has_pool = False

    def start(self) -> None:
        """Start the pool on all items but one, which is left to the caller."""
        ahead = min(2 * THREADS, len(self.items))
        self.pending.extend(range(ahead))
        self.has_pool = _pool.start(min(THREADS, ahead) - 1)
        for _ in range(ahead - 1):
            self._submit()

    def in_order(self) -> Iterator[R]:
        """Yield results in order; the caller runs pending items itself instead of waiting."""
        for place in range(len(self.items)):
            while place not in self.results:
                if place in self.errors:
                    raise self.errors.pop(place)
                if not self._run_next(Exception):
                    self.finished.get()
            if place + 2 * THREADS < len(self.items):
                self.pending.append(place + 2 * THREADS)
                self._submit()
            yield self.results.pop(place)

    def stop(self) -> None:
        """Start no more items, and wait for those that the pool works on."""
        self.pending.clear()
        while self.running:
            self.finished.get()

    def _submit(self) -> None:
        if self.has_pool:  # nobody else would take the task out of the queue
            _pool.tasks.put(partial(copy_context().run, self._run_in_pool))  # NumPy's error state is in the context

    def _run_in_pool(self) -> None:
        """Run the next item in a thread of the pool."""
        thread = threading.get_ident()
        self.running.add(thread)
        self._run_next(BaseException)
        self.running.discard(thread)  # before the caller, which looks at it, is woken
        self.finished.put(None)

    def _run_next(self, caught: type[BaseException]) -> bool:
        """Run the next pending item, if there is one; keep a caught error until its result is asked for."""
        try:
            place = self.pending.popleft()
        except IndexError:
            return False
        try:
            self.results[place] = self.work(self.items[place])
        except caught as error:
            self.errors[place] = error
        return True


def in_order(work: Callable[[T], R], items: Sequence[T], use: Callable[[Iterator[R]], S]) -> S:
    """Work on all items, in part by the pool, and return what `use` makes of the results, in order.

    The pool starts at once. An error in an item is raised where its result is asked for. Results that are not asked for
    need not be computed; when this returns, no thread works on any.
    """
    batch = _Batch(work, items)

    def used() -> S:
        batch.start()
        return use(batch.in_order())

    return surely(used, batch.stop)


def with_products(work: Callable[[T], R], items: Sequence[T], use: Callable[[Iterator[R]], S]) -> S:
    """The same for work that multiplies matrices, with the BLAS limited to one thread per product.

    The limit takes the package threadpoolctl. Without it, items are worked on one after the other, and their products
    use the threads of the BLAS.
    """
    call = object()

    def used() -> S:
        return in_order(work, items, use) if _one_thread.hold(call) else use(map(work, items))

    return surely(used, partial(_one_thread.release, call))
