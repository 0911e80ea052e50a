"""Graphs for serving as files of ONNX."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.export import ExportedProgram

from skxlmr.saving.serving.graph import INPUTS
from skxlmr.saving.serving.libraries import GraphFormat, quiet, require

EXTRA = "onnx"
FILE = "model.onnx"
WEIGHTS = f"{FILE}.data"  # of large models
QUANTIZATION = "onnxruntime.quantization"
LARGEST_FILE = 1_900_000_000  # bytes of weights; a protobuf has less than 2 GB, larger ones are in a file beside it
PRODUCTS_PER_LAYER = 4  # with weights: q, k and v together, output, up, down


def write_onnx(program: ExportedProgram, path: Path, output: str, nbytes: int, n_int8_layers: int) -> None:
    """Write a graph; of the first `n_int8_layers` the products are in 8 bits."""
    with quiet():
        converted = torch.onnx.export(
            program, (), input_names=list(INPUTS), output_names=[output], dynamo=True, verbose=False
        )
        assert converted is not None
        large = nbytes > LARGEST_FILE
        if not n_int8_layers:
            converted.save(path, external_data=large)
            return
        with TemporaryDirectory(dir=path.parent) as folder:
            whole = Path(folder) / FILE
            converted.save(whole, external_data=large)
            quantize(whole, path, PRODUCTS_PER_LAYER * n_int8_layers, large)


def quantize(whole: Path, path: Path, n_products: int, large: bool) -> None:
    """Write a graph with the first products of inputs and weights in 8 bits, with one scale per column of a weight."""
    quantization = require(QUANTIZATION, EXTRA)
    products = _products(require("onnx", EXTRA).load(whole, load_external_data=False).graph)
    assert len(products) >= n_products
    quantization.quantize_dynamic(
        whole,
        path,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=products[:n_products],
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        use_external_data_format=large,
    )


def _products(graph: Any) -> list[str]:
    """Return the names of the products with weights, in the order in which they are computed."""
    weights = {weight.name for weight in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]


ONNX = GraphFormat(EXTRA, (FILE, WEIGHTS), ("onnx", "onnxscript"), (QUANTIZATION,), True, write_onnx)
