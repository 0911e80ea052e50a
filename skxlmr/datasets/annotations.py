"""Readers of texts whose spans were annotated with doccano or Label Studio, as DataFrames for `XLMRXLTagger`."""

from __future__ import annotations

import os
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd

from skxlmr.system import nested_json

Span = tuple[int, int, str]

OF_DOCCANO = ("entities", "labels", "label", "annotations")  # where doccano's versions put the spans
# Fields that Label Studio adds to a record of JSON_MIN.
OF_JSON_MIN = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"}


def read_doccano(path: str | os.PathLike) -> pd.DataFrame:
    """Read what doccano exports for sequence labelling.

    Parameters
    ----------
    path : str or path
        JSON lines, or a JSON list, of records with "text" (or "data") and spans in "label", "labels", "entities" or
        "annotations": [start, end, label], or dicts with "start_offset", "end_offset" and "label". In a project that
        counts grapheme clusters instead of characters, start and end are not those of Python's strings.

    Returns
    -------
    DataFrame
        Columns id (None if there is none), text, spans, a list of (start, end, label) in characters, and meta, a dict
        of the record's other fields. Texts without a span are kept.

    Raises
    ------
    ValueError
        If the file, or a record of it, is not of this format, or a span is not within its text; the message names the
        file and the record.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "all.jsonl"
    >>> _ = path.write_text('{"id": 1, "text": "EU rejects German call", "label": [[0, 2, "ORG"], [11, 17, "MISC"]]}')
    >>> read_doccano(path).spans.tolist()
    [[(0, 2, 'ORG'), (11, 17, 'MISC')]]
    """
    rows = []
    for where, record in _records(path):
        text_key = next((key for key in ("text", "data") if isinstance(record.get(key), str)), None)
        spans_key = next((key for key in OF_DOCCANO if isinstance(record.get(key), list)), None)
        if text_key is None or spans_key is None:
            raise ValueError(
                f"{where} has the fields {', '.join(record)}, but a text and a list of spans in label, labels, "
                f"entities or annotations are needed."
            )
        text = record[text_key]
        spans = [_doccano_span(item, text, where) for item in record[spans_key]]
        other = record.keys() - {"id", text_key, spans_key}
        meta = {key: value for key, value in record.items() if key in other}
        rows.append((record.get("id"), text, spans, meta))
    return pd.DataFrame(rows, columns=["id", "text", "spans", "meta"])


def _doccano_span(item: Any, text: str, where: str) -> Span:
    if isinstance(item, Mapping) and {"start_offset", "end_offset", "label"} <= item.keys():
        item = [item["start_offset"], item["end_offset"], item["label"]]
    if isinstance(item, str):
        raise ValueError(
            f"{where} has the label {item!r:.60} of its whole text, but spans [start, end, label] are needed."
        )
    if not isinstance(item, list) or len(item) != 3:
        raise ValueError(f"{where}: {item!r:.80} is not a span [start, end, label].")
    start, end, label = item
    if not isinstance(label, str):
        raise ValueError(
            f"{where}: the label of the span {item!r:.80} is not a text. Export it with the labels' names, as JSONL."
        )
    _check_range(start, end, len(text), item, where)
    return start, end, label


def read_label_studio(path: str | os.PathLike, *, text: str | None = None, control: str | None = None) -> pd.DataFrame:
    """Read what Label Studio exports of texts with spans, as JSON or JSON_MIN.

    Label Studio counts characters as JavaScript does: one beyond U+FFFF, such as an emoji, as two. Where its copy of a
    span's text shows that, start and end are converted to those of Python's strings.

    Parameters
    ----------
    path : str or path
    text : str or None, default=None
        Field of the data that holds the text; None takes "text", or the only field that is a str.
    control : str or None, default=None
        Name of the Labels tag ("from_name") whose spans are read; None reads all.

    Returns
    -------
    DataFrame
        One row per annotation, so that a text that several people annotated has several: columns id, of the task,
        annotator (None if it is not known), text, spans, a list of (start, end, label), and meta, a dict of the other
        fields of the data. Annotations that were cancelled, and tasks that nobody annotated, are left out; predictions
        are not read.

    Raises
    ------
    ValueError
        If the file, or a record of it, is not of this format, a span has not one label, or is not the text that the
        annotation says; the message names the file and the record. If only other controls have spans.

    Examples
    --------
    >>> import json, tempfile
    >>> path = Path(tempfile.mkdtemp()) / "project.json"
    >>> span = {"start": 0, "end": 2, "text": "EU", "labels": ["ORG"]}
    >>> _ = path.write_text(json.dumps([{"id": 1, "text": "EU rejects", "label": [span], "annotator": 1}]))
    >>> read_label_studio(path).spans.tolist()
    [[(0, 2, 'ORG')]]
    """
    rows, controls = [], set[str]()
    for where, record in _records(path):
        if isinstance(record.get("data"), Mapping):
            data, annotations = record["data"], _annotations(record, where)
        else:
            data, annotations = _read_json_min(record)
        key = _text_key(data, text, where)
        meta = {name: value for name, value in data.items() if name != key}
        for annotator, regions in annotations:
            controls |= regions.keys()
            chosen = [region for name in regions if control in (None, name) for region in regions[name]]
            rows.append((record.get("id"), annotator, data[key], _convert(chosen, data[key], where), meta))
    if control is not None and controls and control not in controls:
        names = ", ".join(map(repr, sorted(controls)))
        raise ValueError(f"{os.fspath(path)} has no spans of control={control!r}; it has those of {names}.")
    return pd.DataFrame(rows, columns=["id", "annotator", "text", "spans", "meta"])


def _annotations(record: Mapping, where: str) -> list[tuple[Any, dict[str, list[Any]]]]:
    """Return the annotators of a task of JSON, and the values of their regions by control."""
    found = []
    annotations = record.get("annotations", record.get("completions", []))
    if not isinstance(annotations, list) or not all(isinstance(item, Mapping) for item in annotations):
        raise ValueError(f"{where}: its annotations are not a list of objects.")
    for annotation in annotations:
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            continue
        regions = defaultdict(list)
        for region in annotation.get("result") or []:
            kind = str(region.get("type", "")) if isinstance(region, Mapping) else ""
            if not kind.endswith("labels"):
                continue
            if kind != "labels":
                raise ValueError(
                    f"{where} has regions of type {kind!r}; only those of type 'labels', of a text, are read."
                )
            regions[str(region.get("from_name"))].append(region.get("value"))
        author = annotation.get("completed_by")
        found.append((author.get("email", author.get("id")) if isinstance(author, Mapping) else author, dict(regions)))
    return found


def _read_json_min(record: Mapping) -> tuple[dict[str, Any], list[tuple[Any, dict[str, list[Any]]]]]:
    """Return the data of a record of JSON_MIN, and its annotation as `_annotations` does."""
    controls = {
        name
        for name, value in record.items()
        if isinstance(value, list) and value and all(isinstance(v, Mapping) and "start" in v for v in value)
    }
    data = {name: value for name, value in record.items() if name not in OF_JSON_MIN | controls}
    if "annotation_id" in record and record["annotation_id"] is None:
        return data, []
    return data, [(record.get("annotator"), {name: record[name] for name in controls})]


def _text_key(data: Mapping, text: str | None, where: str) -> str:
    texts = [name for name, value in data.items() if isinstance(value, str)]
    key = text or ("text" if "text" in texts else texts[0] if len(texts) == 1 else None)
    if key not in texts:
        asked = "" if text is None else f" {text!r} is not one of them."
        raise ValueError(
            f"{where} has the text fields {', '.join(texts) or 'none'}.{asked} Set text to the one that was annotated."
        )
    return str(key)


def _convert(regions: list[Any], text: str, where: str) -> list[Span]:
    """Return the spans of regions in characters of the text, sorted."""
    for region in regions:
        labels = region.get("labels") if isinstance(region, Mapping) else None
        if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str):
            raise ValueError(f"{where}: the region {region!r:.100} has not one label, but {labels!r:.60}.")
    for widths in _ways_to_count(text):
        places: dict[float, int] = {unit: i for i, unit in enumerate(accumulate(widths, initial=0))}
        ends = [(_place(places, region.get("start")), _place(places, region.get("end"))) for region in regions]
        if all(_is_span(*pair, region, text) for pair, region in zip(ends, regions, strict=True)):
            return sorted((*pair, region["labels"][0]) for pair, region in zip(ends, regions, strict=True))
    for region in regions:  # what is wrong with characters as Python counts them
        start, end = region.get("start"), region.get("end")
        _check_range(start, end, len(text), region, where)
        if not _is_span(start, end, region, text):
            raise ValueError(
                f"{where}: the region {region!r:.100} has the text {region.get('text')!r:.60}, but characters {start} "
                f"to {end} are {text[start:end]!r:.60}."
            )
    raise ValueError(f"{where}: its regions count characters in different ways.")


def _place(places: dict[float, int], unit: Any) -> int:
    """Return the character at a place as a region counts them; -1 if it is not the place of a character."""
    return places.get(unit, -1) if isinstance(unit, int | float) else -1


def _ways_to_count(text: str) -> Iterator[list[int]]:
    # As in Python, as in JavaScript, and both with one line break for "\r\n".
    code_points, code_units = [1] * len(text), [1 + (character > "\uffff") for character in text]
    yield code_points
    if code_units != code_points:
        yield code_units
    if "\r\n" in text:
        for widths in (code_points, code_units):
            yield [0 if text[i : i + 2] == "\r\n" else width for i, width in enumerate(widths)]


def _is_span(start: int, end: int, region: Mapping, text: str) -> bool:
    """Whether a region's text is that between two characters; -1 is not the place of a character."""
    annotated = region.get("text")
    same = not isinstance(annotated, str) or _comparable(annotated) == _comparable(text[start:end])
    return 0 <= start < end and same


def _comparable(text: str) -> str:
    """Return a text without differences between line breaks, which Label Studio may write as a backslash and n."""
    return text.replace("\\n", "\n").replace("\r\n", "\n")


def _check_range(start: Any, end: Any, length: int, item: Any, where: str) -> None:
    if not all(type(value) is int for value in (start, end)) or not 0 <= start < end <= length:
        raise ValueError(f"{where}: the span {item!r:.100} is not within its text of {length} characters.")


def _records(path: str | os.PathLike) -> Iterator[tuple[str, dict[str, Any]]]:
    # Of a JSON list, of JSON lines or of one JSON object; each with what messages call it.
    name = os.fspath(path)
    if zipfile.is_zipfile(path):
        raise ValueError(f"{name} is a zip archive. Unpack it, and read the files in it.")
    try:
        content = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not in utf-8, but in another encoding: {error}. Convert it, for example with "
            f"`iconv -f latin1 -t utf-8`."
        ) from error
    if content.lstrip()[:1] == "[":
        records = [(f"record {i}", record) for i, record in enumerate(_parse(content, name))]
    else:
        lines = [(f"line {n}", line) for n, line in enumerate(content.split("\n"), start=1) if line.strip()]
        if lines and lines[0][1].strip() == "{":  # one object on many lines
            lines = [("record 0", content)]
        records = [(where, _parse(line, f"{name}, {where}")) for where, line in lines]
    for where, record in records:
        if not isinstance(record, dict):
            raise ValueError(f"{name}, {where} is a {type(record).__name__}, not an object: {record!r:.60}.")
        yield f"{name}, {where}", record


def _parse(text: str, where: str) -> Any:
    try:
        return nested_json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
