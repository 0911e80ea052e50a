"""Operators of torch that run the Triton kernels, `torch.ops.skxlmr.quantize_rows` and `int8_linear`.

As operators of torch they are seen, one each, by whatever watches or replaces operators (profilers, dispatch modes).
triton is imported when one of them runs for the first time.

Notation: T tokens, K input features, N output features, R outlier columns, S of these and zeros up to a multiple of 32.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from skxlmr.system import triton

TILE_K = 128  # the same in all tiles
TILE_R = 32  # the least that tensor cores multiply
GROUP = 8  # rows of tiles whose programs run at the same time
REPEATS = 5  # of a product that is timed


@dataclass(frozen=True)
class Tiles:
    """Sizes of the tiles of a product, and the numbers of tokens that these are tried for."""

    m: int
    n: int
    warps: int
    stages: int
    fewest: int = 0
    most: int = 2**62
    hopper: bool = False  # whether only GPUs of the compute capabilities 9 and 10 have enough registers for it


TILES = (
    Tiles(16, 64, warps=4, stages=4, most=64),
    Tiles(64, 64, warps=4, stages=4, most=512),
    Tiles(64, 128, warps=4, stages=4, fewest=64),
    Tiles(128, 128, warps=8, stages=3, fewest=256),
    Tiles(128, 256, warps=8, stages=3, fewest=1024, hopper=True),
)

# The fastest tiles, by device, N, K and the number of tokens rounded to a power of two. They differ in speed only: the
# result is the same, bit for bit.
_fastest: dict[tuple[int | None, int, int, int], Tiles] = {}

_library = torch.library.Library("skxlmr", "DEF")
_library.define(
    "quantize_rows(Tensor x, Tensor is_outlier, Tensor columns, Tensor? norm_weight, Tensor? norm_bias, float eps, "
    "bool keep) -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "int8_linear(Tensor values, Tensor scales, Tensor? high, Tensor[] weights, Tensor[] scbs, "
    "Tensor[] outlier_weights, Tensor[] biases, Tensor? residual, ScalarType dtype, bool gelu) -> Tensor"
)


def quantize_rows(
    x: Tensor,
    is_outlier: Tensor,
    columns: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Quantise the rows of an input (T, ...), after a LayerNorm with `norm_weight` and `norm_bias` (K,) if given.

    `is_outlier` (K,) is true at the outlier columns, which `columns` (R,) lists. Return int8 values (T, K), in outlier
    columns the low byte; scales (T, 1) float32; the high bytes of outliers (T, S) int8; and, if `keep`, the result of
    the LayerNorm (T, K). What does not exist has no elements.
    """
    kernels = _kernels(x)
    x = x.flatten(1).contiguous()
    results = values, scales, high, normalised = _empty_rows(x, columns, keep)
    (n_rows, width), n_outliers, width_high = x.shape, len(columns), high.shape[1]
    block = _power_of_two(width)
    with _current(x.device):
        kernels.quantize_rows[(n_rows,)](
            x,
            x if norm_weight is None else norm_weight,
            x if norm_bias is None else norm_bias,
            is_outlier if n_outliers else x,
            columns if n_outliers else x,
            values,
            scales,
            high,
            normalised,
            eps,
            width,
            n_outliers,
            width_high,
            BLOCK_K=block,
            BLOCK_S=_power_of_two(max(width_high, TILE_R)),
            NORM=norm_weight is not None,
            KEEP=keep,
            OUTLIERS=n_outliers > 0,
            num_warps=min(16, max(4, block // 2048)),
            enable_fp_fusion=False,
        )
    return results


def _empty_rows(x: Tensor, columns: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Allocate what `quantize_rows` returns for x (T, K)."""
    values = torch.empty_like(x, dtype=torch.int8)
    scales = x.new_empty(len(x), 1, dtype=torch.float32)
    high = x.new_empty(len(x), -(-len(columns) // TILE_R) * TILE_R, dtype=torch.int8)
    return values, scales, high, torch.empty_like(x if keep else x[:0])


def int8_linear(
    values: Tensor,
    scales: Tensor,
    high: Tensor | None,
    weights: Sequence[Tensor],
    scbs: Sequence[Tensor],
    outlier_weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    residual: Tensor | None,
    dtype: torch.dtype,
    gelu: bool,
) -> Tensor:
    """Multiply a quantised input with the weights of one layer, (T, N), or of three of the same shape, (3, T, N).

    `weights` are (N, K) int8, `scbs` (N,) float32 as bitsandbytes has them, `outlier_weights` (R, N) int8, none without
    outliers, and `biases` (N,), none without bias. Exact gelu and the addition of `residual` (T, N) are computed in
    float32, before the result is rounded to `dtype`.
    """
    kernels = _kernels(values)
    (n_rows, width), n_columns = values.shape, len(weights[0])
    three = len(weights) == 3
    y = _empty_product(values, weights, dtype)
    outliers = high is not None and high.shape[1] > 0
    pointers = [*_three(weights), *_three(scbs), *_three(outlier_weights if outliers else weights)]
    pointers += [*_three(biases or scbs), y if residual is None else residual.contiguous()]

    def launch(tiles: Tiles) -> None:
        n_tiles = -(-n_rows // tiles.m) * -(-n_columns // tiles.n)
        kernels.int8_linear[(n_tiles, len(weights))](
            values,
            scales,
            high if outliers else values,
            *pointers,
            y,
            n_rows,
            n_columns,
            width,
            len(outlier_weights[0]) if outliers else 0,
            high.shape[1] if high is not None else 0,
            TILE_M=tiles.m,
            TILE_N=tiles.n,
            TILE_K=TILE_K,
            TILE_R=TILE_R,
            GROUP=GROUP,
            THREE=three,
            BIAS=len(biases) > 0,
            RESIDUAL=residual is not None,
            GELU=gelu,
            WHOLE_K=width % TILE_K == 0,
            num_warps=tiles.warps,
            num_stages=tiles.stages,
            enable_fp_fusion=False,
        )

    with _current(values.device):
        launch(_choose_tiles(values.device, n_rows, n_columns, width, launch))
    return y


def _empty_product(values: Tensor, weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    shape = (len(values), len(weights[0]))
    return values.new_empty((3, *shape) if len(weights) == 3 else shape, dtype=dtype)


_library.impl("quantize_rows", quantize_rows, "CompositeExplicitAutograd")
_library.impl("int8_linear", int8_linear, "CompositeExplicitAutograd")
# Shapes and dtypes alone, for torch.compile and torch.export.
torch.library.register_fake(
    "skxlmr::quantize_rows",
    lambda x, is_outlier, columns, norm_weight, norm_bias, eps, keep: _empty_rows(x.flatten(1), columns, keep),
    lib=_library,
)
torch.library.register_fake(
    "skxlmr::int8_linear",
    lambda values, scales, high, weights, scbs, outlier_weights, biases, residual, dtype, gelu: _empty_product(
        values, weights, dtype
    ),
    lib=_library,
)


def candidates(n_rows: int, capability: tuple[int, int]) -> list[Tiles]:
    """Return the tiles to try for a number of rows on a GPU of a compute capability."""
    hopper = capability[0] in (9, 10)
    return [tiles for tiles in TILES if tiles.fewest <= n_rows <= tiles.most and (hopper or not tiles.hopper)]


def _choose_tiles(
    device: torch.device, n_rows: int, n_columns: int, width: int, launch: Callable[[Tiles], None]
) -> Tiles:
    """Return the fastest tiles for a product; all are timed for the first product of its size on a device."""
    rounded = 1 << max(n_rows - 1, 0).bit_length()
    key = (device.index, n_columns, width, rounded)
    if key not in _fastest:
        if device.type != "cuda":  # in Triton's interpreter
            return candidates(rounded, (8, 0))[0]
        tried = candidates(rounded, torch.cuda.get_device_capability(device))
        times = {tiles: _time(functools.partial(launch, tiles)) for tiles in tried} if len(tried) > 1 else {}
        _fastest[key] = min(tried, key=lambda tiles: times.get(tiles, 0.0))
    return _fastest[key]


def _time(run: Callable[[], None]) -> float:
    """Return the milliseconds of `REPEATS` runs on the GPU, after one that compiles."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    run()
    start.record()
    for _ in range(REPEATS):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def _kernels(x: Tensor) -> ModuleType:
    """Return the kernels; raise ValueError if they do not run on the device of x."""
    if x.device.type != "cuda" and not triton.is_interpreting():
        raise ValueError(f"The kernels of skxlmr.model.int8_triton run on CUDA devices only, not on {x.device.type!r}.")
    from skxlmr.model.int8_triton import kernels

    return kernels


def _three(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return three tensors: those of three layers, or that of one layer thrice."""
    return tensors if len(tensors) == 3 else [tensors[0]] * 3


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make a GPU the current one, on which Triton launches kernels."""
    is_current = device.type != "cuda" or device.index == torch.cuda.current_device()
    return contextlib.nullcontext() if is_current else torch.cuda.device(device)
