from __future__ import annotations

import argparse
import builtins
import json
import os
import sys
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers
from hostile_pickles import Calls

from skxlmr.checkpoints import torch_files
from skxlmr.checkpoints.convert.fairseq import ENCODERS, _num_heads, _Renamed, convert_fairseq
from skxlmr.checkpoints.errors import CheckpointError, CheckpointMismatchError, UnsafeCheckpointError
from skxlmr.checkpoints.layout import verify_checkpoint
from skxlmr.model import XLMRobertaXLForMaskedLM

VOCAB, HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 60, 24, 2, 3, 40, 14
State = dict[str, torch.Tensor]


def fairseq_state(prefix: str = "encoder.sentence_encoder.", dtype: torch.dtype = torch.float64) -> State:
    """Random weights by the keys of fairseq, with the matrix of the LM head tied to the embedding."""
    generator = torch.Generator().manual_seed(0)
    state = OrderedDict()

    def add(name: str, *shape: int) -> None:
        state[name] = (0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)

    def add_linear(name: str, outputs: int, inputs: int) -> None:
        add(name + ".weight", outputs, inputs)
        add(name + ".bias", outputs)

    def add_norm(name: str) -> None:
        add(name + ".weight", HIDDEN)
        add(name + ".bias", HIDDEN)

    add(prefix + "embed_tokens.weight", VOCAB, HIDDEN)
    add(prefix + "embed_positions.weight", POSITIONS, HIDDEN)
    state[prefix + "version"] = torch.tensor([3.0])
    for i in range(LAYERS):
        layer = f"{prefix}layers.{i}."
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            add_linear(f"{layer}self_attn.{name}", HIDDEN, HIDDEN)
        add_norm(layer + "self_attn_layer_norm")
        add_linear(layer + "fc1", INNER, HIDDEN)
        add_linear(layer + "fc2", HIDDEN, INNER)
        add_norm(layer + "final_layer_norm")
    add_norm(prefix + "layer_norm")
    head = prefix.split(".")[0] + ".lm_head."
    state[head + "weight"] = state[prefix + "embed_tokens.weight"]
    add(head + "bias", VOCAB)
    add_linear(head + "dense", HIDDEN, HIDDEN)
    add_norm(head + "layer_norm")
    return state


def save(directory: Path, state: object, *, legacy: bool = False, **beside: object) -> Path:
    """Write a file like those of the trainer of fairseq."""
    content = {
        "args": argparse.Namespace(arch="roberta_xl", encoder_attention_heads=HEADS, activation_fn="gelu"),
        "cfg": None,
        "model": state,
        "criterion": None,
        "optimizer_history": [{"criterion_name": "MaskedLmLoss", "num_updates": 7, "lr_scheduler_state": {}}],
        "task_state": {},
        "extra_state": {"epoch": 3, "languages": {"en", "sw"}, "where": Path("checkpoints"), "dtype": torch.float16},
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(5, dtype=torch.float32)}}},
        **beside,
    }
    torch.save(content, directory / "model.pt", _use_new_zipfile_serialization=not legacy)
    return directory / "model.pt"


def fairseq_forward(state: State, ids: torch.Tensor) -> torch.Tensor:
    """Compute the logits of one text directly from the weights of fairseq."""
    w = {key.removeprefix("encoder.").removeprefix("sentence_encoder."): tensor for key, tensor in state.items()}

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], eps=1e-5)

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), HEADS, -1).transpose(0, 1)

    x = w["embed_tokens.weight"][ids] + w["embed_positions.weight"][2 : 2 + len(ids)]
    for i in range(LAYERS):
        layer = f"layers.{i}."
        h = norm(x, layer + "self_attn_layer_norm")
        q, k, v = (heads(linear(h, f"{layer}self_attn.{name}_proj")) for name in "qkv")
        attention = (q @ k.mT / (HIDDEN // HEADS) ** 0.5).softmax(-1) @ v
        x = x + linear(attention.transpose(0, 1).reshape(len(ids), HIDDEN), layer + "self_attn.out_proj")
        h = norm(x, layer + "final_layer_norm")
        x = x + linear(F.gelu(linear(h, layer + "fc1")), layer + "fc2")
    h = F.gelu(linear(norm(x, "layer_norm"), "lm_head.dense"))
    return norm(h, "lm_head.layer_norm") @ w["embed_tokens.weight"].T + w["lm_head.bias"]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_convert_fairseq_outputs_equal_direct_computation_and_transformers(tmp_path: Path, legacy: bool):
    state = fairseq_state()
    convert_fairseq(save(tmp_path, state, legacy=legacy), tmp_path / "out")
    verify_checkpoint(tmp_path / "out")

    ours = XLMRobertaXLForMaskedLM.from_pretrained(tmp_path / "out", dtype=torch.float64)
    reference, report = transformers.XLMRobertaXLForMaskedLM.from_pretrained(
        tmp_path / "out", dtype=torch.float64, output_loading_info=True
    )
    assert not any(report.values())
    ids = torch.tensor([0, 7, 33, 12, 59, 5, 2])
    direct = fairseq_forward(state, ids)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids[None]).logits[0], direct, rtol=0, atol=1e-9)
        torch.testing.assert_close(reference.eval()(ids[None]).logits[0], direct, rtol=0, atol=1e-9)


@pytest.mark.parametrize("prefix", ENCODERS)
def test_convert_fairseq_with_prefix_of_any_version_finds_weights(tmp_path: Path, prefix: str):
    state = fairseq_state(prefix)
    convert_fairseq(save(tmp_path, state), tmp_path / "out")
    model = XLMRobertaXLForMaskedLM.from_pretrained(tmp_path / "out", dtype=torch.float64)
    torch.testing.assert_close(model.roberta.layers[1].ffn.down.weight.data, state[prefix + "layers.1.fc2.weight"])
    torch.testing.assert_close(model.lm_head.dense.bias.data, state[prefix.split(".")[0] + ".lm_head.dense.bias"])


def test_convert_fairseq_writes_config_and_keeps_dtype(tmp_path: Path):
    state = fairseq_state(dtype=torch.float16)
    returned = convert_fairseq(save(tmp_path, state), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == returned
    read = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert type(read).__name__ == "XLMRobertaXLConfig"
    assert read.dtype == torch.float16
    sizes = (read.vocab_size, read.hidden_size, read.num_hidden_layers, read.num_attention_heads)
    assert sizes == (VOCAB, HIDDEN, LAYERS, HEADS)
    assert (read.intermediate_size, read.max_position_embeddings) == (INNER, POSITIONS)
    model = XLMRobertaXLForMaskedLM.from_pretrained(tmp_path / "out", dtype=torch.float16)
    assert torch.equal(model.roberta.embeddings.word.weight, state["encoder.sentence_encoder.embed_tokens.weight"])
    assert not model.roberta.embeddings.token_type.weight.any()


def test_convert_fairseq_copies_tokenizer(tmp_path: Path):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"pieces")
    convert_fairseq(save(tmp_path, fairseq_state()), tmp_path / "out")
    assert (tmp_path / "out" / "sentencepiece.bpe.model").read_bytes() == b"pieces"


class AnyNode:
    """Pickled like the class of omegaconf."""

    def __init__(self, value: object) -> None:
        self._val = value


class DictConfig:
    """Pickled like the class of omegaconf."""

    def __init__(self, content: dict[str, object]) -> None:
        self._content = content
        self._parent = self


@pytest.fixture
def omegaconf(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict], DictConfig]:
    """A function that builds a config which is pickled like one of omegaconf, which need not be installed."""
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    for name, cls in (("omegaconf.dictconfig", DictConfig), ("omegaconf.nodes", AnyNode)):
        module = types.ModuleType(name)
        setattr(module, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(cls, "__module__", name)

    def create(value: object) -> object:
        if isinstance(value, dict):
            return DictConfig({key: create(field) for key, field in value.items()})
        return AnyNode(value)

    return create


def test_convert_fairseq_with_newer_settings_finds_number_of_heads(tmp_path: Path, omegaconf: Callable):
    settings = {"activation_fn": "gelu", "encoder_attention_heads": 6}
    forms = {
        "omegaconf": omegaconf({"common": {"seed": 1}, "model": settings}),
        "dict": {"model": settings},
        "namespace": {"model": argparse.Namespace(**settings)},
        "decoder": {"model": {"decoder_attention_heads": 6}},
    }
    for name, cfg in forms.items():
        config = convert_fairseq(save(tmp_path, fairseq_state(), args=None, cfg=cfg), tmp_path / name)
        assert config["num_attention_heads"] == 6, name


def test_convert_fairseq_with_unknown_number_of_heads_requires_it(tmp_path: Path):
    path = save(tmp_path, fairseq_state(), args=None)
    with pytest.raises(CheckpointError, match="--heads"):
        convert_fairseq(path, tmp_path / "out")
    for heads in (0, -2, 7):
        with pytest.raises(CheckpointError, match=f"width of 24 cannot be divided into {heads} "):
            convert_fairseq(path, tmp_path / "out", num_attention_heads=heads)
    assert not (tmp_path / "out").exists()
    assert convert_fairseq(path, tmp_path / "out", num_attention_heads=4)["num_attention_heads"] == 4


@pytest.mark.parametrize("width", [2560, 4096])
def test_num_heads_of_published_widths_is_32(width: int):
    assert _num_heads({}, width, None, Path("model.pt")) == 32
    assert _num_heads({"encoder_attention_heads": 16}, width, None, Path("model.pt")) == 16


def test_convert_fairseq_with_other_activation_raises(tmp_path: Path):
    path = save(tmp_path, fairseq_state(), args=argparse.Namespace(encoder_attention_heads=3, activation_fn="relu"))
    with pytest.raises(CheckpointError, match="activation is 'relu'"):
        convert_fairseq(path, tmp_path / "out")


HOSTILE = {
    "shell": Calls(os.system, "touch executed"),
    "exec": Calls(builtins.exec, "open('executed', 'w').close()"),
    "nested": Calls(builtins.map, Calls(os.system, "touch executed"), [1]),
}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the hostile code would create."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "executed"


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("call", HOSTILE.values(), ids=HOSTILE)
def test_convert_fairseq_with_hostile_settings_runs_nothing(tmp_path: Path, marker: Path, call: Calls, legacy: bool):
    args = argparse.Namespace(encoder_attention_heads=HEADS, evil=call)
    beside = {"args": args, "cfg": call, "extra_state": [call], "task_state": {"model": call}}
    convert_fairseq(save(tmp_path, fairseq_state(), legacy=legacy, **beside), tmp_path / "out")
    XLMRobertaXLForMaskedLM.from_pretrained(tmp_path / "out")
    path = save(tmp_path, fairseq_state(), legacy=legacy, args=call)
    convert_fairseq(path, tmp_path / "asked", num_attention_heads=HEADS)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # unpickling the file does run the code
    assert marker.exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("where", ["model", "unknown key", "tensor", "ignored"])
@pytest.mark.parametrize("call", HOSTILE.values(), ids=HOSTILE)
def test_convert_fairseq_with_hostile_model_raises(tmp_path: Path, marker: Path, call: Calls, where: str, legacy: bool):
    state = fairseq_state()
    keys = {"unknown key": "evil", "tensor": "encoder.lm_head.bias", "ignored": "encoder.lm_head.weight"}
    if where == "model":
        state = call
    else:
        state[keys[where]] = call
    with pytest.raises(UnsafeCheckpointError, match="Nothing was run"):
        convert_fairseq(save(tmp_path, state, legacy=legacy), tmp_path / "out")
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_convert_fairseq_unpickles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save(tmp_path, fairseq_state())
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("torch.load was called"))
    monkeypatch.setattr("pickle.Unpickler", None)
    monkeypatch.setattr("pickle.load", None)
    monkeypatch.setattr(torch_files, "_torch_load", None)
    convert_fairseq(path, tmp_path / "out")


def test_convert_fairseq_with_missing_and_unexpected_keys_lists_them(tmp_path: Path):
    state = fairseq_state()
    del state["encoder.sentence_encoder.layers.1.fc2.bias"], state["encoder.lm_head.layer_norm.weight"]
    state["classification_heads.nli.dense.weight"] = torch.zeros(2, 2)
    state["encoder.sentence_encoder.layers.0.fc3.bias"] = torch.zeros(2)
    with pytest.raises(CheckpointMismatchError) as caught:
        convert_fairseq(save(tmp_path, state), tmp_path / "out")
    assert "missing: encoder.sentence_encoder.layers.1.fc2.bias" in str(caught.value)
    assert "missing: encoder.lm_head.layer_norm.weight" in str(caught.value)
    assert "unexpected: classification_heads.nli.dense.weight" in str(caught.value)
    assert "unexpected: encoder.sentence_encoder.layers.0.fc3.bias" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_convert_fairseq_error_lists_ten_keys(tmp_path: Path):
    state = fairseq_state()
    state.update({f"other.{i}": torch.zeros(1) for i in range(15)})
    with pytest.raises(CheckpointMismatchError, match="and 5 more") as caught:
        convert_fairseq(save(tmp_path, state), tmp_path / "out")
    assert str(caught.value).count("unexpected: ") == 10


def test_convert_fairseq_with_wrong_shapes_raises(tmp_path: Path):
    state = fairseq_state()
    state["encoder.sentence_encoder.layers.1.fc2.weight"] = torch.zeros(HIDDEN, INNER + 1)
    state["encoder.sentence_encoder.layers.0.self_attn.k_proj.bias"] = torch.zeros(HIDDEN, dtype=torch.int64)
    with pytest.raises(CheckpointMismatchError, match=r"(?s)k_proj\.bias.*fc2\.weight|fc2\.weight.*k_proj\.bias"):
        convert_fairseq(save(tmp_path, state), tmp_path / "out")


@pytest.mark.parametrize("key", ["embed_positions.weight", "layers.0.fc1.weight"])
def test_convert_fairseq_without_matrix_of_sizes_raises(tmp_path: Path, key: str):
    state = fairseq_state()
    state["encoder.sentence_encoder." + key] = torch.zeros(4)
    with pytest.raises(CheckpointError, match=key + r" has shape \(4,\)"):
        convert_fairseq(save(tmp_path, state), tmp_path / "out")
    del state["encoder.sentence_encoder." + key]
    with pytest.raises(CheckpointError, match=key + " is missing"):
        convert_fairseq(save(tmp_path, state), tmp_path / "out")


def test_convert_fairseq_with_missing_layer_raises(tmp_path: Path):
    state = fairseq_state()
    state = {key.replace("layers.1.", "layers.2."): tensor for key, tensor in state.items()}
    with pytest.raises(CheckpointMismatchError, match=r"missing: encoder\.sentence_encoder\.layers\.1\."):
        convert_fairseq(save(tmp_path, state), tmp_path / "out")


def test_convert_fairseq_with_untied_lm_head_raises(tmp_path: Path):
    state = fairseq_state()
    state["encoder.lm_head.weight"] = state["encoder.lm_head.weight"].clone()
    convert_fairseq(save(tmp_path, state), tmp_path / "stored twice")
    state["encoder.lm_head.weight"][5, 3] += 1
    with pytest.raises(CheckpointMismatchError, match=r"lm_head\.weight is not the same matrix"):
        convert_fairseq(save(tmp_path, state), tmp_path / "out")
    del state["encoder.lm_head.weight"]
    convert_fairseq(save(tmp_path, state), tmp_path / "not stored")


def test_convert_fairseq_with_transposed_parameter_keeps_values(tmp_path: Path):
    state = fairseq_state()
    key = "encoder.sentence_encoder.layers.0.self_attn.q_proj.weight"
    wanted = state[key].clone()
    state[key] = torch.nn.Parameter(wanted.T.contiguous().T)
    convert_fairseq(save(tmp_path, state), tmp_path / "out")
    model = XLMRobertaXLForMaskedLM.from_pretrained(tmp_path / "out", dtype=torch.float64)
    torch.testing.assert_close(model.roberta.layers[0].attention.query.weight.data, wanted)


OTHER_FILES = {
    "no model": ({"epoch": 3}, r'no weights under "model"'),
    "state dict": (fairseq_state(), r'no weights under "model"'),
    "list": ([1, 2], r'no weights under "model"'),
    "empty": ({"model": {}}, r'no weights under "model"'),
    "number": ({"model": {"a": 1}}, "a int under 'a'"),
    "nested": ({"model": {"a": {"b": torch.zeros(1)}}}, "a dict under 'a'"),
    "numbered": ({"model": {0: torch.zeros(1)}}, "not all keys"),
    "other model": ({"model": {"bert.weight": torch.zeros(1)}}, "the first key is 'bert.weight'"),
    "translation": (
        {"model": {side + ".embed_tokens.weight": torch.zeros(4, 4) for side in ("encoder", "decoder")}},
        "two embeddings",
    ),
    "post-LN": (
        {"model": {**fairseq_state(), "encoder.sentence_encoder.emb_layer_norm.weight": torch.zeros(HIDDEN)}},
        "normalises its embeddings",
    ),
    "expanded": ({"model": {"a": torch.zeros(1).expand(10**12)}}, "reaches beyond"),
    "complex": ({"model": {"a": torch.zeros(1, dtype=torch.complex64)}}, "not described|unknown type"),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(("content", "message"), OTHER_FILES.values(), ids=OTHER_FILES)
def test_convert_fairseq_with_other_file_raises(tmp_path: Path, content: object, message: str, legacy: bool):
    path = tmp_path / "model.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=rf"model\.pt.*({message})"):
        convert_fairseq(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_convert_fairseq_with_truncated_file_raises(tmp_path: Path, legacy: bool):
    path = save(tmp_path, fairseq_state(), legacy=legacy)
    data = path.read_bytes()
    for length in (0, 1, 30, 300, 3000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"model\.pt"):
            convert_fairseq(path, tmp_path / "out")


def test_convert_fairseq_with_missing_file_raises(tmp_path: Path):
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        convert_fairseq(tmp_path / "model.pt", tmp_path / "out")


def test_convert_fairseq_with_nan_raises(tmp_path: Path):
    state = fairseq_state()
    state["encoder.lm_head.bias"][3] = torch.nan
    with pytest.raises(ValueError, match=r"'lm_head\.bias' contains NaN"):
        convert_fairseq(save(tmp_path, state), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_convert_fairseq_with_existing_directory_requires_overwrite(tmp_path: Path):
    path, out = save(tmp_path, fairseq_state()), tmp_path / "out"
    out.mkdir()
    convert_fairseq(path, out)  # an empty directory is accepted
    before = (out / "model.safetensors").read_bytes()
    state = fairseq_state()
    state["encoder.lm_head.bias"] += 1
    path = save(tmp_path, state)
    with pytest.raises(FileExistsError, match="--force"):
        convert_fairseq(path, out)
    assert (out / "model.safetensors").read_bytes() == before
    convert_fairseq(path, out, overwrite=True)
    model = XLMRobertaXLForMaskedLM.from_pretrained(out, dtype=torch.float64)
    torch.testing.assert_close(model.lm_head.bias.data, state["encoder.lm_head.bias"])
    with pytest.raises(FileExistsError, match="is a file"):
        convert_fairseq(path, path, overwrite=True)


def test_convert_fairseq_keeps_at_most_two_tensors_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    limit = 8 * VOCAB * HIDDEN
    monkeypatch.setattr("skxlmr.checkpoints.convert.fairseq.SHARD_BYTES", limit)
    original_read = _Renamed.__getitem__
    alive: list[int] = []
    peaks = []

    def read(self: _Renamed, key: str) -> torch.Tensor:
        tensor = original_read(self, key)
        if key != "roberta.embeddings.token_type_embeddings.weight":
            alive.append(tensor.nbytes)
            weakref.finalize(tensor, alive.remove, tensor.nbytes)
            peaks.append(sum(alive))
        return tensor

    monkeypatch.setattr(_Renamed, "__getitem__", read)
    convert_fairseq(save(tmp_path, fairseq_state()), tmp_path / "out")
    shards = [path.stat().st_size for path in (tmp_path / "out").glob("model-*.safetensors")]
    assert len(shards) > 3
    assert max(shards) <= limit + 4096  # its header
    assert limit <= max(peaks) <= 2 * limit
    XLMRobertaXLForMaskedLM.from_pretrained(tmp_path / "out")
