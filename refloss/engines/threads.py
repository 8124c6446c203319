"""Ordered parallel work, and the BLAS held to one thread.

Work on items is shared out among `THREADS` threads, the caller's and those of a pool. Items are begun in order and
results come in order, so nothing depends on how many threads there are: one that cannot start is done without.

An interrupt may come anywhere in the caller's thread. What the caller shares with others is therefore changed by single
calls into C: a queue, a deque, a set. concurrent.futures and threading lock in Python code, where an interrupt leaves a
lock locked: a thread that waits for it would wait forever.
"""

from __future__ import annotations

import _thread
import logging  # noqa: F401  # before `_Forks`, which has to lock first: who is waited for may need to log
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from functools import cache, partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")


def _threads() -> int:
    given = os.environ.get("REFLOSS_THREADS")
    if not given:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"REFLOSS_THREADS must be a whole number from 1 on; got {given!r}")
    return int(given)


THREADS = _threads()
"""Threads at work: as many as there are processors for this process, or REFLOSS_THREADS in its environment."""


# ------------------------------------------------------------------------------------------------ against interruptions


def surely(action: Callable[[], R], undo: Callable[[], None]) -> R:
    """Return what an action returns, and undo what it has begun: again if an interrupt comes while this is done."""
    try:
        try:
            return action()
        finally:
            undo()
    finally:
        undo()


class Lock:
    """A lock that an interrupt cannot leave locked; a process that forks waits for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        forks_wait_for(self)

    def run(self, action: Callable[[], R]) -> R:
        """Return what an action returns while no other thread runs one."""

        def locked() -> R:
            self._lock.acquire()
            return action()

        return surely(locked, self._unlock)

    def _unlock(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:  # this thread does not hold it
            return


# --------------------------------------------------------------------------------------------------------------- forks

FORK_PATIENCE = 60.0
"""Seconds that a process which forks waits for locks."""


class _Forks:
    """Locks that are free when this process forks: a child has no thread that would end what was begun under them."""

    def __init__(self) -> None:
        self.owners: list[Any] = []
        """What has a `_lock`, in the order in which they are locked."""
        self.held: list[Any] = []

    def before(self) -> None:
        """Wait for all locks together, but not for ever."""
        until = time.monotonic() + FORK_PATIENCE
        for owner in self.owners:
            if owner._lock.acquire(timeout=max(0.0, until - time.monotonic())):
                self.held.append(owner._lock)

    def after(self) -> None:
        """Unlock what was waited for."""
        while self.held:
            self.held.pop().release()

    def in_child(self) -> None:
        """Unlock all, and begin anew where the wait was in vain: who holds the lock is not there any more."""
        self.after()
        for owner in self.owners:
            if owner._lock.acquire(blocking=False):
                owner._lock.release()
            else:
                owner._lock = threading.RLock()


_forks = _Forks()
if hasattr(os, "register_at_fork"):  # pragma: no branch
    os.register_at_fork(before=_forks.before, after_in_parent=_forks.after, after_in_child=_forks.in_child)


def forks_wait_for(*owners: Any) -> None:
    """Have a process that forks wait for the `_lock` of each, which is locked within those named before."""
    _forks.owners.extend(owners)


# ------------------------------------------------------------------------------------------------------------- the BLAS


@cache
def _blas() -> Any:
    """What limits the threads of the BLAS, or None."""
    try:
        from threadpoolctl import ThreadpoolController

        found = ThreadpoolController().select(user_api="blas")
        return found if found.lib_controllers else None
    except Exception:  # whatever is wrong with it, it is as if it were not there
        return None


class _OneThread:
    """The limit of the BLAS to one thread, of all calls that need it together."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.calls = set[object]()
        """Who needs it."""
        self.before: Any = None
        """What restores the limits that were there before."""

    def hold(self, call: object) -> bool:
        """Hold the BLAS to one thread until a call releases it; False if that cannot be done."""
        if _blas() is None:
            return False
        try:
            self.lock.run(partial(self._hold, call))
        except Exception:
            self.release(call)
            return False
        return True

    def release(self, call: object) -> None:
        """Restore what was before, unless another call needs the limit. A second time changes nothing."""
        try:
            self.lock.run(partial(self._release, call))
        except Exception:
            return

    def renew(self) -> None:
        """Release what calls of other threads held when this process was forked."""
        self.calls.clear()
        self.release(None)

    def _hold(self, call: object) -> None:
        if not self.calls:
            if self.before is None:  # noted first, so that an interrupt finds what to restore
                self.before = _blas().limit(limits=None)
            _blas().limit(limits=1)
        self.calls.add(call)

    def _release(self, call: object) -> None:
        self.calls.discard(call)
        if self.before is not None and not self.calls:
            self.before.restore_original_limits()
            self.before = None


_one_thread = _OneThread()


# ------------------------------------------------------------------------------------------------------------- the pool


def _serve(tasks: SimpleQueue[Callable[[], None]]) -> None:
    """Do one task after the other; debuggers, profilers and coverage watch it as they watch a thread of threading."""
    sys.settrace(threading.gettrace())
    sys.setprofile(threading.getprofile())
    while True:
        tasks.get()()


class _Pool:
    """Threads that wait for tasks; the process ends without waiting for them."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew: no thread survives a fork."""
        self.tasks = SimpleQueue[Callable[[], None]]()
        self.places = deque(range(THREADS - 1))
        """One per thread that is not there yet."""

    def start(self, count: int) -> bool:
        """Start threads until there are so many, as far as they can be started; return whether there are any."""
        while len(self.places) > THREADS - 1 - count:
            try:
                place = self.places.pop()
            except IndexError:  # another call was faster
                break
            try:
                _thread.start_new_thread(_serve, (self.tasks,))
            except (RuntimeError, MemoryError):
                self.places.append(place)
                break
        return len(self.places) < THREADS - 1


_pool = _Pool()
if hasattr(os, "register_at_fork"):  # pragma: no branch
    os.register_at_fork(after_in_child=_pool.renew)
    os.register_at_fork(after_in_child=_one_thread.renew)


# --------------------------------------------------------------------------------------------------------- ordered work


class _Batch(Generic[T, R]):
    """Work on some items, by several threads at once, of which results are given back in order."""

    def __init__(self, work: Callable[[T], R], items: Sequence[T]) -> None:
        self.work, self.items = work, items
        self.waiting = deque[int]()
        """Items that may be begun: at most 2 `THREADS` are, or have a result that nobody has asked for."""
        self.done = dict[int, R]()
        self.failed = dict[int, BaseException]()
        self.running = set[int]()
        """Threads of the pool that work on an item."""
        self.wake = SimpleQueue[None]()
        """One entry for everything that the pool has done."""
        self.helped = False
        """Whether there is a pool."""

    def begin(self) -> None:
        """Have the pool begin; one item is left to the caller, so one thread less is woken."""
        ahead = min(2 * THREADS, len(self.items))
        self.waiting.extend(range(ahead))
        self.helped = _pool.start(min(THREADS, ahead) - 1)
        for _ in range(ahead - 1):
            self._call_for_help()

    def results(self) -> Iterator[R]:
        """Yield results in order; instead of waiting for one, do the next item that nobody has begun."""
        for place in range(len(self.items)):
            while place not in self.done:
                if place in self.failed:
                    raise self.failed.pop(place)
                if not self._do_next(Exception):
                    self.wake.get()
            if place + 2 * THREADS < len(self.items):
                self.waiting.append(place + 2 * THREADS)
                self._call_for_help()
            yield self.done.pop(place)

    def stop(self) -> None:
        """Begin nothing more, and wait for what the pool has begun."""
        self.waiting.clear()
        while self.running:
            self.wake.get()

    def _call_for_help(self) -> None:
        if self.helped:  # or else nobody would ever take it out
            _pool.tasks.put(partial(copy_context().run, self._help))  # with what NumPy knows of errors

    def _help(self) -> None:
        """Do the next item in a thread of the pool."""
        thread = threading.get_ident()
        self.running.add(thread)
        self._do_next(BaseException)
        self.running.discard(thread)  # before it wakes the caller, who looks at it
        self.wake.put(None)

    def _do_next(self, kept: type[BaseException]) -> bool:
        """Do the next item that nobody has begun, if there is one; an error is kept for whoever asks for its result."""
        try:
            place = self.waiting.popleft()
        except IndexError:
            return False
        try:
            self.done[place] = self.work(self.items[place])
        except kept as error:
            self.failed[place] = error
        return True


def in_order(work: Callable[[T], R], items: Sequence[T], use: Callable[[Iterator[R]], S]) -> S:
    """Do the work of all items, some of it in the pool, and return what `use` makes of the results, in order.

    The pool begins at once. An error in an item is raised where its result is asked for. Results that are not asked for
    need not be computed; when this returns, no thread works on any.
    """
    batch = _Batch(work, items)

    def used() -> S:
        batch.begin()
        return use(batch.results())

    return surely(used, batch.stop)


def with_products(work: Callable[[T], R], items: Sequence[T], use: Callable[[Iterator[R]], S]) -> S:
    """The same for work that multiplies matrices.

    While it is done, the BLAS is held to one thread a product, which takes the package threadpoolctl. Without it, items
    are done one after the other, and their products use the threads that the BLAS has.
    """
    call = object()

    def used() -> S:
        return in_order(work, items, use) if _one_thread.hold(call) else use(map(work, items))

    return surely(used, partial(_one_thread.release, call))
