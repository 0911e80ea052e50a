"""The layers' linear parts in 8 or 4 bits: streamed in, outliers found, kept in a cache that is mapped afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from skxlmr.checkpoints import layout
from skxlmr.checkpoints.cache import building, find_cached, write_cached
from skxlmr.checkpoints.checkpoint import Checkpoint, CheckpointError, LoadPlan, load_into, read_json
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.model.int8 import Int8, Int8Linear
from skxlmr.model.nf4 import Linear4bit
from skxlmr.model.outlier_search import find_outliers
from skxlmr.model.word_embedding import WORD_EMBEDDING
from skxlmr.system.warn import warn

if TYPE_CHECKING:
    from skxlmr.model.encoder import Encoder

QuantizedLinear = Int8Linear | Linear4bit
SCALES = ".SCB"
CANDIDATES, PEAKS = ".candidates", ".peaks"  # of outliers


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that are quantised, by name: those of the encoder's layers.

    Embeddings, LayerNorms, the pooler and the heads never are.
    """
    named = model.named_modules()
    return {name: child for name, child in named if isinstance(child, nn.Linear) and "layers." in name}


def quantize_structure(model: nn.Module, settings: Int8 | str) -> None:
    """Put a quantised layer, still on the meta device, in the place of each of `linear_layers`."""
    for name, linear in linear_layers(model).items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, _empty_like(linear, settings))


def _empty_like(linear: nn.Linear, settings: Int8 | str) -> QuantizedLinear:
    sizes = (linear.in_features, linear.out_features, linear.bias is not None)
    if settings == "nf4":
        return Linear4bit(*sizes, device="meta")
    return Int8Linear(*sizes, settings=settings, device="meta")


def quantized_layers(module: nn.Module) -> dict[str, QuantizedLinear]:
    """The quantised layers of a module, by name."""
    return {name: child for name, child in module.named_modules() if isinstance(child, QuantizedLinear)}


def int8_layers(module: nn.Module) -> dict[str, Int8Linear]:
    """Return the 8-bit layers of a module, by name."""
    return {name: child for name, child in module.named_modules() if isinstance(child, Int8Linear)}


def holds_8bit(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint's weights are in 8 bits already, as transformers and bitsandbytes write them."""
    return any(key.endswith(SCALES) for key in checkpoint.tensors)


class FloatOutsideLayers:
    """An 8-bit checkpoint whose heads and pooler read as float32: transformers may quantise these, too.

    Parameters
    ----------
    checkpoint : Checkpoint
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.name, self._checkpoint = checkpoint.name, checkpoint
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
    """What config.json says of an 8-bit model, for transformers.

    Raises
    ------
    ValueError
        If the model is in 4 bits.
    """
    layers = quantized_layers(model).values()
    if not all(isinstance(layer, Int8Linear) for layer in layers):
        raise ValueError("A model in 4 bits cannot be saved: save it in 8 bits (load_in_8bit=True) or unquantised.")
    threshold = next(iter(layers)).settings.threshold
    return {
        "quant_method": "bitsandbytes",
        "load_in_8bit": True,
        "load_in_4bit": False,
        "llm_int8_threshold": threshold,
        "llm_int8_skip_modules": ["classifier", "lm_head", "qa_outputs", "pooler"],
    }


def outliers_to_json(model: nn.Module) -> bytes:
    """The outliers that were found, by layer."""
    found = {
        name.removeprefix("roberta."): {"columns": layer.candidates.tolist(), "peaks": layer.peaks.tolist()}
        for name, layer in quantized_layers(model).items()
    }
    return json.dumps(found).encode()


def read_outliers(base: Encoder, path: Path) -> None:
    """Take the outliers that were found when an 8-bit model was saved.

    Raises
    ------
    CheckpointError
        If the file is not about this model.
    """
    found = read_json(path)
    for name, layer in quantized_layers(base).items():
        entry = found.get(name)
        try:
            columns = torch.tensor(entry["columns"], dtype=torch.int64)
            peaks = torch.tensor(entry["peaks"], dtype=torch.float32)
        except (TypeError, KeyError, ValueError, RuntimeError, OverflowError) as error:
            raise CheckpointError(f"{path} has no columns and peaks for {name}") from error
        inside = columns.ndim == 1 and ((columns >= 0) & (columns < layer.in_features)).all()
        if not inside or peaks.shape != columns.shape or len(columns.unique()) < len(columns):
            raise CheckpointError(f"{path} names columns for {name} that its input does not have")
        layer.set_candidates(columns, peaks)


def load_quantized(
    holder: nn.Module,
    checkpoint: Checkpoint,
    plan: LoadPlan,
    *,
    files: CheckpointFiles,
    settings: Int8 | str,
    dtype: torch.dtype,
    device: torch.device | str,
) -> None:
    """Fill a model, whose structure is quantised and on the meta device: from the cache, or else from the checkpoint.

    Parameters
    ----------
    holder : nn.Module
        Has the base as its attribute `roberta`; changed in place.
    checkpoint : Checkpoint
    plan : LoadPlan
    files : CheckpointFiles
        Their fingerprint names the file in the cache; their tokenizer reads the sentences that outliers are found on.
    settings : Int8 or "nf4"
    dtype : torch.dtype
        Of what is not quantised. The word embedding is the exception: it stays in 16 bits.
    device : torch.device or str

    Warns
    -----
    UserWarning
        If the quantised weights cannot be kept in the cache.
    """
    kind = "nf4" if settings == "nf4" else "int8"
    of_base = {name for _, name in plan.assignments if name.startswith("roberta.") and ".pooler." not in name}
    of_base |= {name for name in quantized_names(holder) if name.rpartition(".")[0] + ".weight" in of_base}
    shapes = {name: p.shape for name, p in holder.state_dict().items() if name in of_base}
    cached = _find(files.fingerprint, kind, shapes)
    if cached is None:
        with building(files.fingerprint, kind):
            cached = _find(files.fingerprint, kind, shapes)  # another process may have made it meanwhile
            if cached is None:
                cached = _build(holder, checkpoint, _only(plan, of_base), shapes, files, kind, device)
    if cached is not None:
        _assign(holder, cached, device)
    load_into(holder, checkpoint, _without(plan, of_base), dtype=dtype, device=device)
    cast(holder, dtype)


def quantized_names(module: nn.Module) -> list[str]:
    """Names of the quantised parameters."""
    return [f"{name}.{p}" for name, layer in quantized_layers(module).items() for p in layer.quantized_parameters]


def _find(fingerprint: str, kind: str, shapes: dict[str, torch.Size]) -> dict[str, Tensor] | None:
    """The cached weights, if they are those of the model that is being loaded, which a config may have changed."""
    cached = find_cached(fingerprint, kind)
    if cached is None:
        return None
    found = {name: tensor.shape for name, tensor in cached.items() if not name.endswith((CANDIDATES, PEAKS))}
    return cached if found == shapes else None


def _build(
    holder: nn.Module,
    checkpoint: Checkpoint,
    plan: LoadPlan,
    names: Iterable[str],
    files: CheckpointFiles,
    kind: str,
    device: torch.device | str,
) -> dict[str, Tensor] | None:
    """Stream the base in and write it into the cache; returns the mapped weights where these replace the others."""
    if kind == "int8":
        for layer in quantized_layers(holder).values():
            layer.allocate(device)
    load_into(holder, checkpoint, plan, dtype=None, device=device, half=(WORD_EMBEDDING,))
    tensors = {name: holder.get_parameter(name).detach() for name in names}
    if kind == "int8":
        saved = files.directory / layout.OUTLIERS
        if saved.exists():
            read_outliers(holder.roberta, saved)
        else:
            cast(holder, torch.float32)
            find_outliers(holder.roberta, int8_layers(holder.roberta).values(), files)
        layers = {name: q for name, q in quantized_layers(holder).items() if f"{name}.weight" in tensors}
        tensors |= {name + CANDIDATES: layer.candidates for name, layer in layers.items()}
        tensors |= {name + PEAKS: layer.peaks for name, layer in layers.items()}
    try:
        write_cached(files.fingerprint, kind, tensors, model=files.name)
    except OSError as error:
        warn(
            f"The quantised weights of {files.name!r} are not kept for the next time: {error}. "
            f"The environment variable SKXLMR_CACHE chooses another folder for them."
        )
        return None
    if torch.device(device).type != "cpu":
        return None
    return find_cached(files.fingerprint, kind)


def _assign(holder: nn.Module, cached: dict[str, Tensor], device: torch.device | str) -> None:
    """Let a model hold the cached weights; on the CPU they stay in the mapped file."""
    for name, tensor in cached.items():
        owner, _, attribute = name.rpartition(".")
        if not name.endswith((CANDIDATES, PEAKS)):
            setattr(holder.get_submodule(owner), attribute, nn.Parameter(tensor.to(device), requires_grad=False))
    for name, layer in quantized_layers(holder).items():
        if name + CANDIDATES in cached:
            layer.set_candidates(cached[name + CANDIDATES].clone(), cached[name + PEAKS].clone())


def cast(holder: nn.Module, dtype: torch.dtype) -> None:
    """Convert what is loaded and neither quantised nor the word embedding."""
    quantized = set(quantized_names(holder))
    for name, parameter in holder.named_parameters():
        if name not in quantized and name != WORD_EMBEDDING and not parameter.is_meta:
            parameter.data = parameter.data.to(dtype)


def _only(plan: LoadPlan, names: Iterable[str]) -> LoadPlan:
    return replace(plan, assignments=[pair for pair in plan.assignments if pair[1] in names])


def _without(plan: LoadPlan, names: Iterable[str]) -> LoadPlan:
    return replace(plan, assignments=[pair for pair in plan.assignments if pair[1] not in names])
