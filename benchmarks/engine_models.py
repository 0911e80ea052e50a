"""The models and texts of `engines.py`, and their conversions to the formats of the other engines.

Notation: B texts, L tokens of the longest of them, H hidden size, N heads, D head size.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from shared import copy_nano, real_texts
from torch import Tensor, nn

from skxlmr.checkpoints.resolve import resolve
from skxlmr.model import XLMRobertaConfig, XLMRobertaXLConfig, XLMRobertaXLModel, XLMRobertaXLTokenizer
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.features import frozen_features

SIZES = {  # number of texts
    "e5-small": 600,
    "base": 240,
    "xl-width": 120,
    "nano": 64,  # for tests: it needs no package
}
CALIBRATION = 100  # texts that OpenVINO's int8 measures activations with; none of them is timed
SHORTEST, LONGEST = 5, 300  # tokens of a text
ONE_TEXT = (20, 200)  # tokens of a text that is embedded alone
MASKED = -10_000.0  # added to the scores of padding
SPECIAL = 5  # ids that are the same in all vocabularies


@dataclass(frozen=True)
class Model:
    """A model of one size, its texts, and the folder of its conversions."""

    size: str
    folder: Path

    @property
    def directory(self) -> Path:
        """The checkpoint, as transformers reads it."""
        return self.folder / "checkpoint"

    def prepare(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Return what has to be made once, by name; each keeps what is there."""
        yield "checkpoint", self._make_checkpoint
        yield "texts", self._make_texts
        yield "reference", self._make_reference
        for package, conversions in CONVERSIONS.items():
            if find_spec(package):
                for name, convert in conversions.items():
                    yield name, lambda name=name, convert=convert: _once(self.folder / name, convert, self)

    @cached_property
    def ids(self) -> list[np.ndarray]:
        """The token ids of the timed texts, int64."""
        return self._read("texts")

    @cached_property
    def calibration(self) -> list[np.ndarray]:
        """The token ids of other texts."""
        return self._read("calibration")

    def one_text(self, n_tokens: int) -> np.ndarray:
        """Return the first tokens of the longest texts, as a text of this length."""
        joined = np.concatenate([ids[1:-1] for ids in sorted(self.ids, key=len, reverse=True)])
        first, last = self.ids[0][0], self.ids[0][-1]
        return np.concatenate([[first], joined[: n_tokens - 2], [last]])

    @property
    def reference(self) -> np.ndarray:
        """Our vectors in float32, (n_texts, H)."""
        return np.load(self.folder / "reference.npy")

    def padded(self, *, fused_attention: bool) -> PaddedEncoder:
        """Return the model on padded batches."""
        model = XLMRobertaXLModel.from_pretrained(self.directory, dtype=torch.float32, add_pooling_layer=False)
        return PaddedEncoder(model.eval().requires_grad_(False), fused_attention=fused_attention)

    def _read(self, name: str) -> list[np.ndarray]:
        found = np.load(self.folder / f"{name}.npz")
        return np.split(found["ids"], np.cumsum(found["lengths"])[:-1])

    def _make_checkpoint(self) -> None:
        if self.directory.exists():
            return
        if self.size == "nano":
            copy_nano(self.directory)
        elif self.size == "e5-small":
            shutil.copytree(resolve("e5-small").directory, self.directory)
            get_backbone("e5-small").tokenizer.save_pretrained(self.directory)  # for the tokenizers of other engines
        else:
            random_model(self.size).save_pretrained(self.directory)
            XLMRobertaXLTokenizer.from_pretrained("nano").save_pretrained(self.directory)

    def _make_texts(self) -> None:
        if (self.folder / "calibration.npz").exists():
            return
        name = "nano" if self.size == "nano" else "e5-small"  # so texts of all other sizes have the same lengths
        tokenizer = XLMRobertaXLTokenizer.from_directory(resolve(name).directory)
        n_words = XLMRobertaXLConfig.from_pretrained(self.directory).vocab_size - SPECIAL
        texts = real_texts(2 * SIZES[self.size] + 2 * CALIBRATION)
        windows = [np.asarray(tokenizer.build_inputs(ids), np.int64) for ids in tokenizer.encode_batch(texts)]
        windows = [ids for ids in windows if SHORTEST <= len(ids) <= LONGEST]
        windows = [np.where(ids < SPECIAL, ids, SPECIAL + (ids - SPECIAL) % n_words) for ids in windows]
        _save(self.folder / "texts.npz", windows[: SIZES[self.size]])
        _save(self.folder / "calibration.npz", windows[-CALIBRATION:])

    def _make_reference(self) -> None:
        if (self.folder / "reference.npy").exists():
            return
        backbone = get_backbone(self.directory, dtype="float32", load_in_8bit=False, device="cpu")
        vectors = frozen_features(backbone, self.ids, "mean", batch_tokens=backbone.batch_tokens("auto"))
        short = sorted(range(len(self.ids)), key=lambda i: len(self.ids[i]))[:16]
        padded = self.padded(fused_attention=False)(*map(torch.from_numpy, pad([self.ids[i] for i in short])))
        np.testing.assert_allclose(padded.numpy(), vectors[short], rtol=0, atol=1e-4 * np.abs(vectors).max())
        np.save(self.folder / "reference.npy", vectors)


def _once(target: Path, convert: Callable[[Model, Path], None], model: Model) -> None:
    """Convert into a folder, which appears only when it is complete."""
    if target.exists():
        return
    temporary = target.with_name(target.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    convert(model, temporary)
    temporary.rename(target)


def _save(file: Path, windows: Sequence[np.ndarray]) -> None:
    np.savez(file, ids=np.concatenate(windows), lengths=[len(ids) for ids in windows])


def pad(rows: Sequence[np.ndarray], dtype: type = np.int64) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask of texts, (B, L) both."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.ones(mask.shape, dtype)  # 1 is the id of padding in all models
    ids[mask] = np.concatenate(rows)
    return ids, mask.astype(dtype)


def random_model(size: str) -> XLMRobertaXLModel:
    """Return a model with nano's vocabulary and random weights, whose rows and columns differ as those of trained ones.

    Magnitudes of columns and rows, and the gains of LayerNorm, are log-normal.
    """
    n_words = XLMRobertaXLConfig.from_pretrained("nano").vocab_size
    if size == "base":
        config: XLMRobertaXLConfig = XLMRobertaConfig(vocab_size=n_words, layer_norm_eps=1e-5)
    else:
        config = XLMRobertaXLConfig(vocab_size=n_words, num_hidden_layers=2)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model = XLMRobertaXLModel(config, add_pooling_layer=False).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)

    def log_normal(*shape: int) -> Tensor:
        return torch.empty(shape).log_normal_(0, 0.3, generator=generator)

    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            weight.normal_(0, 1.5 * config.initializer_range, generator=generator)
            weight *= log_normal(len(weight), 1) * log_normal(weight.shape[1])
        elif name.endswith("bias"):
            weight.normal_(0, config.initializer_range, generator=generator)
        else:
            weight.copy_(log_normal(len(weight)))
    return model


class PaddedEncoder(nn.Module):
    """A model in operators that every exporter knows: ids and mask (B, L) -> means of the last hidden states (B, H)."""

    def __init__(self, model: XLMRobertaXLModel, *, fused_attention: bool) -> None:
        super().__init__()
        embeddings, first = model.embeddings, model.config.first_position
        self.pre_layer_norm, self.fused_attention = model.config.pre_layer_norm, fused_attention
        self.num_heads, self.head_size = model.config.num_attention_heads, model.config.head_size
        self.words = embeddings.word
        position = embeddings.position.weight[first:] + embeddings.token_type.weight[0]
        self.position = nn.Embedding.from_pretrained(position)
        self.embeddings_norm, self.layers, self.norm = embeddings.norm, model.layers, model.norm

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        dtype = self.position.weight.dtype
        bias = (1.0 - attention_mask.unsqueeze(1).unsqueeze(2).to(dtype)) * MASKED  # (B, 1, 1, L)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.embeddings_norm(self.words(input_ids).to(dtype) + self.position(positions))  # (B, L, H)
        for layer in self.layers:
            if self.pre_layer_norm:
                x = x + self.attend(layer.attention, layer.attention_norm(x), bias)
                x = x + layer.ffn.down(F.gelu(layer.ffn.up(layer.ffn_norm(x))))
            else:
                x = layer.attention_norm(self.attend(layer.attention, x, bias) + x)
                x = layer.ffn_norm(layer.ffn.down(F.gelu(layer.ffn.up(x))) + x)
        mask = attention_mask.unsqueeze(2).to(torch.float32)
        return (self.norm(x).to(torch.float32) * mask).sum(1) / mask.sum(1)

    def attend(self, attention: nn.Module, x: Tensor, bias: Tensor) -> Tensor:
        """Attend to all tokens but padding, (B, L, H) -> (B, L, H)."""
        shape = (x.shape[0], x.shape[1], self.num_heads, self.head_size)
        layers = (attention.query, attention.key, attention.value)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in layers)  # (B, N, L, D)
        if self.fused_attention:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            y = (q @ k.transpose(2, 3) / self.head_size**0.5 + bias).softmax(-1) @ v
        return attention.output(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))


# ---------------------------------------------------------------------------------------------------------------------
# Conversions: each writes into a new folder


def to_onnx(model: Model, folder: Path) -> None:
    """Export to ONNX, fuse attention, gelu and LayerNorm, and quantise the weights; activations are quantised later."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    encoder = model.padded(fused_attention=False)
    plain, fused = folder / "plain.onnx", folder / "fused.onnx"
    example = tuple(map(torch.from_numpy, pad(model.ids[:2])))
    names, axes = ["input_ids", "attention_mask"], {0: "texts", 1: "tokens"}
    torch.onnx.export(
        encoder, example, str(plain), input_names=names, output_names=["vectors"], opset_version=17, dynamo=False,
        dynamic_axes={**dict.fromkeys(names, axes), "vectors": {0: "texts"}},
    )  # fmt: skip
    hidden = encoder.num_heads * encoder.head_size
    optimized = optimizer.optimize_model(
        str(plain), model_type="bert", num_heads=encoder.num_heads, hidden_size=hidden, opt_level=0, use_gpu=False
    )
    print("fused:", {name: n for name, n in optimized.get_fused_operator_statistics().items() if n})
    optimized.save_model_to_file(str(fused))
    quantize_dynamic(
        str(fused), str(folder / "int8.onnx"), per_channel=True, weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Attention"],
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT},
    )  # fmt: skip
    plain.unlink()
    fused.unlink()


def to_openvino(model: Model, folder: Path) -> None:
    """Convert to OpenVINO's format in float32, with attention as one operator."""
    import openvino

    example = tuple(map(torch.from_numpy, pad(model.ids[:2])))
    inputs = [(name, [-1, -1], np.int64) for name in ("input_ids", "attention_mask")]
    converted = openvino.convert_model(model.padded(fused_attention=True), example_input=example, input=inputs)
    openvino.save_model(converted, folder / "float32.xml", compress_to_fp16=False)


def to_openvino_int8(model: Model, folder: Path) -> None:
    """Quantise weights and activations by NNCF, with ranges measured on texts that are not timed."""
    import nncf
    import openvino

    source = openvino.Core().read_model(model.folder / "openvino" / "float32.xml")
    texts = nncf.Dataset([pad([ids]) for ids in model.calibration])
    quantized = nncf.quantize(source, texts, model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION)
    openvino.save_model(quantized, folder / "int8.xml", compress_to_fp16=False)


def to_ctranslate2(model: Model, folder: Path) -> None:
    """Write CTranslate2's format in 8 bits."""
    from ctranslate2.converters.utils import fuse_linear
    from ctranslate2.specs.common_spec import Activation, LinearSpec
    from ctranslate2.specs.transformer_spec import TransformerEncoderModelSpec, TransformerEncoderSpec

    encoder, config = model.padded(fused_attention=False), XLMRobertaXLConfig.from_pretrained(model.directory)
    of_encoder = TransformerEncoderSpec(
        config.num_hidden_layers, config.num_attention_heads, pre_norm=encoder.pre_layer_norm,
        activation=Activation.GELU, layernorm_embedding=not encoder.pre_layer_norm, num_source_embeddings=1,
    )  # fmt: skip
    spec = TransformerEncoderModelSpec(of_encoder, pooling_layer=False)
    of_encoder = spec.encoder
    of_encoder.scale_embeddings = False

    def linear(target: LinearSpec, source: nn.Linear) -> LinearSpec:
        target.weight, target.bias = source.weight.numpy(), source.bias.numpy()
        return target

    def norm(target: object, source: nn.LayerNorm) -> None:
        target.gamma, target.beta = source.weight.numpy(), source.bias.numpy()

    of_encoder.embeddings[0].weight = encoder.words.weight.numpy()
    of_encoder.position_encodings.encodings = encoder.position.weight.numpy()
    if encoder.pre_layer_norm:
        norm(of_encoder.layer_norm, encoder.norm)
    else:
        norm(of_encoder.layernorm_embedding, encoder.embeddings_norm)
    for target, layer in zip(of_encoder.layer, encoder.layers, strict=True):
        own, attention = target.self_attention, layer.attention
        three = (attention.query, attention.key, attention.value)
        fuse_linear(own.linear[0], [linear(LinearSpec(), source) for source in three])
        linear(own.linear[1], attention.output)
        norm(own.layer_norm, layer.attention_norm)
        linear(target.ffn.linear_0, layer.ffn.up)
        linear(target.ffn.linear_1, layer.ffn.down)
        norm(target.ffn.layer_norm, layer.ffn_norm)
    spec.register_vocabulary([f"token {i}" for i in range(config.vocab_size)])
    spec.config.unk_token, spec.config.layer_norm_epsilon = "token 3", config.layer_norm_eps
    spec.validate()
    spec.optimize(quantization="int8")
    spec.save(str(folder))


CONVERSIONS = {  # of each package, by the name of their folder
    "ctranslate2": {"ctranslate2": to_ctranslate2},
    "openvino": {"openvino": to_openvino},
    "nncf": {"openvino-int8": to_openvino_int8},
    "onnxruntime": {"onnx": to_onnx},
}
