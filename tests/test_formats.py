"""Facts about dtypes are those of NumPy and ml_dtypes, and a dtype is known by whatever names it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from refloss import formats


@pytest.mark.parametrize("name", formats.FORMATS)
def test_facts_are_those_of_the_dtype(name):
    facts, info = formats.FORMATS[name], ml_dtypes.finfo(formats.dtype_of(name))
    assert facts.bits == info.nmant + 1
    assert facts.u == float(info.eps) / 2.0
    assert facts.smallest == float(info.smallest_normal)
    assert facts.spacing == float(info.smallest_subnormal)
    assert facts.largest == float(info.max)


def test_a_dtype_is_known_by_whatever_names_it(torch, jax):
    for dtype in ("float32", np.float32, np.dtype("<f4"), torch.float32, "torch.float32", jax.numpy.float32):
        assert formats.dtype_name(dtype) == "float32"
    for dtype in (ml_dtypes.bfloat16, torch.bfloat16, jax.numpy.bfloat16):
        assert formats.dtype_name(dtype) == "bfloat16"
    assert formats.dtype_name(float) == "float64"


@pytest.mark.parametrize("dtype", ["float8", "double", np.int64, None, object(), "tf32", np.longdouble])
def test_what_is_no_such_dtype_is_refused(dtype):
    with pytest.raises(ValueError, match="accumulate: expected one of 'float16', 'bfloat16'"):
        formats.dtype_name(dtype, "accumulate")


def test_products_may_be_of_further_formats():
    assert formats.dtype_name("tf32", "matmul", tuple(formats.PRECISION_BITS)) == "tf32"
