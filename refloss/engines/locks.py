"""Locks that survive interrupts and forks.

An interrupt may come anywhere in the caller's thread. concurrent.futures and threading lock in Python code, where an
interrupt can leave a lock locked: a thread that waits for it would wait forever. A process that forks copies locks, but
not the threads that would release them.
"""

from __future__ import annotations

import logging  # noqa: F401  # its locks are taken first when a process forks: the owner of another may need to log
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

R = TypeVar("R")


def surely(action: Callable[[], R], undo: Callable[[], None]) -> R:
    """Return the result of an action, then undo its effects; undo again if an interrupt comes meanwhile."""
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
        """Return the result of an action; no other thread runs one under this lock meanwhile."""

        def locked() -> R:
            self._lock.acquire()
            return action()

        return surely(locked, self._unlock)

    def _unlock(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:  # not held by this thread
            return


class Locked(Protocol):
    """An object with a lock."""

    _lock: threading.RLock


FORK_PATIENCE = 60.0
"""Seconds that a process which forks waits for locks."""


class _Forks:
    """Locks that are free when this process forks: a child has no thread that would finish the work under them."""

    def __init__(self) -> None:
        self.owners: list[Locked] = []
        """In the order in which they are locked."""
        self.held: list[threading.RLock] = []

    def before(self) -> None:
        """Wait for all locks, `FORK_PATIENCE` seconds in all."""
        until = time.monotonic() + FORK_PATIENCE
        for owner in self.owners:
            if owner._lock.acquire(timeout=max(0.0, until - time.monotonic())):
                self.held.append(owner._lock)

    def after(self) -> None:
        """Release the locks."""
        while self.held:
            self.held.pop().release()

    def in_child(self) -> None:
        """Release the locks, and replace those whose owner did not release them in time: it does not exist here."""
        self.after()
        for owner in self.owners:
            if owner._lock.acquire(blocking=False):
                owner._lock.release()
            else:
                owner._lock = threading.RLock()


_forks = _Forks()
if hasattr(os, "register_at_fork"):  # pragma: no branch
    os.register_at_fork(before=_forks.before, after_in_parent=_forks.after, after_in_child=_forks.in_child)


def forks_wait_for(*owners: Locked) -> None:
    """Make a process that forks wait for the `_lock` of each; it is locked after those of earlier owners."""
    _forks.owners.extend(owners)
