"""Readers of the exports of annotation tools."""

import json
import zipfile

import pytest

from skxlmr import XLMRXLTagger
from skxlmr.datasets import read_doccano, read_label_studio

TEXT = "EU rejects German call"
SPANS = [(0, 2, "ORG"), (11, 17, "MISC")]
REGIONS = [
    {"start": 11, "end": 17, "text": "German", "labels": ["MISC"]},
    {"start": 0, "end": 2, "text": "EU", "labels": ["ORG"]},
]


def write(path, *records, lines=False):
    if lines:
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    else:
        path.write_text(json.dumps(list(records)), encoding="utf-8-sig")
    return path


def task(*regions, text=TEXT, **fields):
    """A task of Label Studio's JSON, with one annotation."""
    results = [
        {"id": str(i), "from_name": "label", "to_name": "text", "type": "labels", "value": value, "origin": "manual"}
        for i, value in enumerate(regions)
    ]
    annotation = {"id": 5, "completed_by": 3, "result": results, "was_cancelled": False} | fields
    return {"id": 1, "data": {"text": text}, "annotations": [annotation], "predictions": []}


@pytest.mark.parametrize("lines", [False, True], ids=["list", "lines"])
@pytest.mark.parametrize(
    "spans",
    [
        {"label": [list(span) for span in SPANS]}, {"labels": [list(span) for span in SPANS]},
        {"entities": [{"id": i, "label": k, "start_offset": a, "end_offset": b} for i, (a, b, k) in enumerate(SPANS)],
         "relations": []},
        {"annotations": [{"label": k, "start_offset": a, "end_offset": b, "user": 1} for a, b, k in SPANS]},
    ],
    ids=["label", "labels", "entities", "annotations"],
)  # fmt: skip
def test_read_doccano_of_each_form_returns_spans(spans, lines, tmp_path):
    records = [{"id": 7, "text": TEXT, **spans, "source": "x"}, {"data": "line\u2028break", "label": []}]
    frame = read_doccano(write(tmp_path / "all.jsonl", *records, lines=lines))
    assert frame.columns.tolist() == ["id", "text", "spans", "meta"]
    assert frame.text.tolist() == [TEXT, "line\u2028break"]
    assert frame.spans.tolist() == [SPANS, []]
    assert frame.meta[0]["source"] == "x"
    assert frame.meta[1] == {}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a", "label": [[0, 2, "X"]]}, r"line 2: the span \[0, 2, 'X'\] is not within its text of 1 char"),
        ({"text": "a", "label": [[1, 1, "X"]]}, "not within"), ({"text": "a", "label": [["0", 1, "X"]]}, "not within"),
        ({"text": "a", "label": ["positive"]}, "line 2 has the label 'positive' of its whole text"),
        ({"text": "a", "label": [[0, 1]]}, r"line 2: \[0, 1\] is not a span"),
        ({"text": "a", "annotations": [{"label": 4, "start_offset": 0, "end_offset": 1}]}, "is not a text"),
        ({"text": "a"}, "line 2 has the fields text, but a text and a list of spans"),
        ({"label": []}, "has the fields label"),
        ([1], "line 2 is a list, not an object"),
    ],
)  # fmt: skip
def test_read_doccano_with_other_record_raises_and_names_it(record, message, tmp_path):
    path = write(tmp_path / "all.jsonl", {"text": TEXT, "label": []}, record, lines=True)
    with pytest.raises(ValueError, match=rf"all\.jsonl, .*{message}"):
        read_doccano(path)


@pytest.mark.parametrize("read", [read_doccano, read_label_studio])
def test_readers_of_other_files_raise_and_name_them(read, tmp_path):
    path = tmp_path / "export.json"
    for content, message in [
        (b'{"text": ', "line 1 is not JSON"), (b"[1]", "record 0 is a int, not an object"),
        (b"[" * 10**5, "nested deeper than 100"),
        ('{"text": "ä"}'.encode("latin-1"), "is not in utf-8"),
    ]:  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"export\.json.*{message}"):
            read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("all.jsonl", "")
    with pytest.raises(ValueError, match="is a zip archive"):
        read(path)


def test_read_label_studio_of_json_returns_annotations(tmp_path):
    second = task(REGIONS[1], completed_by={"id": 9, "email": "a@b.c"})["annotations"][0]
    both = task(*REGIONS)
    both["annotations"] += [second, task(*REGIONS, was_cancelled=True)["annotations"][0]]
    both["annotations"][0]["result"].append({"type": "choices", "value": {"choices": ["good"]}, "from_name": "c"})
    both["annotations"][0]["result"].append({"type": "relation", "from_id": "0", "to_id": "1"})
    both["data"]["source"] = "x"
    none = task() | {"id": 2}
    nobody = {"id": 3, "data": {"text": "new"}, "annotations": []}
    frame = read_label_studio(write(tmp_path / "p.json", both, none, nobody), control="label")
    assert frame.id.tolist() == [1, 1, 2]
    assert frame.annotator.tolist() == [3, "a@b.c", 3]
    assert frame.spans.tolist() == [SPANS, SPANS[:1], []]
    assert frame.meta.tolist() == [{"source": "x"}, {"source": "x"}, {}]
    with pytest.raises(ValueError, match=r"p\.json has no spans of control='other'; it has those of 'label'"):
        read_label_studio(tmp_path / "p.json", control="other")
    (tmp_path / "one.json").write_text(json.dumps(both, indent=1))
    assert read_label_studio(tmp_path / "one.json").spans[0] == SPANS


def test_read_label_studio_of_json_min_returns_annotations(tmp_path):
    rest = {"annotator": 2, "annotation_id": 8, "created_at": "2024", "updated_at": "2024", "lead_time": 1.5}
    records = [
        {"id": 1, "text": TEXT, "label": REGIONS, "topic": "news", **rest}, {"id": 2, "text": "none", **rest},
        {"id": 3, "text": "nobody"} | rest | {"annotation_id": None},
    ]  # fmt: skip
    frame = read_label_studio(write(tmp_path / "min.json", *records))
    assert frame.id.tolist() == [1, 2]
    assert frame.annotator.tolist() == [2, 2]
    assert frame.spans.tolist() == [SPANS, []]
    assert frame.meta[0] == {"topic": "news"}
    assert read_label_studio(tmp_path / "min.json", control="label").spans.tolist() == [SPANS, []]
    with pytest.raises(ValueError, match="no spans of control='ner'; it has those of 'label'"):
        read_label_studio(tmp_path / "min.json", control="ner")
    other = {"id": 1, "title": "t", "body": TEXT, "label": REGIONS}
    assert read_label_studio(write(tmp_path / "min.json", other), text="body").spans.tolist() == [SPANS]


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [("💩This is an annotation.", 13, 23), ("💩This is an annotation.", 12, 22), ("a\r\nan annotation", 5, 15),
     ("💩\r\nannotation", 3, 13)],
)  # fmt: skip
def test_read_label_studio_converts_offsets_of_javascript(text, start, end, tmp_path):
    region = {"start": start, "end": end, "text": "annotation", "labels": ["X"]}
    frame = read_label_studio(write(tmp_path / "p.json", task(region, text=text)))
    ((a, b, _),) = frame.spans[0]
    assert frame.text[0][a:b] == "annotation"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (task({"start": 0, "end": 2, "text": "German", "labels": ["X"]}), "'German', but characters 0 to 2 are 'EU'"),
        (task({"start": 0, "end": 99, "text": "EU", "labels": ["X"]}), "is not within its text of 22 characters"),
        (task({"start": 0, "end": 2, "text": "EU", "labels": ["X", "Y"]}), r"has not one label, but \['X', 'Y'\]"),
        (task({"start": 0, "end": 2, "text": "EU"}), "has not one label, but None"),
        ({"data": {"text": TEXT}, "annotations": [{"result": [{"type": "hypertextlabels"}]}]}, "'hypertextlabels'"),
        ({"data": {"image": "a", "caption": "b"}, "annotations": []}, "has the text fields image, caption. Set text"),
        ({"data": {"text": TEXT}, "annotations": 3}, "annotations are not a list of objects"),
    ],
)  # fmt: skip
def test_read_label_studio_with_other_record_raises_and_names_it(record, message, tmp_path):
    path = write(tmp_path / "p.json", task(), record)
    with pytest.raises(ValueError, match=rf"p\.json, record 1.*{message}"):
        read_label_studio(path)


def test_tagger_learns_spans_of_annotations(tmp_path):
    frame = read_label_studio(write(tmp_path / "p.json", *[task(*REGIONS)] * 4))
    tagger = XLMRXLTagger("nano", learning_rate=5e-3, max_epochs=20, random_state=0).fit(frame.text, frame.spans)
    assert tagger.score(frame.text, frame.spans) == 1.0
