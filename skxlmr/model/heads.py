"""The heads that are trained on the encoder's hidden states.

Notation: B texts, T packed tokens, H hidden size, F features of the last layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.initialisation import initialise, linear_head
from skxlmr.model.layers import Pooler
from skxlmr.model.sentence_layers import SentenceLayers

# Root mean square of the inputs of a tanh that starts as an almost linear map.
NEARLY_LINEAR = 0.3


def head_dropout(config: XLMRobertaXLConfig) -> float:
    """Return the dropout of a classification head: its own, or else that of the layers."""
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


class Head(nn.Module):
    """Base class of the heads: `last`, a linear layer, on the features that `project` makes of hidden states.

    A linear model of these features can thus be the start of a head.
    """

    @property
    def last(self) -> nn.Linear:
        raise NotImplementedError

    def project(self, x: Tensor) -> Tensor:
        """Compute the inputs of the last layer, (B, H) -> (B, F)."""
        return x

    def prepare(self, x: Tensor) -> None:
        """Set the layers below the last one, from hidden states (B, H), so that they keep what these hold."""

    @torch.no_grad()
    def start(self, weight: Tensor, bias: Tensor) -> None:
        """Set the last layer, (num_labels, F) and (num_labels,)."""
        self.last.weight.copy_(weight)
        self.last.bias.copy_(bias)


class PooledHead(Head):
    """Dropout and a linear layer on pooled vectors, (B, H) -> (B, num_labels).

    The vectors first pass through the frozen `layers` of the checkpoint, if there are any. If `normalize`, they are
    scaled to length sqrt(D), where D is their number of dimensions, so that the mean square of their entries is 1.
    """

    def __init__(
        self, config: XLMRobertaXLConfig, num_labels: int, normalize: bool, layers: SentenceLayers | None = None
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.layers = SentenceLayers((), config.hidden_size) if layers is None else layers
        self.dropout = nn.Dropout(head_dropout(config))
        self.linear = linear_head(config, num_labels, self.layers.width)

    @property
    def last(self) -> nn.Linear:
        return self.linear

    def project(self, x: Tensor) -> Tensor:
        x = self.layers(x)
        return F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 if self.normalize else x

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.project(x))
        if self.training or x.device.type == "mps":  # which has no float64
            return self.linear(x)
        # In float64, so that the order of sums, which depends on the size of the batch, does not show in the results.
        return F.linear(x.double(), self.linear.weight.double(), self.linear.bias.double()).float()


class PairHead(PooledHead):
    """A linear layer on u, v, |u - v| and u * v of the vectors u and v of two texts; (B, 2, H) -> (B, num_labels).

    The features are those of InferSent (arXiv:1705.02364). There is no dropout: the cosine of two vectors, the sum of
    their products, varies less between pairs of texts than it would with dropout.
    """

    def __init__(
        self, config: XLMRobertaXLConfig, num_labels: int, normalize: bool, layers: SentenceLayers | None = None
    ) -> None:
        super().__init__(config, num_labels, normalize, layers)
        self.dropout = nn.Dropout(0.0)
        self.linear = linear_head(config, num_labels, 4 * self.layers.width)

    def project(self, x: Tensor) -> Tensor:
        u, v = super().project(x).unbind(1)
        return torch.cat([u, v, (u - v).abs(), u * v], dim=-1)


class ClassificationHead(Head):
    """Dropout, dense, tanh, dropout, out_proj; (B, H) -> (B, num_labels)."""

    def __init__(self, config: XLMRobertaXLConfig, num_labels: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(head_dropout(config))
        self.out_proj = nn.Linear(config.hidden_size, num_labels)
        self.apply(lambda module: initialise(module, config))

    @property
    def last(self) -> nn.Linear:
        return self.out_proj

    def prepare(self, x: Tensor) -> None:
        nearly_linear(self.dense, x)

    def project(self, x: Tensor) -> Tensor:
        return self.dense(x).tanh()

    def forward(self, first_tokens: Tensor) -> Tensor:
        return self.out_proj(self.dropout(self.project(self.dropout(first_tokens))))


class TokenHead(Head):
    """Dropout and a linear layer on each token, (T, H) -> (T, num_labels)."""

    def __init__(self, config: XLMRobertaXLConfig, num_labels: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(head_dropout(config))
        self.linear = linear_head(config, num_labels)

    @property
    def last(self) -> nn.Linear:
        return self.linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.dropout(x))


class SpanHead(Head):
    """Scores of each token as the start and as the end of an answer, (T, H) -> (T, 2)."""

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        self.linear = linear_head(config, 2)

    @property
    def last(self) -> nn.Linear:
        return self.linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class ChoiceHead(Head):
    """Score of a choice: pooler, dropout and a linear layer on the first token, (B, H) -> (B, 1)."""

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        self.pooler = Pooler(config)
        self.pooler.apply(lambda module: initialise(module, config))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.linear = linear_head(config, 1)

    @property
    def last(self) -> nn.Linear:
        return self.linear

    def prepare(self, x: Tensor) -> None:
        nearly_linear(self.pooler.dense, x)

    def project(self, x: Tensor) -> Tensor:
        return self.pooler(x)

    def forward(self, first_tokens: Tensor) -> Tensor:
        return self.linear(self.dropout(self.pooler(first_tokens)))


@torch.no_grad()
def nearly_linear(dense: nn.Linear, x: Tensor) -> None:
    """Set a dense layer before a tanh so that both together are close to a multiple of the identity on x, (B, H)."""
    scale = NEARLY_LINEAR / x.float().square().mean().sqrt().clamp(min=1e-12)
    dense.weight.copy_(torch.eye(len(dense.weight)) * scale.cpu())
    dense.bias.zero_()
