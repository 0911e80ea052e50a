"""Scores of entities equal those of seqeval, in its default and in its strict mode."""

import numpy as np
import pandas as pd
import pytest
import seqeval.metrics
import seqeval.scheme

from skxlmr.metrics import entity_f1, entity_report, entity_spans, strict_entity_spans
from skxlmr.tags.scores import count_entities

N_CASES = 5000
PREFIXES = {"IOB1": "BI", "IOB2": "BI", "IOE1": "IE", "IOE2": "IE", "IOBES": "BIES", "BILOU": "BILU", "BMES": "BMES"}
AS_SEQEVAL = {"BMES": "IOBES"}  # which does not know BMES
IGNORE_UNDEFINED = pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")


def random_tags(seed, prefixes, n=N_CASES, longest=7):
    """Return sentences of random tags, most of them ill-formed."""
    rng = np.random.RandomState(seed)
    tags = np.array(["O", "O"] + [f"{prefix}-{kind}" for prefix in prefixes for kind in ("PER", "LOC", "A-B")])
    return [tags[rng.randint(0, len(tags), rng.randint(1, longest + 1))].tolist() for _ in range(n)]


def partly_right(true, other, seed):
    """Return predictions of which about half of the tokens, in runs, are right."""
    rng = np.random.RandomState(seed)
    cuts = [rng.randint(0, len(tags) + 1) for tags in true]
    return [(t[:cut] + o + t)[: len(t)] for t, o, cut in zip(true, other, cuts, strict=True)]


def known_to_seqeval(rows, scheme, strict=False):
    """Return tags with prefixes that seqeval knows: all that it has in its strict mode, otherwise those of BIOES."""
    if scheme == "BMES":
        return [[tag.replace("M-", "I-") for tag in row] for row in rows]
    if scheme == "BILOU" and not strict:
        return [[tag.replace("L-", "E-").replace("U-", "S-") for tag in row] for row in rows]
    return rows


@pytest.mark.parametrize("scheme", PREFIXES)
def test_entity_spans_of_random_tags_equal_seqeval(scheme):
    rows = random_tags(0, PREFIXES[scheme])
    for tags, known in zip(rows, known_to_seqeval(rows, scheme), strict=True):
        expected = seqeval.metrics.sequence_labeling.get_entities(known)
        assert entity_spans(tags, scheme) == [(start, end + 1, kind) for kind, start, end in expected], tags


@pytest.mark.parametrize("scheme", PREFIXES)
def test_strict_entity_spans_of_random_tags_equal_seqeval(scheme):
    theirs, rows = getattr(seqeval.scheme, AS_SEQEVAL.get(scheme, scheme)), random_tags(1, PREFIXES[scheme])
    for tags, known in zip(rows, known_to_seqeval(rows, scheme, strict=True), strict=True):
        expected = seqeval.scheme.Tokens(known, theirs).entities
        assert strict_entity_spans(tags, scheme) == [(e.start, e.end, e.tag) for e in expected], tags


@IGNORE_UNDEFINED
@pytest.mark.parametrize("strict", [False, True], ids=["default", "strict"])
@pytest.mark.parametrize("scheme", PREFIXES)
def test_report_and_f1_of_random_tags_equal_seqeval(scheme, strict):
    true = random_tags(2, PREFIXES[scheme], 1500)
    predicted = partly_right(true, random_tags(3, PREFIXES[scheme], 1500), 4)
    theirs = getattr(seqeval.scheme, AS_SEQEVAL.get(scheme, scheme))
    how = {"mode": "strict", "scheme": theirs} if strict else {}
    sizes = [1] * 50 + [22] * 20 + [1010]
    for start, stop in zip(np.cumsum([0, *sizes]), np.cumsum(sizes), strict=False):
        rows = [known_to_seqeval(side[start:stop], scheme, strict) for side in (true, predicted)]
        report = entity_report(true[start:stop], predicted[start:stop], scheme=scheme, strict=strict)
        f1 = entity_f1(true[start:stop], predicted[start:stop], scheme=scheme, strict=strict)
        if not report.support["micro avg"] and len(report) == 3:
            assert f1 == 0.0  # without any entity seqeval's report is an error
            continue
        expected = pd.DataFrame(
            seqeval.metrics.classification_report(*rows, output_dict=True, zero_division=0, **how)
        ).T
        assert report.index.tolist() == expected.index.tolist()
        np.testing.assert_allclose(report, expected, atol=1e-12)
        assert f1 == pytest.approx(expected["f1-score"]["micro avg"], abs=1e-12)
    assert 0.1 < f1 < 0.9


@IGNORE_UNDEFINED
@pytest.mark.parametrize("scheme", ["IOB2", "IOE2", "IOBES", "BILOU"])
def test_strict_f1_without_scheme_finds_it_as_seqeval_does(scheme):
    true = random_tags(8, PREFIXES[scheme], 300)
    predicted = partly_right(true, random_tags(9, PREFIXES[scheme], 300), 10)
    expected = seqeval.metrics.f1_score(true, predicted, mode="strict", scheme=seqeval.scheme.auto_detect(true))
    assert expected > 0.1
    assert entity_f1(true, predicted, strict=True) == pytest.approx(expected, abs=1e-12)


def test_strict_f1_without_scheme_of_other_prefixes_finds_it():
    assert entity_f1([["I-A", "O"]], [["I-A", "O"]], strict=True) == 1.0
    assert entity_f1([["B-A", "M-A", "E-A"]], [["B-A", "M-A", "E-A"]], strict=True) == 1.0
    assert entity_f1([["O", "O"]], [["S-A", "O"]], strict=True) == 0.0, "y_true shows no scheme"
    with pytest.raises(ValueError, match="y_pred, sentence 0: tag 1 is 'E-A', a tag that scheme='BIO' does not have"):
        entity_f1([["B-A", "I-A"]], [["B-A", "E-A"]], strict=True)


@pytest.mark.parametrize(
    ("true", "predicted"),
    [
        ([["NOUN", "VERB"]], [["ADP", "NOUN"]]), ([["B_PER", "I_PER"]], [["B_PER", "B_PER"]]),
        ([["b-per", "o"]], [["b-per", "o"]]), ([["PER-B"]], [["PER-B"]]), ([["B-PER", "0"]], [["B-PER", "0"]]),
        ([["B-PER", ""]], [["B-PER", "O"]]), ([["B-"]], [["B-"]]), ([["PERSON", "O"]], [["PERSON", "O"]]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("strict", [False, True])
def test_entity_f1_with_tags_of_no_scheme_raises(true, predicted, strict):
    with pytest.raises(ValueError, match=r"y_true, sentence 0: tag \d is '.*', a tag that .*scheme.*Tags are O"):
        entity_f1(true, predicted, strict=strict)
    with pytest.raises(ValueError, match="y_pred, sentence 1"):
        entity_f1([["O"], ["O"] * len(true[0])], [["O"], true[0]], strict=strict)


@pytest.mark.parametrize("strict", [False, True])
def test_entity_f1_with_unknown_scheme_raises(strict):
    for scheme in ("IOB3", "iob2", "BIOSE", "plain", ""):
        with pytest.raises(ValueError, match=f"scheme={scheme!r} is not a scheme of entities.*BIO, IOB1"):
            entity_f1([["O"]], [["O"]], scheme=scheme, strict=strict)
    with pytest.raises(ValueError, match="tag 0 is 'E-A', a tag that scheme='BIO' does not have"):
        entity_f1([["E-A"]], [["E-A"]], scheme="IOB2", strict=strict)


def test_entity_f1_of_types_without_prefix_counts_runs():
    true, predicted = [["PERSON", "PERSON", "O", "LOC"]], [["PERSON", "O", "O", "LOC"]]
    for strict in (False, True):
        assert entity_f1(true, predicted, scheme="IO", strict=strict) == 0.5
        prefixed = [[tag if tag == "O" else f"I-{tag}" for tag in row] for row in predicted]
        assert entity_f1(true, prefixed, scheme="IO", strict=strict) == 0.5, "each column may have prefixes or not"


def test_entity_f1_of_units_and_lasts_is_not_that_of_other_entities():
    assert entity_f1([["U-PER", "U-PER"]], [["B-PER", "L-PER"]]) == 0.0
    assert entity_f1([["U-PER", "O"]], [["S-PER", "O"]]) == 1.0


def test_scores_of_spans_equal_those_of_their_tags():
    true, predicted = random_tags(5, "BI", 300), random_tags(6, "BI", 300)
    predicted = partly_right(true, predicted, 7)
    spans = [[entity_spans(tags) for tags in rows] for rows in (true, predicted)]
    table = pd.DataFrame(
        [(i, label, start, end) for i, row in enumerate(spans[1]) for start, end, label in row],
        columns=["row", "label", "start", "end"],
    )
    dicts = [[{"start_offset": a, "end_offset": b, "label": k} for a, b, k in row] for row in spans[0]]
    expected = entity_report(true, predicted)
    assert expected.f1["micro avg"] > 0.2
    for y_true, y_pred in [(spans[0], spans[1]), (dicts, table), (spans[0], predicted), (true, table)]:
        pd.testing.assert_frame_equal(entity_report(y_true, y_pred), expected)
        assert entity_f1(y_true, y_pred) == pytest.approx(expected.f1["micro avg"])


def test_report_with_sample_weight_equals_repeated_sentences():
    true, predicted = [["B-A"], ["B-A", "O"], ["B-C"]], [["B-A"], ["O", "B-A"], ["B-C"]]
    repeated = [[row for row, n in zip(rows, [3, 1, 2], strict=True) for _ in range(n)] for rows in (true, predicted)]
    weighted = entity_report(true, predicted, sample_weight=[3, 1, 2])
    pd.testing.assert_frame_equal(weighted, entity_report(*repeated).astype({"support": float}))
    assert entity_f1(true, predicted, sample_weight=[3, 1, 2]) == pytest.approx(weighted.f1["micro avg"])


def test_report_without_entities_is_zero():
    report = entity_report([["O"]], [["O"]])
    assert report.index.tolist() == ["micro avg", "macro avg", "weighted avg"]
    assert not report.to_numpy().any()
    assert entity_report([["B", "I"]], [["B", "I"]]).index[0] == "_"


def test_scores_with_invalid_input_name_the_sentence():
    with pytest.raises(ValueError, match="sentence 1 has 1 tags in y_true, but 2 in y_pred"):
        entity_f1([["O"], ["B-A"]], [["O"], ["B-A", "O"]])
    with pytest.raises(TypeError, match="y_true, sentence 0 is a str"):
        entity_f1(["B-A"], ["B-A"])
    with pytest.raises(TypeError, match="y_pred, sentence 0: 1 is a int, not a tag"):
        entity_f1([["O"]], [[1]])
    with pytest.raises(
        ValueError, match=r"sentence 0 has the span \(8, 11, 'A'\) in y_true, but 3 tags in y_pred.*predict_"
    ):
        entity_report([[(8, 11, "A")]], [["O", "O", "B-A"]])
    with pytest.raises(ValueError, match="y_true has 1 sentences, but y_pred 2"):
        entity_report([["O"]], [["O"], ["O"]])
    with pytest.raises(TypeError, match=r"y_pred, sentence 1: \(0, 1\) is not a span"):
        entity_report([[(0, 1, "A")], []], [[(0, 1, "A")], [(0, 1)]])
    with pytest.raises(ValueError, match="y_pred is a DataFrame without the columns start, end, label"):
        entity_f1([["O"]], pd.DataFrame({"row": [0]}))
    with pytest.raises(ValueError, match="sample_weight has 2 values for 1 sentences"):
        entity_f1([["O"]], [["O"]], sample_weight=[1, 2])


def test_count_entities_names_what_it_is_told():
    with pytest.raises(ValueError, match="y, sentence 0"):
        count_entities([["NOUN"]], [["O"]], names=("y", "the predictions"))
