"""Products with 8-bit weights by Triton kernels: `operators` has them as operators of torch, `kernels` their code."""
