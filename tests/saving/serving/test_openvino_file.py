"""Exports of OpenVINO: the loader of the documentation returns what the estimator returns."""

import numpy as np
import pytest
from serving_checks import HEAD, TEXTS, assert_serves, serve

from skxlmr import XLMRXLEmbedder, XLMRXLRegressor

pytest.importorskip("openvino", reason="openvino is not installed: make test-serving")


def test_export_openvino_of_regressor_serves_predict(tmp_path, capfd):
    reg = XLMRXLRegressor("nano", **HEAD).fit(TEXTS, np.arange(6.0))
    reg.export_openvino(tmp_path)
    assert not capfd.readouterr().out
    assert_serves(tmp_path, TEXTS, reg.predict(TEXTS))
    names = ["README.md", "openvino_model.bin", "openvino_model.xml", "serving.json", "tokenizer.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_export_openvino_in_8_bits_is_small_and_close(tmp_path, capfd):
    pytest.importorskip("nncf", reason="nncf is not installed: make test-serving")
    embedder = XLMRXLEmbedder("nano", normalize=True, device="cpu", dtype="float32").fit(TEXTS)
    embedder.export_openvino(tmp_path, int8=True)
    assert not capfd.readouterr().out
    assert (tmp_path / "openvino_model.bin").stat().st_size < 5_000_000  # 15 MB in float32
    together, _ = serve(tmp_path, TEXTS)
    assert (np.array(together) * embedder.transform(TEXTS)).sum(axis=1).min() > 0.998
