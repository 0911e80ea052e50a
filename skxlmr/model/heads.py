"""The heads that are trained on the encoder's hidden states.

Notation: B texts, T packed tokens, H hidden size.
"""

from __future__ import annotations

from torch import Tensor, nn

from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.initialisation import initialise, linear_head
from skxlmr.model.layers import Pooler


def head_dropout(config: XLMRobertaXLConfig) -> float:
    """Return the dropout of a classification head: its own, or else that of the layers."""
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


class ClassificationHead(nn.Module):
    """Dropout, dense, tanh, dropout, out_proj; (B, H) -> (B, num_labels)."""

    def __init__(self, config: XLMRobertaXLConfig, num_labels: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(head_dropout(config))
        self.out_proj = nn.Linear(config.hidden_size, num_labels)
        self.apply(lambda module: initialise(module, config))

    def forward(self, first_tokens: Tensor) -> Tensor:
        x = self.dense(self.dropout(first_tokens)).tanh()
        return self.out_proj(self.dropout(x))


class TokenHead(nn.Module):
    """Dropout and a linear layer on each token, (T, H) -> (T, num_labels)."""

    def __init__(self, config: XLMRobertaXLConfig, num_labels: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(head_dropout(config))
        self.linear = linear_head(config, num_labels)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.dropout(x))


class SpanHead(nn.Module):
    """Scores of each token as the start and as the end of an answer, (T, H) -> (T, 2)."""

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        self.linear = linear_head(config, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class ChoiceHead(nn.Module):
    """Score of a choice: pooler, dropout and a linear layer on the first token, (B, H) -> (B, 1)."""

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        self.pooler = Pooler(config)
        self.pooler.apply(lambda module: initialise(module, config))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.linear = linear_head(config, 1)

    def forward(self, first_tokens: Tensor) -> Tensor:
        return self.linear(self.dropout(self.pooler(first_tokens)))
