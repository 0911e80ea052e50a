"""Models with 8-bit or 4-bit layers: quantised while loading, cached, and mapped from the cache from then on."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from skxlmr.checkpoints import layout
from skxlmr.checkpoints.checkpoint import Checkpoint, load_into
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import checked_as, read_json
from skxlmr.checkpoints.keymap import LoadPlan
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.model.cached_weights import assign, find_or_build
from skxlmr.model.float8 import Float8, Float8Linear
from skxlmr.model.int8 import Int8, Int8Linear
from skxlmr.model.key_maps import BASE
from skxlmr.model.nf4 import Linear4bit
from skxlmr.model.outlier_search import find_outliers
from skxlmr.model.storage import EightBit, Storage, kind_of
from skxlmr.model.word_embedding import WORD_EMBEDDING

QuantizedLinear = Int8Linear | Float8Linear | Linear4bit
SCALES = ".SCB"
CANDIDATES, PEAKS = ".candidates", ".peaks"  # of outlier columns


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers to be quantised, by name: those of the encoder's layers, not the pooler or a head."""
    named = model.named_modules()
    return {name: child for name, child in named if isinstance(child, nn.Linear) and "layers." in name}


def quantize_structure(model: nn.Module, settings: Storage) -> None:
    """Replace each of `linear_layers` with a quantised layer on the meta device."""
    for name, linear in linear_layers(model).items():
        sizes = (linear.in_features, linear.out_features, linear.bias is not None)
        if isinstance(settings, Int8):
            after_activation = name.endswith("ffn.down")
            layer = Int8Linear(*sizes, settings=settings, device="meta", asymmetric=after_activation)
            model.set_submodule(name, layer)
        elif isinstance(settings, Float8):
            model.set_submodule(name, Float8Linear(*sizes, settings=settings, device="meta"))
        else:
            model.set_submodule(name, Linear4bit(*sizes, device="meta"))


def quantized_layers(module: nn.Module) -> dict[str, QuantizedLinear]:
    """Return the quantised layers of a module, by name."""
    return {name: child for name, child in module.named_modules() if isinstance(child, QuantizedLinear)}


def int8_layers(module: nn.Module) -> dict[str, Int8Linear]:
    """Return the layers with 8-bit integers of a module, by name."""
    return {name: child for name, child in module.named_modules() if isinstance(child, Int8Linear)}


def holds_8bit(checkpoint: Checkpoint) -> bool:
    """Whether the weights of a checkpoint are in 8 bits, as transformers and bitsandbytes write them."""
    return any(key.endswith(SCALES) for key in checkpoint.tensors)


class FloatOutsideLayers(Checkpoint):
    """An 8-bit checkpoint with heads and pooler dequantised to float32, as transformers may quantise these, too."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint.name, [])
        self._checkpoint = checkpoint
        scales = [key for key in checkpoint.tensors if key.endswith(SCALES) and "encoder.layer." not in key]
        self._scales = {key.removesuffix(SCALES) + ".weight": key for key in scales}
        hidden = {*scales, *(key.removesuffix(SCALES) + ".weight_format" for key in scales)}
        self.tensors = {
            key: replace(info, dtype=torch.float32) if key in self._scales else info
            for key, info in checkpoint.tensors.items()
            if key not in hidden
        }

    def read(self, key: str) -> Tensor:
        """Read one tensor."""
        tensor = self._checkpoint.read(key)
        if key not in self._scales:
            return tensor
        return tensor * (self._checkpoint.read(self._scales[key]).float() / 127)[:, None]


def bitsandbytes_config(model: nn.Module) -> dict[str, object]:
    """Return the `quantization_config` that transformers needs for a model in 8 bits.

    Raise ValueError for storages that have no files: 4 bits and 8-bit floating point.
    """
    layers = int8_layers(model)
    if len(layers) < len(quantized_layers(model)):
        is_float = any(isinstance(layer, Float8Linear) for layer in quantized_layers(model).values())
        raise ValueError(
            f"A model in {'8-bit floating point (Float8)' if is_float else '4 bits'} cannot be saved: load and save it "
            f"in 8-bit integers (load_in_8bit=True) or unquantised."
        )
    return {
        "quant_method": "bitsandbytes",
        "load_in_8bit": True,
        "load_in_4bit": False,
        "llm_int8_threshold": next(iter(layers.values())).settings.threshold,
        "llm_int8_skip_modules": ["classifier", "lm_head", "qa_outputs", "pooler"],
    }


@dataclass
class Outliers:
    """What the file of outliers has of a layer."""

    columns: list[int]
    peaks: list[float]


def outliers_to_json(model: nn.Module) -> bytes:
    """Serialise the outlier candidates of an 8-bit model, by layer."""
    found = {
        name.removeprefix(BASE): {"columns": layer.candidates.tolist(), "peaks": layer.peaks.tolist()}
        for name, layer in int8_layers(model).items()
    }
    return json.dumps(found).encode()


def read_outliers(encoder: nn.Module, path: Path) -> None:
    """Set the outliers of an 8-bit encoder that were saved with it; raise CheckpointError if they do not fit it."""
    found = checked_as(dict[str, Outliers], read_json(path), path)
    for name, layer in int8_layers(encoder).items():
        if name not in found:
            raise CheckpointError(f"{path} has no columns and peaks for {name}")
        columns = torch.tensor(found[name].columns, dtype=torch.int64)
        peaks = torch.tensor(found[name].peaks, dtype=torch.float32)
        inside = ((columns >= 0) & (columns < layer.in_features)).all()
        if not inside or peaks.shape != columns.shape or len(columns.unique()) < len(columns):
            raise CheckpointError(f"{path} names columns for {name} that its input does not have")
        layer.set_candidates(columns, peaks)


def load_quantized(
    holder: nn.Module,
    encoder: nn.Module,
    checkpoint: Checkpoint,
    plan: LoadPlan,
    *,
    files: CheckpointFiles,
    settings: Storage,
    dtype: torch.dtype,
    device: torch.device | str,
) -> None:
    """Load a quantised model that is on the meta device: its encoder from the cache if possible, then all other parts.

    `holder` has the encoder as its attribute `roberta`. `dtype` is that of everything that is not quantised, except the
    word embedding, which stays in 16 bits. Warn if the quantised weights cannot be cached. Raise ImportError or
    ValueError before anything is read if the engine of the settings does not run on the device.
    """
    if isinstance(settings, EightBit):
        settings.engine_on(torch.device(device))
    of_encoder = {name for _, name in plan.assignments if name.startswith(BASE) and ".pooler." not in name}
    of_encoder |= {name for name in quantized_names(holder) if name.rpartition(".")[0] + ".weight" in of_encoder}
    shapes = {name: p.shape for name, p in holder.state_dict().items() if name in of_encoder}

    def usable(cached: dict[str, Tensor]) -> bool:  # another config may have changed the model
        return shapes == {name: t.shape for name, t in cached.items() if not name.endswith((CANDIDATES, PEAKS))}

    def build() -> dict[str, Tensor]:
        _quantize(holder, encoder, checkpoint, _part(plan, of_encoder, inside=True), files, device)
        tensors = {name: holder.get_parameter(name).detach() for name in shapes}
        for name, layer in int8_layers(holder).items():
            if f"{name}.weight" in shapes:
                tensors |= {name + CANDIDATES: layer.candidates, name + PEAKS: layer.peaks}
        return tensors

    kind = kind_of(settings)
    assert kind is not None
    otherwise = f"The quantised weights of {files.name!r} are not kept for the next time"
    cached = find_or_build(files, kind, build, usable, otherwise)
    built = not holder.get_parameter(WORD_EMBEDDING).is_meta
    if cached is not None and (not built or torch.device(device).type == "cpu"):  # CPUs use the mapped file either way
        _assign_cached(holder, cached, device)
    load_into(holder, checkpoint, _part(plan, of_encoder, inside=False), dtype=dtype, device=device)
    cast(holder, dtype)


def quantized_names(module: nn.Module) -> list[str]:
    """Return the names of the quantised parameters."""
    return [f"{name}.{p}" for name, layer in quantized_layers(module).items() for p in layer.quantized_parameters]


def _quantize(
    holder: nn.Module,
    encoder: nn.Module,
    checkpoint: Checkpoint,
    plan: LoadPlan,
    files: CheckpointFiles,
    device: torch.device | str,
) -> None:
    """Load an encoder from the checkpoint, tensor by tensor, quantise it and find its outliers."""
    for quantized in quantized_layers(encoder).values():
        if isinstance(quantized, Int8Linear | Float8Linear):
            quantized.allocate(device)
    load_into(holder, checkpoint, plan, dtype=None, device=device, half=(WORD_EMBEDDING,))
    layers = int8_layers(encoder)
    if not layers:
        return
    saved = files.directory / layout.OUTLIERS
    if saved.exists():
        read_outliers(encoder, saved)
    else:
        cast(holder, torch.float32)
        find_outliers(encoder, layers.values(), files)


def _assign_cached(holder: nn.Module, cached: dict[str, Tensor], device: torch.device | str) -> None:
    """Assign cached weights to a model; on a CPU they stay in the mapped file."""
    for name, tensor in cached.items():
        if not name.endswith((CANDIDATES, PEAKS)):
            assign(holder, name, tensor.to(device))
    for name, layer in int8_layers(holder).items():
        if name + CANDIDATES in cached:
            layer.set_candidates(cached[name + CANDIDATES].clone(), cached[name + PEAKS].clone())


def cast(holder: nn.Module, dtype: torch.dtype) -> None:
    """Convert all loaded parameters except quantised ones and the word embedding."""
    quantized = set(quantized_names(holder))
    for name, parameter in holder.named_parameters():
        if name not in quantized and name != WORD_EMBEDDING and not parameter.is_meta:
            parameter.data = parameter.data.to(dtype)


def _part(plan: LoadPlan, names: Collection[str], *, inside: bool) -> LoadPlan:
    """Return the assignments of a plan to these names, or to all others."""
    return replace(plan, assignments=[pair for pair in plan.assignments if (pair[1] in names) == inside])
