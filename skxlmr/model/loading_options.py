"""The options of `from_pretrained` beside the files: settings of the config, parameters of the class and the dtype."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Collection, Mapping
from typing import Any

import torch

from skxlmr.checkpoints import layout
from skxlmr.checkpoints.checkpoint import Checkpoint
from skxlmr.model.config import XLMRobertaXLConfig

# Options of the reference that are missing here, and what there is in their place.
REFUSED = {
    "use_auth_token": "its name is 'token'",
    "quantization_config": "use load_in_8bit, which takes the settings of Int8 or Float8, or load_in_4bit",
    "trust_remote_code": "code of a model is never run",
    "from_tf": "convert the weights with transformers first",
    "from_flax": "convert the weights with transformers first",
    "force_download": "remove the model from the cache of huggingface_hub",
    "resume_download": "huggingface_hub always does",
    "proxies": "set the environment variable HTTPS_PROXY",
    "mirror": "set the environment variable HF_ENDPOINT",
    "max_memory": "a model is on one device",
    "offload_folder": "a model is on one device; map_word_embedding and load_in_8bit save memory",
    "offload_state_dict": "loading never holds all weights twice",
}
ATTENTION = ("sdpa", "eager")


def class_parameters(cls: type) -> set[str]:
    """Return the names of the parameters of a model class beside `config`."""
    return set(inspect.signature(cls).parameters) - {"config"}


def check_names(cls: Any, config: XLMRobertaXLConfig, names: Collection[str]) -> None:
    """Raise TypeError unless all names are those of settings of the config or of parameters of the class."""
    known = config.setting_names() | class_parameters(cls)
    unknown = [name for name in names if name not in known]
    if not unknown:
        return
    options = {
        name for name, p in inspect.signature(cls.from_pretrained).parameters.items() if p.kind is p.KEYWORD_ONLY
    }
    described = []
    for name in unknown:
        close = difflib.get_close_matches(name, sorted(known | options), n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        described.append(f"{name!r}" + (f" ({REFUSED[name]})" if name in REFUSED else hint))
    raise TypeError(
        f"{cls.__name__}.from_pretrained has no parameter {', '.join(described)}: it takes its own, those of the class "
        f"and the settings of the config."
    )


def chosen_config(config: Any) -> XLMRobertaXLConfig | None:
    """Return the config of an argument: a config of this package or of transformers, or a model that has one.

    Raises TypeError if it is something else.
    """
    if config is None or isinstance(config, XLMRobertaXLConfig):
        return config
    if isinstance(config, str | os.PathLike):
        return XLMRobertaXLConfig.from_pretrained(config)
    if callable(getattr(config, "to_dict", None)):
        return XLMRobertaXLConfig.from_dict(config.to_dict())
    raise TypeError(f"config must be a config, a directory or the id of a model, got {config!r:.60}.")


def chosen_device(device: torch.device | str, device_map: Any) -> torch.device | str:
    """Return the one device of `device` and `device_map`; "auto" is the GPU if there is one, and else the CPU.

    Raises ValueError if both are given and differ, or a map has several devices.
    """
    if device_map is None:
        return device
    if isinstance(device_map, Mapping):
        places = list(dict.fromkeys(torch.device(place) if place != "disk" else place for place in device_map.values()))
        if len(places) != 1 or places[0] == "disk":
            raise ValueError(f"device_map={dict(device_map)!r} must have one device: a model is not split.")
        place = places[0]
    elif device_map == "auto":
        kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        place = torch.device(next(kind for kind, is_there in kinds.items() if is_there))
    elif device_map in ("balanced", "balanced_low_0", "sequential"):
        raise ValueError(f"device_map={device_map!r} would split a model over devices: name one, such as 'cuda'.")
    else:
        place = torch.device(device_map)
    if torch.device(device) not in (place, torch.device("cpu")):
        raise ValueError(f"device={device!r} contradicts device_map={device_map!r}: give one of them.")
    return place


def chosen_weights(variant: str | None, use_safetensors: bool | None) -> tuple[str, ...]:
    """Return the names that the files of weights may have, in order of preference."""
    names = layout.weights_names(variant)
    return names if use_safetensors is None else tuple(n for n in names if ("safetensors" in n) == use_safetensors)


def chosen_dtype(
    dtype: torch.dtype | str | None,
    torch_dtype: torch.dtype | str | None,
    config: XLMRobertaXLConfig,
    checkpoint: Checkpoint,
) -> torch.dtype:
    """Return the dtype to load a checkpoint with; `torch_dtype` is another name of `dtype`.

    None is float32, and "auto" what the config names, or else the dtype of the first tensor that is floating point.
    Raises ValueError if both are given and differ, or it is not a floating-point dtype.
    """
    both = [one for one in (_named(dtype), _named(torch_dtype)) if one is not None]
    if len(set(both)) > 1:
        raise ValueError(f"dtype={dtype!r} contradicts torch_dtype={torch_dtype!r}: give one of them.")
    if not both:
        return torch.float32
    if both[0] != "auto":
        return both[0]
    named = _named(config.extra.get("dtype") or config.extra.get("torch_dtype"))
    floating = (info.dtype for info in checkpoint.tensors.values() if info.dtype.is_floating_point)
    return named or next(floating, torch.float32)


def _named(dtype: Any) -> Any:
    """Return the dtype of a name such as "bfloat16", with or without "torch."; None and "auto" as they are."""
    if dtype is None or dtype == "auto":
        return dtype
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must be a floating-point dtype of torch, its name or 'auto', got {dtype!r}.")
    return found
