"""Translation between the keys of a checkpoint and the parameter names of a model, and their comparison."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from skxlmr.checkpoints.errors import CheckpointMismatchError
from skxlmr.checkpoints.formats import TensorInfo

PLACEHOLDERS = {"{i}": "(?P<i>0|[1-9][0-9]{0,4})", "{p}": "(?P<p>weight|bias|SCB)"}
OLD_NAMES = {"gamma": "weight", "beta": "bias"}  # of the parameters of LayerNorms
MAX_SHOWN = 10  # differences in an error message
PART_OF_ENCODER = re.compile(r"(.*\.)?(embeddings|encoder)\..*")


class KeyMap:
    """Bijection between checkpoint keys and the parameter names of this package.

    The rules are pairs of templates `(theirs, ours)`: `{i}` stands for the number of a layer, `{p}` for "weight",
    "bias" or "SCB" (the scales of an 8-bit weight), and both sides have the same placeholders. Keys that match a
    template in `ignored`, such as buffers and second names of tied weights, are skipped. Raises ValueError if the
    rules are not a bijection.

    >>> key_map = KeyMap([("encoder.layer.{i}.output.dense.{p}", "layers.{i}.down.{p}")], ignored=["position_ids"])
    >>> key_map.to_ours("encoder.layer.3.output.dense.bias")
    'layers.3.down.bias'
    """

    def __init__(self, rules: Sequence[tuple[str, str]], *, ignored: Sequence[str] = ()) -> None:
        self._from_theirs = [(_pattern(theirs), ours) for theirs, ours in rules]
        self._from_ours = [(_pattern(ours), theirs) for theirs, ours in rules]
        self._ignored = [_pattern(template) for template in ignored]
        for theirs, ours in rules:
            for placeholder in PLACEHOLDERS:
                if theirs.count(placeholder) != ours.count(placeholder):
                    raise ValueError(f"{placeholder} is not on both sides of the rule ({theirs!r}, {ours!r})")
            for example, patterns in ((theirs, self._from_theirs), (ours, self._from_ours)):
                filled = example.format(i=0, p="weight")
                if sum(bool(pattern.fullmatch(filled)) for pattern, _ in patterns) > 1:
                    raise ValueError(f"{filled!r} is matched by more than one rule")

    def to_ours(self, theirs: str) -> str | None:
        """Return the parameter name for a checkpoint key; None if no rule matches.

        Checkpoints that were converted from TensorFlow have other names of the parameters of LayerNorms.
        """
        begin, _, end = theirs.rpartition(".")
        if end in OLD_NAMES and begin.endswith("LayerNorm"):
            theirs = f"{begin}.{OLD_NAMES[end]}"
        return _translate(theirs, self._from_theirs)

    def to_theirs(self, ours: str) -> str:
        """Return the checkpoint key of a parameter; KeyError if no rule matches."""
        theirs = _translate(ours, self._from_ours)
        if theirs is None:
            raise KeyError(f"no rule of the key map matches the parameter {ours!r}")
        return theirs

    def has_ours(self, ours: str) -> bool:
        """Whether a rule matches a parameter name."""
        return _translate(ours, self._from_ours) is not None

    def is_ignored(self, theirs: str) -> bool:
        """Whether a checkpoint key is to be skipped."""
        return any(pattern.fullmatch(theirs) for pattern in self._ignored)


@dataclass(frozen=True)
class LoadPlan:
    """Which tensor of a checkpoint becomes which parameter; made by `match`, used by `load_into`."""

    assignments: list[tuple[str, str]]  # checkpoint key and parameter name, in the order of the tensors in the files
    new: list[str]  # parameters that are missing from the checkpoint, and may be
    unused: list[str]  # checkpoint keys that the model does not use, and need not
    unexpected: list[str] = field(default_factory=list)  # keys of unknown heads and buffers
    # Checkpoint key, parameter, and the shapes of both, where they differ; the parameters are in `new`, too.
    mismatched: list[tuple[str, str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)


def match(
    tensors: Mapping[str, TensorInfo],
    expected: Mapping[str, Sequence[int]],
    key_map: KeyMap,
    *,
    prefix: str = "roberta.",
    integers: Collection[str] = (),
    may_be_new: Sequence[str] = (),
    may_be_unused: Sequence[str] = (),
    allow_unknown_heads: bool = False,
    ignore_mismatched_sizes: bool = False,
    hint_at_heads: str = "",
    hint: str = "",
) -> LoadPlan:
    """Compare a checkpoint with a model of the `expected` shapes, before anything is allocated.

    A base model that is saved alone lacks the `prefix` of its keys, which is accepted if no key of the checkpoint has
    it. Parameters in `integers` must be int8 in the checkpoint, all others floating point. `may_be_new` lists prefixes
    of parameter names, one for each head that may be missing as a whole; `may_be_unused` lists prefixes (those that end
    with ".") or templates of checkpoint keys. `allow_unknown_heads` accepts other keys outside the encoder, and
    integers anywhere, which are buffers. `ignore_mismatched_sizes` makes a parameter of another shape new; without it,
    the message ends with `hint_at_heads` if parameters that may be new have another shape, or else with `hint`.

    Raises CheckpointMismatchError, with the first ten differences, if a parameter is missing, a key is unexpected, or a
    shape or dtype differs.

    >>> from pathlib import Path
    >>> tensors = {"dense.weight": TensorInfo((2, 3), torch.float16, Path("model.safetensors"))}
    >>> key_map = KeyMap([("roberta.dense.{p}", "dense.{p}"), ("head.{p}", "head.{p}")])
    >>> match(tensors, {"dense.weight": (2, 3), "head.bias": (2,)}, key_map, may_be_new=["head."])
    LoadPlan(assignments=[('dense.weight', 'dense.weight')], new=['head.bias'], unused=[], unexpected=[], mismatched=[])
    """
    bare = not any(key.startswith(prefix) for key in tensors)
    optional = [_pattern(template) for template in may_be_unused]
    beginnings = tuple(template for template in may_be_unused if template.endswith("."))
    assignments, unused, unexpected, tolerated = [], [], [], []
    for key in tensors:
        theirs = _full_key(key, key_map, prefix) if bare else key
        ours = key_map.to_ours(theirs)
        if ours is None and theirs in expected and not theirs.startswith(prefix):  # of a head that only the model knows
            ours = theirs
        if ours is not None and ours in expected:
            assignments.append((key, ours))
        elif key_map.is_ignored(theirs):
            continue
        elif theirs.startswith(beginnings) or any(pattern.fullmatch(theirs) for pattern in optional):
            unused.append(key)
        elif allow_unknown_heads and _is_outside(theirs, tensors[key].dtype, prefix):
            tolerated.append(key)
        else:
            unexpected.append(key)

    found = {ours for _, ours in assignments}
    absent_heads = tuple(head for head in may_be_new if not any(name.startswith(head) for name in found))
    new = [name for name in expected if name not in found and name.startswith(absent_heads)]
    missing = expected.keys() - found - set(new)
    lacked = [
        f"missing: {key_map.to_theirs(name) if key_map.has_ours(name) else name}"
        for name in expected
        if name in missing
    ]
    extra = [f"unexpected: {key}" for key in unexpected + (tolerated if missing else [])]
    half = MAX_SHOWN // 2  # show both kinds: they may be the same names under different prefixes
    differences = lacked[:half] + extra[:half] + lacked[half:] + extra[half:]
    mismatched = []
    for key, ours in assignments:
        info, shape = tensors[key], tuple(expected[ours])
        if info.shape != shape and ignore_mismatched_sizes:
            mismatched.append((key, ours, tuple(info.shape), shape))
        elif info.shape != shape:
            differences.append(f"shape: {key}: file has {info.shape}, config requires {shape}")
            hint = hint_at_heads if ours.startswith(tuple(may_be_new)) else hint
        elif ours in integers and info.dtype != torch.int8:
            differences.append(f"dtype: {key}: file has {info.dtype}, expected torch.int8")
        elif ours not in integers and not info.dtype.is_floating_point:
            differences.append(f"dtype: {key}: file has {info.dtype}, expected floating point")
    if differences:
        raise _mismatch(differences, (info.file for info in tensors.values()), hint)
    resized = {ours for _, ours, _, _ in mismatched}
    assignments = [pair for pair in assignments if pair[1] not in resized]
    return LoadPlan(assignments, [*new, *resized], unused, tolerated, mismatched)


def _is_outside(key: str, dtype: torch.dtype, prefix: str) -> bool:
    """Whether a key that no rule matches is that of a head or of a buffer: the model computes the same without it."""
    if not dtype.is_floating_point and dtype != torch.int8:
        return True
    return not key.startswith(prefix) and not PART_OF_ENCODER.fullmatch(key)


def _full_key(key: str, key_map: KeyMap, prefix: str) -> str:
    """Add the prefix of the base model to a key that lacks it; keys of heads never have it."""
    known = key_map.to_ours(key) is not None or key_map.is_ignored(key)
    prefixed = prefix + key
    if not known and (key_map.to_ours(prefixed) is not None or key_map.is_ignored(prefixed)):
        return prefixed
    return key


def _mismatch(differences: list[str], files: Iterable[object], hint: str) -> CheckpointMismatchError:
    more = f"\n  and {len(differences) - MAX_SHOWN} more" if len(differences) > MAX_SHOWN else ""
    listed = "".join(f"\n  {difference}" for difference in differences[:MAX_SHOWN])
    where = ", ".join(sorted({str(file) for file in files})[:2])
    return CheckpointMismatchError(
        f"The checkpoint does not fit the model that its config describes ({where or 'it is empty'}):{listed}{more}"
        + (f"\n{hint}" if hint else "")
    )


def _pattern(template: str) -> re.Pattern:
    parts = re.split(r"(\{i\}|\{p\})", template)
    return re.compile("".join(PLACEHOLDERS.get(part, re.escape(part)) for part in parts))


def _translate(name: str, rules: Sequence[tuple[re.Pattern, str]]) -> str | None:
    for pattern, template in rules:
        found = pattern.fullmatch(name)
        if found:
            return template.format(**found.groupdict())
    return None
