"""Models in 8 and 4 bits: loading, caching, saving, and exchange with transformers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import skxlmr.model as ours
from skxlmr.checkpoints.cache import list_cached
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.datasets import load_reviews
from skxlmr.model import quantized
from skxlmr.model.float8 import Float8, Float8Linear
from skxlmr.model.int8 import Int8, Int8Linear
from skxlmr.model.packing import Packing
from skxlmr.model.quantized import linear_layers, quantized_layers
from skxlmr.system import triton

CLASSES = ["Model", "ForCausalLM", "ForMaskedLM", "ForMultipleChoice", "ForSequenceClassification"]
CLASSES += ["ForTokenClassification", "ForQuestionAnswering"]
IDS = torch.tensor([[0, 70, 800, 90, 2], [0, 7, 8, 2, 1]])
pytestmark = pytest.mark.filterwarnings("ignore::skxlmr.model.pretrained.NewHeadWarning")


def relative(x, y):
    x, y = x.detach().double(), y.detach().double()
    return float((x - y).norm() / y.norm())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint with a classification head, written by this package."""
    torch.manual_seed(0)
    config = ours.XLMRobertaXLConfig(
        vocab_size=900, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, num_labels=3
    )
    directory = tmp_path_factory.mktemp("tiny")
    ours.XLMRobertaXLForSequenceClassification(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    "options", [{"load_in_8bit": True}, {"load_in_8bit": Float8()}, {"load_in_4bit": True}], ids=str
)
@pytest.mark.parametrize("name", CLASSES)
def test_from_pretrained_quantized_is_close_to_float(name, options, own_cache):
    cls = getattr(ours, f"XLMRobertaXL{name}")
    ids = IDS[None] if name == "ForMultipleChoice" else IDS
    torch.manual_seed(0)
    expected = cls.from_pretrained("nano")
    torch.manual_seed(0)
    for _ in range(2):  # first from the checkpoint, then from the cache
        model = cls.from_pretrained("nano", **options)
        base = getattr(model, "roberta", model)
        with torch.no_grad():
            states = base(IDS, IDS.ne(1).long())[0]
            reference = getattr(expected, "roberta", expected)(IDS, IDS.ne(1).long())[0]
            outputs = model(ids)[0]
        assert relative(states, reference) < (0.05 if "load_in_8bit" in options else 0.3)
        assert outputs.isfinite().all()
        assert not any(isinstance(m, torch.nn.Linear) for m in base.layers.modules())
        assert base.embeddings.word.weight.dtype == torch.float16
        assert len(list_cached()) == 1


def test_from_pretrained_8bit_quantizes_only_layers():
    model = ours.XLMRobertaXLForSequenceClassification.from_pretrained("nano", load_in_8bit=True, dtype=torch.bfloat16)
    dtypes = {name: p.dtype for name, p in model.named_parameters()}
    int8 = {name for name, dtype in dtypes.items() if dtype == torch.int8}
    assert int8 == {f"{name}.weight" for name in quantized_layers(model)}
    assert all("layers." in name for name in int8)
    others = {dtype for name, dtype in dtypes.items() if name not in int8 and not name.endswith(".SCB")}
    assert others == {torch.float16, torch.bfloat16}
    assert [name for name, dtype in dtypes.items() if dtype == torch.float16] == ["roberta.embeddings.word.weight"]
    assert model.classifier.dense.weight.dtype == torch.bfloat16


def test_from_pretrained_8bit_with_an_engine_of_another_device_reads_nothing(tiny, own_cache, monkeypatch):
    monkeypatch.setattr(triton, "missing", lambda: None)
    monkeypatch.setattr(quantized, "find_or_build", lambda *_: pytest.fail("read"))
    with pytest.raises(ValueError, match="engine='triton' runs on CUDA devices only, not on 'cpu'"):
        ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=Int8(engine="triton"))
    monkeypatch.setattr(triton, "missing", lambda: "triton, which is not installed: run `pip install triton`")
    with pytest.raises(ImportError, match="pip install triton"):
        ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=Int8(engine="triton"))


def test_from_pretrained_8bit_from_cache_is_equal(tiny, own_cache):
    def load(dtype):
        return ours.XLMRobertaXLForSequenceClassification.from_pretrained(tiny, load_in_8bit=True, dtype=dtype)

    first = load(torch.bfloat16)  # its rounding must not change the outliers that others find
    second, third = load(torch.float32), load(torch.bfloat16)
    shutil.rmtree(own_cache)
    fresh = load(torch.float32)
    for a, b in ((first, third), (second, fresh)):
        assert a.state_dict().keys() == b.state_dict().keys()
        assert all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())
        for name, layer in quantized_layers(a).items():
            assert torch.equal(layer.outliers, b.get_submodule(name).outliers)
    assert_close(second(IDS)[0], fresh(IDS)[0], rtol=0, atol=0)


def test_from_pretrained_float8_from_cache_is_equal(tiny, own_cache):
    def load(dtype):
        return ours.XLMRobertaXLForSequenceClassification.from_pretrained(tiny, load_in_8bit=Float8(), dtype=dtype)

    first, second = load(torch.bfloat16), load(torch.float32)
    assert [(cached.kind, cached.model) for cached in list_cached()] == [("float8", str(tiny))]
    assert all(isinstance(layer, Float8Linear) for layer in quantized_layers(first).values())
    kept = {f"{name}.{part}" for name in quantized_layers(first) for part in ("weight", "scales")}
    kept.add("roberta.embeddings.word.weight")
    for name, parameter in first.named_parameters():
        other = second.get_parameter(name)
        assert name in kept or (parameter.dtype, other.dtype) == (torch.bfloat16, torch.float32)
        assert torch.equal(other.to(parameter.dtype), parameter)
    shutil.rmtree(own_cache)
    assert torch.equal(load(torch.float32)(IDS)[0], second(IDS)[0])
    ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=True)
    assert sorted(cached.kind for cached in list_cached()) == ["float8", "int8"]


def test_from_pretrained_float8_quantizes_the_weights_of_the_checkpoint(tiny, own_cache):
    model = ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=Float8())
    expected = ours.XLMRobertaXLModel.from_pretrained(tiny)
    for name, layer in quantized_layers(model).items():
        weight = expected.get_submodule(name).weight
        step = weight.abs().amax(1, keepdim=True) / 448
        error = (layer.dequantize(torch.float32) - weight).abs()
        assert (error <= torch.maximum(weight.abs() / 16, 2**-10 * step) * 1.001).all()
    assert len(quantized_layers(model)) == 12


def test_from_pretrained_float8_with_an_engine_of_another_device_reads_nothing(tiny, own_cache, monkeypatch):
    monkeypatch.setattr(quantized, "find_or_build", lambda *_: pytest.fail("read"))
    with pytest.raises(ValueError, match="Float8 engine='scaled_mm' needs an NVIDIA GPU"):
        ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=Float8(engine="scaled_mm"))


def test_float8_is_neither_saved_nor_made_of_8_bit_integers(tiny, tmp_path, own_cache):
    model = ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=Float8())
    with pytest.raises(ValueError, match=r"8-bit floating point \(Float8\) cannot be saved: .*load_in_8bit=True"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=True).save_pretrained(tmp_path / "saved")
    with pytest.raises(CheckpointError, match=r"holds 8-bit integers.*load_in_8bit=True"):
        ours.XLMRobertaXLModel.from_pretrained(tmp_path / "saved", load_in_8bit=Float8())


def test_from_pretrained_8bit_maps_cached_weights(tiny, own_cache):
    model = ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=True)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(list_cached()[0].path) in maps.read_text()
    address = model.layers[0].ffn.up.weight.untyped_storage().data_ptr()
    assert address == model.layers[1].ffn.up.weight.untyped_storage().data_ptr(), "one map for all"


def test_from_pretrained_8bit_rebuilds_damaged_cache(tiny, own_cache):
    expected = ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=True)(IDS)[0]
    path = list_cached()[0].path
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="made again"):
        model = ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=True)
    assert torch.equal(model(IDS)[0], expected)
    assert ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=True)(IDS)[0].equal(expected)


def test_from_pretrained_8bit_without_cache_warns(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SKXLMR_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="SKXLMR_CACHE"):
        model = ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=True)
    assert model(IDS)[0].isfinite().all()


def test_from_pretrained_8bit_other_config_ignores_cache(tiny, own_cache):
    ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=True)
    config = ours.XLMRobertaXLConfig.from_pretrained(tiny)
    config.is_decoder = config.add_cross_attention = True
    decoder = ours.XLMRobertaXLForCausalLM.from_pretrained(tiny, config=config, load_in_8bit=True)
    assert isinstance(decoder.roberta.layers[0].cross_attention.query, Int8Linear)
    states = torch.randn(2, 3, 64)
    assert decoder(IDS, encoder_hidden_states=states)[0].isfinite().all()


def test_save_pretrained_8bit_round_trip(tiny, tmp_path, own_cache):
    model = ours.XLMRobertaXLForSequenceClassification.from_pretrained(tiny, load_in_8bit=True)
    model.save_pretrained(tmp_path / "saved")
    shutil.rmtree(own_cache)
    again = ours.XLMRobertaXLForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert {name: q.outliers.tolist() for name, q in quantized_layers(again).items()} == {
        name: q.outliers.tolist() for name, q in quantized_layers(model).items()
    }
    assert torch.equal(again(IDS)[0], model(IDS)[0])
    with pytest.raises(CheckpointError, match="4 bits"):
        ours.XLMRobertaXLModel.from_pretrained(tmp_path / "saved", load_in_4bit=True)


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"layers.0.attention.query": {"columns": [99999], "peaks": [9.0]}}', '{"layers.0": 3}'],
)
def test_from_pretrained_damaged_outliers_raises(tiny, tmp_path, own_cache, content):
    ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=True).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "skxlmr.json").unlink()
    (tmp_path / "saved" / "outliers.json").write_text(content)
    shutil.rmtree(own_cache)
    with pytest.raises(CheckpointError, match=r"outliers\.json"):
        ours.XLMRobertaXLModel.from_pretrained(tmp_path / "saved")


def test_save_pretrained_4bit_raises(tiny, tmp_path, own_cache):
    model = ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_4bit=True)
    with pytest.raises(ValueError, match="load_in_8bit=True"):
        model.save_pretrained(tmp_path / "saved")


@pytest.mark.filterwarnings("ignore")
def test_save_pretrained_8bit_loads_in_transformers(tiny, tmp_path, own_cache):
    transformers = pytest.importorskip("transformers")
    model = ours.XLMRobertaXLForSequenceClassification.from_pretrained(tiny, load_in_8bit=True)
    model.save_pretrained(tmp_path / "saved")
    theirs = transformers.XLMRobertaXLForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    query = theirs.roberta.encoder.layer[1].attention.self.query
    assert type(query).__name__ == "Linear8bitLt"
    assert torch.equal(query.weight.data, model.roberta.layers[1].attention.query.weight)
    with torch.no_grad():
        assert relative(model(IDS)[0], theirs(IDS, IDS.ne(9).long()).logits) < 0.02


@pytest.mark.filterwarnings("ignore")
def test_from_pretrained_8bit_of_transformers(tiny, tmp_path, own_cache):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.XLMRobertaXLForSequenceClassification.from_pretrained(
        tiny, quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True)
    ).eval()
    theirs.save_pretrained(tmp_path / "saved")
    assert "classifier.dense.SCB" in theirs.state_dict(), "they quantise the head, too"
    model = ours.XLMRobertaXLForSequenceClassification.from_pretrained(tmp_path / "saved")
    query = theirs.roberta.encoder.layer[1].attention.self.query
    assert torch.equal(query.weight.data, model.roberta.layers[1].attention.query.weight)
    assert model.classifier.dense.weight.dtype == torch.float32
    with torch.no_grad():
        assert relative(model(IDS)[0], theirs(IDS, IDS.ne(9).long()).logits) < 0.03


def test_from_pretrained_8bit_with_float_weight_raises(tiny, tmp_path, own_cache):
    from safetensors.torch import load_file, save_file

    ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=True).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "skxlmr.json").unlink()
    tensors = load_file(tmp_path / "saved" / "model.safetensors")
    name = "encoder.layer.0.attention.self.key.weight"
    save_file({**tensors, name: tensors[name].float()}, tmp_path / "saved" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"expected torch\.int8"):
        ours.XLMRobertaXLModel.from_pretrained(tmp_path / "saved")


def test_from_pretrained_8bit_and_4bit_raises():
    with pytest.raises(ValueError, match="exclude each other"):
        ours.XLMRobertaXLModel.from_pretrained("nano", load_in_8bit=True, load_in_4bit=True)


def packed_states(model, texts):
    tokenizer = ours.XLMRobertaXLTokenizer.from_pretrained("nano")
    windows = [tokenizer.build_inputs(ids) for ids in tokenizer.encode_batch(texts)]
    ids = [torch.as_tensor(w, dtype=torch.int64) for w in windows]
    positions = torch.cat([torch.arange(len(w)) + 2 for w in ids])
    packing = Packing.from_lengths([len(w) for w in ids])
    with torch.inference_mode():
        return packing.mean(model.encode(torch.cat(ids), positions, packing)[0].float())


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_encode_8bit_is_independent_of_batch(dtype, n_threads):
    model = ours.XLMRobertaXLModel.from_pretrained("nano", load_in_8bit=True, dtype=dtype)
    if not isinstance(model.layers[0].ffn.up.engine, type(Int8Linear(2, 2, settings=Int8(engine="int_mm")).engine)):
        pytest.skip("this CPU has no int8 instructions")
    texts = load_reviews().text[:12].tolist()
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        whole = packed_states(model, texts)
        for rows in (slice(0, 1), slice(3, 5), slice(5, 12), slice(11, 12)):
            part = packed_states(model, texts[rows])
            assert ((part - whole[rows]).norm(dim=1) / whole[rows].norm(dim=1)).max() < 1e-5
    finally:
        torch.set_num_threads(before)


def test_from_pretrained_8bit_rounds_inputs_after_activations_asymmetrically(tiny, own_cache):
    for _ in range(2):  # first from the checkpoint, then from the cache
        model = ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=True)
        layers = quantized_layers(model)
        assert [name for name, layer in layers.items() if layer.asymmetric] == [
            "layers.0.ffn.down",
            "layers.1.ffn.down",
        ]
        for layer in layers.values():
            sums = layer.weight.sum(1, dtype=torch.int32)
            assert torch.equal(layer.weight_sums, sums if layer.asymmetric else sums[:0])


def test_masked_lm_8bit_in_16_bits_is_close_to_float():
    torch.manual_seed(0)
    model = ours.XLMRobertaXLForMaskedLM.from_pretrained("nano", load_in_8bit=True, dtype=torch.bfloat16)
    expected = ours.XLMRobertaXLForMaskedLM.from_pretrained("nano")
    with torch.no_grad():
        assert relative(model(IDS)[0], expected(IDS)[0]) < 0.05


def test_save_pretrained_8bit_writes_quantization_config(tiny, tmp_path, own_cache):
    ours.XLMRobertaXLModel.from_pretrained(tiny, load_in_8bit=Int8(threshold=5.0)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert config["load_in_8bit"] is True
    assert config["llm_int8_threshold"] == 5.0
    assert "classifier" in config["llm_int8_skip_modules"]


def test_linear_layers_finds_all_of_every_layer():
    config = ours.XLMRobertaXLConfig(vocab_size=9, hidden_size=8, num_hidden_layers=3, num_attention_heads=2)
    with torch.device("meta"):
        assert len(linear_layers(ours.XLMRobertaXLForMaskedLM(config))) == 3 * 6
