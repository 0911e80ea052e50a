"""The calls whose outputs golden/ has: checkpoints, inputs, and every argument of the documented forward passes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from make_golden import Golden

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "num_labels": 3,
}
DECODER = {"is_decoder": True}
CROSS = {**DECODER, "add_cross_attention": True}
ONE_LAYER = {"num_hidden_layers": 1}
TWO_TYPES = {"type_vocab_size": 2}
RELATIVE = {"position_embedding_type": "relative_key"}
RELATIVE_BOTH = {"position_embedding_type": "relative_key_query"}

LENGTHS = (5, 2)
SIZE = (len(LENGTHS), max(LENGTHS))
HEADS = torch.tensor([[0.0, 1.0], [0.5, 2.0]], dtype=torch.float64)  # one row per layer
FULL = {"output_attentions": True, "output_hidden_states": True}


# -- Inputs ----------------------------------------------------------------------------------------------------------


def random_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(4, SHAPE["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


def random_states(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def padded(left: bool = False) -> dict[str, Tensor]:
    """Return texts of five and two tokens, and their mask."""
    places = torch.arange(max(LENGTHS)).expand(len(LENGTHS), -1)
    mask = (places.flip(1) if left else places) < torch.tensor(LENGTHS)[:, None]
    return {"input_ids": random_ids(*mask.shape).where(mask, torch.tensor(1)), "attention_mask": mask.long()}


def ignoring(labels: Tensor, at: Tensor) -> Tensor:
    return labels.masked_fill(at, -100)


def encoder_calls(labels: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Return calls of all classes, by name: one for each argument, and one with all of them."""
    batch = padded()
    ids, mask = batch.values()
    shape = ids.shape
    types = random_ids(*shape, seed=1) % 2
    positions = torch.tensor([[7, 3, 19, 2, 11], [4, 18, 9, 5, 6]])
    three = torch.ones(shape[1], shape[1]).tril(2)[None] * mask[:, None]
    embeds = random_states(*shape, SHAPE["hidden_size"])
    everything = {
        **batch, "token_type_ids": types, "position_ids": positions, "head_mask": HEADS, **labels, **FULL,
    }  # fmt: skip
    return {
        "input_ids": {"input_ids": random_ids(*shape)},
        "pads without a mask": {"input_ids": ids, **labels},
        "attention_mask": batch,
        "attention_mask of floats": {"input_ids": ids, "attention_mask": mask.double()},
        "attention_mask with a hole": {"input_ids": ids, "attention_mask": mask * torch.tensor([1, 1, 0, 1, 1])},
        "attention_mask of three dimensions": {"input_ids": random_ids(*shape), "attention_mask": three, **FULL},
        "token_type_ids": {**batch, "token_type_ids": types},
        "position_ids": {**batch, "position_ids": positions},
        "head_mask of a model": {**batch, "head_mask": torch.tensor([1.0, 0.0], dtype=torch.float64)},
        "head_mask of each layer": {**batch, "head_mask": HEADS},
        "inputs_embeds": {"inputs_embeds": embeds, "attention_mask": mask},
        "inputs_embeds with positions": {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions},
        "output_hidden_states": {**batch, "output_hidden_states": True},
        "labels": {**batch, **labels},
        "labels of unpadded texts": {"input_ids": random_ids(*shape), **labels},
        "everything": everything,
        "everything as a tuple": {**everything, "return_dict": False},
        "a tuple": {**batch, "return_dict": False},
    }


def choice_calls() -> dict[str, dict[str, Any]]:
    """Return calls of the multiple choice class: two texts become two choices of one question."""
    calls = encoder_calls({"labels": torch.tensor([1])})
    whole = ("labels", "head_mask")
    calls = {
        name: {k: v[None] if torch.is_tensor(v) and k not in whole else v for k, v in call.items()}
        for name, call in calls.items()
        if name != "attention_mask of three dimensions"  # the reference flattens it to two dimensions
    }
    three = {"input_ids": random_ids(2, 3, 5), "labels": torch.tensor([2, -100])}
    return {**calls, "two questions with three choices": three}


def decoder_calls(labels: Tensor, heads: Tensor, **states: Tensor) -> dict[str, dict[str, Any]]:
    """Return calls of a decoder, and with `states` also of its cross-attention."""
    left = padded(left=True)
    return {
        "unpadded": {"input_ids": random_ids(*SIZE), **states, **FULL},
        "padding on the left": {**left, **states, **FULL},
        "padding on the right": {**padded(), **states, **FULL},
        "without a cache": {**left, **states, "use_cache": False},
        "a tuple with a cache": {**left, **states, "return_dict": False},
        "a tuple without a cache": {**left, **states, **FULL, "return_dict": False, "use_cache": False},
        "labels": {"input_ids": random_ids(*SIZE), "labels": labels, **states},
        "labels as a tuple": {"input_ids": random_ids(*SIZE), "labels": labels, **states, **FULL, "return_dict": False},
        "position_ids": {**left, **states, "position_ids": torch.arange(3, 8)[None], "use_cache": False},
        "head_mask": {**left, **states, "head_mask": heads, **FULL},
    }


def next_token(past: Any) -> dict[str, Any]:
    return {"input_ids": random_ids(2, 1, seed=7), "past_key_values": past}


def next_calls(past: Any, several: bool, **states: Tensor) -> dict[str, dict[str, Any]]:
    """Return calls of a decoder with the past of `padded(left=True)`."""
    mask = padded(left=True)["attention_mask"]
    one = {**next_token(past), **states}
    two = {"input_ids": random_ids(2, 2, seed=8), "past_key_values": past, **states}
    masks = [torch.cat([mask, mask.new_ones(2, n)], 1) for n in (1, 2)]
    calls = {
        "next token": {**one, "attention_mask": masks[0], **FULL},
        "next token without a mask": {**one, "use_cache": False},
        "next token as a tuple": {**one, "attention_mask": masks[0], **FULL, "return_dict": False},
        "next token at a position": {**one, "attention_mask": masks[0], "position_ids": torch.tensor([[9], [4]])},
        "next token with a head_mask": {**one, "attention_mask": masks[0], "head_mask": torch.tensor([0.5, 1.0])},
        "next token with a mask of three dimensions": {**one, "attention_mask": masks[0][:, None], "use_cache": False},
        "next token as an embedding": {
            "inputs_embeds": random_states(2, 1, SHAPE["hidden_size"], seed=7), "attention_mask": masks[0],
            "past_key_values": past, **states, "use_cache": False,
        },
    }  # fmt: skip
    if several:
        labels = torch.tensor([[5, 6], [7, -100]])
        calls["two next tokens"] = {**two, "attention_mask": masks[1], **FULL}
        calls["two next tokens with labels"] = {**two, "attention_mask": masks[1], "labels": labels}
    return calls


# -- Calls of each checkpoint ----------------------------------------------------------------------------------------


def base(golden: Golden) -> None:
    golden.add_all("Model", encoder_calls({}))
    golden.add_all("Model", encoder_calls({}), add_pooling_layer=False)
    states = random_states(2, 4, SHAPE["hidden_size"])
    states_ignored = {**padded(), "encoder_hidden_states": states, "use_cache": True}
    golden.add("Model", "an encoder does not look at states", states_ignored)


def activation(golden: Golden) -> None:
    for name in ("input_ids", "attention_mask", "output_hidden_states", "inputs_embeds"):
        golden.add("Model", name, encoder_calls({})[name])


def relative_positions(golden: Golden) -> None:
    activation(golden)
    for name in ("attention_mask of three dimensions", "head_mask of each layer", "everything"):
        call = {k: v for k, v in encoder_calls({})[name].items() if k != "token_type_ids"}
        golden.add("Model", name, call)


def sequences(golden: Golden) -> None:
    add = partial(golden.add, "ForSequenceClassification")
    golden.add_all("ForSequenceClassification", encoder_calls({"labels": torch.tensor([2, -100])}))
    several = {**padded(), "labels": torch.tensor([[1.0, 0, 1], [0, 0, 0]]).double()}
    add("several labels", several)
    add("several labels by name", several, problem_type="multi_label_classification")
    add("regression of three targets", several, problem_type="regression")
    column = {**padded(), "labels": torch.tensor([[2], [1]])}
    add("a column of labels", column, problem_type="single_label_classification")


def one_target(golden: Golden) -> None:
    targets = torch.tensor([0.5, -1.0], dtype=torch.float64)
    golden.add("ForSequenceClassification", "regression", {**padded(), "labels": targets})
    golden.add("ForSequenceClassification", "regression on a column", {**padded(), "labels": targets[:, None]})


def tokens(golden: Golden) -> None:
    ids = padded()["input_ids"]
    labels = ignoring(random_ids(*SIZE, seed=3) % 3, ids % 3 == 0)
    golden.add_all("ForTokenClassification", encoder_calls({"labels": labels}))


def choices(golden: Golden) -> None:
    golden.add_all("ForMultipleChoice", choice_calls())


def answers(golden: Golden) -> None:
    add = partial(golden.add, "ForQuestionAnswering")
    starts, ends = torch.tensor([2, 0]), torch.tensor([4, 1])
    golden.add_all("ForQuestionAnswering", encoder_calls({"start_positions": starts, "end_positions": ends}))
    outside = {"start_positions": torch.tensor([1, 5]), "end_positions": torch.tensor([[99], [-4]])}
    add("outside of the sequence", {**padded(), **outside})
    add("only starts", {**padded(), "start_positions": starts})


def language_labels() -> Tensor:
    ids, mask = padded().values()
    return ignoring(random_ids(*SIZE, seed=3), (mask == 0) | (ids % 3 == 0))


def masked(golden: Golden) -> None:
    labels = {"labels": language_labels()}
    golden.add_all("ForMaskedLM", encoder_calls(labels))
    golden.add("ForCausalLM", "predicts with tokens on both sides", {**padded(), **labels})


def causal(golden: Golden) -> None:
    golden.add_all("ForCausalLM", encoder_calls({"labels": language_labels()}))
    decoder(golden)
    other_decoders(golden)


def decoder(golden: Golden, heads: Tensor = HEADS, several: bool = True, **states: Tensor) -> None:
    golden.add_all("ForCausalLM", decoder_calls(language_labels(), heads, **states))
    past = golden.add("ForCausalLM", "first step", {**padded(left=True), **states})["past_key_values"]
    golden.add_all("ForCausalLM", next_calls(past, several, **states))


def other_decoders(golden: Golden, **states: Tensor) -> None:
    """Return calls of the other classes that can be decoders, with the same weights."""
    left, without_head = padded(left=True), {"add_pooling_layer": False}
    past = golden.add("Model", "a decoder", {**left, **states, **FULL}, **without_head)["past_key_values"]
    golden.add("Model", "a decoder as a tuple", {**left, **states, **FULL, "return_dict": False}, **without_head)
    golden.add("Model", "next token", {**next_token(past), **states}, **without_head)
    golden.add("ForMaskedLM", "a decoder", {**padded(), **states, "labels": language_labels(), **FULL})


def cross(golden: Golden, heads: Tensor = HEADS, several: bool = True) -> None:
    add, left = partial(golden.add, "ForCausalLM"), padded(left=True)
    states = {"encoder_hidden_states": random_states(2, 4, SHAPE["hidden_size"], seed=5)}
    decoder(golden, heads, several, **states)
    add("no states", left)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    some = {**states, "encoder_attention_mask": mask}
    past = add("encoder_attention_mask", {**left, **some, **FULL})["past_key_values"]
    add("next token, encoder_attention_mask", {**next_token(past), **some, **FULL})
    by_token = {**states, "encoder_attention_mask": torch.ones(5, 4).tril()[None] * mask[:, None]}
    add("encoder_attention_mask of three dimensions", {**left, **by_token, **FULL})
    if several:
        other_decoders(golden, **states)


# Checkpoint: the class that saves it, its configuration, and its cases.
CHECKPOINTS = {
    "base": ("Model", TWO_TYPES, base),
    "relu": ("Model", {"hidden_act": "relu", **ONE_LAYER}, activation),
    "silu": ("Model", {"hidden_act": "silu", **ONE_LAYER}, activation),
    "gelu_new": ("Model", {"hidden_act": "gelu_new", **ONE_LAYER}, activation),
    "relative_key": ("Model", RELATIVE, relative_positions),
    "relative_key_query": ("Model", RELATIVE_BOTH, relative_positions),
    "sequences": ("ForSequenceClassification", TWO_TYPES, sequences),
    "one_target": ("ForSequenceClassification", {"num_labels": 1, **ONE_LAYER}, one_target),
    "tokens": ("ForTokenClassification", TWO_TYPES, tokens),
    "choices": ("ForMultipleChoice", TWO_TYPES, choices),
    "answers": ("ForQuestionAnswering", {**TWO_TYPES, "num_labels": 2}, answers),
    "masked": ("ForMaskedLM", TWO_TYPES, masked),
    "causal": ("ForCausalLM", {**TWO_TYPES, **DECODER}, causal),
    "cross": ("ForCausalLM", {**TWO_TYPES, **CROSS}, cross),
    "causal_relative_key": (
        "ForCausalLM",
        {**RELATIVE, **DECODER, **ONE_LAYER},
        partial(decoder, heads=HEADS[:1], several=False),
    ),
    "cross_relative_key_query": (
        "ForCausalLM",
        {**RELATIVE_BOTH, **CROSS, **ONE_LAYER},
        partial(cross, heads=HEADS[:1], several=False),
    ),
}
