"""Generation, likelihoods and fitting of the generator, compared with transformers."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from sklearn.exceptions import NotFittedError

import skxlmr
from skxlmr import Full, LoRA, XLMRXLGenerator
from skxlmr.estimators import generator
from skxlmr.estimators.generator import bad_words_ids
from skxlmr.model import GenerationConfig, XLMRobertaXLForCausalLM
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.feature_cache import clear_features

TEXTS = ["The sea is blue and deep.", "The sky is grey and wide.", "我们都很好。", "Alles ist gut!"]
PROMPTS = ["The sea", "The sky is", "我们", "", "Alles "]
WANTED = [" is blue and deep.", " grey and wide.", "都很好。", None, "ist gut!"]


def writer(**parameters):
    settings = {"model": "nano", "random_state": 0, "max_epochs": 60, "learning_rate": 1e-2, "device": "cpu"}
    return XLMRXLGenerator(**(settings | {"tuning": LoRA(rank=4)} | parameters))


@pytest.fixture(scope="module")
def fitted():
    return writer().fit(TEXTS)


def test_generate_after_fit_continues_training_texts(fitted):
    found = fitted.generate(PROMPTS, max_new_tokens=30)
    for text, continuation, wanted in zip(PROMPTS, found, WANTED, strict=True):
        assert continuation == wanted or (wanted is None and text + continuation in TEXTS)
    assert fitted.predict(PROMPTS[:2]).tolist() == fitted.generate(PROMPTS[:2]).tolist()
    assert fitted.history_.loss.iloc[-1] < 0.5


def test_score_and_greedy_generation_equal_transformers(fitted, tmp_path):
    fitted.export_pretrained(tmp_path)
    model = transformers.XLMRobertaXLForCausalLM.from_pretrained(tmp_path).eval()
    assert model.config.is_decoder
    assert XLMRobertaXLForCausalLM.from_pretrained(tmp_path).config.is_decoder
    tokenizer = get_backbone("nano").tokenizer
    losses, log_likelihoods, n_targets = [], [], []
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            outputs = model(ids, labels=ids)
        losses.append(outputs.loss.item())
        n_targets.append(ids.shape[1] - 1)
        log_p = outputs.logits[0, :-2].log_softmax(-1)
        log_likelihoods.append(log_p.gather(1, ids[0, 1:-1, None]).sum().item())
    assert fitted.score(TEXTS) == pytest.approx(-np.average(losses, weights=n_targets), rel=1e-4)
    assert fitted.score(TEXTS[:1]) == pytest.approx(-losses[0], rel=1e-4)
    np.testing.assert_allclose(fitted.log_likelihood(TEXTS), log_likelihoods, rtol=1e-4, atol=1e-5)
    for text, continuation in zip(PROMPTS, fitted.generate(PROMPTS, max_new_tokens=5), strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"][:-1]])
        n = ids.shape[1]
        for _ in range(5):  # without a key-value cache
            with torch.no_grad():
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
            if ids[0, -1] == tokenizer.eos_token_id:
                break
        pieces = tokenizer.convert_ids_to_tokens(ids[0, n:], True)
        assert continuation == "".join(pieces).replace("▁", " ").removeprefix(" " if text in ("", "Alles ") else "x")


def test_beam_search_and_constraints_equal_transformers(fitted, tmp_path):
    fitted.export_pretrained(tmp_path)
    model = transformers.XLMRobertaXLForCausalLM.from_pretrained(tmp_path).eval()
    tokenizer = get_backbone("nano").tokenizer
    for options in (
        {"num_beams": 3},
        {"num_beams": 3, "length_penalty": 2.0, "early_stopping": "never", "min_new_tokens": 4},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 8},
    ):
        found = fitted.generate(PROMPTS, max_new_tokens=8, **options)
        for text, continuation in zip(PROMPTS, found, strict=True):
            ids = torch.tensor([tokenizer(text)["input_ids"][:-1]])
            n = ids.shape[1]
            new = model.generate(ids, position_ids=torch.arange(2, 2 + n)[None], max_new_tokens=8, **options)[0, n:]
            pieces = tokenizer.convert_ids_to_tokens(new, True)
            wanted = "".join(pieces).replace("▁", " ")
            assert continuation == wanted.removeprefix(" " if text in ("", "Alles ") else "x")


def test_generate_with_num_return_sequences_returns_columns(fitted):
    found = fitted.generate(PROMPTS, max_new_tokens=6, num_beams=4, num_return_sequences=3)
    assert found.shape == (5, 3)
    assert found[:, 0].tolist() == fitted.generate(PROMPTS, max_new_tokens=6, num_beams=4).tolist()
    assert all(len(set(row)) == 3 for row in found.tolist())
    small = pickle.loads(pickle.dumps(fitted)).set_params(batch_tokens=1)
    many = {"max_new_tokens": 6, "num_beams": 4, "num_return_sequences": 3}
    assert small.generate(PROMPTS, **many).tolist() == found.tolist()
    sampled = fitted.generate(["The"], do_sample=True, temperature=5.0, num_return_sequences=20)
    assert sampled.shape == (1, 20)
    assert len(set(sampled[0])) > 5


def test_generate_takes_defaults_of_generation_config(tmp_path):
    decoder = XLMRobertaXLForCausalLM.from_pretrained("nano", is_decoder=True)
    decoder.generation_config = GenerationConfig(max_new_tokens=4, num_beams=3, num_return_sequences=2)
    decoder.save_pretrained(tmp_path)
    get_backbone("nano").tokenizer.save_pretrained(tmp_path)
    model = writer(model=str(tmp_path), tuning="head", max_epochs=1).fit(TEXTS)
    found = model.generate(PROMPTS)
    assert found.shape == (5, 2)
    assert found.tolist() == model.generate(PROMPTS, 4, num_beams=3, num_return_sequences=2).tolist()
    one = model.generate(PROMPTS, num_beams=1, num_return_sequences=1)
    assert one.shape == (5,)
    decoder.generation_config = GenerationConfig(max_length=9, max_new_tokens=4, extra={"token_healing": True})
    (tmp_path / "generation_config.json").write_bytes(decoder.generation_config.to_json())
    model.export_pretrained(tmp_path / "exported")
    exported = XLMRobertaXLForCausalLM.from_pretrained(tmp_path / "exported")
    assert exported.generation_config == decoder.generation_config
    with pytest.warns(UserWarning, match="base model has max_length=9, token_healing=True, which"):
        assert model.generate(PROMPTS).tolist() == one.tolist()
    contrastive = GenerationConfig(max_new_tokens=4, penalty_alpha=0.8, top_k=3)
    (tmp_path / "generation_config.json").write_bytes(contrastive.to_json())
    found = model.generate(PROMPTS[:2])
    assert found.tolist() != one[:2].tolist()
    exported.generation_config = contrastive
    tokenizer = get_backbone("nano").tokenizer
    for text, continuation in zip(PROMPTS[:2], found, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"][:-1]])
        pieces = tokenizer.convert_ids_to_tokens(exported.generate(ids)[0, ids.shape[1] :], True)
        assert continuation == "".join(pieces).replace("▁", " ")


def test_generate_with_bad_words_leaves_them_out(fitted):
    free = fitted.generate(PROMPTS[:3], max_new_tokens=30)
    assert "deep" in free[0]
    assert "很好" in free[2]
    found = fitted.generate(PROMPTS[:3], max_new_tokens=30, bad_words=["deep", "很好"])
    assert "deep" not in found[0]
    assert "很好" not in found[2]
    assert found[1] == free[1]
    for words, error, message in [
        ("deep", TypeError, "bad_words must be a list of texts, got 'deep'"),
        ([3], TypeError, "bad_words must be a list of texts"),
        (3, TypeError, "bad_words must be a list of texts"),
        (["deep", " "], ValueError, "bad_words: ' ' has no word in it"),
    ]:
        with pytest.raises(error, match=message):
            fitted.generate(PROMPTS, bad_words=words)


def test_bad_words_of_scripts_without_spaces_are_banned_without_a_space_too():
    tokenizer = get_backbone("nano").tokenizer
    spelled = [tokenizer.convert_ids_to_tokens(ids) for ids in bad_words_ids(tokenizer, ["film", "很好", "!"])]
    assert spelled[0] == tokenizer.tokenize("film")
    assert all("".join(pieces).strip("▁") in ("film", "很好", "!") for pieces in spelled)
    assert [pieces for pieces in spelled if not pieces[0].startswith("▁")] == [["很好"], ["!"]]
    assert bad_words_ids(tokenizer, None) is None


def test_generate_and_log_likelihood_do_not_depend_on_batches(fitted):
    alone = [fitted.generate([text], max_new_tokens=8)[0] for text in PROMPTS]
    assert fitted.generate(PROMPTS, max_new_tokens=8).tolist() == alone
    small = pickle.loads(pickle.dumps(fitted)).set_params(batch_tokens=1)
    assert small.generate(PROMPTS, max_new_tokens=8).tolist() == alone
    np.testing.assert_allclose(small.log_likelihood(TEXTS), fitted.log_likelihood(TEXTS), rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"num_return_sequences": 2}, {"num_beams": 2}], ids=str)
def test_samples_of_a_text_do_not_depend_on_the_other_texts(fitted, options):
    hot = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 4, **options}
    found = fitted.generate(PROMPTS, **hot).tolist()
    small = pickle.loads(pickle.dumps(fitted)).set_params(batch_tokens=1)
    assert small.generate(PROMPTS, **hot).tolist() == found
    assert fitted.generate(PROMPTS[::-1], **hot).tolist() == found[::-1]
    assert fitted.generate(PROMPTS[1:2], **hot).tolist() == found[1:2]


def test_samples_of_equal_texts_and_of_other_seeds_differ(fitted):
    hot = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 5}
    same = fitted.generate(["The sea"] * 4, **hot).tolist()
    assert len(set(same)) == 4
    assert fitted.generate(["a", "The sea", "The sea"], **hot)[1:].tolist() == same[:2]
    other = pickle.loads(pickle.dumps(fitted)).set_params(random_state=1)
    assert not set(other.generate(["The sea"] * 4, **hot)) & set(same)


def test_equal_texts_are_continued_once(fitted, monkeypatch):
    rows, original = [], generator.generate
    monkeypatch.setattr(generator, "generate", lambda *args: rows.append(len(args[2])) or original(*args))
    texts = ["The sea", "Das", "The sea", "", "Das"]
    found = fitted.generate(texts, max_new_tokens=3)
    assert sum(rows) == 3
    assert found.tolist() == [fitted.generate([text], max_new_tokens=3)[0] for text in texts]


def test_generate_ends_at_stop_strings(fitted):
    free = fitted.generate(PROMPTS, max_new_tokens=9)
    string = free[0].strip()[2:5]
    for given in (string, [string, "zzz"], np.array([string]), pd.Series([string])):
        found = fitted.generate(PROMPTS, max_new_tokens=9, stop_strings=given)
        for text, whole, part in zip(PROMPTS, free, found, strict=True):
            assert whole.startswith(part)
            assert whole == part or string in text + part
        assert found[0] != free[0]
        assert string in found[0]
    for given in (3, [3], {"a"}):
        with pytest.raises(TypeError, match="stop_strings must be a text or a list of texts"):
            fitted.generate(PROMPTS, stop_strings=given)


def test_predict_returns_one_text_each_whatever_the_generation_config_says(tmp_path):
    decoder = XLMRobertaXLForCausalLM.from_pretrained("nano", is_decoder=True)
    decoder.generation_config = GenerationConfig(
        max_new_tokens=4, num_beams=3, num_return_sequences=2, guidance_scale=1.5, stop_strings=["zzz"],
        sequence_bias={(9,): 1.0}, forced_eos_token_id=2,
    )  # fmt: skip
    decoder.save_pretrained(tmp_path)
    get_backbone("nano").tokenizer.save_pretrained(tmp_path)
    model = writer(model=str(tmp_path), tuning="head", max_epochs=1).fit(TEXTS)
    found = model.generate(PROMPTS)
    assert found.shape == (5, 2)
    assert model.predict(PROMPTS).tolist() == found[:, 0].tolist()


def test_generate_with_do_sample_follows_random_state(fitted):
    hot = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 6}
    first = fitted.generate(PROMPTS, **hot)
    assert first.tolist() == fitted.generate(PROMPTS, **hot).tolist()  # random_state is 0
    assert first.tolist() != fitted.generate(PROMPTS, max_new_tokens=6).tolist()
    assert (
        fitted.generate(PROMPTS, **hot | {"top_k": 1}).tolist() == fitted.generate(PROMPTS, max_new_tokens=6).tolist()
    )
    free = pickle.loads(pickle.dumps(fitted)).set_params(random_state=None)
    assert len({tuple(free.generate(PROMPTS, **hot)) for _ in range(4)}) > 1


@pytest.mark.parametrize("tuning", ["head", "bias", Full(layers=1), "full", LoRA(layers=1)], ids=str)
def test_generator_with_each_tuning_survives_pickle_and_save(tuning, tmp_path):
    model = writer(tuning=tuning, max_epochs=2, learning_rate="auto").fit(TEXTS)
    model.save(tmp_path)
    for again in (pickle.loads(pickle.dumps(model)), skxlmr.load(tmp_path)):
        assert again.generate(PROMPTS).tolist() == model.generate(PROMPTS).tolist()
        np.testing.assert_array_equal(again.log_likelihood(TEXTS), model.log_likelihood(TEXTS))


def test_fit_after_bidirectional_fit_does_not_reuse_its_cached_states():
    """States below LoRA(layers=1) are cached; bidirectional ones must not be reused for causal attention."""
    clear_features()
    expected = writer(tuning=LoRA(layers=1), max_epochs=2).fit(TEXTS).log_likelihood(TEXTS)
    clear_features()
    skxlmr.XLMRXLClassifier("nano", tuning=LoRA(layers=1), max_epochs=1, device="cpu").fit(TEXTS, [0, 1, 0, 1])
    got = writer(tuning=LoRA(layers=1), max_epochs=2).fit(TEXTS).log_likelihood(TEXTS)
    np.testing.assert_array_equal(got, expected)


def test_token_log_likelihood_sums_to_that_of_text(fitted, tmp_path):
    texts = [*TEXTS, "", TEXTS[0]]
    table = fitted.token_log_likelihood(texts)
    sums = table.groupby("row").log_probability.sum().reindex(range(6), fill_value=0)
    np.testing.assert_allclose(sums, fitted.log_likelihood(texts), rtol=1e-5, atol=1e-6)
    assert [texts[piece.row][piece.start : piece.end] for piece in table.itertuples()] == table.token.tolist()
    fitted.export_pretrained(tmp_path)
    model = XLMRobertaXLForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([get_backbone("nano").tokenizer(TEXTS[1])["input_ids"]])
    with torch.no_grad():
        log_p = model(ids).logits[0, :-2].log_softmax(-1).gather(1, ids[0, 1:-1, None])[:, 0]
    np.testing.assert_allclose(table[table["row"] == 1].log_probability, log_p, rtol=1e-4, atol=1e-4)
    short = pickle.loads(pickle.dumps(fitted)).set_params(max_length=8, stride=2)
    long = short.token_log_likelihood([TEXTS[0] * 3])
    assert long.start.is_monotonic_increasing
    assert long.log_probability.sum() == pytest.approx(short.log_likelihood([TEXTS[0] * 3])[0], rel=1e-5)


def test_generate_with_long_text_warns_and_without_room_raises(fitted):
    long = "The sea is blue and deep. " * 100
    with pytest.warns(UserWarning, match="1 of 2 texts are too long to be continued whole"):
        found = fitted.generate([long, "The sea"], max_new_tokens=5)
    assert found[1] == fitted.generate(["The sea"], max_new_tokens=5)[0]
    longest = get_backbone("nano").model.config.max_length
    with pytest.raises(ValueError, match=f"max_new_tokens={longest} leaves no room"):
        fitted.generate(["a"], max_new_tokens=longest)
    with pytest.raises(ValueError, match="in max_length=16: lower it, or raise max_length"):
        pickle.loads(pickle.dumps(fitted)).set_params(max_length=16).predict(["a"])
    assert fitted.log_likelihood(["", " "]).dtype == np.float64
    assert fitted.log_likelihood([long])[0] < 50 * fitted.log_likelihood([long[:25]])[0]
    assert np.isfinite(writer(max_epochs=1).fit([long]).score([long]))


def test_plan_of_log_likelihood_reads_pieces_with_most_left_context(fitted):
    """Where windows overlap, pieces are read in the earlier one, which shows more left context."""
    short = pickle.loads(pickle.dumps(fitted)).set_params(max_length=12, stride=6)
    first = "one two three four five six seven eight nine ten"
    tokenizer = get_backbone("nano").tokenizer
    pieces = tokenizer.encode_batch([first])[0]
    plan = short._plan_every_piece(get_backbone("nano"), short._check_column([first]), causal=True)
    assert len(plan.windows) > 2
    for number, at in enumerate(plan.positions):
        assert at.tolist() == list(range(1 if number == 0 else 7, len(plan.windows[number]) - 1))
    np.testing.assert_array_equal(
        np.concatenate([ids[at] for ids, at in zip(plan.windows, plan.positions, strict=True)]), pieces
    )


@pytest.mark.filterwarnings("ignore:1 of . distinct texts were cut")
@pytest.mark.parametrize("truncation", [False, True])
def test_training_examples_of_cut_text_have_no_end_token_at_cut(truncation):
    backbone = get_backbone("nano", device="cpu")
    tokenizer = backbone.tokenizer
    model, texts = writer(max_length=8, stride=2, truncation=truncation), ["one two three four five six seven", "one"]
    plan = model._new_task().plan(backbone, model._check_column(texts))
    examples = model._new_task().examples(plan, tokenizer, None)
    ends = [targets.tolist().count(tokenizer.eos_token_id) for targets in examples.targets]
    assert ends == ([0, 1] if truncation else [0, 0, 1, 1])
    np.testing.assert_array_equal(examples.targets[0], tokenizer.encode_batch(texts)[0][:6])
    assert np.isfinite(model.set_params(tuning="head", max_epochs=1).fit(texts).score(texts))


def test_methods_with_invalid_input_raise_and_name_row(fitted):
    with pytest.raises(NotFittedError):
        writer().generate(PROMPTS)
    for X, error, message in [
        (["a", None], ValueError, "X, row 1: None is a missing value"),
        ("a", TypeError, "a single str"),
        (np.array([["b", "d"]], object), ValueError, "2 columns, where one of texts is needed"),
    ]:
        for method in (fitted.generate, fitted.score, fitted.log_likelihood, writer().fit):
            with pytest.raises(error, match=message):
                method(X)
    for parameters in (
        {"temperature": 0},
        {"temperature": np.nan},
        {"top_k": -1},
        {"max_new_tokens": 0},
        {"min_p": 2.0},
        {"top_p": 2.0},
    ):
        with pytest.raises(ValueError, match="must be"):
            fitted.generate(["a"], **({"do_sample": True} | parameters))
    for parameters in (
        {"temperature": "1"},
        {"top_k": 2.0},
        {"max_new_tokens": 2.5},
        {"max_new_tokens": True},
        {"do_sample": "yes"},
    ):
        with pytest.raises(TypeError, match=f"{next(iter(parameters))} must be"):
            fitted.generate(["a"], **({"do_sample": True} | parameters))
    with pytest.raises(ValueError, match="no text with a word"):
        writer().fit([""])


@pytest.mark.usefixtures("gpu")
def test_generator_on_cuda_equals_cpu(fitted):
    model = pickle.loads(pickle.dumps(fitted)).set_params(device="cuda", dtype="float32")
    assert model.generate(PROMPTS).tolist() == fitted.generate(PROMPTS).tolist()
    np.testing.assert_allclose(model.log_likelihood(TEXTS), fitted.log_likelihood(TEXTS), rtol=1e-3, atol=1e-3)
    half = writer(device="cuda", dtype="float16", max_epochs=5).fit(TEXTS)  # uses the causal kernel for packed tokens
    full = writer(device="cuda", dtype="float32", max_epochs=5).fit(TEXTS)
    np.testing.assert_allclose(half.log_likelihood(TEXTS), full.log_likelihood(TEXTS), rtol=0.1)
