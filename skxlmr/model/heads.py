"""The models with a head, as the reference names them.

Notation: B texts, S padded length, T packed tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.encoder import XLMRobertaXLModel
from skxlmr.model.outputs import MaskedLMOutput, SequenceClassifierOutput
from skxlmr.model.pretrained import PretrainedModel, initialise


class ClassificationHead(nn.Module):
    """Dropout, dense, tanh, dropout, out_proj; (B, H) -> (B, num_labels)."""

    def __init__(self, hidden_size: int, num_labels: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(hidden_size, num_labels)

    def forward(self, first_tokens: Tensor) -> Tensor:
        x = self.dense(self.dropout(first_tokens)).tanh()
        return self.out_proj(self.dropout(x))


def new_classification_head(config: XLMRobertaXLConfig, num_labels: int) -> ClassificationHead:
    """Make a head with the random start and the dropout that the config asks for."""
    dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
    head = ClassificationHead(config.hidden_size, num_labels, dropout)
    return head.apply(lambda module: initialise(module, config))


class LMHead(nn.Module):
    """Dense, exact gelu, LayerNorm, and a decoder tied to the word embeddings; (T, H) -> (T, V)."""

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, word_embeddings: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.dense(x))), word_embeddings, self.bias)


class XLMRobertaXLForSequenceClassification(PretrainedModel):
    """XLM-RoBERTa-XL with a classification or regression head on the first token.

    Parameters
    ----------
    config : XLMRobertaXLConfig
        `num_labels`, `problem_type` and `classifier_dropout` shape the head and its loss.
    """

    new_heads = ("classifier.",)

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__(config)
        self.roberta = XLMRobertaXLModel(config, add_pooling_layer=False)
        self.classifier = new_classification_head(config, config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> SequenceClassifierOutput | tuple:
        """Classify each text of a padded batch.

        Parameters
        ----------
        labels : Tensor of shape (B,) or (B, num_labels), default=None
            Class indices, a 0/1 indicator matrix or regression targets, by `config.problem_type`.

        Returns
        -------
        SequenceClassifierOutput or tuple

        See Also
        --------
        XLMRobertaXLModel.forward : The other parameters.
        """
        layers = self.roberta.hidden_layers(output_hidden_states)
        hidden, batch = self.roberta.encode_padded(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, layers
        )
        logits = self.classifier(hidden[-1][batch.packing.first])
        outputs = SequenceClassifierOutput(
            loss=None if labels is None else sequence_loss(logits, labels, self.config.problem_type),
            logits=logits,
            hidden_states=tuple(batch.unpack(x) for x in hidden) if output_hidden_states else None,
        )
        return outputs if return_dict else outputs.to_tuple()


def sequence_loss(logits: Tensor, labels: Tensor, problem_type: str | None = None) -> Tensor:
    """Mean loss of a sequence head.

    Parameters
    ----------
    logits : Tensor of shape (B, num_labels)
    labels : Tensor of shape (B,) or (B, num_labels)
    problem_type : str or None, default=None
        None infers it as the reference does: regression where there is one logit, a single label where the labels
        are integers, several labels otherwise.
    """
    if problem_type is None:
        integers = not labels.is_floating_point()
        problem_type = "single_label_classification" if integers else "multi_label_classification"
        if logits.shape[1] == 1:
            problem_type = "regression"
    if problem_type == "regression":
        return F.mse_loss(logits.squeeze(-1), labels.squeeze(-1).to(logits.dtype))
    if problem_type == "single_label_classification":
        return F.cross_entropy(logits, labels.flatten())
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


class XLMRobertaXLForMaskedLM(PretrainedModel):
    """XLM-RoBERTa-XL with a masked language modelling head, tied to the word embeddings.

    Parameters
    ----------
    config : XLMRobertaXLConfig
    """

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__(config)
        if config.extra.get("tie_word_embeddings") is False:
            raise ValueError("tie_word_embeddings=False is not supported: the decoder is the word embedding.")
        self.roberta = XLMRobertaXLModel(config, add_pooling_layer=False)
        self.lm_head = LMHead(config)
        self.lm_head.apply(lambda module: initialise(module, config))

    def predict_tokens(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary for packed hidden states; (T, H) -> (T, V)."""
        return self.lm_head(hidden, self.roberta.embeddings.word.weight)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> MaskedLMOutput | tuple:
        """Predict the token at every position of a padded batch.

        Parameters
        ----------
        labels : Tensor of shape (B, S), int64, default=None
            Token ids; -100 is left out of the mean loss, and so is every position that is masked out.

        Returns
        -------
        MaskedLMOutput or tuple

        See Also
        --------
        XLMRobertaXLModel.forward : The other parameters.
        """
        layers = self.roberta.hidden_layers(output_hidden_states)
        hidden, batch = self.roberta.encode_padded(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, layers
        )
        logits = self.predict_tokens(hidden[-1])
        outputs = MaskedLMOutput(
            loss=None if labels is None else F.cross_entropy(logits, batch.pack(labels)),
            logits=batch.unpack(logits),
            hidden_states=tuple(batch.unpack(x) for x in hidden) if output_hidden_states else None,
        )
        return outputs if return_dict else outputs.to_tuple()
