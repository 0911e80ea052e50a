"""Graphs for serving as files of OpenVINO."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

from torch.export import ExportedProgram

from skxlmr.saving.serving.libraries import GraphFormat, quiet, require

EXTRA = "openvino"
FILE = "openvino_model.xml"
WEIGHTS = "openvino_model.bin"  # OpenVINO writes it beside


def write_openvino(program: ExportedProgram, path: Path, output: str, nbytes: int, n_int8_layers: int) -> None:
    """Write a graph; with `n_int8_layers` all its weights are in 8 bits, with one scale per row."""
    openvino = require("openvino", EXTRA)
    with quiet():
        model = openvino.convert_model(program)
        model.outputs[0].get_tensor().set_names({output})
        if n_int8_layers:
            nncf = require("nncf", EXTRA)
            with redirect_stdout(io.StringIO()):  # it draws a progress bar
                model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        openvino.save_model(model, path, compress_to_fp16=False)


OPENVINO = GraphFormat(EXTRA, (FILE, WEIGHTS), ("openvino",), ("nncf",), False, write_openvino)
