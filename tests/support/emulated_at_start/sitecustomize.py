"""Begins Python with emulated GPUs if this folder is in PYTHONPATH, for processes that code under test starts.

EMULATED_GPUS is the kind of the GPUs, how many there are, and the bytes of memory of each, such as "A10 2 1000000".
"""

import os

if "EMULATED_GPUS" in os.environ:
    from emulated_cuda import GPUS, EmulatedCuda

    name, number, memory = os.environ["EMULATED_GPUS"].split()
    EmulatedCuda(GPUS[name], int(memory), n_devices=int(number)).__enter__()  # until Python ends
