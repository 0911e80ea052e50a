"""Products with 8-bit weights: integer products on CPUs and on CUDA, floating point where neither runs.

The integer products are exact, and all other steps work row by row, so that the result for a token is the same, bit for
bit, whatever else is in the batch.
"""
