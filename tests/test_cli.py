from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from skxlmr.cli import main
from skxlmr.model import XLMRobertaXLForMaskedLM


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of a tiny model, by fairseq's names."""
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


def test_convert(model_pt: Path, capsys: pytest.CaptureFixture):
    out = model_pt.parent / "out"
    assert main(["convert", "fairseq", str(model_pt), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "1 layers of width 8, 2 heads, 20 tokens, float16" in printed
    assert "no sentencepiece.bpe.model" in printed
    model = XLMRobertaXLForMaskedLM.from_pretrained(out, dtype=torch.float16)
    wanted = torch.load(model_pt, weights_only=False)["model"]["encoder.lm_head.dense.weight"]
    assert torch.equal(model.lm_head.dense.weight, wanted)


def test_convert_as_a_process(model_pt: Path):
    (model_pt.parent / "sentencepiece.bpe.model").write_bytes(b"pieces")
    out = model_pt.parent / "out"
    command = [sys.executable, "-m", "skxlmr.cli", "convert", "fairseq", str(model_pt), str(out)]
    first, second = (subprocess.run(command, capture_output=True, text=True) for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    assert len(first.stdout.splitlines()) == 1
    assert XLMRobertaXLForMaskedLM.from_pretrained(out).config.num_attention_heads == 2
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr.startswith("skxlmr: error: ")
    assert "--force" in second.stderr
    assert len(second.stderr.splitlines()) == 1


def test_heads_and_force(model_pt: Path):
    command = ["convert", "fairseq", str(model_pt), str(model_pt.parent / "out")]
    assert main(command) == 0
    assert main([*command, "--heads", "4"]) == 1
    assert main([*command, "--heads", "4", "--force"]) == 0
    assert XLMRobertaXLForMaskedLM.from_pretrained(model_pt.parent / "out").config.num_attention_heads == 4


def test_errors_are_one_line(model_pt: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    content = torch.load(model_pt, weights_only=False)
    del content["model"]["encoder.lm_head.bias"], content["model"]["encoder.lm_head.dense.bias"]
    torch.save(content, model_pt)
    assert main(["convert", "fairseq", str(model_pt), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "missing: encoder.lm_head.bias; missing: encoder.lm_head.dense.bias" in error
    assert main(["convert", "fairseq", str(tmp_path / "nowhere.pt"), str(tmp_path / "out")]) == 1
    assert "nowhere.pt cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [[], ["convert"], ["convert", "onnx"], ["convert", "fairseq", "model.pt"], ["nonsense"]], ids=str
)
def test_wrong_usage(wrong: list[str], capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as caught:
        main(wrong)
    assert caught.value.code == 2
    assert "usage: skxlmr" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture):
    for arguments, expected in (
        (["--version"], f"skxlmr {version('skxlmr')}"),
        (["--help"], "convert"),
        (["convert", "fairseq", "--help"], "No code in the file is run"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        assert expected in " ".join(capsys.readouterr().out.split())
