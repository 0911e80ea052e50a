"""AdamW, in 32 bits or with bitsandbytes' state in 8."""

from __future__ import annotations

from inspect import unwrap

import torch
from torch import Tensor, nn

from skxlmr.system.bitsandbytes import bitsandbytes_ops

# Numbers for JSON, and tensors, both by "parameter.name".
OptimizerState = tuple[dict[str, object], dict[str, Tensor]]

# The constructors' names in bitsandbytes.optim; None is torch's own.
OPTIMIZERS = {"adamw": None, "adamw8bit": "AdamW8bit", "paged_adamw8bit": "PagedAdamW8bit"}


class AdamW(torch.optim.AdamW):
    """AdamW of torch, without what is wrapped around its methods for torch.compile.

    The wrappers import the compiler, which takes longer than the first epoch of a small model, and no step is compiled.
    """

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


def make_optimizer(name: str, parameters: list[nn.Parameter], weight_decay: float) -> torch.optim.Optimizer:
    """Return an AdamW; biases and the gains of LayerNorm are not decayed. The learning rate is the loop's to set.

    Parameters
    ----------
    name : {"adamw", "adamw8bit", "paged_adamw8bit"}
    parameters : list of Parameter
    weight_decay : float
        Of matrices.

    Raises
    ------
    ImportError
        If an 8-bit optimizer is asked for and bitsandbytes is not installed.
    ValueError
        If one is asked for off CUDA.
    """
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if OPTIMIZERS[name] is None:
        return AdamW(groups, lr=0.0)
    device = parameters[0].device.type
    if device != "cuda":
        raise ValueError(f"optimizer={name!r} needs a CUDA device, and this is {device!r}. Use optimizer='adamw'.")
    bitsandbytes_ops()
    import bitsandbytes.optim

    return getattr(bitsandbytes.optim, OPTIMIZERS[name])(groups, lr=0.0)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, object], dict[str, Tensor]]:
    """What an optimizer has gathered: numbers for JSON and tensors, by "parameter.name"."""
    numbers, tensors = {}, {}
    for i, of_parameter in optimizer.state_dict()["state"].items():
        for name, value in of_parameter.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{i}.{name}"] = value
    return numbers, tensors


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, numbers: dict[str, object], tensors: dict[str, Tensor]
) -> None:
    """Go on from a copy of an `optimizer_state`."""
    state: dict[int, dict[str, object]] = {}
    for key, value in (numbers | tensors).items():
        i, name = key.split(".", 1)
        state.setdefault(int(i), {})[name] = value.clone() if isinstance(value, Tensor) else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
