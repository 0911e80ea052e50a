"""What SECURITY.md promises: no code from files, no network, no telemetry."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import joblib
import pytest
import torch

import skxlmr
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.model import XLMRobertaXLModel, XLMRobertaXLTokenizer
from skxlmr.training import Callback
from skxlmr.training.checkpointing import NAME as TRAINING

REPOSITORY = Path(__file__).resolve().parents[1]
SECURITY = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
NANO = Path(skxlmr.__file__).parent / "bundled" / "nano"

# Everything that asks the network for something begins with one of these, which audit hooks see.
OFFLINE = textwrap.dedent(
    """
    import os
    import sys

    NETWORK = ("connect", "getaddrinfo", "gethostbyname", "gethostbyaddr", "sendto", "sendmsg")

    def refuse(event, arguments):
        if event.startswith("socket.") and event.removeprefix("socket.") in NETWORK:
            print("the network was used:", event, arguments, file=sys.stderr, flush=True)
            os._exit(1)  # an exception in another thread would end that thread only

    sys.addaudithook(refuse)

    import tempfile
    import skxlmr
    from skxlmr import XLMRXLClassifier, XLMRXLEmbedder, XLMRXLMaskedLM
    from skxlmr.model import XLMRobertaXLModel, XLMRobertaXLTokenizer

    texts, folder = ["good", "bad"], tempfile.mkdtemp()
    clf = XLMRXLClassifier("nano", tuning="lora", max_epochs=1, random_state=0, checkpoint_dir=folder + "/fit")
    clf.fit(texts, [1, 0]).save(folder + "/saved")
    skxlmr.load(folder + "/saved").predict(texts)
    clf.export_pretrained(folder + "/exported")
    XLMRXLClassifier(sys.argv[1], tuning="head", max_epochs=1, random_state=0).fit(texts, [1, 0]).predict(texts)
    XLMRXLEmbedder("nano", load_in_8bit=True).fit(texts).transform(texts)
    XLMRXLMaskedLM("nano").fill_mask(["a <mask>"])
    XLMRobertaXLModel.from_pretrained("nano", add_pooling_layer=False)
    XLMRobertaXLTokenizer.from_pretrained("nano").save_pretrained(folder + "/tokenizer")
    print("done")
    """
)


def test_models_that_are_not_of_the_hub_open_no_connection(tmp_path):
    folder = str(shutil.copytree(NANO, tmp_path / "model"))
    run = subprocess.run([sys.executable, "-c", OFFLINE, folder], capture_output=True, text=True, check=False)
    assert run.stdout == "done\n", run.stderr


def test_network_check_sees_a_connection():
    """The check above would notice one."""
    code = OFFLINE.partition("import tempfile")[0] + "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "the network was used" in run.stderr


def test_python_files_beside_a_model_are_not_run(tmp_path, monkeypatch):
    folder = shutil.copytree(NANO, tmp_path / "model")
    marker = tmp_path / "executed"
    evil = f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n"
    for name in ("evil.py", "modeling_evil.py", "tokenization_evil.py", "conftest.py", "__init__.py"):
        (folder / name).write_text(evil)
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "modeling_evil.Evil", "AutoConfig": "evil.Evil"}, "trust_remote_code": True}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    (folder / "skxlmr.json").unlink(missing_ok=True)
    monkeypatch.chdir(folder)
    skxlmr.XLMRXLEmbedder(folder).fit(["good"]).transform(["bad"])
    XLMRobertaXLTokenizer.from_pretrained(folder)(["good"])
    XLMRobertaXLModel.from_pretrained(folder, add_pooling_layer=False)
    assert not marker.exists()


class Evil:
    """An object whose pickle creates the marker when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


PICKLES = {"bare": pickle.dump, "torch": torch.save, "joblib": joblib.dump}


@pytest.mark.parametrize("write", PICKLES)
def test_pickles_in_place_of_own_files_are_not_run(write, tmp_path):
    marker, folder, checkpoints = tmp_path / "executed", tmp_path / "saved", tmp_path / "fit"
    fit = {"tuning": "lora", "max_epochs": 1, "random_state": 0, "checkpoint_dir": checkpoints, "checkpoint_steps": 1}

    def evil(path):
        with open(path, "wb") as file:
            PICKLES[write](Evil(marker), file)

    # The tensors of an estimator, with a right checksum.
    skxlmr.XLMRXLEmbedder("nano", n_components=1).fit(["good", "bad"]).save(folder)
    content = json.loads((folder / "estimator.json").read_text())
    tensors = folder / content["tensors"]["file"]
    evil(tensors)
    content["tensors"].update(bytes=tensors.stat().st_size, sha256=hashlib.sha256(tensors.read_bytes()).hexdigest())
    (folder / "estimator.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError):
        skxlmr.load(folder)
    evil(folder / "estimator.json")
    with pytest.raises(CheckpointError):
        skxlmr.load(folder)

    # The checkpoint of a fit.
    with pytest.raises(InterruptedError):
        skxlmr.XLMRXLClassifier("nano", callbacks=[Interrupt()], **fit).fit(["good", "bad"], [1, 0])
    evil(next(checkpoints.rglob(TRAINING)))
    with pytest.warns(UserWarning, match="is damaged"):
        skxlmr.XLMRXLClassifier("nano", **fit).fit(["good", "bad"], [1, 0])
    assert not marker.exists()


class Interrupt(Callback):
    def on_epoch_end(self, trainer):
        raise InterruptedError


@pytest.mark.parametrize("write", PICKLES)
def test_pickles_of_the_test_above_would_run(write, tmp_path):
    with open(tmp_path / "file", "wb") as file:
        PICKLES[write](Evil(tmp_path / "executed"), file)
    load = {"bare": pickle.load, "torch": partial(torch.load, weights_only=False), "joblib": joblib.load}[write]
    with open(tmp_path / "file", "rb") as file:
        load(file).close()
    assert (tmp_path / "executed").exists()


def test_tests_that_security_names_exist():
    named = re.findall(r"`(tests/[\w/.]+)`", SECURITY)
    assert len(named) >= 8
    assert not [name for name in named if not (REPOSITORY / name).exists()]
