"""What a checkpoint and a model do not have in common: the warnings of `from_pretrained` and its loading info."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from skxlmr.checkpoints.keymap import LoadPlan
from skxlmr.system.warn import warn


class NewHeadWarning(UserWarning):
    """A checkpoint lacks the weights of a part of the model, which therefore starts with random ones."""


class UnusedTensorsWarning(UserWarning):
    """A checkpoint has a head or buffers that no model class knows, which are not loaded."""


def warn_of_new_parts(model: str, names: Sequence[str]) -> None:
    """Warn that a checkpoint lacks parameters, which therefore are random."""
    warn(
        f"{model!r} has no weights for {', '.join(names)}: they start from random numbers. "
        f"Train them before you use their outputs.",
        NewHeadWarning,
    )


def warn_of_differences(model: str, plan: LoadPlan, prefix: str) -> None:
    """Warn of what a checkpoint lacks, has in another size, or has beside the model; names are cut by `prefix`."""
    resized = {ours for _, ours, _, _ in plan.mismatched}
    new = [name.removeprefix(prefix) for name in plan.new if name not in resized]
    if new:
        warn_of_new_parts(model, new)
    if plan.mismatched:
        sizes = "; ".join(f"{key} is {theirs}, not {ours}" for key, _, theirs, ours in plan.mismatched)
        warn(
            f"Weights of {model!r} have other sizes: {sizes}. Those of the model start from random numbers. "
            f"Train them before you use their outputs.",
            NewHeadWarning,
        )
    if plan.unexpected:
        warn(f"{model!r} has tensors that are not loaded: {', '.join(plan.unexpected)}.", UnusedTensorsWarning)


def loading_info(plan: LoadPlan, to_theirs: Callable[[str], str]) -> dict[str, Any]:
    """Return what `from_pretrained(output_loading_info=True)` returns beside the model, as in the reference."""
    resized = {ours for _, ours, _, _ in plan.mismatched}
    return {
        "missing_keys": {to_theirs(name) for name in plan.new if name not in resized},
        "unexpected_keys": {*plan.unused, *plan.unexpected},
        "mismatched_keys": {(to_theirs(ours), found, wanted) for _, ours, found, wanted in plan.mismatched},
        "error_msgs": [],
    }
