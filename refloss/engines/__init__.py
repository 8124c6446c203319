"""How: engines that compute a loss from its spec, all by the same protocol.

`spec` is what a loss is to an engine, `protocol` what an engine offers, `dispatch` chooses one for a call. `chain` is
the picture in NumPy; `dd` the same on about 100 bits; `fused` the chain in one sweep, on the `kernels` of numba, shared
out among `threads`; `certified` ball arithmetic that shares nothing with the stages. `contract` says how accurate each
promises to be, and `bounds` what that amounts to on given inputs.
"""
