"""Loops over arrays, compiled by numba: serial and without the interpreter's lock.

- `jit`: how they are compiled and cached;
- `pairs`: double-double arithmetic and inner products, for the engine `dd` and for angles in `fused`;
- `exponential`: exp in float64 and float32, with a proof of its accuracy;
- `lanes`: maxima and sums of a row, vectorised in an order of their own;
- `rows`: the sweeps over rows of logits, products and gradients in `fused`.

Kernels compute in the dtype of their arrays and check none of their arguments.
"""
