"""Random combinations of the arguments of generate, for comparisons with transformers."""

import random

SAMPLING = {
    "temperature": [0.5, 1.7],
    "top_k": [5, 12],
    "top_p": [0.5, 0.9],
    "top_h": [0.3, 0.8],
    "min_p": [0.02, 0.2],
    "typical_p": [0.4, 0.9],
    "epsilon_cutoff": [0.01, 0.1],
    "eta_cutoff": [0.02, 0.3],
}
BEAMS = {"length_penalty": [0.0, -1.0, 2.0], "early_stopping": [True, "never"], "num_return_sequences": [2, 3]}
OTHERS = {
    "repetition_penalty": [1.4, 0.7],
    "no_repeat_ngram_size": [1, 2, 3],
    "encoder_repetition_penalty": [1.3, 0.8],
    "encoder_no_repeat_ngram_size": [1, 2],
    "sequence_bias": [
        {(11,): 3.0, (5, 9): -4.0, (7, 8, 9): 2.0},
        [[[20], 2.5], [[20, 23], 9.0]],
        {(26,): float("-inf")},
    ],
    "bad_words_ids": [[[26], [20, 23], [2]], [[23, 11, 23], [11]], [[2], [11], [17]]],
    "min_new_tokens": [4, 9],
    "min_length": [11],
    "suppress_tokens": [[11, 26], [2, 5, 9]],
    "begin_suppress_tokens": [[20, 23], [11]],
    "forced_bos_token_id": [9],
    "forced_eos_token_id": [2, 21, [11, 17]],
    "exponential_decay_length_penalty": [(2, 1.4), [0, 1.1], (3, 0.8)],
    "remove_invalid_values": [True],
    "renormalize_logits": [True],
    "prefix_allowed_tokens_fn": [lambda text, ids: [2, 11, *range(12 + text + len(ids) % 3, 28)]],
    "logits_processor": [[lambda ids, scores: scores + 0.1 * (ids[:, -1:] % 5)]],
    "stopping_criteria": [[lambda ids, scores: ids[:, -1] == 13]],
    "max_length": [17],
}


def random_options(seed, mode):
    """Return the arguments of a call: "greedy", "beams" or "sampling" of a single token, whose scores are compared."""
    choose = random.Random(seed)
    options = {"max_new_tokens": 10, "eos_token_id": choose.choice([2, [2, 11], [2, 11, 17]])}
    pools = [{**OTHERS, "guidance_scale": [0.6, 1.7]}]
    if mode == "beams":
        pools = [{**OTHERS, "forced_eos_token_id": [2, 21]}]  # of several that are as probable, any is the best
        options["num_beams"] = choose.choice([2, 3, 4])
        pools.append(BEAMS)
    if mode == "sampling":
        pools = [{**pools[0], "forced_eos_token_id": [2, 21]}]
        options |= {
            "num_return_sequences": choose.choice([1, 3]),
            "do_sample": True,
            "max_new_tokens": choose.choice([4, 9]),
        }
        pools.append(SAMPLING)
    for pool in pools:
        for name in choose.sample(sorted(pool), choose.randint(1, min(4, len(pool)))):
            options[name] = choose.choice(pool[name])
    if options["max_new_tokens"] < 10:  # too few for a least length
        options = {name: value for name, value in options.items() if name not in ("min_new_tokens", "min_length")}
    if "max_length" in options:
        del options["max_new_tokens"]
    if "suppress_tokens" in options:  # which have the forced token
        options.pop("forced_bos_token_id", None)
    if "exponential_decay_length_penalty" in options:  # in the reference numbers then overflow
        options.pop("remove_invalid_values", None)
    if mode == "beams":
        options["num_return_sequences"] = min(options.get("num_return_sequences", 1), options["num_beams"])
    return options
