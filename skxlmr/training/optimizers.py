"""AdamW, with its state in 32 bits, or in 8 bits by bitsandbytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn

from skxlmr.system.bitsandbytes import bitsandbytes_ops
from skxlmr.system.schema import shown

# Numbers for JSON, and tensors, both by "parameter.name".
OptimizerState = tuple[dict[str, Any], dict[str, Tensor]]

# The names of the classes in bitsandbytes.optim; None is torch's AdamW.
OPTIMIZERS = {"adamw": None, "adamw8bit": "AdamW8bit", "paged_adamw8bit": "PagedAdamW8bit"}


class AdamW(torch.optim.AdamW):
    """AdamW of torch, without the wrappers around its methods for torch.compile.

    The wrappers import the compiler, which takes longer than the first epoch of a small model, and no step is compiled.
    """

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


BLOCK = 256  # numbers that share a scale in 8-bit states


def make_optimizer(name: str, parameters: list[nn.Parameter], weight_decay: float) -> torch.optim.Optimizer:
    """Make an optimizer that decays matrices, but not biases and LayerNorms; the trainer sets the learning rate.

    Raises ValueError for an 8-bit optimizer off CUDA, and ImportError without bitsandbytes.
    """
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    class_name = OPTIMIZERS[name]
    device = parameters[0].device.type
    if class_name is None:
        # On CUDA one kernel updates a parameter in place. Without it, torch makes a copy as large as all parameters in
        # the middle of a step, and those updated before memory runs out cannot be told apart from the others.
        return AdamW(groups, lr=0.0, fused=device == "cuda")
    if device != "cuda":
        raise ValueError(f"optimizer={name!r} needs a CUDA device, but this is {device!r}. Use optimizer='adamw'.")
    bitsandbytes_ops()
    import bitsandbytes.optim

    return getattr(bitsandbytes.optim, class_name)(groups, lr=0.0)


def allocate_state(optimizer: torch.optim.Optimizer) -> None:
    """Allocate the state of all parameters that have none yet, which optimizers otherwise do within their first step.

    If memory runs out there, it is after some parameters were updated.
    """
    of_bitsandbytes: Any = optimizer
    for i, group in enumerate(optimizer.param_groups):
        for j, parameter in enumerate(group["params"]):
            state = optimizer.state[parameter]
            if state:
                continue
            if not isinstance(optimizer, torch.optim.AdamW):
                of_bitsandbytes.init_state(group, parameter, i, j)
                continue
            on_device = {"device": parameter.device, "dtype": torch.float32} if group["fused"] else {}
            averages = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            state.update(step=torch.zeros((), **on_device), **averages)


def optimizer_state(optimizer: torch.optim.Optimizer) -> OptimizerState:
    """Return the state of an optimizer."""
    numbers: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for i, of_parameter in optimizer.state_dict()["state"].items():
        for name, value in _flat(of_parameter):
            (tensors if isinstance(value, Tensor) else numbers)[f"{i}.{name}"] = value
    return numbers, tensors


def _flat(of_parameter: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what an optimizer remembers of a parameter; bitsandbytes nests its tensors, and loads them without that."""
    for name, value in of_parameter.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield name, value


def load_optimizer_state(optimizer: torch.optim.Optimizer, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Load a copy of an `optimizer_state`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in (numbers | tensors).items():
        i, name = key.split(".", 1)
        state.setdefault(int(i), {})[name] = value.clone() if isinstance(value, Tensor) else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def check_same_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raise a ValueError unless tensors from a file have the names, shapes and dtypes of others."""
    have, need = ({name: (tuple(t.shape), t.dtype) for name, t in each.items()} for each in (tensors, expected))
    if have != need:
        wrong = sorted(name for name in have.keys() | need.keys() if have.get(name) != need.get(name))
        raise ValueError(f"its tensors {what}/{shown(wrong[0])} are not those of this training")


def check_optimizer_state(
    optimizer: torch.optim.Optimizer, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Raise a ValueError if a state from a file is not one of this optimizer."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[str, dict[str, Any]] = {str(i): {} for i in range(len(parameters))}
    for key, value in (*numbers.items(), *tensors.items()):
        i, _, name = key.partition(".")
        if i not in states:
            raise ValueError(f"its optimizer has {shown(key)}, which is not a parameter of this training")
        states[i][name] = value
    for (i, state), parameter in zip(states.items(), parameters, strict=True):
        needed = _tensors_of(optimizer, parameter, state)
        for name, value in state.items():
            if isinstance(value, Tensor) and name in needed and (tuple(value.shape), value.dtype) != needed[name]:
                raise ValueError(
                    f"its optimizer has {shown(f'{i}.{name}')} of shape {tuple(value.shape)} and {value.dtype}, which "
                    f"is wrong"
                )
        if state and state.keys() != needed.keys() | {"step"}:
            raise ValueError("the state of its optimizer is not complete")


def _tensors_of(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, state: Mapping[str, Any]
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return the shapes and dtypes of the tensors that an optimizer remembers of a parameter.

    The kernels of bitsandbytes read and write them without a check. It has small parameters in 32 bits.
    """
    shape = tuple(parameter.shape)
    if isinstance(optimizer, torch.optim.AdamW):
        return dict.fromkeys(("exp_avg", "exp_avg_sq"), (shape, parameter.dtype))
    first = state.get("state1")
    if not isinstance(first, Tensor) or first.dtype != torch.uint8:
        return dict.fromkeys(("state1", "state2"), (shape, torch.float32))
    n_blocks = -(-parameter.numel() // BLOCK)
    needed = dict.fromkeys(("state1", "state2"), (shape, torch.uint8))
    needed |= dict.fromkeys(("qmap1", "qmap2"), ((256,), torch.float32))
    return needed | dict.fromkeys(("absmax1", "absmax2"), ((n_blocks,), torch.float32))
