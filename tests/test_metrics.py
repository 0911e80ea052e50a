"""Scores equal those of seqeval, and of the official scorers of SQuAD and MLQA."""

import numpy as np
import pytest
import seqeval.metrics
import seqeval.scheme

from skxlmr.metrics import entity_f1, entity_spans, exact_match, normalize_answer, squad_scores, token_f1

PREFIXES = {"BIO": "BI", "BIOES": "BIES", "IOB1": "BI", "IO": "I"}


def random_tags(rng, prefixes, n):
    tags = [f"{p}-{kind}" for p in prefixes for kind in ("PER", "LOC", "A-B")] + ["O"] * 3
    return [[tags[i] for i in rng.randint(0, len(tags), rng.randint(1, 9))] for _ in range(n)]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("prefixes", ["BI", "BIES", "I"])
def test_entity_spans_and_f1_equal_seqeval(prefixes):
    rng = np.random.RandomState(0)
    true, predicted = random_tags(rng, prefixes, 400), random_tags(rng, prefixes, 400)
    predicted = [p[: len(t)] + t[len(p) :] for t, p in zip(true, predicted, strict=True)]
    mixed = [t if i % 2 else p for i, (t, p) in enumerate(zip(true, predicted, strict=True))]
    for tags in true:
        expected = [(start, end + 1, kind) for kind, start, end in seqeval.metrics.sequence_labeling.get_entities(tags)]
        assert entity_spans(tags) == expected, tags
    for got in (predicted, mixed, true):
        assert entity_f1(true, got) == pytest.approx(seqeval.metrics.f1_score(true, got), abs=1e-12)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize(("scheme", "theirs"), [("BIO", "IOB2"), ("BIOES", "IOBES")])
def test_entity_f1_strict_equals_seqeval(scheme, theirs):
    rng = np.random.RandomState(1)
    true, predicted = (random_tags(rng, PREFIXES[scheme], 400) for _ in range(2))
    predicted = [p[: len(t)] + t[len(p) :] for t, p in zip(true, predicted, strict=True)]
    mixed = [t if i % 2 else p for i, (t, p) in enumerate(zip(true, predicted, strict=True))]
    for got in (predicted, mixed, true):
        expected = seqeval.metrics.f1_score(true, got, mode="strict", scheme=getattr(seqeval.scheme, theirs))
        assert entity_f1(true, got, strict=True, scheme=scheme) == pytest.approx(expected, abs=1e-12)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_entity_f1_strict_io_equals_seqeval():
    rng = np.random.RandomState(2)

    def iob1(n):
        kinds = rng.choice(["", "A", "C"], n).tolist()
        after = zip(["", *kinds], kinds, strict=False)
        return [f"{'B' if k == before and rng.rand() < 0.4 else 'I'}-{k}" if k else "O" for before, k in after]

    true = [iob1(7) for _ in range(200)]
    got = [tags if rng.rand() < 0.4 else iob1(7) for tags in true]
    expected = seqeval.metrics.f1_score(true, got, mode="strict", scheme=seqeval.scheme.IOB1)
    assert 0.2 < expected < 0.9
    assert entity_f1(true, got, strict=True, scheme="IO") == pytest.approx(expected, abs=1e-12)


def test_scores_with_invalid_input_name_the_row():
    with pytest.raises(ValueError, match="sentence 1 has 1 tags in y_true, but 2 in y_pred"):
        entity_f1([["O"], ["B-A"]], [["O"], ["B-A", "O"]])
    with pytest.raises(TypeError, match="sentence 0 is a str"):
        entity_f1(["B-A"], ["B-A"])
    with pytest.raises(TypeError, match=r"answers of question 1 are a str.*\['fox'\]"):
        squad_scores(["a", "fox"], [["a"], "fox"])


def test_entity_f1_sample_weight_equals_repetition():
    true, got = [["B-A"], ["B-A", "O"]], [["B-A"], ["O", "B-A"]]
    assert entity_f1(true, got, sample_weight=[3, 1]) == entity_f1([true[0]] * 3 + true[1:], [got[0]] * 3 + got[1:])
    assert entity_f1([["O"]], [["O"]]) == 0.0


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("The  Cat, a dog & the bird.", None, "cat dog bird"),
        ("“Old cat”", None, "“old cat”"),  # SQuAD removes ASCII punctuation only
        ("“The cat”", "en", "cat"),
        ("Der Hund, ein Tier", "de", "hund tier"),
        ("El perro y la casa", "es", "perro y casa"),
        ("《红楼梦》abc 12", "zh", "红 楼 梦 abc 12"),
        ("红楼梦", "zh-CN", "红 楼 梦"),
        ("Der Hund", "DE", "hund"),
        ("東京タワー", "ja", "東 京 タ ワ ー"),
        ("الكتاب", "ar", "كتاب"),
        ("the हिन्दी", "hi", "the हिन्दी"),
    ],
)
def test_normalize_answer_follows_the_language(text, language, expected):
    assert normalize_answer(text, language) == expected


def test_token_f1_and_exact_match_compare_words():
    assert token_f1("the red fox", "red fox jumps") == pytest.approx(2 * 2 / 5)
    assert token_f1("a x x y", "THE x y y") == pytest.approx(2 * 2 / 6)  # articles are removed, repetitions count
    assert token_f1("", "") == 1.0
    assert token_f1("something", "") == 0.0
    assert exact_match("The Fox!", "fox") == 1.0
    scores = squad_scores(["red fox", "", "x"], [["a red fox", "fox"], [], ["y", "x y"]])
    assert scores == {"f1": pytest.approx((1 + 1 + 2 / 3) / 3), "exact_match": pytest.approx(2 / 3)}
