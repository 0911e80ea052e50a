"""CUDA devices for tests without one: tensors that say "cuda:0", compute on the CPU and obey the rules of a GPU.

    with EmulatedCuda(GPUS["T4"]) as gpu, gpu.counting() as counts:
        XLMRXLEmbedder("nano", device="cuda").fit_transform(["a text"])
    counts.n_waits, counts.n_pinned_uploads, counts.operators_of_layers
    print(counts)  # where the host waited and where tensors were uploaded, by line of skxlmr

What it checks:

- no operator mixes devices, and NumPy never sees a tensor of the device;
- a kernel gets what it takes on a GPU of this compute capability: `_int_mm`, `_scaled_mm`, FlashAttention and
  bitsandbytes have rules about dtypes, sizes, strides and capabilities (`emulated_cuda.kernels`), and integers have no
  other products;
- the memory of the device is bounded, and its peak is known;
- each device has its own memory and random numbers, and none takes tensors of another one;
- Triton and bitsandbytes launch on the current device only;
- a capture of a CUDA graph lets the host neither wait nor upload, and a replay runs the same operators on the same
  storages, so what is not in a static buffer is stale;
- `Counts` says how often the host waits for the device, what is uploaded, and which operators run.

What it cannot show:

- speed, occupancy, asynchronous execution, streams that overtake each other: every operator is finished when it
  returns, so a result that is read too early, or a pinned buffer that is written again too early, goes unnoticed;
- the rounding of the device's kernels: they compute as the CPU does, so equal results for any batch are shown for the
  code around a kernel and never for the kernel itself;
- which kernel `scaled_dot_product_attention` chooses, and whether a library takes all sizes that it documents;
- the Triton kernels: `emulated_cuda.triton_kernels` computes the same in torch; tests/model/int8_triton runs them;
- memory that the allocator loses to fragments, the workspaces of libraries, the context of CUDA;
- that storages of a graph's memory pool are used again by the next capture;
- faults of drivers, of builds of torch or bitsandbytes, copies between devices that they do not support.

The rules were read from the sources of torch 2.13 and bitsandbytes 0.50. `pytest -m gpu` runs the same tests on a
device where there is one; only that is proof.
"""

from emulated_cuda.counts import Counts
from emulated_cuda.device import EmulatedCuda
from emulated_cuda.gpus import GPUS, Gpu
from emulated_cuda.tensor import CudaTensor

__all__ = ["GPUS", "Counts", "CudaTensor", "EmulatedCuda", "Gpu"]
