"""Base models with random weights that are drawn on the device: nothing is read from a disk or written to one.

    with random_weights(torch.device("cuda", 0)):
        backbone = get_backbone(str(stand_in(XLMRobertaXLConfig.xl(), folder)), device="cuda")

A base is loaded as from a checkpoint: memory is checked, tensors are converted or quantised one after the other, and
outliers are searched. Only the tensors come from a generator of random numbers in place of a file, and 8-bit weights
are not kept in the cache. Afterwards the base is in the pool, where estimators with the same parameters find it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file

from skxlmr.checkpoints import layout
from skxlmr.checkpoints.checkpoint import Checkpoint
from skxlmr.checkpoints.formats import TensorInfo
from skxlmr.checkpoints.resolve import CheckpointFiles, resolve
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel, pretrained, quantized
from skxlmr.model.key_maps import BASE, key_map
from skxlmr.model.opening import read_config


class RandomCheckpoint(Checkpoint):
    """A checkpoint in float16 whose tensors are drawn on the device when they are read, as training would start."""

    def __init__(self, config: XLMRobertaXLConfig, device: torch.device) -> None:
        super().__init__("random weights", [])
        self._config, self._device = config, device
        self._generator = torch.Generator(device).manual_seed(0)
        with torch.device("meta"):
            model = XLMRobertaXLModel(config, add_pooling_layer=False)
        to_theirs = key_map(config.model_type).to_theirs
        self.tensors = {
            to_theirs(BASE + name): TensorInfo(tuple(p.shape), torch.float16, Path("random"))
            for name, p in model.named_parameters()
        }

    def read(self, key: str) -> torch.Tensor:
        """Return a tensor on the device."""
        shape, where = self.tensors[key].shape, {"dtype": torch.float16, "device": self._device}
        if len(shape) > 1:
            drawn = torch.randn(shape, generator=self._generator, **where)
            return drawn.mul_(self._config.initializer_range)
        is_gain = "norm" in key.lower() and key.endswith("weight")
        return torch.ones(shape, **where) if is_gain else torch.zeros(shape, **where)


def stand_in(config: XLMRobertaXLConfig, directory: Path) -> Path:
    """Write a config, nano's tokenizer and a small tensor: what finds and identifies a checkpoint reads them."""
    directory.mkdir(parents=True)
    (directory / layout.CONFIG).write_text(json.dumps(config.to_dict()))
    shutil.copy(resolve("nano").tokenizer, directory / layout.TOKENIZER)
    save_file({"nothing": torch.zeros(1)}, directory / layout.SAFETENSORS)
    return directory


@contextlib.contextmanager
def random_weights(device: torch.device) -> Iterator[None]:
    """Give every checkpoint that is loaded in the `with` statement random weights, drawn on the device."""

    def open_random(
        model: CheckpointFiles, config: XLMRobertaXLConfig | None, where: Mapping[str, Any], can_generate: bool
    ) -> tuple[CheckpointFiles, XLMRobertaXLConfig, Checkpoint, None]:
        files = resolve(model, **where)
        config = config or read_config(files)
        return files, config, RandomCheckpoint(config, device), None

    def only_build(files: CheckpointFiles, kind: str, build: Callable[[], object], *_: object) -> None:
        build()

    with (
        mock.patch.object(pretrained, "open_model", open_random),
        mock.patch.object(quantized, "find_or_build", only_build),
    ):
        yield
