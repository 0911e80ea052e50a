"""The method `generate` of the causal language model.

Notation: B texts, S padded length, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from skxlmr.model.generation_config import GenerationConfig, as_generation_config
from skxlmr.model.reference.decoding import Past
from skxlmr.model.reference.generation import generate
from skxlmr.model.reference.generation_options import (
    AllowedTokens,
    GenerationOptions,
    LogitsProcessor,
    SequenceBias,
    StoppingCriterion,
    Streamer,
    Vocabulary,
)
from skxlmr.model.reference.language_models import LanguageModel
from skxlmr.model.reference.outputs import GenerateOutput, ModelOutput
from skxlmr.model.reference.padded import either
from skxlmr.model.reference.sampling import Generators
from skxlmr.model.refused_generation_options import refuse
from skxlmr.system.warn import warn

# Arguments of `generate` that have defaults in a generation config, or are options.
ARGUMENTS = [*(f.name for f in fields(GenerationOptions)), "use_cache"]


class GenerationMixin(LanguageModel):
    """Generates texts with a language model that is a decoder."""

    generation_config: GenerationConfig

    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        generation_config: Any = None,
        inputs_embeds: Tensor | None = None,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        min_length: int | None = None,
        min_new_tokens: int | None = None,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        top_h: float | None = None,
        typical_p: float | None = None,
        epsilon_cutoff: float | None = None,
        eta_cutoff: float | None = None,
        penalty_alpha: float | None = None,
        num_beams: int | None = None,
        num_beam_groups: int | None = None,
        diversity_penalty: float | None = None,
        length_penalty: float | None = None,
        early_stopping: bool | str | None = None,
        num_return_sequences: int | None = None,
        repetition_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        encoder_repetition_penalty: float | None = None,
        encoder_no_repeat_ngram_size: int | None = None,
        sequence_bias: SequenceBias | None = None,
        bad_words_ids: Sequence[Sequence[int]] | None = None,
        suppress_tokens: Sequence[int] | None = None,
        begin_suppress_tokens: Sequence[int] | None = None,
        forced_bos_token_id: int | None = None,
        forced_eos_token_id: int | Sequence[int] | None = None,
        exponential_decay_length_penalty: tuple[int, float] | None = None,
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        guidance_scale: float | None = None,
        negative_prompt_ids: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        remove_invalid_values: bool | None = None,
        renormalize_logits: bool | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None,
        stopping_criteria: StoppingCriterion | Sequence[StoppingCriterion] | None = None,
        stop_strings: str | Sequence[str] | None = None,
        tokenizer: Vocabulary | None = None,
        max_time: float | None = None,
        streamer: Streamer | None = None,
        use_cache: bool | None = None,
        generator: Generators | None = None,
        head_mask: Tensor | None = None,
        output_scores: bool | None = None,
        output_logits: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict_in_generate: bool | None = None,
        **others: Any,
    ) -> Tensor | GenerateOutput:
        """Continue the texts of a batch: by the most likely next token, sampling, beam search or contrastive search.

        A text's continuation does not depend on the others, nor on its padding, except by `max_length`, `min_length`
        and `forced_bos_token_id`. It equals that of transformers if this gets the `position_ids` that the model was
        trained with, those of its forward pass (transformers 5 counts them from 0 in `generate`). Other than there,
        sampling does not leave out any token unless `top_k` is given (there 50), padding does not count as a
        repetition, `remove_invalid_values` does not make numbers of what is banned, and guidance follows the beams.

        Of arguments that are None, `generation_config` has the defaults, which `from_pretrained` reads from the
        generation_config.json of a checkpoint; where it has None, too, they are those named below. Arguments that are
        given replace it: `do_sample=False`, `num_beams=1` or `top_k=0` turn off what it turns on.

        Parameters
        ----------
        input_ids : Tensor of shape (B, S), int64, default=None
            Texts, padded on the left. Without them and `inputs_embeds`, one text starts from the `bos_token_id` of the
            config.
        attention_mask : Tensor of shape (B, S), default=None
            One at real tokens; None is one everywhere except at pads.
        generation_config : GenerationConfig, default=None
            Defaults in place of those of the model: a config of this package or of transformers.
        inputs_embeds : Tensor of shape (B, S, H), default=None
            Word embeddings in place of `input_ids`. Only the new tokens are returned, and only they count for
            repetitions.
        max_length : int, default=None
            Maximum length of the texts with their continuations, padding on the left included.
        max_new_tokens : int, default=None
            Maximum number of new tokens, in place of `max_length`; without either, 20.
        min_length : int, default=None
            Length, padding on the left included, below which no text ends. None is 0.
        min_new_tokens : int, default=None
            Number of new tokens below which no text ends, in place of `min_length`. None is 0.
        do_sample : bool, default=None
            Whether to sample each token instead of taking the most likely one. None is False.
        temperature : float, default=None
            Divides the logits before sampling; below 1 it favours likely tokens. None is 1.0.
        top_k : int, default=None
            Sample, or choose by contrastive search, from this many most likely tokens; None or 0 is all.
        top_p : float, default=None
            Sample from the fewest most likely tokens with this total probability (Holtzman et al., 2020).
        min_p : float, default=None
            Sample from the tokens that are at least this times as probable as the most likely one.
        top_h : float, default=None
            Sample from the most likely tokens whose terms of the entropy sum to this share of it (arXiv:2509.02510), at
            most 100.
        typical_p : float, default=None
            Sample from the tokens whose information is nearest to the entropy, with this total probability (Meister et
            al., arXiv:2202.00666).
        epsilon_cutoff : float, default=None
            Sample from the tokens that are at least so probable (Hewitt et al., arXiv:2210.15191). None is 0.0.
        eta_cutoff : float, default=None
            Sample from the tokens that are at least so probable, or sqrt(eta_cutoff) * exp(-entropy) if this is less
            (the same). None is 0.0.
        penalty_alpha : float, default=None
            Above 0, contrastive search (Su et al., arXiv:2202.06417): of the `top_k` most likely tokens the one with
            the largest (1 - penalty_alpha) * p - penalty_alpha * s, where p is its probability and s the largest cosine
            similarity of its last hidden state with those of the tokens before it, except padding. At most 1; None is
            0.0.
        num_beams : int, default=None
            Above 1, beam search: so many of the most probable continuations of a text are kept in each step. With
            `do_sample=True` those that are kept are sampled. None is 1.
        num_beam_groups : int, default=None
            Above 1, diverse beam search (Vijayakumar et al., arXiv:1610.02424): the beams are split into so many groups
            of the same size, each of which is a beam search. In a step these choose in turn, the later ones with the
            `diversity_penalty`. All their continuations compete for `num_return_sequences`. None is 1.
        diversity_penalty : float, default=None
            With groups, this is subtracted from the log-probability of a token for each beam of the earlier groups of
            the same text that chose it in the same step. None is 0.0.
        length_penalty : float, default=None
            In beam search, a continuation's score is its log-probability divided by its length to the power of this;
            above 0 it favours long ones. None is 1.0.
        early_stopping : bool or "never", default=None
            When the beam search of a text ends. True: when `num_beams` continuations have ended. False: when, at their
            length now, the beams are not better than these. "never": when they cannot become better at any length.
            None is False.
        num_return_sequences : int, default=None
            Continuations of each text: samples, or the best ones of beam search, best first. None is 1.
        repetition_penalty : float, default=None
            Above 1, tokens that a text has already are less likely: positive logits are divided by this, negative ones
            multiplied (Keskar et al., arXiv:1909.05858). None is 1.0.
        no_repeat_ngram_size : int, default=None
            Above 0, no run of so many tokens occurs in a text twice. None is 0.
        encoder_repetition_penalty : float, default=None
            Above 1, tokens of the texts that are continued are more likely, by `repetition_penalty` upside down. None
            is 1.0.
        encoder_no_repeat_ngram_size : int, default=None
            Above 0, no run of so many tokens of these texts is generated. None is 0.
        sequence_bias : dict of tuple of int to float, or list of pairs of a list of int and a float, default=None
            What is added to the score of the last token of each sequence of ids, where the others stand before it.
        bad_words_ids : list of list of int, default=None
            Sequences of token ids that are not generated. The ids that end a text are generated all the same.
        suppress_tokens, begin_suppress_tokens : list of int, default=None
            Ids that are not generated, at all or as the first new token (that is not forced).
        forced_bos_token_id : int, default=None
            The first new token of texts that have a single token.
        forced_eos_token_id : int or list of int, default=None
            The last token of texts that become as long as they may, or some of which it is one.
        exponential_decay_length_penalty : pair of int and float, default=None
            After so many new tokens, the absolute score of the ids that end a text, times a power of the factor less 1,
            is added to it. The power is the number of tokens beyond; factors above 1 end the texts sooner.
        prefix_allowed_tokens_fn : callable, default=None
            Called with the number of a text and its ids so far (S,); returns the ids that may follow.
        guidance_scale : float, default=None
            Other than 1, classifier-free guidance (Sanchez et al., arXiv:2306.17806): the log-probabilities of the next
            token become those after the negative prompt, plus so many times the difference of those after the text and
            these. None is 1.0.
        negative_prompt_ids : Tensor of shape (B, N), int64, default=None
            A negative prompt for each text, padded on the left; None is the last token of the text.
        negative_prompt_attention_mask : Tensor of shape (B, N), default=None
            One at real tokens of `negative_prompt_ids`; None is one everywhere except at pads.
        remove_invalid_values : bool, default=None
            Whether to replace scores of the model that are NaN by 0, and infinite ones by the largest finite number.
            None is False.
        renormalize_logits : bool, default=None
            Whether to take the log-probabilities of the scores at the end of what changes them. None is False.
        eos_token_id : int or list of int, default=None
            Ids that end a text, after which it is padded; None takes those of the config. If this has none either, all
            new tokens are generated.
        pad_token_id : int, default=None
            Id that fills texts after their end; None takes that of the config.
        logits_processor : callable or list of callables, default=None
            Called with the ids so far (B, S) and the scores of the next token (B, V), after the arguments above and
            before temperature, `top_k` and `top_p`; returns the changed scores. With groups of beams, once for each.
        stopping_criteria : callable or list of callables, default=None
            Called after each step with the ids so far (B, S), and with `output_scores=True` the scores of each step,
            otherwise None; returns whether to stop, as a bool or for each text, (B,). In beam search these are the
            candidates, of which there are more than texts, and with groups of beams those of each in turn.
        stop_strings : str or list of str, default=None
            A text ends with the token in which one of these ends, or that it is a part of; needs `tokenizer`.
        tokenizer : object with the method convert_ids_to_tokens, default=None
            The tokenizer of the model, for `stop_strings`.
        max_time : float, default=None
            Seconds after which the texts end, at the end of a step.
        streamer : object with methods put and end, default=None
            `put` gets the ids of the texts (B, S), then the tokens of each step (B,); `end` is called at the end.
        use_cache : bool, default=None
            Whether to keep keys and values instead of recomputing them; the result is the same. None is True.
        generator : torch.Generator or list of torch.Generator, default=None
            Random numbers for sampling. With one for each text, its samples do not depend on the other texts.
        head_mask : Tensor of shape (N,) or (num_hidden_layers, N), default=None
            Factors of the attention heads, in each step; see `XLMRobertaXLModel.forward`.
        output_scores, output_logits : bool, default=None
            Whether to return the scores that tokens are chosen by, and the logits before these are changed, too; needs
            `return_dict_in_generate=True`. None is False.
        output_attentions, output_hidden_states : bool, default=None
            Whether to return those of each step, too; needs the same. None is what the model's config has.
        return_dict_in_generate : bool, default=None
            Whether to return a `GenerateOutput`. None is False.

        Returns
        -------
        Tensor of shape (B * num_return_sequences, S + n), int64, or GenerateOutput
            The texts with up to `max_new_tokens` new tokens.

        Raises
        ------
        TypeError, ValueError
            If the model is not a decoder, texts are padded on the right, there would be more tokens than positions, or
            an argument is invalid, or does nothing with the others.

        Warns
        -----
        UserWarning
            If `generation_config` has entries that would change the result in transformers, and are not supported.

        Examples
        --------
        >>> import torch
        >>> from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForCausalLM
        >>> config = XLMRobertaXLConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        ...                             intermediate_size=32, is_decoder=True)
        >>> model = XLMRobertaXLForCausalLM(config).eval()
        >>> ids = torch.tensor([[0, 7, 8]])
        >>> model.generate(ids, max_new_tokens=4, min_new_tokens=4, num_beams=3, num_return_sequences=2).shape
        torch.Size([2, 7])
        """
        given = dict(locals())  # the arguments, by name
        refuse(others, given.keys())
        defaults = self.generation_config if generation_config is None else as_generation_config(generation_config)
        not_supported = defaults.not_supported()
        if not_supported:
            warn(
                f"The generation_config of the model has {not_supported}, which generate does not support: it is not "
                f"used. Set model.generation_config to a GenerationConfig without it."
            )
        if input_ids is None and inputs_embeds is None:
            start = self.config.bos_token_id if defaults.bos_token_id is None else defaults.bos_token_id
            if start is None:
                raise ValueError(
                    "Give input_ids or inputs_embeds: the config has no bos_token_id to start a text from."
                )
            input_ids = torch.tensor([[start]], device=self.device)
        prompt = either(input_ids, inputs_embeds)
        arguments = self._generation_arguments(defaults, {name: given[name] for name in ARGUMENTS})
        use_cache = arguments.pop("use_cache")
        if inputs_embeds is not None and not use_cache:
            raise ValueError("inputs_embeds need use_cache=True: new tokens cannot be joined to them.")
        options = GenerationOptions(**arguments)

        def step(inputs: Tensor, mask: Tensor, positions: Tensor, past: Past | None) -> tuple[Tensor, ModelOutput]:
            ids, embeds = (inputs, None) if inputs.ndim == 2 else (None, inputs)
            encoded = self.roberta.encode_padded(
                ids, mask, position_ids=positions, inputs_embeds=embeds, past_key_values=past, use_cache=use_cache,
                head_mask=head_mask, output_attentions=options.output_attentions,
                output_hidden_states=options.output_hidden_states, check_positions=False,  # `generate` has done so
            )  # fmt: skip
            encoded.more.last_hidden_state = encoded.batch.unpack(encoded.last)
            return self.predict_tokens(encoded.more.last_hidden_state[:, -1]), encoded.more

        output = generate(step, self.config, prompt, attention_mask, options)
        return output if options.return_dict_in_generate else output.sequences

    def _generation_arguments(self, defaults: GenerationConfig, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of `generate` with the defaults of a generation config, and those of the config."""
        arguments = defaults.completed(given)
        arguments.setdefault("use_cache", self.config.use_cache)
        if arguments.get("return_dict_in_generate"):
            arguments.setdefault("output_attentions", self.config.output_attentions)
            arguments.setdefault("output_hidden_states", self.config.output_hidden_states)
        return arguments
