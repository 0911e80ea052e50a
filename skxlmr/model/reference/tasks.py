"""The models of the reference that classify or score, on padded batches.

Notation: B texts, C choices, S padded length, T packed tokens, H hidden size. The parameters that all forward passes
share are described at `XLMRobertaXLModel.forward`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.heads import ClassificationHead, head_dropout
from skxlmr.model.initialisation import linear_head
from skxlmr.model.pretrained import PretrainedModel
from skxlmr.model.reference.labels import class_ids, labels_on_padding, mask_labels, sequence_loss
from skxlmr.model.reference.outputs import ModelOutput, returned
from skxlmr.model.reference.padded import XLMRobertaXLModel, either


class XLMRobertaXLForSequenceClassification(PretrainedModel):
    """XLM-RoBERTa-XL with a classification or regression head on the first token.

    Parameters
    ----------
    config : XLMRobertaXLConfig
        `num_labels`, `problem_type` and `classifier_dropout` configure the head and its loss.

    Raises
    ------
    ValueError
        If the config is that of a BERT model, which needs `BertForSequenceClassification`.
    """

    new_heads: tuple[str, ...] = ("classifier.",)

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        if config.model_type == "bert":
            raise ValueError("BERT has another head on texts: use BertForSequenceClassification.")
        super().__init__(config)
        self.roberta = XLMRobertaXLModel(config, add_pooling_layer=False)
        self.classifier: nn.Module = ClassificationHead(config, config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput | tuple:
        """Classify each text of a padded batch.

        Parameters
        ----------
        labels : Tensor of shape (B,) or (B, num_labels), default=None
            Class indices, a 0/1 indicator matrix or regression targets, by `config.problem_type`.

        Returns
        -------
        ModelOutput or tuple
            loss, logits (B, num_labels), hidden_states, attentions.
        """
        encoded = self.roberta.encode_padded(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds,
            use_cache=False, output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        outputs = encoded.more
        outputs.logits = self.score(encoded.first)
        if labels is not None:
            outputs.loss = sequence_loss(outputs.logits, labels, self.config.problem_type)
        return returned(outputs, return_dict, self.config)

    def score(self, first_tokens: Tensor) -> Tensor:
        """Return the logits of texts from their first tokens, (B, H) -> (B, num_labels)."""
        return self.classifier(first_tokens)


class XLMRobertaXLForMultipleChoice(PretrainedModel):
    """XLM-RoBERTa-XL with a score for each of several texts, from the pooled first token.

    Parameters
    ----------
    config : XLMRobertaXLConfig
    """

    new_heads: tuple[str, ...] = ("roberta.pooler.", "classifier.")

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__(config)
        self.roberta = XLMRobertaXLModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = linear_head(config, 1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput | tuple:
        """Score the choices of a padded batch; all inputs have a dimension C after the first.

        Parameters
        ----------
        labels : Tensor of shape (B,), integers, default=None
            Index of the right choice.

        Returns
        -------
        ModelOutput or tuple
            loss, logits (B, C), hidden_states, attentions; the last two for B * C texts.
        """
        n_choices = either(input_ids, inputs_embeds).shape[1]
        ids, mask, types, positions, embeds = (
            None if x is None else x.flatten(0, 1)  # (B, C, S, ...) -> (B * C, S, ...)
            for x in (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        )
        encoded = self.roberta.encode_padded(
            ids, mask, types, positions, head_mask, embeds,
            use_cache=False, output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        outputs = encoded.more
        assert self.roberta.pooler is not None
        scores = self.classifier(self.dropout(self.roberta.pooler(encoded.first)))
        outputs.logits = scores.view(-1, n_choices)  # (B * C, 1) -> (B, C)
        if labels is not None:
            outputs.loss = F.cross_entropy(outputs.logits, class_ids(labels, outputs.logits.shape[:1]))
        return returned(outputs, return_dict, self.config)


class XLMRobertaXLForTokenClassification(PretrainedModel):
    """XLM-RoBERTa-XL with a classifier on every token.

    Parameters
    ----------
    config : XLMRobertaXLConfig
        `num_labels` and `classifier_dropout` configure the head.
    """

    new_heads: tuple[str, ...] = ("classifier.",)

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__(config)
        self.roberta = XLMRobertaXLModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(head_dropout(config))
        self.classifier = linear_head(config, config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput | tuple:
        """Classify each token of a padded batch.

        Parameters
        ----------
        labels : Tensor of shape (B, S), integers, default=None
            Class indices; -100 is ignored by the mean loss. So is padding in XL models, while in others its states are
            computed where it has labels.

        Returns
        -------
        ModelOutput or tuple
            loss, logits (B, S, num_labels), hidden_states, attentions.
        """
        if labels is not None:
            labels = class_ids(labels, either(input_ids, inputs_embeds).shape[:2])
            if self.config.model_type == "xlm-roberta-xl":  # as the reference, for these models only
                labels = mask_labels(labels, attention_mask)
        encoded = self.roberta.encode_padded(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds,
            use_cache=False, output_attentions=output_attentions, output_hidden_states=output_hidden_states,
            every_position=labels_on_padding(labels, attention_mask),
        )  # fmt: skip
        logits, outputs = self.classifier(self.dropout(encoded.last)), encoded.more
        outputs.logits = encoded.batch.unpack(logits)
        if labels is not None:
            outputs.loss = F.cross_entropy(logits, encoded.batch.pack(labels))
        return returned(outputs, return_dict, self.config)


class XLMRobertaXLForQuestionAnswering(PretrainedModel):
    """XLM-RoBERTa-XL with two scores for every token, as the start and as the end of an answer.

    Parameters
    ----------
    config : XLMRobertaXLConfig
        `num_labels` must be 2.
    """

    new_heads: tuple[str, ...] = ("qa_outputs.",)

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__(config)
        if config.num_labels != 2:
            raise ValueError(
                f"Question answering has 2 outputs, a start and an end, not num_labels={config.num_labels}."
            )
        self.roberta = XLMRobertaXLModel(config, add_pooling_layer=False)
        self.qa_outputs = linear_head(config, 2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput | tuple:
        """Score the tokens of each text of a padded batch as start and end of an answer.

        As in the reference, the softmax of the loss includes padding, so its hidden states are computed, too.

        Parameters
        ----------
        start_positions, end_positions : Tensor of shape (B,), integers, default=None
            Position of the answer; positions outside the sequence are ignored by the mean loss.

        Returns
        -------
        ModelOutput or tuple
            loss, start_logits and end_logits (B, S), hidden_states, attentions.
        """
        encoded = self.roberta.encode_padded(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds,
            use_cache=False, output_attentions=output_attentions, output_hidden_states=output_hidden_states,
            every_position=True,
        )  # fmt: skip
        outputs = encoded.more
        logits = encoded.batch.unpack(self.qa_outputs(encoded.last))
        outputs.start_logits, outputs.end_logits = logits.unbind(-1)  # (B, S, 2) -> (B, S) twice
        if start_positions is not None and end_positions is not None:
            length, losses = logits.shape[1], []
            for scores, positions, name in (
                (outputs.start_logits, start_positions, "start_positions"),
                (outputs.end_logits, end_positions, "end_positions"),
            ):
                ids = class_ids(positions, scores.shape[:1], name).clamp(0, length)
                losses.append(F.cross_entropy(scores, ids, ignore_index=length))
            outputs.loss = (losses[0] + losses[1]) / 2
        return returned(outputs, return_dict, self.config)
