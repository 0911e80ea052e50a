"""Every class and argument of the documented page gives the numbers of transformers 4.27.2; see make_golden.py."""

import functools
import inspect
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from skxlmr import model as models

GOLDEN = Path(__file__).with_name("golden")
TOLERANCE = 1e-9


def all_cases():
    """Yield (folder, case) of every case, with an id that describes it."""
    for path in sorted(GOLDEN.glob("*/cases.json")):
        for case in json.loads(path.read_text(encoding="utf-8")):
            load = "".join(f", {name}={value}" for name, value in case["load"].items())
            name = f"{path.parent.name}: {case['class']}{load}: {case['name']}"
            yield pytest.param(path.parent, case, id=name)


@functools.cache
def tensors_of(folder):
    return load_file(folder / "cases.safetensors")


@functools.cache
def load(folder, class_name, **parameters):
    return getattr(models, class_name).from_pretrained(folder, dtype=torch.float64, **parameters)


def read(folder, keys):
    """Return the tensor of a key; for a list of keys, a tuple."""
    if keys is None:
        return None
    return tuple(read(folder, key) for key in keys) if isinstance(keys, list) else tensors_of(folder)[keys]


def call_of(folder, case):
    return {**{name: read(folder, keys) for name, keys in case["tensors"].items()}, **case["values"]}


def run(folder, case, **changed):
    with torch.no_grad():
        return load(folder, case["class"], **case["load"])(**{**call_of(folder, case), **changed})


class Real:
    """Selects real tokens by the mask of a call: the hidden states of pads have no meaning, and may be missing."""

    def __init__(self, call):
        mask = call.get("attention_mask")
        given = call["input_ids"] if "input_ids" in call else call["inputs_embeds"]
        n_queries = given.shape[given.ndim - (1 if "input_ids" in call else 2)]
        self.keys = None
        if mask is not None and not (mask.ndim == 3 and given.ndim - ("inputs_embeds" in call) == 2):
            self.keys = mask.flatten(0, -2) != 0  # (B, C, S) of choices -> (B * C, S)
            self.queries = self.keys[:, -n_queries:]

    def of(self, field, value):
        """Return the rows of the real tokens of one tensor of a field."""
        if self.keys is None or field in ("loss", "pooler_output") or (field == "logits" and value.ndim == 2):
            return value
        if field == "past_key_values":  # (B, N, K, D); those of cross-attention have another length
            return value.transpose(1, 2)[self.keys] if value.shape[2] == self.keys.shape[1] else value
        if field in ("attentions", "cross_attentions"):  # (B, N, Q, K)
            return value.transpose(1, 2)[self.queries]
        return value[self.queries]  # (B, S, ...)


def assert_equal(field, got, expected, real):
    if isinstance(expected, tuple):
        assert isinstance(got, tuple), field
        assert len(got) == len(expected), field
        for mine, theirs in zip(got, expected, strict=True):
            assert_equal(field, mine, theirs, real)
    elif expected is None:
        assert got is None, field
    else:
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape, field
        got, expected = real.of(field, got), real.of(field, expected)
        torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE, msg=lambda text: f"{field}: {text}")


@pytest.mark.parametrize(("folder", "case"), list(all_cases()))
def test_forward_equals_golden_outputs(folder, case):
    outputs, real = run(folder, case), Real(call_of(folder, case))
    assert isinstance(outputs, tuple) == case["tuple"]
    if case["tuple"]:
        assert len(outputs) == len(case["outputs"])
        outputs = {name: value for (name, _), value in zip(case["outputs"], outputs, strict=True)}
    else:
        assert sorted(outputs.keys()) == sorted(name for name, _ in case["outputs"])
        for i, name in enumerate(outputs.keys()):
            assert outputs[name] is getattr(outputs, name) is outputs[i] is outputs.to_tuple()[i]
    for name, keys in case["outputs"]:
        assert_equal(name, outputs[name], read(folder, keys), real)


def test_model_output_fields_not_computed_are_none():
    folder = GOLDEN / "masked"
    outputs = load(folder, "XLMRobertaXLForMaskedLM")(torch.tensor([[0, 7, 2]]))
    assert list(outputs.keys()) == ["logits"]
    assert outputs.loss is outputs.hidden_states is outputs.attentions is None
    with pytest.raises(KeyError):
        outputs["loss"]


@pytest.mark.parametrize("name", ["causal", "causal_relative_key", "cross", "cross_relative_key_query"])
def test_forward_decoder_with_past_equals_whole_text(name):
    folder = GOLDEN / name
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    (case,) = (case for case in cases if case["name"] == "padding on the left")
    whole, call = run(folder, case), call_of(folder, case)
    ids, mask = call["input_ids"], call["attention_mask"]
    positions = 1 + mask.cumsum(1)  # given, because with a past the reference counts pads, too
    states, past = [], None
    for start, stop in ((0, 2), (2, 3), (3, 5)):
        outputs = run(
            folder, case, input_ids=ids[:, start:stop], attention_mask=mask[:, :stop],
            position_ids=positions[:, start:stop], past_key_values=past,
        )  # fmt: skip
        states.append(outputs.hidden_states[-1])
        past = outputs.past_key_values
    real = mask.bool()
    torch.testing.assert_close(torch.cat(states, 1)[real], whole.hidden_states[-1][real], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in GOLDEN.glob("*/cases.json")))
def test_save_pretrained_equals_golden_weights(name, tmp_path):
    folder = GOLDEN / name
    (class_name,) = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    load(folder, class_name).save_pretrained(tmp_path)
    theirs, ours = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    theirs = {key: tensor for key, tensor in theirs.items() if not key.endswith("embeddings.position_ids")}  # 0, 1...
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key


SIGNATURES = json.loads((GOLDEN / "signatures.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(SIGNATURES.keys() - {"XLMRobertaXLConfig"}))
def test_forward_has_documented_parameters(name):
    parameters = list(inspect.signature(getattr(models, name).forward).parameters.values())[1:]
    assert [(p.name, p.default) for p in parameters] == list(SIGNATURES[name].items())


def test_config_has_documented_parameters():
    documented = SIGNATURES["XLMRobertaXLConfig"]
    parameters = inspect.signature(models.XLMRobertaXLConfig).parameters
    assert len(documented) == 18
    assert {name: parameters[name].default for name in documented} == documented


def test_config_defaults_equal_reference():
    theirs = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))
    ours = models.XLMRobertaXLConfig().to_dict()
    assert {key: ours[key] for key in ours.keys() & theirs.keys()} == {
        key: theirs[key] for key in ours.keys() & theirs.keys()
    }
    assert ours.keys() - theirs.keys() == set()
    assert models.XLMRobertaXLConfig.from_dict(theirs).to_dict() == theirs
