"""How: engines that compute a loss from its spec, all by the same protocol.

`spec` is what a loss is to an engine, `call` a loss with its inputs, `protocol` what an engine offers; `dispatch`
chooses one for a call. `chain` is the picture in NumPy; `dd` the same on about 100 bits; `fused` the chain in one
sweep, on the `kernels` of numba, shared out among `threads`; `certified` ball arithmetic that shares nothing with the
stages. `counting` leaves out the samples that do not count, `slices` cuts work into blocks, and `locks` survive
interrupts and forks. `contract` says how accurate each engine promises to be, and `bounds` what that amounts to on
given inputs.
"""
