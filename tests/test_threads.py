"""Ordered parallel work: order, errors, early ends, and what must hold whatever interrupts it or is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import threadpoolctl

import refloss
from refloss.engines import threads

SOON = 60.0  # s: what comes at once has come by then


def test_the_number_of_threads_is_that_of_processors_or_what_the_environment_says(monkeypatch):
    monkeypatch.delenv("REFLOSS_THREADS", raising=False)
    assert threads._threads() >= 1
    monkeypatch.setenv("REFLOSS_THREADS", "5")
    assert threads._threads() == 5
    for wrong in ("0", "-1", "2.5", "all"):
        monkeypatch.setenv("REFLOSS_THREADS", wrong)
        with pytest.raises(ValueError, match=f"^REFLOSS_THREADS must be a whole number from 1 on; got '{wrong}'$"):
            threads._threads()


# --------------------------------------------------------------------------------------------------------- ordered work


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("items", [0, 1, 2, 3, 30])
def test_results_come_in_order(number, items, set_threads):
    set_threads(number)
    assert threads.in_order(lambda item: -item, range(items), list) == [-item for item in range(items)]
    assert threads.with_products(lambda item: -item, range(items), list) == [-item for item in range(items)]


def test_a_caller_works_instead_of_waiting_but_not_far_ahead_of_what_is_slow(set_threads):
    set_threads(2)
    begun, first, go = [], threading.Event(), threading.Event()

    def work(item):
        begun.append(item)
        if item == 0:
            first.set()
            assert go.wait(SOON)
        if item == 3:  # if anything else could be begun now, it would be before that
            threading.Timer(0.1, lambda: (begun.append("go"), go.set())).start()
        return -item

    def use(results):
        assert first.wait(SOON)
        return list(results)

    assert threads.in_order(work, range(20), use) == [-item for item in range(20)]
    assert begun[:5] == [0, 1, 2, 3, "go"]


def test_the_pool_waits_for_whoever_takes_the_results(set_threads):
    set_threads(2)
    begun, three = [], threading.Event()

    def work(item):
        begun.append(item)
        if len(begun) == 3:
            three.set()
        return item

    def use(results):
        assert three.wait(SOON)
        assert not threading.Event().wait(0.1)  # nothing else begins meanwhile: of four, one is the caller's
        assert begun == [0, 1, 2]
        return list(results)

    assert threads.in_order(work, range(20), use) == list(range(20))
    assert threads.in_order(work, range(20), next) == 0
    assert len(begun) < 20 + 20  # what is left early is not gone on with


def test_nothing_is_at_work_afterwards(set_threads):
    """The pool is in the midst of an item when the caller gives up."""
    set_threads(2)
    begun, ended = threading.Event(), []

    def work(item):
        begun.set()
        threading.Event().wait(0.1)
        ended.append(item)

    def use(_):
        assert begun.wait(SOON)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        threads.in_order(work, range(9), use)
    assert ended == [0]


def test_what_is_raised_in_the_pool_is_raised_where_results_are_asked_for(set_threads):
    set_threads(2)
    raised = threading.Event()

    def work(item):
        if threading.current_thread() is threading.main_thread():
            assert raised.wait(SOON)
            return item
        raised.set()
        raise SystemExit(item)  # whatever it is

    with pytest.raises(SystemExit):
        threads.in_order(work, range(9), list)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_of_many_errors_that_of_the_first_item_is_raised(number, set_threads):
    set_threads(number)

    def work(item):
        if item >= 4:
            raise ValueError(item)
        return item

    results = []
    for _ in range(20):
        with pytest.raises(ValueError, match=r"^4$"):
            threads.in_order(work, range(40), results.extend)
    assert results == [0, 1, 2, 3] * 20


def test_numpy_warns_in_the_pool_as_it_does_in_the_caller(set_threads):
    set_threads(3)
    both, caller = threading.Barrier(2, timeout=SOON), threading.get_ident()

    def work(item):
        if item < 2:
            both.wait()  # two threads are at it
        return threading.get_ident() == caller, np.geterr()["over"]

    with np.errstate(over="raise"):
        results = threads.in_order(work, range(6), list)
    assert {error for _, error in results} == {"raise"}
    assert not all(own for own, _ in results)


# ------------------------------------------------------------------------------------------------------------- the pool


def test_the_pool_serves_until_the_process_ends_and_is_watched_as_other_threads_are(monkeypatch):
    """Here until a task ends it."""
    done, tasks, watched = [], threads.SimpleQueue(), []
    for task in (lambda: done.append(1), lambda: done.append(2), sys.exit):
        tasks.put(task)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "settrace", watched.append)
        patch.setattr(sys, "setprofile", watched.append)
        with pytest.raises(SystemExit):
            threads._serve(tasks)
    assert done == [1, 2]
    assert watched == [threading.gettrace(), threading.getprofile()]


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
@pytest.mark.parametrize("before", [0, 1])
def test_threads_that_cannot_start_are_done_without(error, before, set_threads, monkeypatch):
    set_threads(4)
    start, started = threads._thread.start_new_thread, []

    def refuse(*task):
        if len(started) == before:
            raise error
        started.append(start(*task))

    monkeypatch.setattr(threads._thread, "start_new_thread", refuse)
    for _ in range(3):
        assert threads.in_order(lambda item: -item, range(30), list) == [-item for item in range(30)]
    assert len(started) == before
    monkeypatch.undo()
    assert before or threads._pool.tasks.empty()  # nobody would take them out


def test_two_calls_at_once_start_no_more_threads_than_there_may_be(set_threads):
    set_threads(3)

    class Taken(threads.deque):
        def pop(self):
            raise IndexError

    threads._pool.missing = Taken(threads._pool.missing)
    assert threads._pool.start(2) is False


# ------------------------------------------------------------------------------------------------------------- the BLAS


def blas_threads():
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


def test_the_blas_has_its_threads_back_afterwards():
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        assert threads.with_products(lambda _: blas_threads(), range(9), list) == [{1}] * 9
        assert blas_threads() == before
        for _ in range(2):  # calls that overlap
            assert threads._one_thread.hold("first")
            assert threads._one_thread.hold("second")
            threads._one_thread.release("first")
            threads._one_thread.release("first")
            assert blas_threads() == {1}
            threads._one_thread.release("second")
            assert blas_threads() == before
        with pytest.raises(ZeroDivisionError):
            threads.with_products(lambda item: 1 // item, range(9), list)
        assert blas_threads() == before


def test_a_forked_child_has_the_threads_of_the_blas():
    """What runs there, without a fork."""
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        assert threads._one_thread.hold("of another thread")
        threads._one_thread.renew()
        assert blas_threads() == before
        threads._one_thread.release("of another thread")
        assert blas_threads() == before


class BrokenError(Exception):
    """None of ours."""


def broken(*_, **__):
    raise BrokenError


@pytest.fixture
def fresh():
    """Whatever is found out of threadpoolctl is forgotten, before and afterwards."""
    threads._blas.cache_clear()
    yield
    threads._blas.cache_clear()


def without_limit():
    """Whether items are done one after the other, by the caller alone and with all threads of the BLAS."""
    before, main = blas_threads(), threading.get_ident()
    results = threads.with_products(lambda _: (threading.get_ident(), blas_threads()), range(9), list)
    return results == [(main, before)] * 9 and blas_threads() == before


@pytest.mark.usefixtures("fresh")
def test_threadpoolctl_may_be_missing_or_know_no_blas(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert threads._blas() is None
    assert without_limit()
    monkeypatch.undo()
    threads._blas.cache_clear()
    nothing = SimpleNamespace(lib_controllers=[])
    monkeypatch.setattr(threadpoolctl.ThreadpoolController, "select", lambda self, **_: nothing)
    assert threads._blas() is None
    monkeypatch.undo()
    threads._blas.cache_clear()
    assert threads._blas() is not None


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("name", ["__init__", "select", "limit"])
def test_threadpoolctl_that_raises_is_as_if_it_were_missing(name, monkeypatch):
    monkeypatch.setattr(threadpoolctl.ThreadpoolController, name, broken)
    idents = threads.with_products(lambda _: threading.get_ident(), range(9), list)
    assert idents == [threading.get_ident()] * 9


@pytest.mark.usefixtures("fresh")
def test_threadpoolctl_that_cannot_be_imported_is_as_if_it_were_missing(tmp_path, monkeypatch):
    (tmp_path / "threadpoolctl.py").write_text("raise KeyError('whatever')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "threadpoolctl")
    assert threads._blas() is None


@pytest.mark.usefixtures("fresh")
def test_a_limit_that_fails_half_way_is_taken_back(monkeypatch):
    real = threadpoolctl.ThreadpoolController.limit

    def half(self, *, limits):
        limiter = real(self, limits=limits)
        if limits == 1:
            raise BrokenError
        return limiter

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        monkeypatch.setattr(threadpoolctl.ThreadpoolController, "limit", half)
        assert without_limit()


@pytest.mark.usefixtures("fresh")
def test_a_limit_that_cannot_be_restored_is_restored_by_the_next_call(monkeypatch):
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        threads.with_products(lambda _: None, range(9), list)
        with monkeypatch.context() as patch:
            patch.setattr(threadpoolctl._ThreadpoolLimiter, "restore_original_limits", broken)
            assert threads.with_products(lambda item: -item, range(9), list) == [-item for item in range(9)]
            assert blas_threads() == {1}
        threads.with_products(lambda _: None, range(9), list)
        assert blas_threads() == before


# ------------------------------------------------------------------------------------------------------- against faults


def python(code, *arguments, **environment):
    """What a process of its own prints, with this refloss; a hang ends it."""
    root = str(Path(refloss.__file__).parents[1])
    process = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": root} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert not process.returncode, process.stderr
    return process.stdout


SOME_WORK = """
import faulthandler, os, signal, sys, threading
import numpy as np, threadpoolctl
import refloss
from refloss.engines import threads
from refloss.engines.fused import blocks

blocks.BLOCK_BYTES, blocks.MIN_CLASSES = 1, 16
faulthandler.dump_traceback_later(240, exit=True)


def work(engine="fused"):
    random = np.random.default_rng(0)
    x, w, y = random.standard_normal((12, 8)), random.standard_normal((100, 8)), random.integers(0, 100, 12)
    value, grad = refloss.ArcFace(s=30.0).value_and_grad(x, w, y, engine=engine)
    return value.tobytes() + grad.x.tobytes() + grad.w.tobytes()


def blas():
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
"""

INTERRUPTED = (
    SOME_WORK
    + """
WHERE = [f"engines/{name}" for name in ("threads", "locks", "dispatch", "fused")]
WHERE += ["losses/", "/threading.py", "threadpoolctl.py"]
install, step, left = getattr(sys, sys.argv[1]), int(sys.argv[2]), 0


def interrupt(frame, event, argument):
    global left
    path = frame.f_code.co_filename.replace(os.sep, "/")
    if any(part in path for part in WHERE):
        left -= 1
        if not left:
            raise KeyboardInterrupt
    return interrupt


expected = work()
threadpoolctl.threadpool_limits(2, user_api="blas")
before, at, kept = blas(), 1, None
while True:
    left = at
    install(interrupt)
    try:
        work()
        break
    except KeyboardInterrupt as error:
        kept = error  # and with it the frames it went through
    finally:
        install(None)
    assert blas() == before and not threads._one_thread.calls, at
    assert work() == expected, at
    results = []
    other = threading.Thread(target=lambda: results.append(work()))
    other.start()
    other.join(60)
    assert results == [expected], at
    at += step
assert blas() == before
print(at // step)
"""
)


@pytest.mark.parametrize(("install", "step"), [("setprofile", 67), ("settrace", 113)])
def test_an_interrupt_anywhere_leaves_no_hang_no_limit_and_the_same_bits(install, step):
    """Raised at each 67th call or return, and at each 113th line, of a call; all of them were tried once."""
    assert int(python(INTERRUPTED, install, step, REFLOSS_THREADS="3")) > 20


UNSTARTED = (
    SOME_WORK
    + """
import _thread

expected = work()
threads._pool.renew()


def refuse(*_, **__):
    raise RuntimeError("can't start new thread")


_thread.start_new_thread = threading._start_new_thread = threading.Thread.start = refuse
assert work() == expected
print("the same bits")
"""
)


def test_where_no_thread_can_start_the_bits_are_the_same_and_the_process_ends():
    assert python(UNSTARTED, REFLOSS_THREADS="3") == "the same bits\n"


AT_EXIT = (
    SOME_WORK
    + """
import atexit


def at_exit():
    same = [work(engine) == work("chain") for engine in ("fused", "auto")]
    print(same, refloss.CrossEntropy()(np.zeros((300, 300)), np.zeros(300, int), dtype=np.float32))


def still_at_work():
    threading.main_thread().join()  # which has ended, but waits for this thread
    print(work() == expected)


atexit.register(at_exit)
if sys.argv[1] == "used":
    expected = work()
    threading.Thread(target=still_at_work).start()
"""
)


@pytest.mark.parametrize("before", ["used", "not used"])
def test_from_atexit_on_the_chain_takes_the_place_of_fused_but_not_in_threads_that_are_at_work(before):
    lines = python(AT_EXIT, before).splitlines()
    assert lines[:-1] == ["True"] * (before == "used")
    assert lines[-1] == f"[True, True] {np.float32(np.log(300.0))!s}"


FORKED_WHILE_IT_COMPILES = """
import faulthandler, os, signal, threading
import refloss
from refloss.engines.kernels import jit

faulthandler.dump_traceback_later(240, exit=True)


def work():
    print(refloss.Triplet()([[1.0, 0.3]], [[0.7, 1.9]], [[0.2, 0.1]], engine="dd"), flush=True)


other = threading.Thread(target=work)
other.start()
lock = jit.global_compiler_lock._lock
while lock.acquire(blocking=False):
    lock.release()
child = os.fork()
if not child:
    signal.alarm(120)
    work()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
other.join()
"""

FORKED_WHILE_IT_RUNS = (
    SOME_WORK
    + """
def again():
    while not ended:
        assert work() == expected


expected, ended = work(), []
threadpoolctl.threadpool_limits(2, user_api="blas")
before = blas()
other = threading.Thread(target=again, daemon=True)
other.start()
for _ in range(20):
    child = os.fork()
    if not child:
        signal.alarm(60)
        os._exit(0 if blas() == before and work() == expected and blas() == before else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
ended.append(True)
other.join()
print("the same bits")
"""
)

forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")


@forking
def test_a_child_may_call_dd_though_its_parent_was_compiling():
    output = python(FORKED_WHILE_IT_COMPILES, REFLOSS_JIT_CACHE="0", NUMBA_DISABLE_JIT="0")
    value = refloss.Triplet()([[1.0, 0.3]], [[0.7, 1.9]], [[0.2, 0.1]], engine="dd")
    assert output.replace("\n", "") == 2 * str(value)  # two processes write, perhaps at once


@forking
def test_a_child_may_call_fused_though_its_parent_was_at_work():
    assert python(FORKED_WHILE_IT_RUNS, REFLOSS_THREADS="3") == "the same bits\n"


def test_there_are_as_many_threads_as_cores_that_may_be_used(monkeypatch):
    monkeypatch.delenv("REFLOSS_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert threads._threads() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert threads._threads() == 64
