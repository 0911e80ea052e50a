"""Arguments that generate has in transformers and not here."""

import inspect

import pytest
import torch
import transformers
from padded_batches import build

from skxlmr.model import XLMRobertaXLForCausalLM
from skxlmr.model.generation_config import WITHOUT_EFFECT
from skxlmr.model.refused_generation_options import NOT_BUILT, REASONS

ARGUMENTS = inspect.signature(XLMRobertaXLForCausalLM.generate).parameters.keys()
# Of GenerationConfig in transformers 4.27.2.
OLD = """max_length max_new_tokens min_length min_new_tokens early_stopping max_time do_sample num_beams num_beam_groups
penalty_alpha use_cache temperature top_k top_p typical_p epsilon_cutoff eta_cutoff diversity_penalty repetition_penalty
encoder_repetition_penalty length_penalty no_repeat_ngram_size bad_words_ids force_words_ids renormalize_logits
constraints forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty
suppress_tokens begin_suppress_tokens num_return_sequences output_attentions output_hidden_states output_scores
return_dict_in_generate pad_token_id eos_token_id encoder_no_repeat_ngram_size decoder_start_token_id""".split()


def test_every_option_of_transformers_is_an_argument_or_has_a_reason():
    new = [name for name in vars(transformers.GenerationConfig()) if not name.startswith("_")]
    of_method = inspect.signature(transformers.GenerationMixin.generate).parameters.keys() - {"self", "kwargs"}
    for name in {*OLD, *new, *of_method} - {"transformers_version", "bos_token_id"}:
        assert (name in ARGUMENTS) != (name in REASONS), name
    assert not NOT_BUILT.keys() & WITHOUT_EFFECT


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("force_words_ids", "constrained beam search, .* raise the probability of words with sequence_bias"),
        ("assistant_model", "changes only how fast tokens are computed, .* leave it out"),
        ("decoder_start_token_id", "for models with an encoder"),
        ("watermarking_config", "as logits_processor"),
        ("inputs", "is called input_ids here"),
        ("temperatures", "does not have an argument 'temperatures': did you mean temperature"),
        ("zzz", "does not have an argument 'zzz'"),
    ],
)
def test_refused_argument_says_why(name, message):
    model = build("ForCausalLM", is_decoder=True)
    with pytest.raises(TypeError, match=message):
        model.generate(torch.tensor([[0, 7]]), **{name: 3})


def test_watermark_of_transformers_is_a_logits_processor():
    """As the error says."""
    model, ids = build("ForCausalLM", is_decoder=True), torch.tensor([[0, 7, 9]])
    processor = transformers.WatermarkLogitsProcessor(model.config.vocab_size, "cpu", bias=50.0)
    got = model.generate(ids, max_new_tokens=4, eos_token_id=-1, logits_processor=processor)
    assert all(got[0, end] in processor._get_greenlist_ids(got[0, :end]) for end in range(3, 7))
