"""Model cards: the README.md beside a saved or exported model, as the Hugging Face hub reads it.

A card has facts alone: what was trained on which base, from how many rows with which labels, and the scores of the fit.
Of the data it has the number of rows, the scripts and the names of the labels; no texts, and no paths of files.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

NAME = "README.md"
MAX_BYTES = 2**20  # of a README.md that is read
MAX_LABELS = 100
MAX_CHARACTERS = 200  # of a value
MARK = re.compile(rb"\n\n<!-- Written by skxlmr; a changed card is kept\. sha256: ([0-9a-f]{64}) -->\n\Z")

# Licences of well-known models, as their pages on the hub say; docs/reference/licences.md has the same.
LICENCES = {
    "nano": "bsd-3-clause",
    "e5-small": "mit",
    "facebook/xlm-roberta-xl": "mit",
    "facebook/xlm-roberta-xxl": "mit",
    "FacebookAI/xlm-roberta-base": "mit",
    "FacebookAI/xlm-roberta-large": "mit",
    "intfloat/multilingual-e5-small": "mit",
    "intfloat/multilingual-e5-base": "mit",
    "intfloat/multilingual-e5-large": "mit",
    "BAAI/bge-m3": "mit",
}
# Metrics by their ids on the hub.
HUB_METRICS = {"accuracy": "accuracy", "F1": "f1", "R²": "r_squared"}
SENTENCES = "sentence-similarity"  # what the hub calls models that embed texts
HIDDEN = ("Cc", "Cs", "Zl", "Zp")  # categories of characters
DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
AUTO_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "multiple-choice": "AutoModelForMultipleChoice",
    "fill-mask": "AutoModelForMaskedLM",
    "text-generation": "AutoModelForCausalLM",
}


@dataclass(frozen=True)
class CardKind:
    """What an estimator is for.

    Attributes
    ----------
    pipeline : str
        The hub's name of the task, by which models are searched.
    purpose : str
        The beginning of the card's first sentence.
    metric : str or None
        What the validation score is, unless `scoring` is set.
    tags : tuple of str
        More words by which the hub finds it.
    """

    pipeline: str
    purpose: str
    metric: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class CardFacts:
    """What a card says of a fitted estimator.

    Attributes
    ----------
    class_name : str
    kind : CardKind
    base : str
        The name of the base model; "a local checkpoint" for one in a directory, whose path is not shown.
    hub_id : str or None
        The base on the hub.
    revision : str or None
        Of the base on the hub, if it was pinned.
    fingerprint : str
        Of the base's checkpoint.
    licence : str or None
        Of the base; None if it is not known.
    n_rows : int or None
        Number of training rows; None if there was no training, or an earlier version did not count them.
    scripts : sequence of str
        In which they are written.
    labels : sequence of str
    n_epochs : int or None
        None if nothing was trained.
    loss : float or None
        Training loss of the last epoch.
    metric : str or None
        What `score` is.
    score : float or None
        On the validation rows.
    is_chosen : bool
        Whether the epoch that is kept was chosen by its score.
    parameters : dict of str to str
        Those of the estimator that are not the default.
    versions : dict of str to str
        Of the libraries.
    """

    class_name: str
    kind: CardKind
    base: str
    hub_id: str | None
    revision: str | None
    fingerprint: str
    licence: str | None = None
    n_rows: int | None = None
    scripts: Sequence[str] = ()
    labels: Sequence[str] = ()
    n_epochs: int | None = None
    loss: float | None = None
    metric: str | None = None
    score: float | None = None
    is_chosen: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def card_files(directory: str | os.PathLike, facts: CardFacts | None, library: str) -> dict[str, bytes]:
    """Return the README.md for a directory by its name; nothing if there is one that the user has written or changed.

    Parameters
    ----------
    directory : str or path
        Where it will lie.
    facts : CardFacts or None
        None writes no card.
    library : {"skxlmr", "transformers", "sentence-transformers", "peft", "onnx", "openvino"}
        Which reads the directory.
    """
    path = Path(directory).expanduser() / NAME
    exists = path.is_symlink() or path.exists()
    return {} if facts is None or (exists and not is_unchanged_card(path)) else {NAME: card(facts, library)}


def is_unchanged_card(path: Path) -> bool:
    """Whether a file is a card as this module has written it."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_BYTES:
            return False
        content = path.read_bytes()
    except OSError:
        return False
    mark = MARK.search(content)
    return mark is not None and hashlib.sha256(content[: mark.start()]).hexdigest().encode() == mark[1]


def card(facts: CardFacts, library: str) -> bytes:
    """Return the content of a card; it is the same for the same facts."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    results = None
    if facts.score is not None and facts.metric in HUB_METRICS:
        rows = "rows set aside from the training data"
        pipeline, metric = facts.kind.pipeline, HUB_METRICS[facts.metric]
        results = [EvalResult(pipeline, "validation", rows, metric, round(facts.score, 6), metric_name=facts.metric)]
    data = ModelCardData(
        library_name=library,
        pipeline_tag=facts.kind.pipeline,
        base_model=facts.hub_id,
        tags=list(dict.fromkeys(["skxlmr", *facts.kind.tags, *([] if library == "skxlmr" else [library])])),
        model_name=facts.class_name if results else None,
        eval_results=results,
    )
    content = ModelCard(f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\n{_body(facts, library)}")
    text = str(content).rstrip("\n").encode()
    digest = hashlib.sha256(text).hexdigest()
    return text + f"\n\n<!-- Written by skxlmr; a changed card is kept. sha256: {digest} -->\n".encode()


def licence_in(directory: Path) -> str | None:
    """Return the licence that the README.md of a checkpoint names in its first lines; None if there is none."""
    path = directory / NAME
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        content = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    head = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    found = re.search(r"^license: *[\"']?([A-Za-z0-9.+-]{1,60})[\"']? *$", head[1], re.MULTILINE) if head else None
    return found[1] if found else None


def _body(facts: CardFacts, library: str) -> str:
    base = f"[{facts.hub_id}](https://huggingface.co/{facts.hub_id})" if facts.hub_id else escaped(facts.base)
    sections = [
        f"# {escaped(facts.class_name)} on {escaped(facts.base)}",
        f"{facts.kind.purpose}, by an estimator of skxlmr on the base model {base}.",
        f"```python\n{_how_to_load(facts, library)}\n```",
        "## Training",
        _table(_of_training(facts)),
        *(["## Score", _of_score(facts)] if facts.n_epochs else []),
        "## Parameters",
        _table({name: escaped(value) for name, value in facts.parameters.items()})
        if facts.parameters
        else "All parameters have their default values.",
        "## Base model",
        _table(_of_base(facts, base)),
        "## Versions",
        _table({name: escaped(version) for name, version in facts.versions.items()}),
    ]
    return "\n\n".join(sections) + "\n"


def _how_to_load(facts: CardFacts, library: str) -> str:
    if library == "transformers":
        name = AUTO_CLASSES.get(facts.kind.pipeline, "AutoModel")
        return (
            f"from transformers import {name}, AutoTokenizer\n\n"
            f'model = {name}.from_pretrained("DIRECTORY")\ntokenizer = AutoTokenizer.from_pretrained("DIRECTORY")'
        )
    if library == "sentence-transformers":
        returned = "vectors" if facts.kind.pipeline == SENTENCES else "outputs"
        return (
            "from sentence_transformers import SentenceTransformer\n\n"
            f'{returned} = SentenceTransformer("DIRECTORY").encode(["a text"])'
        )
    if library in ("onnx", "openvino"):
        return (
            "# serving.json says what the graph takes and returns.\n# examples/serve.py of skxlmr loads it in 20 lines."
        )
    return 'import skxlmr\n\nestimator = skxlmr.load("DIRECTORY")'


def _of_training(facts: CardFacts) -> dict[str, str]:
    if facts.n_epochs is None:
        return {"what was trained": "nothing: the base model is used as it is"}
    if not facts.n_epochs:
        return {"what was trained": "not known: the trained weights were loaded", **_of_labels(facts)}
    loss = {} if facts.loss is None else {"training loss of the last epoch": f"{facts.loss:.4g}"}
    return {
        "rows": "not known" if facts.n_rows is None else str(facts.n_rows),
        "scripts seen": ", ".join(map(escaped, facts.scripts)) or "not known",
        **_of_labels(facts),
        "epochs": str(facts.n_epochs),
        **loss,
    }


def _of_labels(facts: CardFacts) -> dict[str, str]:
    if not facts.labels:
        return {}
    shown = ", ".join(map(escaped, facts.labels[:MAX_LABELS]))
    more = f" and {len(facts.labels) - MAX_LABELS} more" if len(facts.labels) > MAX_LABELS else ""
    return {"labels": f"{len(facts.labels)}: {shown}{more}"}


def _of_score(facts: CardFacts) -> str:
    if facts.score is None:
        return "No rows were set aside to score the model, so its quality is not known from its training."
    measured = f"{escaped(facts.metric or 'score')} on rows that it was not trained on: **{facts.score:.4g}**."
    chosen = " The epoch was chosen by it, so that it may be lower on other rows." if facts.is_chosen else ""
    return f"{measured[0].upper()}{measured[1:]}{chosen}"


def _of_base(facts: CardFacts, base: str) -> dict[str, str]:
    rows = {
        "model": base,
        "revision": None if facts.revision is None else escaped(facts.revision),
        "fingerprint": facts.fingerprint,
        "licence": escaped(facts.licence) if facts.licence else "not known; see where the model comes from",
    }
    return {name: value for name, value in rows.items() if value is not None}


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def escaped(value: str) -> str:
    """Return a value as text of Markdown that is shown as it is, in one line: no Markdown, HTML, link or control.

    Examples
    --------
    >>> escaped("not_good | <b>")
    'not_good &#124; &lt;b&gt;'
    """
    value = value if len(value) <= MAX_CHARACTERS else f"{value[:MAX_CHARACTERS]}…"
    value = "".join(map(_printable, value)).strip()
    value = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    value = re.sub(
        r"[\\`*\[\]|~$@:]|(?<!\w)_|_(?!\w)|(?<=www)\.", lambda m: f"&#{ord(m[0])};", value, flags=re.IGNORECASE
    )
    return value or "(empty)"


def _printable(character: str) -> str:
    """Return a character; one that is not shown, ends a line or changes the direction of writing as its escape."""
    if unicodedata.category(character) not in HIDDEN and character not in DIRECTIONS:
        return character
    return character.encode("ascii", "backslashreplace").decode() if ord(character) > 127 else repr(character)[1:-1]
