"""Greedy decoding and sampling, compared with transformers."""

import inspect
from dataclasses import fields

import pytest
import torch
import transformers
from decoders import FAMILIES, decoder_pair, prompts, reference_generate
from padded_batches import batch, build
from parameter_ids import id_without_address

from skxlmr.model import (
    GenerateOutput,
    GenerationConfig,
    XLMRobertaXLConfig,
    XLMRobertaXLForCausalLM,
    XLMRobertaXLTokenizer,
)
from skxlmr.model.reference.generation_options import GenerationOptions


@pytest.fixture(scope="module")
def model():
    return build("ForCausalLM", is_decoder=True)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
    return decoder_pair(request.param)


OPTIONS = [
    {"max_new_tokens": 12},
    {"max_new_tokens": 12, "eos_token_id": [2, 11, 17]},
    {"max_new_tokens": 12, "eos_token_id": [2, 11, 17], "min_new_tokens": 5},
    {"max_length": 15, "eos_token_id": 11, "min_length": 12},
    {"max_new_tokens": 12, "repetition_penalty": 1.5},
    {"max_new_tokens": 12, "repetition_penalty": 0.5, "no_repeat_ngram_size": 3},
    {"max_new_tokens": 12, "no_repeat_ngram_size": 2, "bad_words_ids": [[26], [20, 23], [23, 11, 23], [3, 4, 5, 6]]},
    {"max_new_tokens": 12, "suppress_tokens": [11, 26], "begin_suppress_tokens": [20, 23]},
    {"max_new_tokens": 12, "prefix_allowed_tokens_fn": lambda text, ids: [5 + text, 9 + len(ids) % 3, 2]},
    {"max_new_tokens": 12, "max_time": 1e-9},
]


@pytest.mark.parametrize("options", OPTIONS, ids=id_without_address)
def test_greedy_generation_equals_transformers(pair, options):
    ours, theirs = pair
    ids, mask = prompts()
    assert torch.equal(ours.generate(ids, mask, **options), reference_generate(theirs, ids, mask, **options))
    for row in range(3):
        alone = ids[row : row + 1, mask[row] == 1]
        got = ours.generate(alone, **options)
        assert torch.equal(got, reference_generate(theirs, alone, torch.ones_like(alone), **options))


def test_greedy_generation_equals_transformers_forward(pair):
    """transformers' forward pass counts positions as in training, by itself."""
    ours, theirs = pair
    ids = torch.tensor([[0, 7, 9]])
    got = ours.generate(ids, max_new_tokens=6, eos_token_id=-1)
    for end in range(3, 9):
        with torch.no_grad():
            assert got[0, end] == theirs(got[:, :end], use_cache=False).logits[0, -1].argmax()


def test_generate_banning_repeated_tokens_equals_transformers(pair):
    ours, theirs = pair
    ids = prompts((7,))[0]
    options = {"no_repeat_ngram_size": 1, "max_new_tokens": 15, "eos_token_id": -1}
    got = ours.generate(ids, **options)
    assert torch.equal(got, reference_generate(theirs, ids, torch.ones_like(ids), **options))
    assert len(set(got[0, 7:].tolist()) | set(ids[0].tolist())) == 15 + len(set(ids[0].tolist()))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 5},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"typical_p": 0.6},
        {"typical_p": 0.01},
        {"temperature": 0.7, "top_k": 20, "min_p": 0.05, "typical_p": 0.9},
        {"temperature": 0.5, "top_k": 9, "top_p": 0.9, "repetition_penalty": 1.3, "bad_words_ids": [[26]]},
    ],
    ids=id_without_address,
)
def test_sampling_probabilities_equal_transformers(pair, options):
    """The tokens of the first step may differ, its probabilities may not."""
    ours, theirs = pair
    ids, mask = prompts()
    options = {
        "do_sample": True, "max_new_tokens": 1, "return_dict_in_generate": True, "output_scores": True, **options,
    }  # fmt: skip
    got, expected = ours.generate(ids, mask, **options), reference_generate(theirs, ids, mask, **options)
    torch.testing.assert_close(got.scores[0].softmax(-1), expected.scores[0].softmax(-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "options",
    [{"top_p": 0.7}, {"num_return_sequences": 3, "repetition_penalty": 1.2}, {"temperature": 0.5}],
    ids=id_without_address,
)
def test_samples_from_seed_of_torch_equal_transformers(pair, options):
    ours, theirs = pair
    ids, mask = prompts()
    options = {"do_sample": True, "max_new_tokens": 12, **options}
    torch.manual_seed(0)
    got = ours.generate(ids, mask, **options)
    torch.manual_seed(0)
    assert torch.equal(got, reference_generate(theirs, ids, mask, **options))


def test_sampling_frequencies_follow_probabilities(model):
    ids = torch.tensor([[0, 7, 9], [0, 5, 6]])
    options = {"do_sample": True, "num_return_sequences": 4000, "max_new_tokens": 1}
    generator = torch.Generator().manual_seed(0)
    got = model.generate(ids, temperature=2.0, generator=generator, **options)
    assert torch.equal(got[:, :3], ids.repeat_interleave(4000, 0))
    expected = (model(ids).logits[:, -1] / 2).softmax(-1)
    for row in range(2):
        counts = torch.bincount(got[4000 * row : 4000 * (row + 1), 3], minlength=50)
        deviations = (4000 * expected[row] * (1 - expected[row])).sqrt()
        assert ((counts - 4000 * expected[row]).abs() < 5 * deviations + 1).all()
    first = model.generate(ids[:1], do_sample=True, top_k=1, num_return_sequences=3, max_new_tokens=4)
    assert torch.equal(first, model.generate(ids[:1], max_new_tokens=4).expand(3, -1))


@pytest.mark.parametrize("options", [{"num_return_sequences": 2}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
def test_samples_with_a_generator_for_each_text_do_not_depend_on_batch(model, options):
    ids, mask = batch((5, 12, 3), left=True)
    options = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 8, "eos_token_id": -1, **options}

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in range(3)]

    together = model.generate(ids, mask, generator=generators(), **options)
    for row, length in enumerate((5, 12, 3)):
        alone = model.generate(ids[row : row + 1, -length:], generator=generators()[row : row + 1], **options)
        assert torch.equal(together[2 * row : 2 * row + 2, 12:], alone[:, length:])
    assert len({tuple(new) for new in together[:, 12:].tolist()}) == 6


def test_generate_greedy_takes_most_likely_token(model):
    ids = torch.tensor([[0, 7, 9]])
    result = model.generate(ids, max_new_tokens=4, eos_token_id=-1)
    for end in range(3, 7):
        assert result[0, end] == model(result[:, :end]).logits[0, -1].argmax()


def test_generate_without_texts_starts_one(model):
    assert torch.equal(model.generate(max_new_tokens=4), model.generate(torch.tensor([[0]]), max_new_tokens=4))
    with pytest.raises(ValueError, match="the config has no bos_token_id"):
        build("ForCausalLM", is_decoder=True, bos_token_id=None).generate()


@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "temperature": 0.7, "top_k": 9, "top_p": 0.9}])
def test_generate_with_cache_equals_without(model, sampling):
    ids, mask = batch((5, 12, 3), left=True)
    results = []
    for use_cache in (True, False):
        generator = torch.Generator().manual_seed(0)
        results.append(
            model.generate(ids, mask, max_new_tokens=15, use_cache=use_cache, generator=generator, **sampling)
        )
    assert torch.equal(*results)
    assert torch.equal(results[0][:, :12], ids)


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.4, "no_repeat_ngram_size": 1, "min_new_tokens": 6}])
def test_generate_is_independent_of_batch(model, options):
    ids, _ = batch((5, 12, 3), left=True)
    together = model.generate(ids, max_new_tokens=8, **options)
    for row, length in enumerate((5, 12, 3)):
        alone = model.generate(ids[row : row + 1, -length:], max_new_tokens=8, **options)[0, length:]
        assert torch.equal(together[row, 12 : 12 + len(alone)], alone)


def test_generate_pads_after_eos(model):
    ids, mask = batch((5, 12, 3), left=True)
    free = model.generate(ids, mask, max_new_tokens=10, eos_token_id=-1)
    eos = int(free[0, 12 + 2])
    for pad in (None, 48):
        given = ids if pad is None else ids.masked_fill(mask == 0, pad)
        stopped = model.generate(given, mask, max_new_tokens=10, eos_token_id=eos, pad_token_id=pad)
        for row in range(3):
            new = free[row, 12:].tolist()
            expected = new[: new.index(eos) + 1] if eos in new else new
            got = stopped[row, 12:].tolist()
            assert got[: len(expected)] == expected
            assert set(got[len(expected) :]) <= {pad or 1}


@pytest.mark.parametrize("in_config", [False, True])
def test_generate_stops_at_each_of_several_ids(in_config):
    model, ids = build("ForCausalLM", is_decoder=True), torch.tensor([[0, 5, 6]])
    model.config.eos_token_id = None
    free = model.generate(ids, max_new_tokens=8)[0].tolist()
    assert len(free) == 11
    third = free[5]
    ends = [third, 2]
    if in_config:
        model.config.eos_token_id = ends
    got = model.generate(ids, max_new_tokens=8, **({} if in_config else {"eos_token_id": ends}))[0].tolist()
    assert got == free[: free.index(third, 3) + 1]
    with pytest.raises(ValueError, match="eos_token_id must be an integer"):
        model.generate(ids, eos_token_id=["2"])


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=id_without_address)
def test_generate_from_embeddings_returns_new_tokens(pair, options):
    ours, theirs = pair
    ids, mask = prompts()
    embeddings = ours.roberta.embeddings.word(ids).detach()
    got = ours.generate(inputs_embeds=embeddings, attention_mask=mask, max_length=13, **options)
    assert torch.equal(got, ours.generate(ids, mask, max_length=13, **options)[:, 7:])
    assert torch.equal(
        got[:1], ours.generate(inputs_embeds=embeddings[:1, 3:], max_new_tokens=6, **options)[:, : got.shape[1]]
    )
    theirs_new = theirs.generate(
        inputs_embeds=embeddings[1:2],
        position_ids=torch.arange(2, 9)[None],
        max_new_tokens=6,
        pad_token_id=1,
        **options,
    )
    assert torch.equal(got[1:2, : theirs_new.shape[1]], theirs_new)


def test_generate_with_scores_returns_named_outputs(model):
    ids, mask = batch((5, 12, 3), left=True)
    output = model.generate(
        ids, mask, max_new_tokens=4, eos_token_id=-1, return_dict_in_generate=True, output_scores=True
    )
    assert isinstance(output, GenerateOutput)
    assert torch.equal(output[0], model.generate(ids, mask, max_new_tokens=4, eos_token_id=-1))
    assert list(output) == ["sequences", "scores"]
    assert torch.equal(torch.stack(output["scores"], 1).argmax(-1), output.sequences[:, 12:])
    assert len(model.generate(ids, mask, return_dict_in_generate=True)) == 1


class Streamer:
    """Keeps what it is given."""

    def __init__(self):
        self.values, self.ended = [], False

    def put(self, value):
        assert not self.ended
        self.values.append(value)

    def end(self):
        self.ended = True


@pytest.mark.parametrize("num_beams", [1, 2])
def test_eos_token_id_outside_of_vocabulary_bans_no_token(model, num_beams):
    """While no text may end, the scores of the others stay."""
    for eos in (-1, 50, 10**9):
        output = model.generate(
            torch.tensor([[0, 7, 9]]), max_new_tokens=2, min_new_tokens=2, eos_token_id=eos, num_beams=num_beams,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        assert torch.stack(output.scores).isfinite().all()


def test_generate_puts_texts_and_each_token_into_streamer(pair):
    ours, theirs = pair
    ids, mask = prompts()
    options = {"max_new_tokens": 6, "eos_token_id": [2, 11]}
    streamers = Streamer(), Streamer()
    sequences = ours.generate(ids, mask, streamer=streamers[0], **options)
    assert torch.equal(torch.cat([streamers[0].values[0], torch.stack(streamers[0].values[1:], 1)], 1), sequences)
    reference_generate(theirs, ids, mask, streamer=streamers[1], **options)
    assert [value.tolist() for value in streamers[0].values] == [value.tolist() for value in streamers[1].values]
    assert streamers[0].ended


def ends_at(token):
    return lambda ids, scores: ids[:, -1] == token


def test_generate_with_stopping_criteria_equals_transformers(pair):
    ours, theirs = pair
    ids, mask = prompts()
    free = ours.generate(ids, mask, max_new_tokens=9, eos_token_id=-1)
    token = int(free[1, 10])
    criteria = transformers.StoppingCriteriaList([ends_at(token), ends_at(11)])
    got = ours.generate(ids, mask, max_new_tokens=9, stopping_criteria=criteria)
    assert torch.equal(got, reference_generate(theirs, ids, mask, max_new_tokens=9, stopping_criteria=criteria))
    assert torch.equal(got, ours.generate(ids, mask, max_new_tokens=9, stopping_criteria=list(criteria)))
    seen = []
    short = ours.generate(
        ids, mask, eos_token_id=-1, return_dict_in_generate=True, output_scores=True,
        stopping_criteria=lambda ids, scores: seen.append(len(scores)) or ids.shape[1] == 10,
    ).sequences  # fmt: skip
    assert torch.equal(short, free[:, :10])
    assert seen == [1, 2, 3]
    with pytest.raises(ValueError, match=r"one for each of the 3 texts .* returned a tensor of shape \(2,\)"):
        ours.generate(ids, mask, stopping_criteria=lambda ids, scores: torch.tensor([True, False]))


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=id_without_address)
def test_generate_with_logits_processor_equals_transformers(pair, options):
    ours, theirs = pair
    ids, mask = prompts()
    favour = transformers.LogitsProcessorList([lambda ids, scores: scores + 9 * (torch.arange(30) % 7 == 4)])
    got = ours.generate(ids, mask, max_new_tokens=5, logits_processor=favour, **options)
    assert torch.equal(got, reference_generate(theirs, ids, mask, max_new_tokens=5, logits_processor=favour, **options))
    assert set((got[:, 7:] % 7).flatten().tolist()) == {4}


def test_options_are_arguments_of_generate():
    signature = inspect.signature(XLMRobertaXLForCausalLM.generate).parameters
    for field in fields(GenerationOptions):
        assert signature[field.name].default is None
        assert signature[field.name].kind == inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"min_p": 2.0, "do_sample": True}, r"min_p must be in \[0, 1\]"),
        ({"typical_p": 0.0, "do_sample": True}, r"typical_p must be in \(0, 1\]"),
        ({"min_p": 0.1}, "min_p=0.1 changes only sampling: give do_sample=True"),
        ({"max_time": 0}, "max_time must be above 0"),
        ({"suppress_tokens": [99]}, "suppress_tokens has .99., but ids are below 50"),
        ({"prefix_allowed_tokens_fn": lambda text, ids: []}, "returned no token for text 0"),
        ({"max_new_tokens": 40}, "3 tokens and 40 new ones are too many for 38 positions: lower max_new_tokens"),
        ({"max_length": 44}, "lower max_length or shorten"),
        ({"max_length": 3}, "max_length=3 leaves no room after texts of 3 tokens"),
        (
            {"min_new_tokens": 5, "max_new_tokens": 4},
            "min_new_tokens=5 needs 5 new .* at most 4: lower it, or raise max_n",
        ),
        ({"min_length": 9, "max_length": 8}, "min_length=9 needs 6 new tokens, .* at most 5: lower it, or raise max_l"),
        ({"attention_mask": torch.tensor([[1, 1, 0]])}, "Row 0 ends in padding"),
        ({"attention_mask": torch.tensor([[1, 1]])}, r"attention_mask must have shape \(1, 3\), got \(1, 2\)"),
        ({"bad_words_ids": [[3, 50]]}, "ids are below 50"),
        ({"sequence_bias": {(3, 50): 1.0}}, "sequence_bias has .*, but ids are below 50"),
        ({"forced_bos_token_id": 50}, r"forced_bos_token_id has \[50\], but ids are below 50"),
        ({"forced_eos_token_id": [3, 50]}, "forced_eos_token_id has .*, but ids are below 50"),
        (
            {"input_ids": None, "inputs_embeds": torch.zeros(1, 3, 16), "encoder_repetition_penalty": 2.0},
            "needs the ids of the texts",
        ),
        (
            {"generator": [torch.Generator(), torch.Generator()], "do_sample": True},
            "generator has 2 for 1 texts: give one for each, or a single one",
        ),
        ({"input_ids": torch.tensor([0, 7])}, r"input_ids must have shape \(n_texts, n_tokens\), got \(2,\)"),
        ({"inputs_embeds": torch.zeros(1, 3, 16)}, "either input_ids or inputs_embeds"),
        ({"input_ids": None, "inputs_embeds": torch.zeros(1, 3, 16), "use_cache": False}, "need use_cache=True"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.int64)}, "input_ids have no tokens"),
    ],
    ids=id_without_address,
)
def test_generate_arguments_that_do_not_fit_raise(model, parameters, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**({"input_ids": torch.tensor([[0, 7, 9]])} | parameters))


@pytest.mark.parametrize("config", [GenerationConfig, transformers.GenerationConfig])
def test_generate_takes_a_generation_config_in_place_of_the_models(pair, config):
    ids, mask = prompts()
    options = {"max_new_tokens": 6, "num_beams": 3, "suppress_tokens": [11], "eos_token_id": 2, "pad_token_id": 1}
    expected = pair[0].generate(ids, mask, **options)
    assert torch.equal(pair[0].generate(ids, mask, generation_config=config(**options)), expected)
    fewer = pair[0].generate(ids, mask, generation_config=config(**options), max_new_tokens=2)
    assert fewer.shape[1] == ids.shape[1] + 2
    with pytest.raises(TypeError, match=r"generation_config must be a GenerationConfig, got \{\}"):
        pair[0].generate(ids, mask, generation_config={})


def test_generate_with_encoder_raises():
    with pytest.raises(ValueError, match="is_decoder=True"):
        build("ForCausalLM").generate(torch.tensor([[0, 7]]))
    with pytest.raises(TypeError, match="force_words_ids"):
        build("ForCausalLM", is_decoder=True).generate(torch.tensor([[0, 7]]), force_words_ids=[[7]])


def test_example_of_the_documentation_of_transformers_runs():
    """The example of XLMRobertaXLForCausalLM in transformers 4.27.2, with the bundled model."""
    tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")
    config = XLMRobertaXLConfig.from_pretrained("nano")
    config.is_decoder = True
    model = XLMRobertaXLForCausalLM.from_pretrained("nano", config=config)
    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")
    outputs = model(**inputs)
    prediction_logits = outputs.logits
    assert prediction_logits.shape == (*inputs["input_ids"].shape, config.vocab_size)
    assert model.generate(inputs["input_ids"][:, :-1], num_beams=2, max_new_tokens=3).shape[0] == 1
