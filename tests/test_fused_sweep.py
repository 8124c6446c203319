"""Sweep: the same bits for any number of threads, in any process, and errors come out."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

import refloss
from refloss.engines import threads as parallel
from support.checks import agree_with_chain as agree
from support.fused_cases import BLOCKED, bits, in_blocks, ordinary, path_to_refloss


def some_work(dtype=np.float64):
    """A few losses at sizes of several blocks and groups of samples."""
    x, w, y = ordinary(40, 700, 16)
    smoothed = refloss.ArcFace(s=30.0, label_smoothing=0.1)
    capped = refloss.SoftmaxLoss(softcap=5.0, z_loss=0.125)
    by_length, hard = refloss.MagFace(l_a=1.0, u_a=5.0), refloss.CurricularFace(s=30.0, t=0.5)
    for loss in (refloss.ArcFace(s=30.0), refloss.ASoftmax(), smoothed, refloss.SoftmaxLoss(), capped, by_length, hard):
        yield bits(loss.value_and_grad(x, w, y, engine="fused", dtype=dtype))
        yield loss(x, w, y, engine="fused", dtype=dtype).tobytes()
    yield bits(refloss.ArcFace(s=30.0).value_and_grad(x, w, y, np.linspace(-0.5, 1.0, 40), engine="fused", dtype=dtype))
    z = x @ w.T
    for loss in (refloss.CrossEntropy(), refloss.CrossEntropy(softcap=5.0, z_loss=0.125, logit_scale=0.5)):
        yield bits(loss.value_and_grad(z, y, engine="fused", dtype=dtype))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_same_bits_on_every_run_and_for_every_number_of_threads(dtype, set_threads, monkeypatch):
    in_blocks(monkeypatch, 64)
    runs = []
    for count in (1, 1, 2, 3):
        set_threads(count)
        runs.append(list(some_work(dtype)))
    assert all(a == b for a, b in pairwise(runs))


def test_eight_threads_at_once_give_the_bits_of_one(monkeypatch):
    in_blocks(monkeypatch, 64)
    expected = list(some_work())
    with ThreadPoolExecutor(8) as pool:
        for result in [task.result() for task in [pool.submit(lambda: list(some_work())) for _ in range(8)]]:
            assert result == expected


def test_without_threadpoolctl_blocks_go_one_after_the_other(monkeypatch):
    monkeypatch.setattr(parallel, "_blas", lambda: None)
    monkeypatch.setattr(parallel, "in_order", lambda *_: pytest.fail("in parallel"))
    in_blocks(monkeypatch, 2)
    for loss in BLOCKED:
        agree(loss, *ordinary(5, 7, 3))


def test_what_is_raised_in_a_thread_comes_out_and_leaves_the_pool_usable(monkeypatch):
    in_blocks(monkeypatch, 1)
    x, w, y = ordinary(3, 20, 4)
    expected = bits(refloss.ArcFace().value_and_grad(x, w, y, engine="fused"))
    wrong = w.copy()
    wrong[13, 2] = np.inf
    for _ in range(3):
        with pytest.raises(ValueError, match=r"^w must be finite; got inf at w\[13, 2\]$"):
            refloss.ArcFace()(x, wrong, y, engine="fused")
    assert bits(refloss.ArcFace().value_and_grad(x, w, y, engine="fused")) == expected


PROCESSES = """
import multiprocessing, os, sys
import numpy as np
import refloss
from refloss.engines.fused import blocks

blocks.BLOCK_BYTES, blocks.MIN_CLASSES = 1, 64


def work(_=None):
    random = np.random.default_rng(0)
    x, w, y = random.standard_normal((40, 16)), random.standard_normal((700, 16)), random.integers(0, 700, 40)
    value, grad = refloss.ArcFace(s=30.0).value_and_grad(x, w, y, engine="fused")
    return value.tobytes() + grad.x.tobytes() + grad.w.tobytes()


if __name__ == "__main__":
    expected = work()
    if hasattr(os, "fork"):
        child = os.fork()
        if not child:
            os._exit(0 if work() == expected else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "a forked process"
        assert work() == expected
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(work, range(2)) == [expected] * 2, "spawned processes"
    print("the same bits")
"""


def test_forked_and_spawned_processes_give_the_same_bits(tmp_path):
    script = tmp_path / "processes.py"
    script.write_text(PROCESSES)
    process = subprocess.run(
        [sys.executable, script], env=path_to_refloss(), capture_output=True, text=True, check=False, timeout=300
    )
    assert process.stdout == "the same bits\n", process.stderr


def test_the_number_of_threads_and_no_cache_may_be_asked_for(tmp_path):
    code = (
        "import refloss; from refloss.engines import threads; print(threads.THREADS);"
        "print(refloss.SoftmaxLoss()([[1.0, 2.0]], [[1.0, 0.5], [0.25, 1.0]], [1], engine='fused'))"
    )
    place = {"REFLOSS_THREADS": "3", "REFLOSS_JIT_CACHE": "0", "NUMBA_CACHE_DIR": str(tmp_path)}
    process = subprocess.run(
        [sys.executable, "-c", code], env=path_to_refloss(**place), capture_output=True, text=True, check=True
    )
    threads, value = process.stdout.split()
    assert threads == "3"
    expected = refloss.SoftmaxLoss()([[1.0, 2.0]], [[1.0, 0.5], [0.25, 1.0]], [1], engine="fused")
    assert float(value) == expected
    assert not list(tmp_path.iterdir())
