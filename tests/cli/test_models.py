from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from skxlmr.cli import main
from skxlmr.hardware.estimate import in_gigabytes, memory_estimate
from skxlmr.model import BertConfig, XLMRobertaXLConfig, XLMRobertaXLForMaskedLM


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a tiny model, by fairseq name."""
    hidden, inner, vocab = 8, 12, 20
    layer = {f"self_attn.{name}_proj": (hidden, hidden) for name in ("q", "k", "v", "out")}
    layer |= {"fc1": (inner, hidden), "fc2": (hidden, inner), "self_attn_layer_norm": (hidden,)}
    linears = {f"encoder.sentence_encoder.layers.0.{name}": shape for name, shape in layer.items()}
    linears["encoder.sentence_encoder.layers.0.final_layer_norm"] = (hidden,)
    linears["encoder.sentence_encoder.layer_norm"] = (hidden,)
    linears |= {"encoder.lm_head.dense": (hidden, hidden), "encoder.lm_head.layer_norm": (hidden,)}
    result = {"encoder.sentence_encoder.embed_tokens.weight": (vocab, hidden)}
    result |= {"encoder.sentence_encoder.embed_positions.weight": (10, hidden), "encoder.lm_head.bias": (vocab,)}
    for name, shape in linears.items():
        result |= {name + ".weight": shape, name + ".bias": shape[:1]}
    return result


@pytest.fixture
def model_pt(shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> Path:
    """A tiny file in fairseq's layout, with random weights."""
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator).half() for name, shape in shapes.items()}
    content = {"args": argparse.Namespace(encoder_attention_heads=2), "model": state, "optimizer_history": []}
    torch.save(content, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_convert_fairseq_writes_a_loadable_directory(model_pt: Path, capsys: pytest.CaptureFixture):
    out = model_pt.parent / "out"
    assert main(["convert", "fairseq", str(model_pt), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "1 layers of width 8, 2 heads, 20 tokens, float16" in printed
    assert "no sentencepiece.bpe.model" in printed
    model = XLMRobertaXLForMaskedLM.from_pretrained(out, dtype=torch.float16)
    wanted = torch.load(model_pt, weights_only=False)["model"]["encoder.lm_head.dense.weight"]
    assert torch.equal(model.lm_head.dense.weight, wanted)


def test_python_m_skxlmr_converts_and_refuses_to_overwrite(model_pt: Path):
    (model_pt.parent / "sentencepiece.bpe.model").write_bytes(b"pieces")
    out = model_pt.parent / "out"
    command = [sys.executable, "-m", "skxlmr", "convert", "fairseq", str(model_pt), str(out)]
    first, second = (subprocess.run(command, capture_output=True, text=True) for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    assert len(first.stdout.splitlines()) == 1
    assert XLMRobertaXLForMaskedLM.from_pretrained(out).config.num_attention_heads == 2
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr.startswith("skxlmr: error: ")
    assert "--force" in second.stderr
    assert len(second.stderr.splitlines()) == 1


def test_convert_fairseq_with_heads_and_force_overwrites(model_pt: Path):
    command = ["convert", "fairseq", str(model_pt), str(model_pt.parent / "out")]
    assert main(command) == 0
    assert main([*command, "--heads", "4"]) == 1
    assert main([*command, "--heads", "4", "--force"]) == 0
    assert XLMRobertaXLForMaskedLM.from_pretrained(model_pt.parent / "out").config.num_attention_heads == 4


def test_main_with_an_error_prints_one_line(model_pt: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    content = torch.load(model_pt, weights_only=False)
    del content["model"]["encoder.lm_head.bias"], content["model"]["encoder.lm_head.dense.bias"]
    torch.save(content, model_pt)
    assert main(["convert", "fairseq", str(model_pt), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "missing: encoder.lm_head.bias; missing: encoder.lm_head.dense.bias" in error
    assert main(["convert", "fairseq", str(tmp_path / "nowhere.pt"), str(tmp_path / "out")]) == 1
    assert "nowhere.pt cannot be read: No such file" in capsys.readouterr().err


def table_of(printed: str) -> dict[str, list[str]]:
    """The rows of a table by their first word, without the mark of the automatic precision."""
    rows = [line.replace(" *", "").split() for line in printed.splitlines() if line]
    return {row[0]: row[1:] for row in rows}


def test_info_of_xl_prints_memory_estimates(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("skxlmr.hardware.device.cpu_has_bfloat16", lambda: True)
    assert main(["info", "facebook/xlm-roberta-xl"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "facebook/xlm-roberta-xl: 36 layers of width 2560, 32 heads, 250880 tokens, 3.48 billion parameters\n"
    )
    table = table_of(printed)
    assert table["GB"] == "weights predict train head train LoRA train full".split()
    assert [table[row][0] for row in ("float32", "8-bit", "4-bit")] == ["13.9", "4.12", "2.88"]
    for name, precision in {
        "float32": {"dtype": "float32", "load_in_8bit": False},
        "8-bit": {"load_in_8bit": True},
    }.items():
        _, predict, *training = table[name]
        assert predict == in_gigabytes(memory_estimate(**precision).total)
        assert training[:2] == [in_gigabytes(memory_estimate(tuning=t, **precision).total) for t in ("head", "lora")]
        assert float(predict) < float(training[0]) < float(training[1])
    assert (table["8-bit"][-1], table["4-bit"][-1]) == ("-", "-")
    assert table["float32"][-1] == in_gigabytes(memory_estimate(tuning="full", dtype="float32").total)


def test_info_marks_the_automatic_precision(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def marked(model: str) -> str:
        assert main(["info", model]) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if " * " in line)
        return line.split()[0]

    monkeypatch.setattr("skxlmr.hardware.estimate.choose_devices", lambda device: [torch.device("cpu")])
    assert marked("facebook/xlm-roberta-xl") == "8-bit"
    assert marked("nano") == "float32"


def test_info_with_a_mapped_word_embedding_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr("skxlmr.hardware.estimate.choose_devices", lambda device: [torch.device("cpu")])
    for key, dtype, stays in (
        ("torch_dtype", "float16", True),
        ("dtype", "bfloat16", True),  # the name that current transformers writes
        ("torch_dtype", "float32", False),
    ):
        config = BertConfig(extra={key: dtype})
        config.save_pretrained(tmp_path)
        assert main(["info", str(tmp_path)]) == 0
        assert ("The word embedding, 0.19 GB in 16 bits, stays on disk" in capsys.readouterr().out) == stays


def test_info_of_preset_models_needs_no_connection(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr("skxlmr.hardware.estimate.resolve_config", lambda model: pytest.fail("it was asked for"))
    for size, parameters in (("base", "277.5"), ("large", "558.8")):
        assert main(["info", f"FacebookAI/xlm-roberta-{size}"]) == 0
        assert f"{parameters} million parameters" in capsys.readouterr().out


def test_info_of_an_8_bit_checkpoint_has_no_4_bit_row(tmp_path: Path, capsys: pytest.CaptureFixture):
    config = XLMRobertaXLConfig.from_pretrained("nano")
    config.extra["quantization_config"] = {"load_in_8bit": True}
    config.save_pretrained(tmp_path)
    assert main(["info", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path}: 4 layers of width 192, 6 heads, 9502 tokens, 3.7 million parameters" in printed
    assert table_of(printed)["4-bit"] == ["-"] * 5


def test_info_of_an_unknown_model_fails(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["info", "nanno"]) == 1
    assert "Did you mean 'nano'?" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("[]")
    assert main(["info", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("skxlmr: error: ")
    assert error.count("\n") == 1


def test_versions_prints_versions_and_devices(capsys: pytest.CaptureFixture):
    assert main(["versions"]) == 0
    printed = capsys.readouterr().out
    for name in ("skxlmr", "torch", "free memory"):
        assert re.search(rf"^  {name} +\S", printed, re.MULTILINE)


def test_cache_list_and_clear_show_and_remove_files(own_cache, capsys):
    from skxlmr.model import XLMRobertaXLModel

    assert main(["cache", "list"]) == 0
    assert capsys.readouterr().out == f"{own_cache}\n"
    XLMRobertaXLModel.from_pretrained("nano", load_in_8bit=True, add_pooling_layer=False)
    assert main(["cache", "list"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"5\.\d MB +int8 +\d{4}-\d\d-\d\d \d\d:\d\d +nano", listed), listed
    assert main(["cache", "clear", "nanno"]) == 1
    assert "Nothing is cached for 'nanno'" in capsys.readouterr().err
    assert main(["cache", "clear", "nano"]) == 0
    assert re.fullmatch(r"removed 5\.\d MB: nano, int8\n", capsys.readouterr().out)
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == ""


def test_info_json_has_the_bytes_of_the_table(capsys: pytest.CaptureFixture):
    assert main(["info", "nano", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["layers"], info["width"], info["vocabulary"]) == (4, 192, 9502)
    expected = memory_estimate("nano", tuning="lora", load_in_8bit=True).total
    assert info["bytes"]["8-bit"]["train_lora"] == expected
    assert info["bytes"]["8-bit"]["train_full"] is None
    assert info["bytes"][info["precision"]]["predict"] == memory_estimate("nano").total


def test_versions_json_has_what_is_printed(capsys: pytest.CaptureFixture):
    assert main(["versions", "--json"]) == 0
    sections = json.loads(capsys.readouterr().out)
    assert sections["system"]["skxlmr"] == version("skxlmr")
    assert sections["dependencies"]["torch"] == torch.__version__
    assert "cpu" in sections["devices"]


def test_cache_list_json_names_the_directory(own_cache, capsys: pytest.CaptureFixture):
    assert main(["cache", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"directory": str(own_cache), "files": []}
