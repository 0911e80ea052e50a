from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from skxlmr.checkpoints import decoders, fingerprint
from skxlmr.checkpoints.resolve import resolve
from skxlmr.model import XLMRobertaXLTokenizer


@pytest.fixture(params=["hashed whole", "sampled"])
def large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the toy weights are treated as a large file, of which only samples are hashed."""
    if request.param == "sampled":
        monkeypatch.setattr(fingerprint, "SMALL_FILE", 0)
        fingerprint._tensors_digest.cache_clear()
        for module in (fingerprint, decoders):
            monkeypatch.setattr(module, "SAMPLE_BYTES", 8)
        monkeypatch.setattr(fingerprint, "EVEN_SAMPLES", 16)
    return request.param == "sampled"


@pytest.mark.usefixtures("large")
def test_fingerprint_of_copy_is_equal(any_format: Path, tmp_path_factory: pytest.TempPathFactory):
    first = resolve(any_format).fingerprint
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(any_format, copy)
    os.utime(copy / "config.json", (0, 0))
    assert resolve(copy).fingerprint == first
    assert len(first) == 64


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("name", ["config.json", "sentencepiece.bpe.model"])
def test_fingerprint_with_other_config_or_tokenizer_differs(checkpoint_directory: Path, name: str):
    first = resolve(checkpoint_directory).fingerprint
    path = checkpoint_directory / name
    path.write_bytes(path.read_bytes().replace(b"4", b"5").replace(b"pieces", b"PIECES"))
    second = resolve(checkpoint_directory).fingerprint
    path.unlink()
    if name == "sentencepiece.bpe.model":
        assert resolve(checkpoint_directory).fingerprint not in (first, second)
    assert second != first


@pytest.mark.usefixtures("large")
def test_fingerprint_with_change_in_any_tensor_differs(tmp_path: Path):
    """A change of a small tensor between large ones is noticed, even if only samples are hashed."""
    (tmp_path / "config.json").write_text("{}")
    tensors = {f"{n:02}": torch.zeros(10_000 if n % 2 else 2) for n in range(40)}
    seen = set()
    for key in (None, *tensors):
        changed = {k: t + (k == key) for k, t in tensors.items()}
        save_file(changed, tmp_path / "model.safetensors")
        os.utime(tmp_path / "model.safetensors", ns=(len(seen), len(seen)))
        seen.add(resolve(tmp_path).fingerprint)
    assert len(seen) == 1 + len(tensors)


def test_fingerprint_after_change_of_file_differs(checkpoint_directory: Path, state: dict[str, torch.Tensor]):
    files = resolve(checkpoint_directory)
    first = files.fingerprint
    weights = {key: t.clone(memory_format=torch.contiguous_format) for key, t in state.items()}
    weights["transposed"][0, 0] += 1
    save_file(weights, checkpoint_directory / "model.safetensors")
    assert resolve(checkpoint_directory).fingerprint != first
    assert files.fingerprint == first  # cached


def test_fingerprint_of_large_file_reads_samples_only(tmp_path: Path):
    """A sparse file of 3 GB takes no time; a hash of all of it would take seconds."""
    (tmp_path / "config.json").write_text("{}")
    header = b'{"w": {"dtype": "F16", "shape": [1500000000], "data_offsets": [0, 3000000000]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + 3_000_000_000)
    first = resolve(tmp_path).fingerprint
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    assert resolve(tmp_path).fingerprint != first


@pytest.mark.usefixtures("large")
def test_fingerprint_of_same_tensors_in_other_files_is_equal(every_format: list[Path]):
    assert len({resolve(directory).fingerprint for directory in every_format}) == 1


@pytest.mark.parametrize(
    ("values", "same"),
    [
        ({"torch_dtype": "float16", "id2label": {"0": "a"}, "position_embedding_type": "absolute"}, True),
        ({"hidden_act": "relu"}, False),
        ({"layer_norm_eps": 1e-3}, False),
    ],
    ids=str,
)
def test_fingerprint_depends_on_settings_of_the_computation(values: dict, same: bool, checkpoint_directory: Path):
    first = resolve(checkpoint_directory).fingerprint
    (checkpoint_directory / "config.json").write_text(json.dumps({"hidden_size": 4, **values}, indent=7))
    assert (resolve(checkpoint_directory).fingerprint == first) == same


def test_fingerprint_of_same_tokens_in_other_files_is_equal(tmp_path: Path):
    nano = XLMRobertaXLTokenizer.from_pretrained("nano")
    directory = shutil.copytree(resolve("nano").directory, tmp_path / "model")
    (directory / "skxlmr.json").unlink(missing_ok=True)
    first = resolve(directory).fingerprint
    nano.save_pretrained(directory)
    assert resolve(directory).fingerprint == first
    (directory / "sentencepiece.bpe.model").unlink()
    assert resolve(directory).fingerprint == first
    content = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    (directory / "tokenizer.json").write_text(json.dumps(content, indent=3), encoding="utf-8")
    assert resolve(directory).fingerprint == first
    content["model"]["vocab"][100][1] -= 1
    (directory / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert resolve(directory).fingerprint != first
    nano.lowercased().save_pretrained(directory)
    lower = resolve(directory).fingerprint
    assert lower != first
    nano.save_pretrained(directory)
    (directory / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    assert resolve(directory).fingerprint == lower


def test_fingerprint_as_knows_that_of_earlier_versions(checkpoint_directory: Path):
    files = resolve(checkpoint_directory)
    earlier = fingerprint.file_fingerprint_of([files.config, files.tokenizer], files.weights)
    assert files.fingerprint_as(earlier) == earlier != files.fingerprint
    assert files.fingerprint_as("other") == files.fingerprint_as(files.fingerprint) == files.fingerprint
