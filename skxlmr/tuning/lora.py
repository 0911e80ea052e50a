"""Low-rank adaptation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from skxlmr.model import XLMRobertaXLConfig
from skxlmr.system.module_patterns import Patterns, ends_with_one
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.tuning.adapters import LINEAR_LAYERS, NORM_PATHS, AddedBias, LayerAdapter, LowRank, layer_widths
from skxlmr.tuning.base import LAYERS, Tuning


@dataclass(frozen=True)
class Term:
    """The low-rank term of one linear layer."""

    rank: int
    alpha: float


ALL_LINEAR = "all-linear"  # in peft, too


@declare_parameters
class LoRA(Tuning):
    """Low-rank adaptation: train a product of two low-rank matrices beside each target linear layer.

    The full name of a linear layer is such as "layers.3.up", for that of the fourth layer. In `targets`, "layers.3.up"
    and "up", with which it ends, both mean it. The keys of `rank_pattern` and `alpha_pattern` are regular expressions
    that match the full name, or its end after a dot, as in peft: {"up": 4}, {"layers.3.up": 4} or
    {"layers.[0-3].*": 4}. If several match, the first counts.

    Parameters
    ----------
    rank : int
        Rank of the product; "r" in peft.
    alpha : float
        The product is scaled by `alpha / rank`.
    dropout : float
        Dropout on the input of the product during training.
    targets : sequence of str, or "all-linear"
        Among "query", "key", "value", "output", "up", "down", of all layers or of one ("layers.3.up"); the default,
        and "all-linear", is all of them.
    layers : int, float, sequence of int or None
        Adapt only this many of the topmost layers, or this share of all layers; a sequence has the numbers of the
        layers, from 0; None adapts all. The layers below the first adapted one run once per text, as long as the
        feature cache has room.
    rslora : bool
        Scale by `alpha / sqrt(rank)` instead, so that larger ranks do not learn more slowly (arXiv:2312.03732).
    rank_pattern : dict or None
        Other ranks of some of the layers, such as {"query": 4, "layers.3.up": 16}.
    alpha_pattern : dict or None
        Other values of `alpha` for some of the layers.
    bias : {"none", "lora_only", "all"}
        Whether biases are trained, too: those of the adapted linear layers, or all of the encoder, LayerNorms included.

    Notes
    -----
    The defaults are those of a study on multilingual-e5-small (`benchmarks/NOTES.md`): all matrices were better than
    query and value alone, and the upper half of the layers as good as all, in half of the time. With
    `learning_rate="auto"` the rate is 1.5e-3 for models of width 384, and falls with the root of the width.

    References
    ----------
    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685.

    Examples
    --------
    >>> from skxlmr import LoRA, XLMRXLClassifier
    >>> XLMRXLClassifier(tuning=LoRA(rank=4)).get_params()["tuning__rank"]
    4
    """

    rank: int = parameter(default=8, valid=[Interval(Integral, 1, None, closed="left")], kw_only=False)
    alpha: float = parameter(default=16, valid=[Interval(Real, 0, None, closed="neither")], kw_only=False)
    dropout: float = parameter(default=0.0, valid=[Interval(Real, 0, 1, closed="left")], kw_only=False)
    targets: Sequence[str] | str = parameter(
        default=("query", "key", "value", "output", "up", "down"),
        valid=["array-like", StrOptions({ALL_LINEAR})],
        kw_only=False,
    )
    layers: int | float | Sequence[int] | None = parameter(default=0.5, valid=[*LAYERS, "array-like"], kw_only=False)
    rslora: bool = parameter(default=False, valid=["boolean"])
    rank_pattern: dict[str, int] | None = parameter(default=None, valid=[dict, None])
    alpha_pattern: dict[str, float] | None = parameter(default=None, valid=[dict, None])
    bias: str = parameter(default="none", valid=[StrOptions({"none", "lora_only", "all"})])

    def check(self) -> None:
        """Raise a ValueError if a parameter is not valid for any model."""
        super().check()
        self._check_pattern("rank_pattern", Interval(Integral, 1, None, closed="left"))
        self._check_pattern("alpha_pattern", Interval(Real, 0, None, closed="neither"))
        numbers = self._layer_list()
        if numbers is not None:
            from_0 = Interval(Integral, 0, None, closed="left")
            if not numbers or not all(from_0.is_satisfied_by(n) and not isinstance(n, bool) for n in numbers):
                raise ValueError(f"LoRA layers must be numbers of layers, from 0, got {self.layers!r}.")

    def _layer_list(self) -> list[int] | None:
        """Return the numbers of layers if `layers` has them; None if it is their count or share."""
        layers: Any = self.layers
        return None if layers is None or isinstance(layers, Real) else list(layers)

    def _check_pattern(self, name: str, valid: Interval) -> None:
        for key, value in (getattr(self, name) or {}).items():
            if not isinstance(key, str):
                raise ValueError(f"LoRA {name}: the key {key!r} must be a str, the name of a linear layer.")
            if isinstance(value, bool) or not valid.is_satisfied_by(value):
                raise ValueError(f"LoRA {name}[{key!r}] must be {valid}, got {value!r}.")

    def default_learning_rate(self, config: XLMRobertaXLConfig) -> float:
        """Return a rate that falls with the width: 1.5e-3 for e5-small, 5.8e-4 for XL.

        The appendix D of the paper has 3e-4 to 4e-4 for RoBERTa large, of width 1,024, where this is 9e-4.
        """
        return 1.5e-3 * math.sqrt(384 / config.hidden_size)

    def scale(self, term: Term) -> float:
        """Return the factor of a low-rank product."""
        return term.alpha / (math.sqrt(term.rank) if self.rslora else term.rank)

    def num_frozen_layers(self, config: XLMRobertaXLConfig) -> int:
        """Count the layers of the base below the first one that is adapted.

        Raises
        ------
        ValueError
            If a parameter is not valid for this model.
        """
        terms = self.terms(config)
        return 0 if self.bias == "all" else next(i for i, of_layer in enumerate(terms) if of_layer)

    def terms(self, config: XLMRobertaXLConfig) -> list[dict[str, Term]]:
        """Return the low-rank terms of each encoder layer, by the names of their linear layers.

        Raises
        ------
        ValueError
            If a parameter is not valid for this model.
        """
        self.check()
        chosen = self._layer_numbers(config)
        targets = list(LINEAR_LAYERS) if isinstance(self.targets, str) else list(self.targets)
        every = [f"layers.{i}.{name}" for i in range(config.num_hidden_layers) for name in LINEAR_LAYERS]
        known = {*every, *LINEAR_LAYERS}
        unknown = [name for name in targets if not isinstance(name, str) or name not in known]
        if unknown or not targets:
            raise ValueError(
                f"LoRA targets must be among {sorted(LINEAR_LAYERS)}, of one layer such as 'layers.0.query', or "
                f"{ALL_LINEAR!r}; got {unknown[0] if unknown else targets!r}. This model has "
                f"{config.num_hidden_layers} layers."
            )
        adapted = [name for name in every if ends_with_one(name, set(targets))]
        adapted = [name for name in adapted if int(name.split(".")[1]) in chosen]
        if not adapted:
            raise ValueError(f"LoRA targets={targets!r} are not in any of the layers={self.layers!r} of this model.")
        ranks = self._values("rank_pattern", adapted, self.rank)
        alphas = self._values("alpha_pattern", adapted, self.alpha)
        terms: list[dict[str, Term]] = [{} for _ in range(config.num_hidden_layers)]
        for name in adapted:
            _, number, target = name.split(".")
            terms[int(number)][target] = Term(int(ranks[name]), float(alphas[name]))
        return terms

    def _layer_numbers(self, config: XLMRobertaXLConfig) -> set[int]:
        depth = config.num_hidden_layers
        listed = self._layer_list()
        if listed is None:
            return set(range(super().num_frozen_layers(config), depth))
        numbers = set(map(int, listed))
        if max(numbers) >= depth:
            raise ValueError(f"LoRA layers has {max(numbers)}, but this model has layers 0 to {depth - 1}.")
        return numbers

    def _values(self, name: str, adapted: Sequence[str], default: float) -> dict[str, float]:
        """Return the value of each adapted linear layer, by its full name."""
        given = getattr(self, name) or {}
        try:
            patterns = Patterns(given)
        except ValueError as error:
            raise ValueError(f"LoRA {name}: the key {error}.") from error
        matching = {layer: patterns.matching(layer) for layer in adapted}
        for key in given:
            if not any(map(Patterns([key]).matching, adapted)):
                raise ValueError(
                    f"LoRA {name}: the key {key!r} matches none of the adapted linear layers. These are "
                    f"{', '.join(adapted[:6])}{', ...' if len(adapted) > 6 else ''}."
                )
        return {layer: default if key is None else given[key] for layer, key in matching.items()}

    def build(self, config: XLMRobertaXLConfig) -> nn.ModuleList:
        """Make one `LayerAdapter` per encoder layer; those of layers that are not adapted are empty.

        Raises
        ------
        ValueError
            If a parameter cannot be used with this model.
        """
        with_bias = self.bias != "none"
        layers = []
        for i, of_layer in enumerate(self.terms(config)):
            widths = layer_widths(config, i)
            deltas: dict[str, nn.Module] = {}
            for name, term in of_layer.items():
                in_features, out_features = widths[name]
                scale = self.scale(term)
                deltas[name] = LowRank(in_features, out_features, term.rank, scale, self.dropout, bias=with_bias)
            layers.append(LayerAdapter(deltas))
        if self.bias == "all":
            for i, layer in enumerate(layers):
                rest = {name: width for name, (_, width) in layer_widths(config, i).items() if name not in layer}
                layer.update({name: AddedBias(width) for name, width in rest.items()})
                layer.update({name: AddedBias(config.hidden_size) for name in NORM_PATHS})
            outer = (layers[-1], "norm") if config.pre_layer_norm else (layers[0], "embeddings_norm")
            outer[0][outer[1]] = AddedBias(config.hidden_size)
        return nn.ModuleList(layers)
