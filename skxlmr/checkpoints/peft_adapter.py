"""Adapters of peft: what adapter_config.json says, and which tensors of the file belong to which module."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from skxlmr.checkpoints import layout
from skxlmr.checkpoints.decoders import WORDS
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import checked_as, checked_file, read_json, read_json_as
from skxlmr.checkpoints.fingerprint import weights_digest
from skxlmr.checkpoints.formats import TensorInfo, open_weights
from skxlmr.system.module_patterns import Patterns, compile_pattern, ends_with_one
from skxlmr.system.schema import POSITIVE, Rule, one_of, shown

CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # in order of preference
LABELS = "labels.json"  # transformers would take a directory with a config.json for a whole model
PEFT_PREFIX = "base_model.model."
ALL_LINEAR = "all-linear"

MERGE = "Merge it in peft, with merge_and_unload() and save_pretrained(), and use that directory"
# Options of LoRA that compute something else, by their entries in adapter_config.json.
UNSUPPORTED = {
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "replicated layers",
    "target_parameters": "adapters of single parameters",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
# Ways to start a LoRA that change the weights of the base, too.
CHANGING_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")

# The parts of a low-rank term, by the ends of the names of their tensors.
PARTS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "a",
    ".lora_embedding_B": "b",
    ".lora_B.bias": "bias",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}

ROWS = re.compile(r"(\.token_adapter)?\.trainable_tokens_delta$")  # the end of the name of trained rows of an embedding
WRAPPERS = re.compile(r"\.(modules_to_save(\.default)?|token_adapter|base_layer)(?=\.)")  # in names of parameters

KINDS = ("LORA", "TRAINABLE_TOKENS")

FIRST_NUMBER = re.compile(r".*?\.[^.]*\.(\d+)\.")

FINITE = Annotated[float, Rule("a number above 0", lambda number: 0 < number < 1e30)]
SHARE = Annotated[float, Rule("a number from 0 to below 1", lambda number: 0 <= number < 1)]


@dataclass
class AdapterConfig:
    """The entries of adapter_config.json that are read.

    `fan_in_fan_out` is not: it is about layers that store their matrices transposed, of which these models have none.
    """

    base_model_name_or_path: str | None = None
    revision: str | None = None
    task_type: str | None = None
    auto_mapping: dict[str, Any] | None = None
    r: POSITIVE = 8
    lora_alpha: FINITE = 8
    lora_dropout: SHARE = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: dict[str, POSITIVE] | None = None
    alpha_pattern: dict[str, FINITE] | None = None
    target_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    bias: one_of("none", "all", "lora_only") = "none"  # type: ignore[valid-type]
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    token_indices: list[int] | None = None  # of an adapter that trains tokens alone

    def tokens_of(self, module: str) -> list[int] | None:
        """Return the numbers of the rows that are trained of an embedding; None if there are none."""
        if self.trainable_token_indices is None:
            return self.token_indices
        if isinstance(self.trainable_token_indices, list):  # of the word embedding, and of what is tied to it
            return self.trainable_token_indices
        named = [ids for name, ids in self.trainable_token_indices.items() if ends_with_one(module, {name})]
        return next(iter([*named, *self.trainable_token_indices.values()]), None)


@dataclass
class Labels:
    """What peft does not store of a head: entries of `LABELS`, or of a config.json, beside the adapter."""

    id2label: dict[str, str | int | float] | None = None
    problem_type: str | None = None


@dataclass(frozen=True)
class LowRankTensors:
    """The names of the tensors of a low-rank term in the file, its rank and its alpha.

    That of an embedding is transposed: its product is (H, V), and what it is added to (V, H). With DoRA
    (arXiv:2402.09353), `magnitude` is what the rows of the matrix are scaled to, the low-rank term included.
    """

    a: str
    b: str
    bias: str | None
    rank: int
    alpha: float
    scale: float
    magnitude: str | None = None
    of_embedding: bool = False


@dataclass(frozen=True)
class TokenRows:
    """Rows of an embedding that are replaced: their numbers, and the name of their tensor in the file."""

    tensor: str
    numbers: list[int]


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter of peft.

    Modules and parameters have the names of transformers, without the prefix of peft.
    """

    directory: Path
    config: AdapterConfig
    weights: Path
    terms: dict[str, LowRankTensors]  # by module
    replaced: dict[str, str]  # parameters that the adapter has whole, and the names of their tensors
    tensors: dict[str, TensorInfo] = field(repr=False)  # by their names in the file
    labels: Labels | None = None
    rows: dict[str, TokenRows] = field(default_factory=dict)  # by module

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of what the adapter computes."""
        terms = {
            name: (term.scale, term.a, term.b, term.bias, *filter(None, [term.magnitude]))
            for name, term in sorted(self.terms.items())
        }
        rows = [[module, rows.tensor, rows.numbers] for module, rows in sorted(self.rows.items())]
        parts = (terms, sorted(self.replaced.items()), weights_digest([self.weights]), *filter(None, [rows]))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def changes_words(self) -> bool:
        """Whether it has another word embedding, or another decoder of a language model."""
        names = [*self.replaced, *(f"{module}.weight" for module in (*self.terms, *self.rows))]
        return any(name.endswith((WORDS, "decoder.weight")) for name in names)

    @property
    def n_labels(self) -> int | None:
        """The number of labels of its classification head; None if it has none."""
        heads = [
            self.replaced[name] for name in ("classifier.out_proj.weight", "classifier.weight") if name in self.replaced
        ]
        return self.tensors[heads[0]].shape[0] if heads and self.tensors[heads[0]].shape else None


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter of peft, and no whole model."""
    return (directory / CONFIG).is_file() and not any(os.path.lexists(directory / name) for name in layout.WEIGHTS)


def read_adapter_config(directory: Path, root: Path | None = None) -> AdapterConfig:
    """Read adapter_config.json.

    Raises CheckpointError if it is damaged, not of a LoRA, or of one that computes something that is not supported.
    """
    path = checked_file(directory / CONFIG, root or directory)
    content = read_json(path)
    kind = content.get("peft_type")
    if kind not in KINDS:
        raise CheckpointError(
            f"{path} is of an adapter of the type {shown(kind)}; of peft's adapters only those of LoRA and of trained "
            f"tokens are read. {MERGE}, if peft can merge it."
        )
    for name, what in UNSUPPORTED.items():
        if content.get(name):
            raise CheckpointError(f"{path} has {name}={shown(content[name])}: {what} is not supported. {MERGE}.")
    start = content.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGING_STARTS):
        raise CheckpointError(
            f"{path} has init_lora_weights={start!r:.60}, which also changes the weights of the base model. {MERGE}."
        )
    present = {name: value for name, value in content.items() if value is not None}
    return checked_as(AdapterConfig, present, path)


def base_name(config: AdapterConfig) -> str:
    """Return the name of the base model of an adapter, with its revision if it is on the hub; "" if it has none."""
    name = config.base_model_name_or_path or ""
    is_local = os.path.exists(name) or "/" not in name
    return name if is_local or not config.revision or "@" in name else f"{name}@{config.revision}"


def read_adapter(directory: Path, root: Path | None = None) -> PeftAdapter:
    """Read the config of an adapter, and the header of its weights.

    Raises CheckpointError if a file is missing or damaged, or has a tensor that does not belong to the adapter which
    the config describes.
    """
    config = read_adapter_config(directory, root)
    present = [name for name in ADAPTER_WEIGHTS if os.path.lexists(directory / name)]
    if not present:
        raise CheckpointError(f"{directory} has no weights of an adapter; looked for {', '.join(ADAPTER_WEIGHTS)}")
    weights = checked_file(directory / present[0], root or directory)
    with closing(open_weights(weights)) as file:
        tensors = dict(file.tensors)
    parts: dict[str, dict[str, str]] = {}  # of low-rank terms, by module
    replaced: dict[str, str] = {}
    rows: dict[str, TokenRows] = {}
    for name in tensors:
        if ROWS.search(name):
            module = ROWS.sub("", name).removeprefix(PEFT_PREFIX)
            rows[module] = _token_rows(name, tensors[name].shape, config.tokens_of(module), weights)
        else:
            _sort(name, parts, replaced, weights)
    if not parts and not rows:
        raise CheckpointError(f"{weights} has no tensors of a LoRA, whose names end with lora_A.weight")
    selection = _Selection(config, directory / CONFIG)
    terms = {module: selection.term(module, found, tensors) for module, found in parts.items()}
    beside = [directory / name for name in (LABELS, layout.CONFIG) if os.path.lexists(directory / name)]
    labels = read_json_as(Labels, checked_file(beside[0], root or directory)) if beside else None
    return PeftAdapter(directory, config, weights, terms, replaced, tensors, labels, rows)


def _token_rows(name: str, shape: tuple[int, ...], numbers: list[int] | None, where: Path) -> TokenRows:
    """Return the rows of a tensor; raises CheckpointError unless the config has a number for each."""
    if numbers is None or len(shape) != 2 or len(numbers) != shape[0] or len(set(numbers)) < len(numbers):
        raise CheckpointError(
            f"{where}: the tensor {name!r} has shape {shape}, but the numbers of its tokens in {CONFIG} "
            f"(trainable_token_indices) are {shown(numbers)}"
        )
    return TokenRows(name, numbers)


def _sort(name: str, parts: dict[str, dict[str, str]], replaced: dict[str, str], where: Path) -> None:
    """Add a tensor to the parts of the low-rank terms, or to the parameters that are replaced."""
    ours = name.removeprefix(PEFT_PREFIX)
    if not name.startswith(PEFT_PREFIX):
        raise CheckpointError(f"{where}: the tensor {name!r} is not one of a LoRA on linear layers. {MERGE}.")
    if ".original_module." in ours:  # a copy of the base's own parameter, which peft writes with bias="all"
        return
    for ending, part in PARTS.items():
        if ours.endswith(ending):
            parts.setdefault(ours.removesuffix(ending), {})[part] = name
            return
    if ".lora_" in ours:
        raise CheckpointError(f"{where}: the tensor {name!r} is not one of a LoRA on linear layers. {MERGE}.")
    plain = WRAPPERS.sub("", ours)
    if plain not in replaced or ours == plain:  # with bias="all" the biases of saved modules are there twice
        replaced[plain] = name


class _Selection:
    """Which modules an adapter is for, and their ranks and alphas, by its config; see peft's documentation."""

    def __init__(self, config: AdapterConfig, where: Path) -> None:
        self.config, self.where = config, where
        targets = config.target_modules
        self.regex = None
        self.targets = frozenset(targets if isinstance(targets, list) else ())
        try:
            if isinstance(targets, str) and targets.lower() != ALL_LINEAR:
                self.regex = compile_pattern(targets)
            self.ranks = Patterns(config.rank_pattern or {})
            self.alphas = Patterns(config.alpha_pattern or {})
            patterns = _as_list(config.layers_pattern or [])
            Patterns(patterns)
            self.layers = [re.compile(rf"(?:^|.*?\.){pattern}\.(\d+)\.") for pattern in patterns]
        except ValueError as error:
            raise CheckpointError(f"{where}: a pattern of the names of modules {error}") from error

    def selects(self, module: str) -> bool:
        """Whether the adapter is for a module."""
        targets = self.config.target_modules
        if self.regex is not None:
            return self.regex.fullmatch(module) is not None
        if not isinstance(targets, list):  # "all-linear"
            return True
        if not ends_with_one(module, self.targets):
            return False
        numbers = self.config.layers_to_transform
        return numbers is None or numbers == [] or self._layer(module) in _as_list(numbers)

    def _layer(self, module: str) -> int | None:
        """Return the number of the layer of a module; None if it is in none."""
        for pattern in self.layers or [FIRST_NUMBER]:
            found = pattern.match(module)
            if found and (found[1] or "").isdecimal():
                return int(found[1])
        return None

    def term(self, module: str, parts: dict[str, str], tensors: dict[str, TensorInfo]) -> LowRankTensors:
        """Return the low-rank term of a module; its shapes are compared with each other and with the config."""
        name = next(iter(parts.values()))
        if "a" not in parts or "b" not in parts:
            raise CheckpointError(f"{self.where.parent}: the tensor {name!r} lacks its other half, lora_A or lora_B")
        if not self.selects(module):
            raise CheckpointError(
                f"{self.where.parent} has the tensor {name!r}, but target_modules and layers_to_transform in "
                f"{self.where.name} leave its module out"
            )
        config, rank_key, alpha_key = self.config, self.ranks.matching(module), self.alphas.matching(module)
        rank = config.r if rank_key is None else (config.rank_pattern or {})[rank_key]
        alpha = config.lora_alpha if alpha_key is None else (config.alpha_pattern or {})[alpha_key]
        a, b = tensors[parts["a"]].shape, tensors[parts["b"]].shape
        if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
            raise CheckpointError(
                f"{self.where.parent}: the tensors of {module!r} have shapes {a} and {b}, but its rank is {rank} by "
                f"{self.where.name}"
            )
        magnitude = parts.get("magnitude")
        if (magnitude is not None) != config.use_dora:
            raise CheckpointError(
                f"{self.where} has use_dora={config.use_dora}, but {module!r} in {self.where.parent} has "
                f"{'no' if magnitude is None else 'a'} lora_magnitude_vector, the tensor of DoRA"
            )
        if magnitude is not None and tensors[magnitude].shape != b[:1]:
            raise CheckpointError(
                f"{self.where.parent}: the tensor {magnitude!r} has shape {tensors[magnitude].shape}, not {b[:1]}"
            )
        scale = alpha / (rank**0.5 if config.use_rslora else rank)
        of_embedding = "lora_embedding_" in name
        if of_embedding and magnitude is not None:
            raise CheckpointError(f"{self.where.parent}: DoRA on an embedding, {module!r}, is not supported. {MERGE}.")
        bias = parts.get("bias")
        return LowRankTensors(parts["a"], parts["b"], bias, rank, float(alpha), scale, magnitude, of_embedding)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
