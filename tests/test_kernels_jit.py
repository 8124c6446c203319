"""What compiling may not change, which is every bit, and the cache of compiled code, which may fail."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest

import refloss
from refloss.engines.kernels import jit, lanes, pairs, rows
from refloss.engines.kernels.lanes import LANES
from support.kernel_cases import (
    LENGTHS,
    arguments,
    cross_entropies,
    exponentials_of,
    gradient_of_lse,
    is_compiled,
    no_gradient_of_lse,
    quiet,
    tile_of,
)


def everything():
    """Digests of all bits that kernels write, by name, in either dtype and for every length."""
    digests = {}

    def note(name, *results):
        digest = digests.setdefault(name, hashlib.sha256())
        for result in results:
            digest.update(np.nan_to_num(np.asarray(result), nan=7.0).tobytes())  # NaN has many forms

    with quiet():
        for dtype in (np.float64, np.float32):
            random, kind = np.random.default_rng(12), dtype.__name__
            for x in (arguments(dtype, random, 50), np.array([np.nan, -np.inf, 0.0, -0.0, -1e5], dtype)):
                note(f"exp, {kind}", exponentials_of(x))
            for n in LENGTHS:
                a, b = random.standard_normal((2, n)).astype(dtype)
                scratch, low, scratch_64 = np.empty(LANES, dtype), np.empty(LANES, dtype), np.empty(LANES)
                note(f"max_of, {kind}", dtype(lanes.max_of(a, scratch)))
                note(f"sum_of and dot, {kind}", lanes.sum_of(a, scratch_64), dtype(lanes.dot(a, b, scratch)))
                note(f"gap_sum, {kind}", lanes.gap_sum(a, a.max(), np.abs(b), scratch_64))
                note(f"compensated_sum, {kind}", dtype(lanes.compensated_sum(a, scratch, low)))
                note(f"index_of, {kind}", lanes.index_of(a, a[-1]))
                added = np.empty((1, n), dtype)
                rows.weighted_sum(a[None], b[:1], b[None], a[:1], added)
                note(f"weighted_sum, {kind}", added)
                for keep in (True, False):
                    for uniform in (np.zeros(0, dtype), random.uniform(0.0, 1.0, n).astype(dtype)):
                        for biased in (True, False):
                            tile, alpha, beta, bias, label_columns = tile_of(random, 4, dtype, n)
                            head, state = (alpha, beta, bias if biased else bias[:0], label_columns), np.empty((4, 4))
                            no_hard = rows.no_hard_classes(np.dtype(dtype))
                            for cap in (0.0, 30.0):
                                given = tile.copy()
                                rows.exponentials(given, *head, uniform, dtype(cap), no_hard, keep, *state)
                                what = f"exponentials{', capped' if cap else ''}, {kind}"
                                note(what, state, *([given] if keep else []))
                matrix, w = random.standard_normal((2, 3, n)).astype(dtype)
                rows.project(matrix, w, np.array([1.0, 0.5, 2.0], dtype))
                note(f"project, {kind}", matrix)
                products, low = np.empty(3, dtype), np.zeros_like(w)
                rows.vecdot(matrix, w, products)
                rows.accumulate(matrix, low, w)
                note(f"vecdot and accumulate, {kind}", products, matrix, low)
                rows.subtract_outer(matrix, np.array([1.0, -0.1, 2.0], dtype), b)
                note(f"subtract_outer, {kind}", matrix)
                for of_lse in (no_gradient_of_lse, gradient_of_lse):
                    for *case, losses, lse, dz in cross_entropies(random, dtype, n, of_lse):
                        what = "labels" if not len(case[3]) else "smoothed" if len(case[3]) == 1 else "probabilities"
                        for name, kernel in (
                            ("", rows.cross_entropy),
                            (", scaled", partial(rows.capped_cross_entropy, dtype(0.3), dtype(0.0))),
                            (", capped", partial(rows.capped_cross_entropy, dtype(0.3), dtype(2.0))),
                        ):
                            kernel(*case, losses, lse, dz)
                            note(f"cross entropy{name}, {what}, {kind}, losses", losses, lse)
                            note(f"cross entropy{name}, {what}, {kind}, gradient", *([dz] if case[-1] else []))
        for d in (1, 2, 5, 64):
            x, w = np.random.default_rng(d).standard_normal((2, 3, d))
            hi, lo = np.empty(3), np.empty(3)
            pairs.vecdot(x, w, hi, lo)
            note("vecdot of pairs", hi, lo)
            tangent_x, tangent_w, products = np.empty((3, d)), np.empty((3, d)), np.empty((3, 8))
            pairs.tangents(x, w, tangent_x, tangent_w, products)
            note("tangents", tangent_x, tangent_w, products)
    return {name: digest.hexdigest()[:16] for name, digest in digests.items()}


def test_plain_python_gives_the_same_bits():
    """So compiling reorders or fuses no operation."""
    other = os.environ | {"NUMBA_DISABLE_JIT": "1" if is_compiled() else "0"}
    code = "import json, test_kernels_jit as t; print(json.dumps(t.everything()))"
    code = f"import sys; sys.path[:0] = {sys.path!r}; {code}"
    finished = subprocess.run([sys.executable, "-c", code], env=other, capture_output=True, text=True, check=False)
    assert not finished.returncode, finished.stderr
    assert json.loads(finished.stdout) == everything()


def test_by_dtype_calls_the_function_of_the_argument_s_dtype(monkeypatch):
    monkeypatch.setenv("REFLOSS_JIT_CACHE", "0")
    bits = jit.by_dtype(lambda _: 64, lambda _: 32)
    negative_bits = jit.njit(lambda x: -bits(x))
    for dtype, expected in ((np.float64, 64), (np.float32, 32)):
        assert bits(dtype(1.0)) == expected
        assert negative_bits(dtype(1.0)) == -expected


# ----------------------------------------------------------------------------------------------------------- the cache


def twice(a):
    return 2.0 * a


def doubled(a, out):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[i, j] = 2.0 * a[i, j]


def test_the_cache_can_be_switched_off_and_is_done_without_where_there_is_no_place_for_it(monkeypatch):
    if not is_compiled():
        pytest.skip("nothing is compiled")
    monkeypatch.setenv("REFLOSS_JIT_CACHE", "0")
    assert jit.njit(twice).stats.cache_path is None
    monkeypatch.setenv("REFLOSS_JIT_CACHE", "1")
    assert jit.njit(twice).stats.cache_path is not None
    for error in (RuntimeError("no locator available"), OSError("no such file")):

        def nowhere(self, error=error):
            raise error

        monkeypatch.setattr(numba.core.registry.CPUDispatcher, "enable_caching", nowhere)
        kernel = jit.njit(twice)
        assert kernel(3.0) == 6.0
        assert kernel.stats.cache_path is None


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Makes the kernel of `twice` and calls it, in a cache of its own; what has been said before is forgotten."""
    if not is_compiled():
        pytest.skip("nothing is compiled")
    monkeypatch.setenv("REFLOSS_JIT_CACHE", "1")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit, "_cache_errors", [])

    def call():
        kernel = jit.njit(twice)
        assert kernel(3.0) == 6.0
        return sum(kernel.stats.cache_hits.values())

    return call


def test_a_kernel_is_compiled_anew_where_another_file_of_the_package_has_changed(cached, monkeypatch):
    """numba looks at the kernel's own file alone, though code of other files is compiled into it."""
    assert (cached(), cached()) == (0, 1)
    monkeypatch.setattr(jit, "_SOURCES", (*jit._SOURCES[:-1], (0.0, 1)))
    assert (cached(), cached()) == (0, 1)


def replaced_by_a_folder(file):
    file.unlink()
    (file / "full").mkdir(parents=True)


DAMAGES = {
    "empty": lambda file: file.write_bytes(b""),
    "of another kind": lambda file: file.write_bytes(b"garbage"),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-10]),
    "another object": lambda file: file.write_bytes(pickle.dumps(numba.__version__) + pickle.dumps((1, 2, 3))),
    "cannot be read": replaced_by_a_folder,
}


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_done_without_and_that_is_said_once(kind, damage, cached, tmp_path):
    assert (cached(), cached()) == (0, 1)
    (file,) = tmp_path.rglob(f"*.{kind}")
    damage(file)
    if file.is_dir() and kind == "nbc":  # what numba takes for a file that is gone is said where it is to be written
        with pytest.warns(RuntimeWarning, match="the cache of numba fails here"):
            assert cached() == 0
        return
    if damage is DAMAGES["another object"] and kind == "nbc":
        file.write_bytes(pickle.dumps((1, 2, 3)))
    with pytest.warns(RuntimeWarning, match=r"the cache of numba fails here \(\w+: .*\); kernels are compiled without"):
        assert cached() == 0
    assert cached() == (not file.is_dir())  # it is there again, and if it is not, nothing is said a second time


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), pickle.PicklingError("whatever")])
def test_where_nothing_can_be_kept_kernels_are_compiled_and_that_is_said_once(error, cached, monkeypatch):
    def full(*_):
        raise error

    monkeypatch.setattr(numba.core.caching.IndexDataCacheFile, "_save_data", full)
    with pytest.warns(RuntimeWarning, match="the cache of numba fails here"):
        assert cached() == 0
    assert cached() == 0
    monkeypatch.undo()


def test_kernels_of_given_types_are_compiled_once_though_two_threads_come_first(monkeypatch):
    """The second finds it done when it has the lock; so does who comes after an interrupt."""
    taken = []

    def both(compile_once):
        compile_once()
        taken.append(compile_once())

    monkeypatch.setattr(jit, "_compile_lock", SimpleNamespace(run=both))
    kernel = jit.njit_for(jit.READ, jit.WRITE)(doubled)
    for a in (np.ones((2, 3)), np.ones((3, 2)).T):
        out = np.empty((2, 3))
        kernel(a, out)
        assert (out == 2.0).all()
    assert taken == [None] * is_compiled()


DAMAGED = """
import warnings
import numpy as np
import refloss
from refloss.engines import fused

random = np.random.default_rng(0)
x, w = random.standard_normal((2, 3)), random.standard_normal((4, 3))


def work():
    yield refloss.SoftmaxLoss()(x, w, [0, 1], engine="fused").hex()
    yield refloss.Triplet()(x, w[:2], w[2:], engine="dd").hex()


with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    print(*work())
print([(warning.category.__name__, str(warning.message).partition("(")[0]) for warning in said])
"""


def test_of_any_kernel_the_cache_may_be_damaged(tmp_path):
    if not is_compiled():
        pytest.skip("the other run does it")
    root, here = Path(refloss.__file__).parents[1], {"NUMBA_CACHE_DIR": str(tmp_path), "REFLOSS_JIT_CACHE": "1"}
    environment = os.environ | here | {"NUMBA_DISABLE_JIT": "0"}

    def results():
        return subprocess.run(
            [sys.executable, "-c", DAMAGED], env=environment, capture_output=True, text=True, check=True, cwd=root
        ).stdout.splitlines()

    expected = results()
    assert expected[1] == "[]"
    for name in ("pairs.vecdot-*.nbc", "pairs.add-*.nbi", "pairs.multiply-*.nbc"):
        (file,) = tmp_path.rglob(name)
        file.write_bytes(file.read_bytes()[:-10])
    assert results() == [expected[0], "[('RuntimeWarning', 'the cache of numba fails here ')]"]
    assert results() == expected


def test_what_is_compiled_is_kept_where_numba_is_told(tmp_path):
    for number, switch in enumerate(("0", "1")):
        place = tmp_path / switch
        place.mkdir()
        here = {"NUMBA_CACHE_DIR": str(place), "NUMBA_DISABLE_JIT": "0", "REFLOSS_JIT_CACHE": switch}
        code = "from refloss.engines.kernels import jit; jit.ready()"
        root = Path(refloss.__file__).parents[1]
        subprocess.run([sys.executable, "-c", code], env=os.environ | here, check=True, cwd=root)
        assert bool(list(place.rglob("*.nb?"))) == bool(number)


def test_ready_returns_where_the_compiler_works():
    assert jit.ready() is None
