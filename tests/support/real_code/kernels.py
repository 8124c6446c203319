"""How kernels of language models, and losses of further frameworks, are called on a CPU.

Triton's interpreter runs Liger's kernels without a GPU. It has no functions of CUDA, which the kernels of Cut
Cross-Entropy call, and gives kernels Python's own floats, of which Liger's class weights and softcap fail. It cuts
bfloat16 off and multiplies it wrongly, so nothing that it runs is tested in bfloat16.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

os.environ["TRITON_INTERPRET"] = "1"  # read by the import of triton, which torch may be the first to do


def liger(name: str) -> Callable[..., Any]:
    """A function of Liger, whose kernels are interpreted."""
    from liger_kernel.transformers import functional

    return getattr(functional, name)


def liger_cross_entropy(**settings: Any) -> Callable[..., Any]:
    return lambda z, y: liger("liger_cross_entropy")(z, y, **settings)


def liger_linear(accumulate: str = "", **settings: Any) -> Callable[..., Any]:
    def fn(x, w, y, b=None):
        import torch

        wide = {"accum_dtype": getattr(torch, accumulate)} if accumulate else {}
        return liger("liger_fused_linear_cross_entropy")(x, w, y, bias=b, **settings, **wide)

    return fn


def cut_cross_entropy(compiled: bool = False, **settings: Any) -> Callable[..., Any]:
    """The implementation "torch_compile": as torch runs it, or as it compiles it, with a C++ compiler."""

    def fn(x, w, y):
        import torch
        from cut_cross_entropy import linear_cross_entropy

        with torch.compiler.set_stance("default" if compiled else "force_eager"):
            return linear_cross_entropy(x, w, y, impl="torch_compile", **settings)

    return fn


def keras_loss(name: str, **settings: Any) -> Callable[..., Any]:
    """A loss of Keras, on PyTorch; one that does not take labels gets them as rows of 0 and 1."""

    def fn(z, y):
        import torch

        os.environ.setdefault("KERAS_BACKEND", "torch")  # read by the import
        import keras

        stored = str(z.dtype).removeprefix("torch.")
        if not name.startswith("Sparse") and y.ndim == 1:
            y = torch.nn.functional.one_hot(y, z.shape[1])
        return getattr(keras.losses, name)(from_logits=True, dtype=stored, **settings)(y, z)

    return fn


def tinygrad_loss(name: str, **settings: Any) -> Callable[..., Any]:
    """A loss of tinygrad's tensors, on its device in Python, which needs no compiler."""

    def fn(z, y):
        os.environ.setdefault("DEV", "PYTHON")  # read at the first tensor
        from tinygrad import Tensor, dtypes

        stored = getattr(dtypes, z.dtype.name)
        wide = z if z.dtype == np.float64 else z.astype(np.float32)
        logits = Tensor(wide).cast(stored).realize()
        value = getattr(logits, name)(Tensor(y), **settings)
        return tuple(
            tensor.cast(Tensor(wide).dtype).numpy().astype(z.dtype) for tensor in (value, *value.gradient(logits))
        )

    return fn
