"""Filled masks, likelihoods and fitting of the masked language model, compared with transformers."""

import pickle
import tempfile

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

import skxlmr
from skxlmr import Bias, Full, LoRA, XLMRXLClassifier, XLMRXLMaskedLM
from skxlmr.datasets import load_reviews
from skxlmr.estimators import masked_lm
from skxlmr.model import NewHeadWarning
from skxlmr.model.lm_head import LMHead
from skxlmr.runtime.backbone import get_backbone

GAPS = ["The film was very <mask>.", "<mask> is the <mask>", "这部电影很<mask>。", "Das ist<mask>", " <mask>"]
TEXTS = load_reviews().text[::60].tolist()


def lm(**parameters):
    settings = {"model": "nano", "random_state": 0, "max_epochs": 2, "learning_rate": 1e-3, "device": "cpu"}
    return XLMRXLMaskedLM(**(settings | parameters))


@pytest.fixture(scope="module")
def fitted():
    return lm(tuning=LoRA(rank=2), batch_size=2).fit(TEXTS)


@pytest.fixture(scope="module")
def theirs():
    """transformers' model of the bundled checkpoint."""
    directory = tempfile.mkdtemp()
    skxlmr.model.XLMRobertaXLForMaskedLM.from_pretrained("nano").save_pretrained(directory)
    return transformers.XLMRobertaXLForMaskedLM.from_pretrained(directory).eval()


def test_fill_mask_equals_transformers(theirs):
    tokenizer = get_backbone("nano").tokenizer
    found = lm().fill_mask(GAPS, top_k=4)
    assert found.columns.tolist() == ["row", "mask", "token", "score", "text"]
    assert found.groupby(["row", "mask"]).size().to_dict() == dict.fromkeys(
        [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (4, 0)], 4
    )
    special = tokenizer.all_special_ids
    for row, text in enumerate(GAPS):
        ids = torch.tensor(tokenizer(text)["input_ids"])
        with torch.no_grad():
            probabilities = theirs(ids[None]).logits[0].softmax(-1)
        for mask, at in enumerate((ids == tokenizer.mask_token_id).nonzero()[:, 0]):
            of_mask = probabilities[at]
            of_mask[special] = -1
            highest, best = of_mask.topk(4)
            ours = found[(found["row"] == row) & (found["mask"] == mask)]
            np.testing.assert_allclose(ours.score, highest, rtol=1e-4)
            assert ours.token.tolist() == [tokenizer.decode([i]).strip() for i in best]


def test_fill_mask_with_targets_equals_pipeline_of_transformers(theirs, tmp_path):
    get_backbone("nano").tokenizer.save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    pipeline = transformers.pipeline("fill-mask", model=theirs, tokenizer=tokenizer)
    targets = ["good", "▁film", "▁the", "▁so"]
    found = lm().fill_mask(GAPS, targets=targets)
    assert found.groupby(["row", "mask"]).size().unique().tolist() == [4]
    for row, text in enumerate(GAPS):
        expected = pipeline(text, targets=targets)
        expected = expected if isinstance(expected[0], list) else [expected]
        for mask, of_mask in enumerate(expected):
            ours = found[(found["row"] == row) & (found["mask"] == mask)]
            assert ours.token.tolist() == [tokenizer.decode([piece["token"]]).strip() for piece in of_mask]
            np.testing.assert_allclose(ours.score, [piece["score"] for piece in of_mask], atol=1e-5)
    best = lm().fill_mask(GAPS, targets=targets, top_k=2)
    pd.testing.assert_frame_equal(best, found.groupby(["row", "mask"]).head(2).reset_index(drop=True))
    all_pieces = lm().fill_mask(GAPS[:1], top_k=10**6)
    one = lm().fill_mask(GAPS[:1], targets="good")
    assert one.score[0] == pytest.approx(
        all_pieces.score[all_pieces.text == "The film was very good."].item(), rel=1e-5
    )


def test_fill_mask_with_a_target_written_twice_returns_it_once():
    twice = lm().fill_mask(["a <mask>"], targets=["good", "▁good"])
    assert twice.token.tolist() == ["good"]


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (["good", "lovely"], ValueError, "targets: 'lovely' is not a single piece of the vocabulary, but '▁love ly'"),
        ([""], ValueError, "targets: '' is not a single piece"),
        (["<mask>"], ValueError, "targets: '<mask>' is not a single piece"),
        (["<unk>"], ValueError, "targets: '<unk>' is not a single piece"),
        ([], ValueError, "targets is empty"),
        ([3], TypeError, "targets must be a text or a list of texts"),
        (3, TypeError, "targets must be a text or a list of texts"),
        ({"good": 1}, TypeError, "targets must be a text or a list of texts"),
        (["good", np.nan], TypeError, r"targets must be a text or a list of texts, got \['good', nan\]"),
    ],
)
def test_fill_mask_with_invalid_targets_raises(targets, error, message):
    with pytest.raises(error, match=message):
        lm().fill_mask(GAPS, targets=targets)


@pytest.mark.parametrize("as_container", [list, tuple, np.array, pd.Series, pd.Index])
def test_targets_may_be_any_list_of_texts(as_container):
    expected = lm().fill_mask(GAPS[:1], targets=["good", "so"])
    pd.testing.assert_frame_equal(lm().fill_mask(GAPS[:1], targets=as_container(["good", "so"])), expected)


def test_masks_of_equal_texts_are_filled_once(fitted, monkeypatch):
    n_rows, forward = [], LMHead.forward
    monkeypatch.setattr(LMHead, "forward", lambda head, x, words: n_rows.append(len(x)) or forward(head, x, words))
    texts = ["a <mask> <mask>", "<mask> film", "a <mask> <mask>", "<mask> film"]
    found = fitted.fill_mask(texts, 2)
    assert sum(n_rows) == 3
    assert found.groupby("row").size().tolist() == [4, 2, 4, 2]
    first, again = (found[found["row"].isin(rows)].drop(columns="row").values.tolist() for rows in ([0, 1], [2, 3]))
    assert first == again
    n_rows.clear()
    predicted = fitted.predict(texts).tolist()
    assert sum(n_rows) == 3
    assert predicted[:2] == predicted[2:]


def test_fill_mask_with_invalid_top_k_raises():
    for top_k in (True, 2.0, "2"):
        with pytest.raises(TypeError, match=f"top_k must be an integer, got {top_k!r}"):
            lm().fill_mask(GAPS, top_k)
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        lm().fill_mask(GAPS, 0)


def test_masks_beyond_max_length_are_filled_with_truncation_too():
    """`truncation` is for training: here windows around the masks are read."""
    long = "It was a film. " * 20
    cut = lm(max_length=16, truncation=True).fill_mask([long + "<mask>", "<mask>" + long], 1)
    assert cut["row"].tolist() == [0, 1]
    pd.testing.assert_frame_equal(cut, lm(max_length=16).fill_mask([long + "<mask>", "<mask>" + long], 1))


def test_predict_fills_every_mask_with_best_token():
    best = lm().fill_mask(GAPS, top_k=1)
    texts = lm().predict([*GAPS, "no gap", ""])
    assert texts[0] == best.text[0]
    assert "<mask>" not in "".join(texts)
    assert texts[5:].tolist() == ["no gap", ""]
    assert lm().predict(["a"]).tolist() == ["a"]


def test_pseudo_log_likelihood_equals_transformers(theirs):
    tokenizer = get_backbone("nano").tokenizer
    texts = ["A lovely film.", "film lovely A.", "", "好看", "A lovely film."]
    got = lm(batch_tokens=20).pseudo_log_likelihood(texts)
    table = lm(batch_tokens=20).token_pseudo_log_likelihood(texts)
    for row, (text, ours) in enumerate(zip(texts, got, strict=True)):
        ids, each = torch.tensor(tokenizer(text)["input_ids"]), []
        for at in range(1, len(ids) - 1):
            masked = ids.clone()
            masked[at] = tokenizer.mask_token_id
            with torch.no_grad():
                each.append(theirs(masked[None]).logits[0, at].log_softmax(-1)[ids[at]].item())
        assert ours == pytest.approx(sum(each), rel=1e-5)
        np.testing.assert_allclose(table[table["row"] == row].log_probability, each, rtol=1e-4)
    assert got[0] > got[1]
    assert got[2] == 0
    assert got[0] == got[4]


def test_token_pseudo_log_likelihood_sums_to_that_of_text():
    texts = ["A lovely film.", "", "  très bien", "好看!", "A lovely film."]
    table = lm(batch_tokens=20).token_pseudo_log_likelihood(texts)
    assert table.columns.tolist() == ["row", "token", "start", "end", "log_probability"]
    sums = table.groupby("row").log_probability.sum().reindex(range(5), fill_value=0)
    np.testing.assert_allclose(sums, lm().pseudo_log_likelihood(texts), rtol=1e-5)
    for piece in table.itertuples():
        assert texts[piece.row][piece.start : piece.end] == piece.token
    tokenizer = get_backbone("nano").tokenizer
    first = table[table["row"] == 0]
    assert first.token.tolist() == [piece.strip("▁") for piece in tokenizer.tokenize(texts[0])]
    assert first.drop(columns="row").values.tolist() == table[table["row"] == 4].drop(columns="row").values.tolist()
    empty = lm().token_pseudo_log_likelihood(["", " "])
    assert empty.empty
    assert empty.dtypes.equals(table.dtypes.replace({table.token.dtype: empty.token.dtype}))


def test_pseudo_log_likelihood_of_empty_text_is_zero():
    got = lm().pseudo_log_likelihood(["", " "])
    assert got.dtype == np.float64
    assert got.tolist() == [0, 0]


def test_fill_mask_with_many_masks_scores_them_in_chunks(fitted, monkeypatch):
    n_rows, forward = [], LMHead.forward
    monkeypatch.setattr(LMHead, "forward", lambda head, x, words: n_rows.append(len(x)) or forward(head, x, words))
    texts = ["a <mask> <mask>", "<mask> film " * 5]
    expected = fitted.fill_mask(texts)
    monkeypatch.setattr(masked_lm, "MASKS_AT_ONCE", 3)
    n_rows.clear()
    pd.testing.assert_frame_equal(fitted.fill_mask(texts), expected, rtol=1e-4)
    assert max(n_rows) == 3
    assert sum(n_rows) == 7


def test_fill_mask_and_pseudo_log_likelihood_of_long_text_use_windows(fitted):
    long = "It was a film that went on and on. " * 60
    found = fitted.fill_mask([long + "<mask>" + long + "<mask>"], top_k=2)
    assert len(found) == 4
    assert (found.text.str.len() > 2 * len(long)).all()
    short = lm(max_length=16, stride=8)
    assert short.fill_mask([long + "<mask> film."], top_k=1).shape == (1, 5)
    each = short.pseudo_log_likelihood([long[:200]])
    assert each[0] == pytest.approx(lm().pseudo_log_likelihood([long[:200]])[0], rel=0.2)


def test_fit_lowers_loss_and_is_reproducible(fitted):
    some = TEXTS[:30]
    after = lm(max_epochs=5, learning_rate=1e-3, batch_size=1, tuning=Full()).fit(some)
    assert after.score(some) > lm().score(some)
    assert after.history_.loss.iloc[-1] < after.history_.loss.iloc[0]
    again = lm(tuning=LoRA(rank=2), batch_size=2, batch_tokens=100).fit(TEXTS[:20])
    same = lm(tuning=LoRA(rank=2), batch_size=2, batch_tokens=100).fit(TEXTS[:20])
    np.testing.assert_array_equal(again.pseudo_log_likelihood(TEXTS[:3]), same.pseudo_log_likelihood(TEXTS[:3]))
    assert fitted.n_iter_ == 2
    assert np.isfinite(fitted.score(TEXTS[:10], sample_weight=np.arange(10)))


@pytest.mark.parametrize("tuning", ["head", Bias(), LoRA(layers=1), Full(layers=1)], ids=str)
def test_masked_lm_with_each_tuning_survives_pickle_and_save(tuning, tmp_path):
    model = lm(tuning=tuning, max_epochs=1).fit(TEXTS[:20])
    model.save(tmp_path)
    for again in (pickle.loads(pickle.dumps(model)), skxlmr.load(tmp_path)):
        pd.testing.assert_frame_equal(again.fill_mask(GAPS), model.fill_mask(GAPS))
        assert again.score(TEXTS[:9]) == model.score(TEXTS[:9])
    assert len(pickle.dumps(lm(tuning="head", max_epochs=1).fit(TEXTS[:9]))) < 400_000


@pytest.mark.parametrize("tuning", [LoRA(targets=("query", "down")), "full"], ids=str)
def test_export_pretrained_serves_as_checkpoint_of_other_estimators(tuning, tmp_path):
    model = lm(tuning=tuning, max_epochs=1).fit(TEXTS[:40])
    model.export_pretrained(tmp_path)
    adapted = XLMRXLMaskedLM(tmp_path, device="cpu")
    assert adapted.score(TEXTS[:9]) == pytest.approx(model.score(TEXTS[:9]), abs=1e-5)
    clf = XLMRXLClassifier(tmp_path, max_epochs=1, random_state=0, device="cpu").fit(TEXTS[:6], [0, 1] * 3)
    assert clf.predict(TEXTS[:3]).shape == (3,)
    assert adapted.set_params(max_epochs=1).fit(TEXTS[:5]).n_iter_ == 1
    reference = transformers.XLMRobertaXLForMaskedLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([get_backbone("nano").tokenizer(GAPS[0])["input_ids"]])
    with torch.no_grad():
        logits = reference(ids).logits[0]
    best = logits[(ids[0] == get_backbone("nano").tokenizer.mask_token_id).nonzero()[0, 0]].softmax(-1).max()
    assert model.fill_mask(GAPS[:1], top_k=1).score[0] == pytest.approx(best.item(), rel=1e-4)


def test_validation_score_equals_score_on_validation_texts():
    model = lm(tuning="head", max_epochs=3, early_stopping=True).fit(TEXTS)
    assert len(model.validation_scores_) == model.n_iter_
    held = lm(tuning="head").fit(TEXTS[:30], X_val=TEXTS[30:60])
    assert held.validation_scores_[-1] == pytest.approx(held.score(TEXTS[30:60]), abs=1e-6)


def test_warm_start_continues_from_earlier_fit():
    model = lm(tuning="head", learning_rate=1e-2).fit(TEXTS[:30])
    before = model.score(TEXTS[:9])
    assert abs(before - lm().score(TEXTS[:9])) > 1e-2
    model.set_params(warm_start=True, learning_rate=1e-9).fit(TEXTS[:30])
    assert model.score(TEXTS[:9]) == pytest.approx(before, abs=1e-4)


def test_fit_with_checkpoint_dir_resumes_killed_fit(tmp_path):
    plain = lm(tuning=LoRA(rank=1), batch_size=1, batch_tokens=300).fit(TEXTS[:30])
    stopped = lm(tuning=LoRA(rank=1), batch_size=1, batch_tokens=300, checkpoint_dir=tmp_path, checkpoint_steps=1)
    killed = stopped.set_params(callbacks=[Killer()])
    with pytest.raises(RuntimeError, match="killed"):
        killed.fit(TEXTS[:30])
    resumed = stopped.set_params(callbacks=None).fit(TEXTS[:30])
    np.testing.assert_array_equal(resumed.pseudo_log_likelihood(GAPS), plain.pseudo_log_likelihood(GAPS))
    assert resumed.history_.loss.tolist() == plain.history_.loss.tolist()


class Killer(skxlmr.training.Callback):
    """Raise in the middle of the second epoch."""

    def on_step_end(self, trainer):
        if trainer.epoch == 1:
            raise RuntimeError("killed")


def test_fit_with_checkpoint_of_other_packing_starts_anew(tmp_path):
    """Windows of short texts do not depend on max_length; only the packs differ."""
    settings, short = {"tuning": "head", "batch_size": 1}, ["one", "two words", "three words more", "and four"] * 3
    plain = lm(max_length=16, **settings).fit(short)
    checkpointed = lm(max_length=32, checkpoint_dir=tmp_path, checkpoint_steps=1, callbacks=[Killer()], **settings)
    with pytest.raises(RuntimeError, match="killed"):
        checkpointed.fit(short)
    other = checkpointed.set_params(callbacks=None, max_length=16).fit(short)
    assert other.history_.loss.tolist() == plain.history_.loss.tolist()


def test_grid_search_over_mlm_probability_scores_each_value():
    search = GridSearchCV(lm(tuning="head", max_epochs=1), {"mlm_probability": [0.1, 0.3]}, cv=2).fit(TEXTS[:30])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.mlm_probability == search.best_params_["mlm_probability"]


def test_checkpoint_without_lm_head_raises_in_fill_mask_and_warns_in_fit(tmp_path):
    skxlmr.model.XLMRobertaXLModel.from_pretrained("nano", add_pooling_layer=False).save_pretrained(tmp_path)
    get_backbone("nano").tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no weights for predicting words"):
        lm(model=tmp_path).fill_mask(GAPS)
    with pytest.warns(NewHeadWarning, match="lm_head"):
        model = lm(model=tmp_path, max_epochs=1).fit(TEXTS[:5])
    assert len(model.fill_mask(GAPS[:1])) == 5


def test_methods_with_invalid_input_raise_and_name_row():
    for X, error, message in [
        (["<mask>", "no gap"], ValueError, "X, row 1: there is no <mask> in 'no gap'"),
        (pd.Series(["<mask>", "[MASK]"], index=[4, 7]), ValueError, r"X, row 1 \(index 7\): there is no <mask>"),
        (["<mask>", None], ValueError, "X, row 1: None is a missing value"),
        ("<mask>", TypeError, "a single str"),
        (pd.DataFrame({"a": ["<mask>"], "b": ["c"]}), ValueError, "2 columns, where one of texts is needed"),
    ]:
        with pytest.raises(error, match=message):
            lm().fill_mask(X)
    for top_k, error in [(0, ValueError), (2.5, TypeError)]:
        with pytest.raises(error, match="top_k"):
            lm().fill_mask(GAPS, top_k=top_k)
    with pytest.raises(ValueError, match=r"X_val.* no text with a word"):
        lm(tuning="head").fit(["a word"], X_val=[""])
    with pytest.raises(ValueError, match="no text with a word in it and a weight above 0"):
        lm().score(["", "a word"], sample_weight=[1, 0])
    with pytest.raises(ValueError, match="no text with a word"):
        lm().fit(["", "  "])
    with pytest.raises(ValueError, match="mlm_probability"):
        lm(mlm_probability=0).fit(TEXTS)
    with pytest.raises(NotFittedError):
        lm().export_pretrained("somewhere")
    with pytest.raises(NotFittedError):
        lm().save("somewhere")
    with pytest.raises(ValueError, match="Invalid parameter 'memory'"):  # a masked language model has no cache
        lm().set_params(memory="somewhere")
    some = lm(tuning="head", max_epochs=1).fit(["", "a word", " "])
    with pytest.raises(NotImplementedError, match="use export_pretrained"):
        some.export_adapter("somewhere")
    np.testing.assert_allclose(some.history_.loss, lm(tuning="head", max_epochs=1).fit(["a word"]).history_.loss)


def test_fill_mask_with_top_k_above_vocabulary_returns_whole_vocabulary():
    found = lm().fill_mask(["<mask>"], top_k=10**6)
    tokenizer = get_backbone("nano").tokenizer
    assert len(found) == tokenizer.vocab_size - 5
    assert found.score.sum() == pytest.approx(1, abs=0.01)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("method", ["pseudo_log_likelihood", "score", "predict", "fill_mask"])
def test_cpu_fit_moved_to_cuda_runs_each_method(fitted, method):
    getattr(pickle.loads(pickle.dumps(fitted)).set_params(device="cuda", dtype="float32"), method)(GAPS)


def test_fill_mask_and_generate_ignore_embedding_rows_past_vocabulary(tmp_path):
    """XL has rows past its vocabulary; here nine rows in ten are."""
    tokenizer = get_backbone("nano").tokenizer
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = skxlmr.model.XLMRobertaXLConfig(vocab_size=10 * tokenizer.vocab_size, **shape)
    skxlmr.model.XLMRobertaXLForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = lm(model=tmp_path).fill_mask(["a <mask>"], top_k=50)
    assert len(found) == 50
    writer = skxlmr.XLMRXLGenerator(tmp_path, tuning="head", max_epochs=1, random_state=0, device="cpu").fit(["a b"])
    assert writer.generate(["a"] * 20, do_sample=True).shape == (20,)
