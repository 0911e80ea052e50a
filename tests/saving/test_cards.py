"""Model cards: huggingface_hub reads them, labels do not become markup, and what a user has written is kept."""

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from skxlmr.saving import cards
from skxlmr.saving.cards import CardFacts, CardKind, card, card_files, escaped, is_unchanged_card, licence_in

FACTS = CardFacts(
    "XLMRXLClassifier",
    CardKind("text-classification", "Classifies texts", "accuracy"),
    "intfloat/multilingual-e5-small",
    "intfloat/multilingual-e5-small",
    None,
    "0" * 64,
    "mit",
    n_rows=1200,
    scripts=["Latin", "Thai"],
    labels=["no", "yes"],
    n_epochs=3,
    loss=0.25,
    metric="accuracy",
    score=0.875,
    parameters={"tuning": "'head'"},
    versions={"torch": "2.13.0"},
)
HOSTILE = [
    "---\nlicense: evil\n---",
    "<script>alert(1)</script>",
    "a | b",
    "[link](javascript:alert(1))",
    "![image](x)",
    "# heading\n- item",
    "`code` *bold* _it_ ~~gone~~ $x$ \\(y\\)",
    "www.example.com https://example.com a@example.com",
    "\u202eright to left\u2069",
    "\ud800 \x00 \x1b[31m",
    "-->",
    "",
    "&lt;",
    "x" * 10_000,
]


def written(directory: Path, facts: CardFacts, library: str = "skxlmr") -> Path:
    for name, content in card_files(directory, facts, library).items():
        (directory / name).write_bytes(content)
    return directory / cards.NAME


@pytest.mark.parametrize("library", ["skxlmr", "transformers", "sentence-transformers", "peft", "onnx", "openvino"])
def test_huggingface_hub_reads_card(library, tmp_path):
    loaded = ModelCard.load(written(tmp_path, FACTS, library))
    data = loaded.data
    assert (data.library_name, data.pipeline_tag) == (library, "text-classification")
    assert (data.base_model, data.language, data.license) == ("intfloat/multilingual-e5-small", None, None)
    assert set(data.tags) == {"skxlmr", library}
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.task_type) == ("accuracy", 0.875, "text-classification")
    for said in (
        "| rows | 1200 |",
        "| scripts seen | Latin, Thai |",
        "| labels | 2: no, yes |",
        "**0.875**",
        "| mit |",
    ):
        assert said in loaded.text.replace("licence | mit", "| mit"), said
    assert "| tuning | 'head' |" in loaded.text
    assert loaded.data.to_yaml() == ModelCard(str(loaded)).data.to_yaml()


def test_same_facts_make_same_card():
    assert card(FACTS, "peft") == card(replace(FACTS), "peft")


@pytest.mark.parametrize("label", HOSTILE, ids=range(len(HOSTILE)))
def test_labels_and_parameters_are_shown_as_they_are(label, tmp_path):
    facts = replace(FACTS, labels=["no", label], parameters={"class_weight": repr({label: 1})}, licence=label or None)
    loaded = ModelCard.load(written(tmp_path, facts))
    assert loaded.data.to_yaml() == ModelCard(card(FACTS, "skxlmr").decode()).data.to_yaml()
    body = loaded.text.partition("## Training")[2]
    plain = ModelCard(card(FACTS, "skxlmr").decode()).text.partition("## Training")[2]
    assert len(body.splitlines()) == len(plain.splitlines())
    own = body.replace("<!-- Written", "").replace(" -->\n", "")
    for markup in ("<", "javascript:", "](javascript", "`", "~", "$", "\\(", "https:", "www.", "@", "\u202e", "\x1b"):
        assert markup not in own.replace("https://huggingface.co", ""), markup
    label_row = next(line for line in body.splitlines() if line.startswith("| labels"))
    assert label_row.count("|") == 3
    assert is_unchanged_card(tmp_path / cards.NAME)


def test_escaped_text_reads_as_the_label():
    from html import unescape

    for label in ("not_good", "a|b <c> [d] *e* & f", "ja/nein: 100 %", "très bien 好"):
        assert unescape(escaped(label)) == label
    assert escaped("not_good") == "not_good"


def test_card_without_training_or_score_says_so():
    base = CardFacts(
        "XLMRXLEmbedder", CardKind("sentence-similarity", "Turns texts into vectors"), "nano", None, None, "f"
    )
    text = card(base, "skxlmr").decode()
    assert "nothing: the base model is used as it is" in text
    assert "## Score" not in text
    assert "model-index" not in text
    assert "base_model" not in text
    assert "so its quality is not known" in card(replace(FACTS, score=None), "skxlmr").decode()
    assert "the trained weights were loaded" in card(replace(FACTS, n_epochs=0, n_rows=None), "skxlmr").decode()
    many = card(replace(FACTS, labels=[f"label{i}" for i in range(150)]), "skxlmr").decode()
    assert "150: label0," in many
    assert "label99 and 50 more" in many


def test_card_of_user_is_kept_and_own_card_replaced(tmp_path):
    path = written(tmp_path, FACTS)
    written(tmp_path, replace(FACTS, n_rows=7))
    assert "| rows | 7 |" in path.read_text(encoding="utf-8")
    changed = path.read_bytes().replace(b"# XLMRXLClassifier", b"# My classifier")
    for content in (changed, b"my own", b"", b"x" * (cards.MAX_BYTES + 1)):
        path.write_bytes(content)
        assert card_files(tmp_path, FACTS, "skxlmr") == {}
    path.unlink()
    path.symlink_to("missing")
    assert card_files(tmp_path, FACTS, "skxlmr") == {}
    path.unlink()
    path.mkdir()
    assert card_files(tmp_path, FACTS, "skxlmr") == {}


@pytest.mark.parametrize(
    ("content", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [a]\n---\n# x", "apache-2.0"),
        ("---\ntags: [a]\nlicense: 'mit'\n---\n", "mit"),
        ("# x\nlicense: mit\n", None),
        ("---\ntags: [a]\n---\nlicense: mit\n---\n", None),
        ("---\nlicense: [a, b]\n---\n", None),
        ("---\nlicense: " + "m" * 100 + "\n---\n", None),
    ],
)
def test_licence_is_read_from_the_card_of_the_base(content, licence, tmp_path):
    assert licence_in(tmp_path) is None
    (tmp_path / cards.NAME).write_text(content, encoding="utf-8")
    assert licence_in(tmp_path) == licence


def test_licences_are_those_of_the_documentation():
    page = Path(__file__).resolve().parents[2] / "docs" / "reference" / "licences.md"
    text = page.read_text(encoding="utf-8")
    for name in cards.LICENCES:
        assert f"-{name.rpartition('-')[2]}" in text or name in text, name
