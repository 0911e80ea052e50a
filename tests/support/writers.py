"""Everything that the package writes, with a tiny content: a number, from which all files of one write can be told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import safetensors.torch
import torch

from skxlmr.checkpoints.cache import cached_path, find_cached, write_cached
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.saving.estimators import SavedEstimator, read_estimator, write_estimator
from skxlmr.saving.peft import write_adapter
from skxlmr.system import atomic
from skxlmr.training.checkpointing import read_checkpoint, write_checkpoint

FINGERPRINT = "a" * 64


class Writer:
    """Writes a number below `place`, and reads it again; None if there is nothing, an error if it is not whole."""

    other_files: Mapping[str, bytes] = {}
    step = 1  # of the operations that the quick sweep tries; more for writers that take long

    def __init__(self, place: Path) -> None:
        self.place = place
        self.directory = place / "it"

    def write(self, number: int) -> None:
        raise NotImplementedError

    def read(self) -> int | None:
        raise NotImplementedError

    def read_as_others(self) -> int | None:
        """Read as other programs do, which complete nothing."""
        return self.read()

    @contextmanager
    def settings(self) -> Iterator[None]:
        yield


def same(numbers: list[float]) -> int:
    assert len(set(numbers)) == 1, f"a mixture: {numbers}"
    return int(numbers[0])


class Estimator(Writer):
    def write(self, number):
        arrays = {"coef_": np.full(number, number), "n_": number}
        write_estimator(self.directory, SavedEstimator("Any", {"alpha": number}, arrays, FINGERPRINT))

    def read(self):
        try:
            saved = read_estimator(self.directory)
        except FileNotFoundError:
            return None
        assert len(saved.fitted["coef_"]) == saved.parameters["alpha"]
        return same([saved.parameters["alpha"], saved.fitted["n_"], *saved.fitted["coef_"]])


def model(number: int) -> XLMRobertaXLModel:
    config = XLMRobertaXLConfig(
        vocab_size=10 + number, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=number,
        max_position_embeddings=8,
    )  # fmt: skip
    with torch.device("meta"):
        made = XLMRobertaXLModel(config, add_pooling_layer=False)
    made.to_empty(device="cpu")
    for parameter in made.parameters():
        parameter.data.fill_(number)
    return made


class Pretrained(Writer):
    """Other files in the directory are kept."""

    other_files = {"README.md": b"mine"}
    step = 6

    def write(self, number):
        model(number).save_pretrained(self.directory)

    def read(self):
        try:
            read = XLMRobertaXLModel.from_pretrained(self.directory, add_pooling_layer=False)
        except (CheckpointError, ValueError):
            if any((self.directory / name).exists() for name in ("config.json", "model.safetensors", "skxlmr.json")):
                raise
            return None
        assert read.config.vocab_size == 10 + read.config.intermediate_size
        numbers = [float(value) for parameter in read.parameters() for value in parameter.detach().flatten()[:2]]
        return same([*numbers, read.config.intermediate_size])

    def read_as_others(self):
        if not (self.directory / "config.json").exists():
            assert not (self.directory / "model.safetensors").exists()
            return None
        config = json.loads((self.directory / "config.json").read_bytes())
        tensors = safetensors.torch.load((self.directory / "model.safetensors").read_bytes())
        return same([config["intermediate_size"], *(float(t.flatten()[0]) for t in tensors.values())])


class Pickled(Pretrained):
    """As a file of torch.save."""

    step = 12

    def write(self, number):
        model(number).save_pretrained(self.directory, safe_serialization=False)

    def read_as_others(self):
        if not (self.directory / "config.json").exists():
            assert not (self.directory / "pytorch_model.bin").exists()
            return None
        config = json.loads((self.directory / "config.json").read_bytes())
        tensors = torch.load(self.directory / "pytorch_model.bin", weights_only=True)
        return same([config["intermediate_size"], *(float(t.flatten()[0]) for t in tensors.values())])


class Exported(Pretrained):
    """With the files of a tokenizer, and those of sentence-transformers in folders."""

    def write(self, number):
        text = str(number).encode()
        others = {"tokenizer.json": text, "1_Pooling/config.json": text, "2_Dense/config.json": text}
        model(number).write(self.directory, others)

    def _others(self) -> list[float]:
        names = ("tokenizer.json", "1_Pooling/config.json", "2_Dense/config.json")
        return [float((self.directory / name).read_text()) for name in names]

    def read(self):
        number = Pretrained.read(self)
        return number if number is None else same([number, *self._others()])

    def read_as_others(self):
        number = Pretrained.read_as_others(self)
        return number if number is None else same([number, *self._others()])


class Adapter(Writer):
    other_files = {"README.md": b"mine"}

    def write(self, number):
        write_adapter(self.directory, {"a": torch.full((number, 2), float(number))}, {"r": number}, {"n": number}, {})

    def read(self):
        atomic.recover(self.directory)
        return self._read()

    def read_as_others(self):
        return self._read()

    def _read(self):
        if not (self.directory / "adapter_config.json").exists():
            assert not (self.directory / "adapter_model.safetensors").exists()
            return None
        rank = json.loads((self.directory / "adapter_config.json").read_bytes())["r"]
        tensor = safetensors.torch.load((self.directory / "adapter_model.safetensors").read_bytes())["a"]
        labels = json.loads((self.directory / "labels.json").read_bytes())["n"]
        return same([labels, rank, len(tensor), *tensor.flatten().tolist()])


class InPlace:
    """Where directories cannot be exchanged."""

    @contextmanager
    def settings(self):
        with mock.patch("skxlmr.system.atomic.whole.can_exchange", return_value=False):
            yield

    def read_as_others(self):  # they may see a mixture
        return self.read()


class PretrainedInPlace(InPlace, Pretrained):
    pass


class ExportedInPlace(InPlace, Exported):
    pass


class AdapterInPlace(InPlace, Adapter):
    pass


class Training(Writer):
    def write(self, number):
        self.directory.mkdir(exist_ok=True)
        write_checkpoint(self.directory, {"n": number}, {"x": torch.full((number,), number)})

    def read(self):
        found = read_checkpoint(self.directory)
        return None if found is None else same([found[0]["n"], len(found[1]["x"]), *found[1]["x"].tolist()])


class Cache(Writer):
    @contextmanager
    def settings(self):
        with mock.patch.dict(os.environ, {"SKXLMR_CACHE": str(self.place)}):
            yield

    def write(self, number):
        write_cached(FINGERPRINT, "int8", {"x": torch.full((number,), number)}, model="x")

    def read(self):
        with self.settings():
            if not cached_path(FINGERPRINT, "int8").exists():
                return None
            try:
                found = find_cached(FINGERPRINT, "int8")
            except RuntimeError as error:
                if "unable to open file" in str(error):  # cleared just before it was mapped
                    return None
                raise
        if found is None:
            return None
        return same([len(found["x"]), *found["x"].tolist()])


WRITERS = {
    "save": Estimator,
    "save_pretrained": Pretrained,
    "save_pretrained, in place": PretrainedInPlace,
    "save_pretrained, pickled": Pickled,
    "export_pretrained": Exported,
    "export_pretrained, in place": ExportedInPlace,
    "export_adapter": Adapter,
    "export_adapter, in place": AdapterInPlace,
    "checkpoint": Training,
    "cache": Cache,
}


def prepare(writer: Writer, earlier: Path | None) -> None:
    """Make the place as it was after an earlier write, or empty but for other files."""
    shutil.rmtree(writer.place, ignore_errors=True)
    if earlier is not None:
        shutil.copytree(earlier, writer.place)
        return
    writer.place.mkdir(parents=True)
    if writer.other_files:
        writer.directory.mkdir()
    for name, data in writer.other_files.items():
        (writer.directory / name).write_bytes(data)
