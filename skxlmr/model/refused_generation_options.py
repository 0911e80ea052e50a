"""Arguments of `generate` in transformers that it does not have here, each with the reason."""

from __future__ import annotations

import difflib
from collections.abc import Collection

_SPEED = "changes only how fast tokens are computed, or in how much memory, and not which: leave it out"
_ENCODER = "is for models with an encoder and a decoder: leave it out"
_CONSTRAINTS = (
    "would need constrained beam search, which transformers 5 does not have either: raise the probability of words "
    "with sequence_bias, or allow some alone with prefix_allowed_tokens_fn"
)
_CODE = "would run code from elsewhere: change the scores with logits_processor and stopping_criteria"

SPEED = frozenset(
    """assistant_confidence_threshold assistant_early_exit assistant_ensemble_weight assistant_lookbehind
    assistant_model assistant_tokenizer cache_config cache_implementation compile_config continuous_batching_config
    disable_compile is_assistant low_memory max_cache_len max_matching_ngram_size num_assistant_tokens
    num_assistant_tokens_schedule prefill_chunk_size prompt_lookup_num_tokens return_legacy_cache speculation_type
    synced_gpus target_lookbehind use_mtp""".split()
)
ENCODER = frozenset({"decoder_attention_mask", "decoder_input_ids", "decoder_start_token_id", "encoder_outputs"})
# Options that would change the result.
NOT_BUILT = {
    "constraints": _CONSTRAINTS,
    "custom_generate": _CODE,
    "dola_layers": "would compare layers (DoLa), which transformers 5 does only with code from the hub: leave it out",
    "force_words_ids": _CONSTRAINTS,
    "token_healing": "needs a tokenizer that does not end texts with </s>: end the texts without a space, so that the "
    "next token can begin a word",
    "trust_remote_code": _CODE,
    "watermarking_config": "is not built: give the processor that it makes, such as transformers' "
    "WatermarkLogitsProcessor, as logits_processor",
}
# Arguments of the forward pass.
FORWARD = {
    "encoder_attention_mask": "is for cross-attention, which generate does not have: call the model in a loop",
    "encoder_hidden_states": "is for cross-attention, which generate does not have: call the model in a loop",
    "inputs": "is called input_ids here",
    "past_key_values": "is made by generate: give the whole texts as input_ids",
    "position_ids": "is counted from the attention_mask, as in training: leave it out",
    "token_type_ids": "is 0 in all texts that are continued: leave it out",
}
REASONS = dict.fromkeys(SPEED, _SPEED) | dict.fromkeys(ENCODER, _ENCODER) | NOT_BUILT | FORWARD


def refuse(given: Collection[str], known: Collection[str]) -> None:
    """Raise TypeError if there are arguments, with the reason why the first is not among those that are known."""
    for name in given:
        if name in REASONS:
            raise TypeError(f"generate does not take {name}, which {REASONS[name]}.")
        close = difflib.get_close_matches(name, known, n=1)
        raise TypeError(
            f"generate does not have an argument {name!r}" + (f": did you mean {close[0]}?" if close else ".")
        )
