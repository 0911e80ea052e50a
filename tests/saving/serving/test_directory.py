"""Exports of ONNX: the loader of the documentation returns what the estimator returns, without torch and skxlmr."""

import ast
import json
import logging
import sys

import numpy as np
import pytest
from serving_checks import HEAD, LABELS, LOADER, TAGS, TEXTS, TOKENS, assert_serves, serve

from skxlmr import LoRA, XLMRXLClassifier, XLMRXLEmbedder, XLMRXLTagger
from skxlmr.saving.serving import onnx_file

PLAIN = {"device": "cpu", "dtype": "float32"}


@pytest.fixture
def onnx():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install skxlmr[onnx]")


@pytest.fixture(scope="module")
def classifier():
    return XLMRXLClassifier("nano", prompt="film: ", **HEAD | {"tuning": LoRA(rank=3)}).fit(TEXTS, LABELS)


def test_loader_is_short_and_imports_neither_torch_nor_skxlmr():
    tree = ast.parse(LOADER.read_text(encoding="utf-8"))
    load = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "load")
    code = {line for node in ast.walk(load) if isinstance(node, ast.stmt) for line in (node.lineno, node.end_lineno)}
    assert len(code) - 1 <= 22  # without the docstring
    names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert names == {"json", "sys", "numpy", "onnxruntime", "openvino"}


def test_export_onnx_of_classifier_serves_predict_proba(onnx, classifier, tmp_path):
    handlers = list(logging.getLogger().handlers)
    classifier.export_onnx(tmp_path)
    assert logging.getLogger().handlers == handlers
    assert_serves(tmp_path, TEXTS, classifier.predict_proba(TEXTS))
    about = json.loads((tmp_path / "serving.json").read_text())
    expected = {"kind": "classification", "classes": ["no", "yes"], "prompt": "film: ", "max_length": 512}
    assert about.items() >= expected.items()
    names = ["README.md", "model.onnx", "serving.json", "tokenizer.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert "library_name: onnx\n" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_export_onnx_in_8_bits_is_small_and_close_and_replaces_earlier_export(onnx, tmp_path):
    embedder = XLMRXLEmbedder("nano", prompt="query: ", normalize=True, max_length=8, truncation=True, **PLAIN)
    embedder.fit(TEXTS[:2])
    (tmp_path / "serving.json").write_text("{}")
    (tmp_path / "openvino_model.bin").write_text("of an earlier export")
    embedder.export_onnx(tmp_path, int8=True)
    assert not (tmp_path / "openvino_model.bin").exists()
    assert (tmp_path / "model.onnx").stat().st_size < 5_000_000  # 15 MB in float32
    with pytest.warns(UserWarning, match="were cut"):
        expected = embedder.transform(TEXTS)
    together, _ = serve(tmp_path, TEXTS)
    assert (np.array(together) * expected).sum(axis=1).min() > 0.998


def test_export_onnx_of_tagger_serves_probabilities_of_words(onnx, tmp_path):
    tagger = XLMRXLTagger("nano", **HEAD).fit(TOKENS, TAGS)
    tagger.export_onnx(tmp_path)
    assert_serves(tmp_path, TOKENS, tagger.predict_proba(TOKENS))


def test_export_onnx_of_large_model_has_weights_beside(onnx, monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_file, "LARGEST_FILE", 1000)
    embedder = XLMRXLEmbedder("nano", **PLAIN).fit(TEXTS)
    embedder.export_onnx(tmp_path)
    assert (tmp_path / "model.onnx").stat().st_size < 1_000_000 < (tmp_path / "model.onnx.data").stat().st_size
    assert_serves(tmp_path, TEXTS, embedder.transform(TEXTS))


def test_failed_export_leaves_earlier_export(classifier, monkeypatch, tmp_path):
    def fail(*args, **options):
        raise OSError("disk is full")

    monkeypatch.setattr("skxlmr.saving.serving.libraries.GraphFormat.check", lambda *args: None)
    monkeypatch.setattr("torch.onnx.export", fail)
    (tmp_path / "serving.json").write_text("{}")
    with pytest.raises(OSError, match="disk is full"):
        classifier.export_onnx(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["serving.json"]


def test_export_into_directory_of_another_model_is_refused(classifier, monkeypatch, tmp_path):
    monkeypatch.setattr("skxlmr.saving.serving.libraries.GraphFormat.check", lambda *args: None)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(FileExistsError, match="another directory"):
        classifier.export_openvino(tmp_path)


@pytest.mark.parametrize("extra", ["onnx", "openvino"])
def test_export_without_the_package_names_the_extra(classifier, extra, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(ImportError, match=rf"pip install skxlmr\[{extra}\]"):
        getattr(classifier, f"export_{extra}")(tmp_path / "new")
    assert not (tmp_path / "new").exists()
