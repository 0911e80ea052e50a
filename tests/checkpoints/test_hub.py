"""Models of the hub, which hub_server.py imitates."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import MAIN, OLD, REPO, Hub

from skxlmr.checkpoints.checkpoint import open_checkpoint
from skxlmr.checkpoints.errors import CheckpointError, ModelNotFoundError, UnsafeCheckpointError
from skxlmr.checkpoints.resolve import resolve, resolve_config, resolve_tokenizer
from skxlmr.checkpoints.writing import write_checkpoint


def checkpoint_files(directory: Path, value: float, max_shard_bytes: int = 10**9) -> dict[str, bytes]:
    write_checkpoint(
        directory,
        {f"w.{n}": torch.full((10,), value) for n in range(2)},
        {"value": value},
        extra_files={"sentencepiece.bpe.model": b"pieces", "tokenizer_config.json": b"{}"},
        max_shard_bytes=max_shard_bytes,
    )
    return {path.name: path.read_bytes() for path in directory.iterdir()}


SURPLUS = ["README.md", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx", "tokenizer.json"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    server.commits[MAIN] = checkpoint_files(tmp_path / "main", 1.0) | dict.fromkeys(SURPLUS, b"x" * 1000)
    server.commits[OLD] = checkpoint_files(tmp_path / "old", 2.0)
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield server
    server.stop()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub waits before it continues a download that broke off."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def value_of(cache: Path, **options: object) -> float:
    with open_checkpoint(resolve(REPO, cache_dir=cache, **options)) as checkpoint:
        values = {checkpoint.read(key)[0].item() for key in checkpoint.tensors}
    assert len(values) == 1
    return values.pop()


def test_resolve_downloads_needed_files_only(hub: Hub, cache: Path):
    files = resolve(REPO, cache_dir=cache)
    assert files.name == REPO
    assert files.directory.is_relative_to(cache)
    assert files.tokenizer.read_bytes() == b"pieces"
    tokenizer = {"sentencepiece.bpe.model", "tokenizer_config.json", "tokenizer.json"}
    assert hub.downloaded == {"config.json", "model.safetensors", *tokenizer}
    assert value_of(cache) == 1


def test_resolve_downloads_generation_config(hub: Hub, cache: Path):
    assert resolve(REPO, cache_dir=cache).generation_config is None
    hub.commits[MAIN] |= {"generation_config.json": b'{"num_beams": 3}'}
    files = resolve(REPO, cache_dir=cache.parent / "other")
    assert files.generation_config.read_bytes() == b'{"num_beams": 3}'


def test_resolve_without_safetensors_downloads_bin(hub: Hub, cache: Path):
    hub.commits[MAIN] = {name: data for name, data in hub.commits[MAIN].items() if name in ("config.json", "README.md")}
    path = cache.parent / "pytorch_model.bin"
    torch.save({"w": torch.full((10,), 5.0)}, path)
    hub.commits[MAIN] |= {"pytorch_model.bin": path.read_bytes(), "tf_model.h5": b"x"}
    assert value_of(cache) == 5
    assert hub.downloaded == {"config.json", "pytorch_model.bin"}


def test_resolve_without_sentencepiece_model_downloads_tokenizer_json(hub: Hub, cache: Path):
    hub.commits[MAIN] = {
        n: data for n, data in hub.commits[MAIN].items() if n not in ("sentencepiece.bpe.model", "skxlmr.json")
    }
    assert resolve(REPO, cache_dir=cache).tokenizer.name == "tokenizer.json"
    assert "tokenizer.json" in hub.downloaded


def test_resolve_downloads_listed_shards(hub: Hub, cache: Path, tmp_path: Path):
    sharded = checkpoint_files(tmp_path / "sharded", 3.0, max_shard_bytes=1)
    hub.commits[MAIN] = sharded | {"pytorch_model.bin": b"x", "model-00001-of-00009.safetensors": b"x"}
    assert value_of(cache) == 3
    assert hub.downloaded == set(sharded) - {"skxlmr.json"}
    hub.stop()
    assert value_of(cache, local_files_only=True) == 3


def test_resolve_twice_downloads_once(hub: Hub, cache: Path):
    first = resolve(REPO, cache_dir=cache)
    hub.requests.clear()
    second = resolve(REPO, cache_dir=cache)
    assert second == first
    assert hub.downloaded == set()


def test_resolve_with_unreachable_hub_uses_cache(hub: Hub, cache: Path):
    first = resolve(REPO, cache_dir=cache)
    hub.stop()
    assert resolve(REPO, cache_dir=cache, local_files_only=True) == first
    assert resolve(REPO, cache_dir=cache) == first  # the hub cannot be reached


def test_resolve_with_local_files_only_sends_no_request(hub: Hub, cache: Path):
    with pytest.raises(ModelNotFoundError, match=r"'organisation/name' is not in the cache, and offline mode"):
        resolve(REPO, cache_dir=cache, local_files_only=True)
    resolve(REPO, cache_dir=cache)
    hub.requests.clear()
    resolve(REPO, cache_dir=cache, local_files_only=True)
    assert hub.requests == []


def test_resolve_with_revision_downloads_it(hub: Hub, cache: Path):
    assert value_of(cache, revision="v1") == 2
    assert value_of(cache, revision=OLD) == 2
    assert value_of(cache) == 1
    assert value_of(cache, revision="main") == 1
    hub.stop()
    assert value_of(cache, revision="v1", local_files_only=True) == 2
    pinned = resolve(f"{REPO}@v1", cache_dir=cache)
    assert (pinned.name, pinned.directory) == (f"{REPO}@v1", resolve(REPO, cache_dir=cache, revision="v1").directory)
    assert resolve(f"{REPO}@v1", cache_dir=cache, revision="v1").directory == pinned.directory
    with pytest.raises(ValueError, match="contradicts the revision of model='organisation/name@v1'"):
        resolve(f"{REPO}@v1", cache_dir=cache, revision="main")
    with pytest.raises(ModelNotFoundError, match="Revision 'v2' of 'organisation/name' is not in the cache"):
        resolve(REPO, cache_dir=cache, revision="v2", local_files_only=True)


def test_fingerprint_of_hub_model_equals_that_of_directory(hub: Hub, cache: Path, tmp_path: Path):
    assert resolve(REPO, cache_dir=cache).fingerprint == resolve(tmp_path / "main").fingerprint
    assert resolve(REPO, cache_dir=cache, revision="v1").fingerprint == resolve(tmp_path / "old").fingerprint
    assert resolve(tmp_path / "main").fingerprint != resolve(tmp_path / "old").fingerprint


@pytest.mark.usefixtures("hub")
def test_resolve_with_unknown_model_raises(cache: Path):
    with pytest.raises(ModelNotFoundError, match="The hub has no model 'organisation/other'"):
        resolve("organisation/other", cache_dir=cache)


@pytest.mark.usefixtures("hub")
def test_resolve_with_unknown_revision_raises(cache: Path):
    with pytest.raises(ModelNotFoundError, match="'organisation/name', but no revision 'v2'"):
        resolve(REPO, cache_dir=cache, revision="v2")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", ["organisation/na--me", "organisation/na..me", "organisation/name.git"])
def test_resolve_with_invalid_id_raises(cache: Path, name: str):
    with pytest.raises(ModelNotFoundError, match=re.escape(name)):
        resolve(name, cache_dir=cache)


def test_resolve_with_gated_model_raises(hub: Hub, cache: Path):
    hub.gated = True
    with pytest.raises(ModelNotFoundError, match=r"Access to 'organisation/name' is restricted.*hf auth login"):
        resolve(REPO, cache_dir=cache)


REFUSALS = {
    "private": (401, "RepoNotFound", "Invalid username or password."),
    "expired": (401, "", "Invalid credentials in Authorization header"),
    "gated": (401, "GatedRepo", "Access to model organisation/name is restricted."),
    "licence": (403, "GatedRepo", "Access to model organisation/name is restricted."),
    "forbidden": (403, "", "Forbidden"),
    "removed": (404, "RepoNotFound", "Repository not found"),
    "failing": (500, "", "Internal error"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_resolve_of_cached_model_that_the_hub_refuses_uses_cache(hub: Hub, cache: Path, name: str):
    files = resolve(REPO, cache_dir=cache)
    old = resolve(REPO, cache_dir=cache, revision="v1")
    hub.refusal = REFUSALS[name]
    assert resolve(REPO, cache_dir=cache) == files
    assert resolve(REPO, cache_dir=cache, revision="v1").directory == old.directory
    assert resolve_config(REPO, cache_dir=cache) == files.config
    assert resolve_tokenizer(REPO, cache_dir=cache) == files.directory


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("private", "private, or your token has expired, log in with `hf auth login`, set HF_TOKEN, or pass token="),
        ("expired", r"refuses the token.*status 401.*settings/tokens.*HF_TOKEN.*token=False for a public model"),
        ("gated", r"restricted\. Accept its licence and conditions on http.*/organisation/name, and log in"),
        ("licence", r"restricted\. Accept its licence and conditions on http.*/organisation/name, and log in"),
        ("forbidden", r"does not let your token read 'organisation/name' \(status 403\)\. Give the token the right"),
        ("removed", "The hub has no model 'organisation/name'"),
        ("failing", "not in the cache, and downloading it from the hub failed"),
    ],
)
def test_resolve_of_model_that_the_hub_refuses_says_what_to_do(hub: Hub, cache: Path, name: str, message: str):
    hub.refusal = REFUSALS[name]
    for find in (resolve, resolve_config, resolve_tokenizer):
        with pytest.raises(ModelNotFoundError, match=message):
            find(REPO, cache_dir=cache)


@pytest.mark.parametrize("fails", ["gated", "truncated"])
@pytest.mark.usefixtures("no_waiting")
def test_resolve_with_failed_update_uses_the_earlier_version(hub: Hub, cache: Path, tmp_path: Path, fails: str):
    assert value_of(cache) == 1
    updated = "c" * 40
    hub.commits[updated] = checkpoint_files(tmp_path / "updated", 7.0)
    hub.moved["main"] = updated
    if fails == "gated":
        hub.gated = True
    else:
        hub.truncated = {"model.safetensors"}
    assert value_of(cache) == 1
    assert value_of(cache, local_files_only=True) == 1
    hub.gated, hub.truncated = False, set()
    assert value_of(cache) == 7
    hub.stop()
    assert value_of(cache) == 7


@pytest.mark.usefixtures("no_waiting")
def test_resolve_with_truncated_download_raises_and_is_completed_later(hub: Hub, cache: Path):
    hub.truncated = {"model.safetensors"}
    with pytest.raises(ModelNotFoundError, match="not in the cache, and downloading it from the hub failed"):
        resolve(REPO, cache_dir=cache)
    hub.truncated = set()
    assert value_of(cache) == 1


def test_resolve_with_unreachable_hub_and_empty_cache_raises(hub: Hub, cache: Path):
    hub.stop()
    with pytest.raises(ModelNotFoundError, match="not in the cache, and downloading it from the hub failed") as caught:
        resolve(REPO, cache_dir=cache)
    assert caught.value.__suppress_context__, "no traceback of the HTTP library"


@pytest.mark.parametrize(
    ("missing", "message"), [("config.json", r"no config\.json"), ("model.safetensors", "no weights; looked for")]
)
def test_resolve_without_config_or_weights_raises(hub: Hub, cache: Path, missing: str, message: str):
    hub.commits[MAIN] = {name: b"{}" for name in ("config.json", "model.safetensors", "tf_model.h5") if name != missing}
    with pytest.raises(CheckpointError, match=message):
        resolve(REPO, cache_dir=cache)
    assert hub.downloaded == set()


def test_resolve_with_incomplete_cache_raises(hub: Hub, cache: Path):
    files = resolve(REPO, cache_dir=cache)
    hub.stop()
    files.weights[0].unlink()
    with pytest.raises(ModelNotFoundError, match="as a whole is not in the cache"):
        resolve(REPO, cache_dir=cache, local_files_only=True)


def test_resolve_with_hostile_index_raises(hub: Hub, cache: Path):
    hub.commits[MAIN] = {
        "config.json": b"{}",
        "model.safetensors.index.json": b'{"weight_map": {"w": "../../../../evil"}}',
    }
    with pytest.raises(UnsafeCheckpointError, match=r"\.\./evil"):
        resolve(REPO, cache_dir=cache)


def test_resolve_with_hf_hub_offline_sends_no_request(hub: Hub, cache: Path):
    """HF_HOME and HF_HUB_OFFLINE are set as by a user; huggingface_hub is imported only when it is needed."""
    online = resolve(REPO, cache_dir=cache / "hub")
    hub.requests.clear()
    program = f"""
import sys
from skxlmr.checkpoints.errors import ModelNotFoundError
from skxlmr.checkpoints.resolve import resolve
assert "huggingface_hub" not in sys.modules
print(resolve({REPO!r}).directory)
try:
    resolve({REPO!r}, revision="v1")
except ModelNotFoundError as error:
    print(error)
"""
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    directory, message = done.stdout.splitlines()
    assert Path(directory) == online.directory
    assert "HF_HUB_OFFLINE" in message
    assert hub.requests == []


def test_resolve_config_downloads_config_only(hub: Hub, cache: Path):
    path = resolve_config(REPO, cache_dir=cache)
    assert json.loads(path.read_text())["value"] == 1
    assert hub.downloaded == {"config.json"}
    assert path.is_relative_to(cache)
    assert json.loads(resolve_config(REPO, cache_dir=cache, revision="v1").read_text())["value"] == 2
    hub.stop()
    assert resolve_config(REPO, cache_dir=cache) == path  # the hub cannot be reached
    assert resolve_config(REPO, cache_dir=cache, local_files_only=True) == path
    with pytest.raises(ModelNotFoundError, match="as a whole is not in the cache"):
        resolve(REPO, cache_dir=cache, local_files_only=True)


def test_resolve_tokenizer_downloads_its_files_only(hub: Hub, cache: Path):
    directory = resolve_tokenizer(REPO, cache_dir=cache)
    assert (directory / "sentencepiece.bpe.model").read_bytes() == b"pieces"
    assert hub.downloaded == {"sentencepiece.bpe.model", "tokenizer_config.json", "tokenizer.json"}
    hub.stop()
    assert resolve_tokenizer(REPO, cache_dir=cache) == directory
    assert resolve_tokenizer(REPO, cache_dir=cache, local_files_only=True) == directory
    with pytest.raises(ModelNotFoundError, match="is not in the cache"):
        resolve_tokenizer(REPO, cache_dir=cache, local_files_only=True, revision="v1")


def test_resolve_tokenizer_without_files_raises(hub: Hub, cache: Path):
    hub.commits[MAIN] = {"config.json": b"{}", "model.safetensors": b""}
    with pytest.raises(CheckpointError, match=r"has no sentencepiece.bpe.model and no tokenizer.json"):
        resolve_tokenizer(REPO, cache_dir=cache)


def test_resolve_config_of_cached_model_uses_cache(hub: Hub, cache: Path):
    files = resolve(REPO, cache_dir=cache)
    hub.requests.clear()
    assert resolve_config(REPO, cache_dir=cache, local_files_only=True) == files.config
    assert hub.requests == []
    hub.stop()
    assert resolve_config(REPO, cache_dir=cache) == files.config


def test_resolve_config_of_unavailable_model_raises(hub: Hub, cache: Path):
    with pytest.raises(ModelNotFoundError, match="is not in the cache, and offline mode"):
        resolve_config(REPO, cache_dir=cache, local_files_only=True)
    with pytest.raises(ModelNotFoundError, match="The hub has no model 'organisation/other'"):
        resolve_config("organisation/other", cache_dir=cache)
    with pytest.raises(ModelNotFoundError, match="'organisation/name', but no revision 'v2'"):
        resolve_config(REPO, cache_dir=cache, revision="v2")
    hub.gated = True
    with pytest.raises(ModelNotFoundError, match="Access to 'organisation/name' is restricted"):
        resolve_config(REPO, cache_dir=cache)
    hub.gated = False
    hub.commits[MAIN] = {"model.safetensors": b"{}"}
    with pytest.raises(CheckpointError, match=r"'organisation/name' has no config\.json"):
        resolve_config(REPO, cache_dir=cache / "2")
    hub.stop()
    with pytest.raises(ModelNotFoundError, match="not in the cache, and downloading it from the hub failed"):
        resolve_config(REPO, cache_dir=cache / "3")


def test_fetch_without_home_names_variable(monkeypatch):
    def no_home(*arguments, **options):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_home)
    with pytest.raises(ModelNotFoundError, match=r"no home directory.*HF_HOME"):
        resolve("organisation/name", local_files_only=True)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 50])
@pytest.mark.parametrize("subfolder", ["en", "languages/en", "./languages//en/"])
def test_resolve_with_subfolder_downloads_its_files(
    hub: Hub, cache: Path, tmp_path: Path, subfolder: str, max_shard_bytes: int
):
    path = "languages/en" if "languages" in subfolder else "en"
    files = checkpoint_files(tmp_path / "en", 3.0, max_shard_bytes)
    hub.commits[MAIN] |= {f"{path}/{name}": content for name, content in files.items()}
    assert value_of(cache, subfolder=subfolder) == 3
    assert all(name.startswith(f"{path}/") for name in hub.downloaded)
    assert value_of(cache) == 1
    hub.stop()
    assert value_of(cache, subfolder=subfolder) == 3
    config = resolve_config(REPO, cache_dir=cache, subfolder=subfolder, local_files_only=True)
    assert json.loads(config.read_text())["value"] == 3


@pytest.mark.usefixtures("hub")
def test_resolve_with_unknown_subfolder_raises(cache: Path):
    with pytest.raises(CheckpointError, match=r"'organisation/name' has no fr/config\.json"):
        resolve(REPO, cache_dir=cache, subfolder="fr")
    with pytest.raises(CheckpointError, match=r"'organisation/name' has no fr/config\.json"):
        resolve_config(REPO, cache_dir=cache, subfolder="fr")


@pytest.mark.parametrize(("token", "sent"), [("hf_secret", {"Bearer hf_secret"}), (False, {None})])
def test_resolve_sends_token(hub: Hub, cache: Path, token: str | bool, sent: set[str | None]):
    resolve(REPO, cache_dir=cache, token=token)
    assert hub.authorizations == sent


def test_resolve_of_adapter_downloads_its_files_and_finds_its_base(hub: Hub, cache: Path, tmp_path: Path):
    base = tmp_path / "main"
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 2, "target_modules": ["query"]}
    path, name = tmp_path / "adapter.bin", "base_model.model.encoder.layer.0.attention.self.query"
    torch.save({f"{name}.lora_A.weight": torch.ones(2, 3), f"{name}.lora_B.weight": torch.ones(3, 2)}, path)
    hub.commits[MAIN] = {
        "adapter_config.json": json.dumps(adapter).encode(),
        "adapter_model.bin": path.read_bytes(),
        "README.md": b"x",
    }
    files = resolve(REPO, cache_dir=cache)
    assert hub.downloaded == {"adapter_config.json", "adapter_model.bin"}
    assert files.directory == base
    assert files.adapter is not None
    assert files.adapter.directory.is_relative_to(cache)
    assert resolve_config(REPO, cache_dir=cache / "other") == base / "config.json"
    hub.stop()
    assert resolve(REPO, cache_dir=cache).fingerprint == files.fingerprint
