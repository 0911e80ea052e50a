"""Run the Triton kernels of 8-bit weights in Triton's interpreter, and print how far they are from float64.

    python benchmarks/triton_errors.py

The shapes are those of XL with fewer output features, 40 outlier columns; a row is computed alone, in a batch of 3 and
in one of 20. Needs triton, but no GPU.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # which triton reads when it is imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from skxlmr.model.int8 import Int8, Int8Linear
from skxlmr.model.int8_triton import operators

SHAPES = [(2560, 48), (10_240, 24)]  # input features, output features
N_ROWS, ROW = 20, 11
COLUMNS = ("K x N", "dtype", "tiles", "product", "with the rounding of inputs", "a row alone, in 3 and in 20")


def layer_of(width: int, n_columns: int) -> Int8Linear:
    torch.manual_seed(0)
    layer = Int8Linear(width, n_columns, settings=Int8(engine="triton"))
    layer.load("weight", torch.randn(n_columns, width) * 0.02)
    layer.bias.data.normal_()
    layer.set_outliers(torch.arange(0, width, width // 40))
    return layer.requires_grad_(False)


def relative(y: torch.Tensor, exact: torch.Tensor) -> float:
    return float((y.double() - exact).norm() / exact.norm())


def main() -> None:
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for width, n_columns in SHAPES:
        layer = layer_of(width, n_columns)
        x = torch.randn(N_ROWS, width)
        x[:, layer.outliers] *= 60
        weight = layer.dequantize(torch.float64)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for tiles in operators.TILES[:1] if dtype != torch.float32 else operators.TILES:
                operators.candidates = lambda *_, tiles=tiles: [tiles]
                given = layer.prepare(x.to(dtype))
                rounded = given.values.double()
                rounded[:, layer.outliers] += 256 * given.high[:, : len(layer.outliers)].double()
                exact = (rounded * given.scales.double()) @ weight.t() + layer.bias.double()
                whole = layer(x.to(dtype))
                some = [layer(x[rows].to(dtype)) for rows in (slice(ROW, ROW + 1), slice(ROW - 2, ROW + 1))]
                same = all(torch.equal(y[-1], whole[ROW]) for y in some)
                of_all = x.double() @ weight.t() + layer.bias.double()
                shown = (
                    f"{width} x {n_columns}",
                    str(dtype).removeprefix("torch."),
                    f"{tiles.m}x{tiles.n}",
                    f"{relative(whole, exact):.1e}",
                    f"{relative(whole, of_all):.1e}",
                    "equal" if same else "DIFFERENT",
                )
                print("| " + " | ".join(shown) + " |", flush=True)


if __name__ == "__main__":
    main()
