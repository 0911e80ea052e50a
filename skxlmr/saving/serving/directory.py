"""Directories for serving: a graph, a tokenizer, and a description of both."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from skxlmr.checkpoints.layout import TOKENIZER_JSON
from skxlmr.checkpoints.tokenizer_json import for_serving
from skxlmr.model import XLMRobertaXLModel, XLMRobertaXLTokenizer
from skxlmr.model.padded_encoder import PaddedEncoder
from skxlmr.saving.cards import card_files
from skxlmr.saving.merged import FittedWeights
from skxlmr.saving.serving.graph import INPUTS, ServingGraph, trace
from skxlmr.saving.serving.libraries import GraphFormat
from skxlmr.saving.serving.onnx_file import ONNX
from skxlmr.saving.serving.openvino_file import OPENVINO
from skxlmr.system import atomic
from skxlmr.text.offsets import SPACE

DESCRIPTION = "serving.json"
FORMAT = 1
FILES = frozenset((*ONNX.files, *OPENVINO.files, DESCRIPTION))  # of which an export has some


@dataclass(frozen=True, eq=False)
class Served:
    """What is served of a fitted estimator.

    Attributes
    ----------
    weights : FittedWeights
    kind : {"embedding", "classification", "regression", "tagging"}
    output : str
        The name of what the graph returns.
    finish : callable
        From the width of the hidden states to the module `finish` of `ServingGraph`.
    pooling : str or None
        As in `ServingGraph`.
    prompt : str
        What is put before each text, or before the first of two that are read together.
    include_prompt : bool
        Whether the pooling takes the tokens of the prompt.
    pairs : {"joint", "separate"} or None
        How two texts of a row are read.
    max_length : int or None
        Number of tokens after which texts are cut; None means all that the model can read at once.
    layers : sequence of int
        The hidden states that the pooling takes.
    entries : dict
        More entries of the description.
    """

    weights: FittedWeights
    kind: str
    output: str
    finish: Callable[[int], nn.Module]
    pooling: str | None
    prompt: str
    include_prompt: bool
    pairs: str | None
    max_length: int | None
    layers: Sequence[int] = (-1,)
    entries: dict[str, Any] = field(default_factory=dict)

    def graph(self, base: XLMRobertaXLModel, tokenizer: XLMRobertaXLTokenizer) -> ServingGraph:
        """Return the graph on a model with merged weights."""
        left_out = 0 if self.include_prompt else 1 + len(tokenizer.encode_batch([self.prompt])[0])
        encoder = PaddedEncoder(base, self.layers)
        return ServingGraph(
            encoder, self.finish(base.config.hidden_size), self.pooling, left_out, self.pairs == "separate"
        )

    def description(self, base: XLMRobertaXLModel, tokenizer: XLMRobertaXLTokenizer, file: str, int8: bool) -> bytes:
        """Return the content of the file that tells a server how to use the graph."""
        content = {
            "format": FORMAT,
            "kind": self.kind,
            "file": file,
            "precision": "int8" if int8 else "float32",
            "inputs": list(INPUTS),
            "output": self.output,
            "prompt": self.prompt,
            "pairs": self.pairs,
            "max_length": self.max_length or base.config.max_length,
            "pad_token_id": tokenizer.pad_token_id,
            **self.entries,
        }
        if content.pop("skips_spaces", False):
            content["space_id"] = int(tokenizer.convert_tokens_to_ids(SPACE))
        return (json.dumps(content, indent=2) + "\n").encode()

    def tokenizer_json(self, base: XLMRobertaXLModel, tokenizer: XLMRobertaXLTokenizer) -> bytes:
        """Return the content of the tokenizer that cuts texts and pads them.

        Raises ValueError if it is not one that the library tokenizers has.
        """
        files = tokenizer.files()
        if TOKENIZER_JSON not in files:
            raise ValueError(
                f"{self.weights.files.name!r} has a tokenizer that is not a unigram model, which the library "
                f"tokenizers does not run as XLM-RoBERTa does. Serve the estimator itself, with save and skxlmr.load."
            )
        max_length = self.max_length or base.config.max_length
        content = for_serving(json.loads(files[TOKENIZER_JSON]), max_length, tokenizer.pad_token_id)
        return json.dumps(content, ensure_ascii=False).encode()


def write_served(directory: str | os.PathLike, served: Served, graph_format: GraphFormat, int8: bool) -> None:
    """Write a directory for serving; see `skxlmr.estimators.exporting_served.ServingMixin`."""
    graph_format.check(int8)
    directory = Path(directory).expanduser()
    served.weights.check_destination(directory)
    _check_replaceable(directory)
    base, tokenizer = served.weights.merged("float32", dequantized=True)
    files = {
        TOKENIZER_JSON: served.tokenizer_json(base, tokenizer),
        DESCRIPTION: served.description(base, tokenizer, graph_format.files[0], int8),
    } | card_files(directory, served.weights.facts, graph_format.extra)
    graph = served.graph(base, tokenizer)
    n_int8_layers = len(graph.encoder.layers) if int8 else 0
    if int8 and graph_format.prepares_int8:
        graph.encoder.prepare_int8()
    nbytes = sum(tensor.nbytes for tensor in graph.state_dict().values())
    program = trace(graph)
    size = nbytes * (2 if int8 else 1) + sum(map(len, files.values()))
    with atomic.replacing_whole(directory, size=size, is_obsolete=FILES.__contains__) as new:
        new.add_written(
            graph_format.files, lambda path: graph_format.write(program, path, served.output, nbytes, n_int8_layers)
        )
        for name, data in files.items():
            new.add(name, [data])


def _check_replaceable(directory: Path) -> None:
    """Raise FileExistsError if a model of another kind is there, whose tokenizer would be replaced."""
    if (directory / TOKENIZER_JSON).exists() and not (directory / DESCRIPTION).exists():
        raise FileExistsError(
            f"{directory} holds another model already, with a {TOKENIZER_JSON} of its own. Export to another directory."
        )
