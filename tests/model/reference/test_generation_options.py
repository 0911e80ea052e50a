"""Checks of the arguments of generate."""

import numpy as np
import pytest
from parameter_ids import id_without_address

from skxlmr.model.reference.generation_options import GenerationOptions

GROUPS = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}
CONTRASTIVE = {"penalty_alpha": 0.6, "top_k": 4}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens must be at least 1, got 0"),
        ({"max_length": 2.0}, TypeError, "max_length must be an integer, got 2.0"),
        ({"num_beams": True}, TypeError, "num_beams must be an integer, got True"),
        ({"num_return_sequences": 0}, ValueError, "num_return_sequences must be at least 1"),
        ({"temperature": 0.0}, ValueError, "temperature must be above 0"),
        ({"temperature": float("nan")}, ValueError, "temperature must be finite"),
        ({"temperature": float("inf")}, ValueError, "temperature must be finite"),
        ({"temperature": "1"}, TypeError, "temperature must be a number"),
        ({"repetition_penalty": -1}, ValueError, "repetition_penalty must be above 0"),
        ({"top_k": -1}, ValueError, "top_k must be at least 0"),
        ({"top_p": 1.5}, ValueError, r"top_p must be in \(0, 1\]"),
        ({"early_stopping": "often"}, ValueError, 'early_stopping must be True, False or "never"'),
        ({"no_repeat_ngram_size": -1}, ValueError, "no_repeat_ngram_size must be at least 0"),
        ({"bad_words_ids": [3]}, TypeError, r"list of lists of token ids, but has 3: give \[\[i\]\]"),
        ({"bad_words_ids": [[3], []]}, ValueError, "bad_words_ids has an empty list"),
        ({"max_length": 9, "max_new_tokens": 9}, ValueError, "max_length and max_new_tokens both .* give one of them"),
        ({"top_k": 5}, ValueError, "top_k=5 changes only sampling: give do_sample=True, too"),
        ({"top_p": 0.5}, ValueError, "top_p=0.5 changes only sampling"),
        ({"temperature": 0.5}, ValueError, "temperature=0.5 changes only sampling"),
        ({"length_penalty": 2.0}, ValueError, "length_penalty=2.0 is for beam search: give num_beams above 1"),
        ({"early_stopping": True}, ValueError, "early_stopping=True is for beam search"),
        ({"num_beams": 2, "num_return_sequences": 3}, ValueError, "more than the num_beams=2 .*: raise num_beams"),
        ({"num_beams": 4, "num_beam_groups": 3}, ValueError, "num_beams=4 must be a multiple of num_beam_groups=3"),
        ({"num_beam_groups": 2}, ValueError, "num_beam_groups=2 is for beam search: give num_beams above 1"),
        ({"num_beams": 4, "num_beam_groups": 0}, ValueError, "num_beam_groups must be at least 1"),
        ({"num_beams": 4, "num_beam_groups": 2}, ValueError, "would be the same: give diversity_penalty above 0"),
        ({**GROUPS, "do_sample": True}, ValueError, "num_beam_groups=2 cannot be sampled: give do_sample=False, or"),
        ({**GROUPS, "diversity_penalty": -1.0}, ValueError, "diversity_penalty must be at least 0"),
        (
            {"num_beams": 4, "diversity_penalty": 1.0},
            ValueError,
            "is for groups of beams: give num_beam_groups above 1",
        ),
        ({**CONTRASTIVE, "penalty_alpha": 1.1}, ValueError, r"penalty_alpha must be in \[0, 1\], got 1.1"),
        ({**CONTRASTIVE, "penalty_alpha": "a"}, TypeError, "penalty_alpha must be a number"),
        ({**CONTRASTIVE, "top_k": 1}, ValueError, "penalty_alpha=0.6 needs .*: give top_k of at least 2"),
        ({**CONTRASTIVE, "top_k": None}, ValueError, "penalty_alpha=0.6 needs .*: give top_k of at least 2"),
        ({**CONTRASTIVE, "do_sample": True}, ValueError, "contrastive search, which neither samples nor has beams"),
        ({**CONTRASTIVE, "num_beams": 2}, ValueError, "contrastive search, which neither .* num_beams=1"),
        ({**CONTRASTIVE, "num_return_sequences": 2}, ValueError, "needs do_sample=True or num_beams above 1"),
        ({"num_return_sequences": 3}, ValueError, "num_return_sequences=3 needs do_sample=True or num_beams above 1"),
        ({"num_beams": 2, "streamer": object()}, ValueError, "streamer needs num_beams=1"),
        ({"output_scores": True}, ValueError, "output_scores=True needs return_dict_in_generate=True"),
        ({"output_attentions": True}, ValueError, "output_attentions=True needs return_dict_in_generate=True"),
        ({"output_hidden_states": True}, ValueError, "output_hidden_states=True needs return_dict_in_generate=True"),
        ({"do_sample": "yes"}, TypeError, "do_sample must be True or False, got 'yes'"),
        ({"stopping_criteria": [3]}, TypeError, "stopping_criteria must be a function or a list of functions, got 3"),
        ({"logits_processor": "a"}, TypeError, "logits_processor must be a function"),
        ({"streamer": object()}, TypeError, "streamer must have the methods put and end"),
        ({"epsilon_cutoff": 1.0, "do_sample": True}, ValueError, r"epsilon_cutoff must be in \[0, 1\), got 1.0"),
        ({"eta_cutoff": -0.1, "do_sample": True}, ValueError, r"eta_cutoff must be in \[0, 1\)"),
        ({"top_h": 0, "do_sample": True}, ValueError, r"top_h must be in \(0, 1\], got 0"),
        ({"top_h": 0.5}, ValueError, "top_h=0.5 changes only sampling"),
        ({"eta_cutoff": 0.5}, ValueError, "eta_cutoff=0.5 changes only sampling"),
        ({"encoder_repetition_penalty": 0}, ValueError, "encoder_repetition_penalty must be above 0"),
        ({"encoder_no_repeat_ngram_size": 1.5}, TypeError, "encoder_no_repeat_ngram_size must be an integer"),
        ({"sequence_bias": {3: 1.0}}, TypeError, r"sequence_bias must be a dict of .*: give \{\(i,\): 2.0\}"),
        ({"sequence_bias": {(3,): "1"}}, TypeError, "sequence_bias must be a dict of tuples of token ids and numbers"),
        ({"sequence_bias": [[3, 1.0]]}, TypeError, "sequence_bias must be a dict"),
        ({"sequence_bias": 3}, TypeError, "sequence_bias must be a dict"),
        ({"sequence_bias": {(): 1.0}}, TypeError, "sequence_bias must be a dict"),
        ({"sequence_bias": {(3,): np.inf}}, ValueError, r"numbers below infinity, got inf for \[3\]"),
        ({"sequence_bias": {(3,): np.nan}}, ValueError, "numbers below infinity, got nan"),
        ({"forced_bos_token_id": [3]}, TypeError, "forced_bos_token_id must be an integer"),
        ({"forced_eos_token_id": "3"}, TypeError, "forced_eos_token_id must be a token id or a list of them"),
        ({"forced_eos_token_id": [-3]}, TypeError, "forced_eos_token_id must be a token id or a list of them"),
        (
            {"forced_eos_token_id": 3, "suppress_tokens": [3]},
            ValueError,
            "forced_eos_token_id has only ids that suppress_tokens has, too",
        ),
        ({"exponential_decay_length_penalty": 3}, TypeError, "must be a pair of a number of new tokens and a factor"),
        ({"exponential_decay_length_penalty": (1.5, 2)}, TypeError, "The first of .* must be an integer, got 1.5"),
        ({"exponential_decay_length_penalty": (1, 0)}, ValueError, "The second of .* must be above 0, got 0"),
        ({"guidance_scale": np.nan}, ValueError, "guidance_scale must be finite"),
        ({"negative_prompt_ids": [[3]], "guidance_scale": 2}, TypeError, "negative_prompt_ids must be a tensor"),
        ({"renormalize_logits": 3}, TypeError, "renormalize_logits must be True or False"),
        ({"output_logits": True}, ValueError, "output_logits=True needs return_dict_in_generate=True"),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator, or a list with one for each text, got 3"),
        ({"suppress_tokens": [True]}, TypeError, "suppress_tokens must be a list of token ids"),
        ({"pad_token_id": "1"}, TypeError, "pad_token_id must be an integer"),
    ],
    ids=id_without_address,
)
def test_invalid_options_raise_and_name_the_argument(given, error, message):
    with pytest.raises(error, match=message):
        GenerationOptions(**given)


def test_options_take_numpy_integers_and_switched_off_ones():
    options = GenerationOptions(max_new_tokens=np.int64(3), top_k=0, top_p=1.0, temperature=1)
    assert options.new_tokens(5) == 3
    assert GenerationOptions().new_tokens(5) == 20
    assert GenerationOptions(max_length=9).new_tokens(5) == 4
