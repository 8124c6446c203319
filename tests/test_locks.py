"""Locks that survive interrupts and forks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from refloss.engines import locks

SOON = 60.0  # s: what comes at once has come by then


def test_what_is_undone_is_undone_again_where_an_interrupt_comes():
    undone = []

    def undo():
        undone.append(len(undone))
        if len(undone) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        locks.surely(lambda: 1, undo)
    assert undone == [0, 1]
    assert locks.surely(lambda: 1, lambda: None) == 1


def test_a_lock_is_one_thread_s_and_is_free_again_whatever_happens(monkeypatch):
    monkeypatch.setattr(locks._forks, "owners", [])
    lock, order, inside = locks.Lock(), [], threading.Event()
    assert locks._forks.owners == [lock]

    def other():
        assert inside.wait(SOON)
        lock.run(lambda: order.append("other"))

    thread = threading.Thread(target=other)
    thread.start()

    def own():
        inside.set()
        thread.join(0.1)
        order.append("own")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lock.run(own)
    thread.join(SOON)
    assert order == ["own", "other"]


@contextmanager
def held(lock):
    """By another thread, until it is told to release it."""
    locked, go = threading.Event(), threading.Event()

    def hold():
        with lock:
            locked.set()
            assert go.wait(SOON)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        assert locked.wait(SOON)
        yield go
        go.set()


def is_free(owner):
    """Whether other threads may have the lock."""

    def lock_and_unlock():
        return owner._lock.acquire(blocking=False) and owner._lock.release() is None

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lock_and_unlock).result()


@pytest.fixture
def forks():
    """What runs before and after a fork, with two locks."""
    forks = locks._Forks()
    forks.owners += [SimpleNamespace(_lock=threading.RLock()) for _ in range(2)]
    return forks


def test_a_process_that_forks_waits_for_locks(forks):
    with held(forks.owners[1]._lock) as go:
        threading.Timer(0.1, go.set).start()
        forks.before()
    assert not any(map(is_free, forks.owners))
    forks.after()
    assert all(map(is_free, forks.owners))


def test_a_child_has_new_locks_where_the_wait_was_in_vain(forks, monkeypatch):
    monkeypatch.setattr(locks, "FORK_PATIENCE", 0.1)
    before = [owner._lock for owner in forks.owners]
    with held(before[1]):
        forks.before()
        assert not any(map(is_free, forks.owners))
        forks.in_child()
        assert all(map(is_free, forks.owners))
    assert forks.owners[0]._lock is before[0]
