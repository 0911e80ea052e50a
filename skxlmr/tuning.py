"""Tunings: what of a model is learned. Small objects with `get_params`, so that a grid search reaches them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, validate_parameter_constraints
from torch import Tensor, nn

from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel

# Linear layers of an encoder layer, with their input and output widths.
LINEAR_LAYERS = {
    "query": ("hidden_size", "hidden_size"),
    "key": ("hidden_size", "hidden_size"),
    "value": ("hidden_size", "hidden_size"),
    "output": ("hidden_size", "hidden_size"),
    "up": ("hidden_size", "intermediate_size"),
    "down": ("intermediate_size", "hidden_size"),
}

# Where they are in the encoder layer.
PATHS = {name: f"{'ffn' if name in ('up', 'down') else 'attention'}.{name}" for name in LINEAR_LAYERS}


class LowRank(nn.Module):
    """Add the term `scale * B A x` of low-rank adaptation to y, (T, in) and (T, out) -> (T, out).

    B starts at zero: nothing is changed.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, in_features))
        self.b = nn.Parameter(torch.zeros(out_features, rank))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        low = F.linear(self.dropout(x.to(self.a.dtype)), self.a)
        if y.dtype == low.dtype:
            return torch.addmm(y, low, self.b.t(), alpha=self.scale)
        return y + F.linear(low * self.scale, self.b).to(y.dtype)

    def merge_into(self, layer: nn.Linear) -> None:
        """Add the term to a linear layer's own weights."""
        layer.weight += (self.b @ self.a * self.scale).to(layer.weight)

    @property
    def kept_per_token(self) -> int:
        """Numbers kept for the backward pass: the input, the mask of its dropout, and the thin product."""
        rank, in_features = self.a.shape
        return in_features * (2 if self.dropout.p else 1) + rank


class AddedBias(nn.Module):
    """Add a bias to y, on top of the linear layer's own, (T, out) -> (T, out). It starts at zero."""

    kept_per_token = 0

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.bias.to(y.dtype)

    def merge_into(self, layer: nn.Linear) -> None:
        """Add it to a linear layer's own."""
        layer.bias += self.bias.to(layer.bias)


class LayerAdapter(nn.ModuleDict):
    """The deltas of one encoder layer, by the name of the linear layer that each is added to."""

    def get(self, name: str) -> nn.Module | None:
        """Return the delta of that linear layer, or None."""
        return self._modules.get(name)


class Tuning(BaseEstimator):
    """Base of the tunings."""

    # For Adam, by the size of what is learned; the constructor of an estimator overrides it.
    default_learning_rate: float
    trains_base = False
    layers: int | None = None
    _parameter_constraints: dict = {}

    def build(self, config: XLMRobertaXLConfig) -> nn.ModuleList | None:
        """Make what is added to the frozen base: one `LayerAdapter` per layer, or None."""
        return None

    def copy_weights(self, base: XLMRobertaXLModel) -> nn.ModuleDict | None:
        """Copy those parts of the base that learn, by their names there, in float32; None where none does."""
        return None

    def num_frozen_layers(self, config: XLMRobertaXLConfig) -> int:
        """Layers of the base below the first one that anything learns in.

        Raises
        ------
        ValueError
            If more layers are to learn than there are.
        """
        depth = config.num_hidden_layers
        if self.layers is not None and self.layers > depth:
            raise ValueError(f"{type(self).__name__} layers={self.layers}, but this model has {depth} layers.")
        return 0 if self.layers is None else depth - self.layers


class LoRA(Tuning):
    """Low-rank adaptation: every chosen linear layer learns a product of two thin matrices.

    Parameters
    ----------
    rank : int, default=8
        Width of the thin matrices.
    alpha : float, default=16
        The product is scaled by `alpha / rank`.
    dropout : float, default=0.0
        On the input of the thin matrices, while training.
    targets : sequence of str, default=("query", "value")
        Among "query", "key", "value", "output", "up", "down". The default is that of Hu et al. (2021), section 4.2.
    layers : int or None, default=None
        Adapt only the topmost layers, so many; None adapts all.

    References
    ----------
    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685.

    Examples
    --------
    >>> from skxlmr import LoRA, XLMRXLClassifier
    >>> XLMRXLClassifier(tuning=LoRA(rank=4)).get_params()["tuning__rank"]
    4
    """

    # The paper's appendix D has 4e-4 to 5e-4 for RoBERTa base and 3e-4 to 4e-4 for large.
    default_learning_rate = 5e-4
    _parameter_constraints = {
        "rank": [Interval(Integral, 1, None, closed="left")],
        "alpha": [Interval(Real, 0, None, closed="neither")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "targets": ["array-like"],
        "layers": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16,
        dropout: float = 0.0,
        targets: Sequence[str] = ("query", "value"),
        layers: int | None = None,
    ) -> None:
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.targets = targets
        self.layers = layers

    def build(self, config: XLMRobertaXLConfig) -> nn.ModuleList:
        """Make one `LayerAdapter` per encoder layer; those of untouched layers are empty.

        Raises
        ------
        ValueError
            If a parameter cannot be used with this model.
        """
        validate_parameter_constraints(self._parameter_constraints, self.get_params(deep=False), "LoRA")
        unknown = [name for name in self.targets if name not in LINEAR_LAYERS]
        if unknown or not len(self.targets):
            raise ValueError(f"LoRA targets must be among {sorted(LINEAR_LAYERS)}, got {self.targets!r}.")
        first = self.num_frozen_layers(config)

        def delta(name: str) -> LowRank:
            in_features, out_features = (getattr(config, width) for width in LINEAR_LAYERS[name])
            return LowRank(in_features, out_features, self.rank, self.alpha / self.rank, self.dropout)

        return nn.ModuleList(
            LayerAdapter({name: delta(name) for name in self.targets} if i >= first else {})
            for i in range(config.num_hidden_layers)
        )


class Bias(Tuning):
    """Learn only biases: one is added to every linear layer of the encoder (BitFit).

    What the bias of a LayerNorm could learn they learn too, since its output goes into linear layers only.

    Parameters
    ----------
    layers : int or None, default=None
        Only those of the topmost layers, so many; None means all.

    References
    ----------
    Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
    arXiv:2106.10199.

    Examples
    --------
    >>> from skxlmr import Bias, XLMRXLClassifier
    >>> XLMRXLClassifier(tuning=Bias())
    XLMRXLClassifier(tuning=Bias())
    """

    default_learning_rate = 1e-3  # in the examples of the paper's own code
    _parameter_constraints = {"layers": [Interval(Integral, 1, None, closed="left"), None]}

    def __init__(self, layers: int | None = None) -> None:
        self.layers = layers

    def build(self, config: XLMRobertaXLConfig) -> nn.ModuleList:
        """Make one `LayerAdapter` per encoder layer; those of untouched layers are empty.

        Raises
        ------
        ValueError
            If a parameter cannot be used with this model.
        """
        validate_parameter_constraints(self._parameter_constraints, self.get_params(deep=False), "Bias")
        first = self.num_frozen_layers(config)
        widths = {name: getattr(config, out_features) for name, (_, out_features) in LINEAR_LAYERS.items()}
        return nn.ModuleList(
            LayerAdapter({name: AddedBias(width) for name, width in widths.items()} if i >= first else {})
            for i in range(config.num_hidden_layers)
        )


class Head(Tuning):
    """Learn only the head: the base runs once over the texts, and the epochs run over its features.

    Examples
    --------
    >>> from skxlmr import Head, XLMRXLClassifier
    >>> XLMRXLClassifier(tuning=Head())
    XLMRXLClassifier(tuning=Head())
    """

    default_learning_rate = 1e-3  # Adam's own (arXiv:1412.6980), and that of scikit-learn's MLPClassifier

    def num_frozen_layers(self, config: XLMRobertaXLConfig) -> int:
        """All of them."""
        return config.num_hidden_layers


class Full(Tuning):
    """Learn the base's own weights, on a float32 copy that belongs to the estimator and goes into its pickle.

    Parameters
    ----------
    layers : int or None, default=None
        Only the topmost layers, so many, and the final LayerNorm; None means every weight, the embeddings too.

    Examples
    --------
    >>> from skxlmr import Full, XLMRXLClassifier
    >>> XLMRXLClassifier(tuning=Full())
    XLMRXLClassifier(tuning=Full())
    """

    # RoBERTa (arXiv:1907.11692), appendix C: 1e-5 to 3e-5 on GLUE.
    default_learning_rate = 2e-5
    trains_base = True
    _parameter_constraints = {"layers": [Interval(Integral, 1, None, closed="left"), None]}

    def __init__(self, layers: int | None = None) -> None:
        self.layers = layers

    def build(self, config: XLMRobertaXLConfig) -> None:
        """Add nothing; see that the parameters can be used with this model.

        Raises
        ------
        ValueError
            If they cannot.
        """
        validate_parameter_constraints(self._parameter_constraints, self.get_params(deep=False), "Full")
        self.num_frozen_layers(config)

    def copy_weights(self, base: XLMRobertaXLModel) -> nn.ModuleDict:
        """Copy the topmost layers and the final LayerNorm, or everything, in float32."""
        parts = {"layers": base.layers[self.num_frozen_layers(base.config) :], "norm": base.norm}
        if self.layers is None:
            parts["embeddings"] = base.embeddings
        return nn.ModuleDict({name: copy.deepcopy(part).float().requires_grad_() for name, part in parts.items()})


TUNINGS = {"lora": LoRA, "bias": Bias, "head": Head, "full": Full}


def as_tuning(tuning: str | Tuning) -> Tuning:
    """Return the tuning object that a shorthand stands for."""
    return TUNINGS[tuning]() if isinstance(tuning, str) else tuning
