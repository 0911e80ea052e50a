"""A fit that is killed and run again gives the same result. The processes are really killed."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from skxlmr import LoRA, XLMRXLClassifier
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.training import Callback, checkpointing
from skxlmr.training.checkpointing import NAME, read_checkpoint, training_directory, write_checkpoint

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull", "great", "grim", "sweet", "sour"] * 2
LABELS = ["yes", "no"] * 12
# Each fit runs in a fork of a process that has imported everything and computed nothing. The child kills itself in the
# n-th call of a given function, or else writes the digest of the learned weights and the number of its steps.
PROGRAM = textwrap.dedent(
    """
    import hashlib, importlib, json, os, signal, sys

    from skxlmr import LoRA, XLMRXLClassifier
    from skxlmr.training import Callback

    texts, labels, folder, cases = json.loads(sys.argv[1])


    class Steps(Callback):
        n_steps_done = 0

        def on_step_end(self, trainer):
            Steps.n_steps_done += 1


    def kill_in_call(where, n):
        module, _, path = where.partition(":")
        *owners, name = path.split(".")
        owner = importlib.import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        original, calls = getattr(owner, name), []

        def wrapper(*args, **kwargs):
            calls.append(1)
            if len(calls) == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(owner, name, wrapper)


    def fit(directory, kill, parameters, out):
        if kill:
            kill_in_call(*kill)
        tuning = LoRA(rank=2, dropout=0.1, layers=parameters.pop("layers"))
        clf = XLMRXLClassifier(
            "nano", tuning=tuning, batch_size=4, max_epochs=4, checkpoint_dir=directory, checkpoint_steps=3,
            device="cpu", callbacks=[Steps()], **parameters,
        ).fit(texts, labels)
        weights = hashlib.sha256()
        for value in clf._finetuned.state_dict().values():
            weights.update(value.numpy().tobytes())
        history = clf.history_.drop(columns="seconds").to_dict("list")
        left = os.listdir(directory) if directory else []
        json.dump([weights.hexdigest(), history, Steps.n_steps_done, left], out)


    for number, (directory, kill, parameters) in enumerate(cases):
        child = os.fork()
        if not child:
            with open(f"{folder}/{number}", "w") as out:
                fit(directory, kill, dict(parameters), out)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)
    """
)
KILLED_IN = [
    ("skxlmr.training.steps:accumulate_gradients", 1),  # before the first checkpoint
    ("skxlmr.training.steps:accumulate_gradients", 6),
    ("skxlmr.training.optimizers:AdamW.step", 12),
    ("skxlmr.tasks.base:Task.evaluate", 2),
    ("skxlmr.system.atomic:write_file", 2),
    ("os:replace", 3),  # the new checkpoint is written, the old one has its name
    ("skxlmr.system.atomic.single:sync_directory", 4),
    ("pathlib:Path.unlink", 1),  # trained to the end, the checkpoint not yet removed
]


def run_cases(tmp_path, cases):
    """Run one fit after the other; return the exit codes, the results of the completed fits, and stderr."""
    argument = json.dumps([TEXTS, LABELS, str(tmp_path), cases])
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, argument], capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    codes = [int(line) for line in process.stdout.split()]
    texts = [(tmp_path / str(number)).read_text() for number in range(len(cases))]
    return codes, [json.loads(text) if text else None for text in texts], process.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fit_after_a_kill_gives_the_same_weights(tmp_path):
    parameters = {"layers": None, "early_stopping": True, "validation_fraction": 0.25, "random_state": 7}
    cases = [(None, None, parameters)]
    for number, kill in enumerate(KILLED_IN):
        directory = str(tmp_path / f"checkpoints-{number}")
        cases += [(directory, kill, parameters), (directory, None, parameters)]
    codes, results, errors = run_cases(tmp_path, cases)
    assert codes == [0] + [-signal.SIGKILL, 0] * len(KILLED_IN), errors
    weights, history, n_steps, _ = results[0]
    assert n_steps == 20
    for kill, resumed in zip(KILLED_IN, results[2::2], strict=True):
        assert resumed[:2] == [weights, history], kill
        assert resumed[3] == [], "the checkpoint is removed"
        assert (resumed[2] < n_steps) == (kill != KILLED_IN[0]), f"resumed from a checkpoint: {kill}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fit_without_random_state_killed_twice_keeps_its_seed(tmp_path):
    directory, parameters = str(tmp_path / "checkpoints"), {"layers": 2}
    kill = "skxlmr.training.optimizers:AdamW.step"
    cases = [(directory, (kill, 8), parameters), (directory, (kill, 5), parameters), (directory, None, parameters)]
    codes, results, errors = run_cases(tmp_path, cases)
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0], errors
    _, history, n_steps, left = results[2]
    assert n_steps == 24 - 9, "two checkpoints were used: after 6 steps, and 3 later"
    assert history["epoch"] == [1, 2, 3, 4]
    assert left == []


def folders(directory):
    return [path for path in directory.iterdir() if path.is_dir()]


def test_checkpoint_folder_differs_for_other_parameters(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointing.Checkpointing, "remove", lambda self: None)
    fit = {"X": TEXTS, "y": LABELS}
    base = {"model": "nano", "tuning": "head", "max_epochs": 1, "random_state": 0, "checkpoint_dir": tmp_path}
    XLMRXLClassifier(**base).fit(**fit)
    assert len(folders(tmp_path)) == 1
    XLMRXLClassifier(**base, verbose=0, checkpoint_steps=1).fit(**fit)
    assert len(folders(tmp_path)) == 1, "parameters that do not change the result do not count"
    others = [
        {"learning_rate": 1e-4}, {"tuning": LoRA()}, {"tuning": "bias"}, {"tuning": "full"}, {"label_smoothing": 0.1},
        {"random_state": 1}, {"max_length": 8},
    ]  # fmt: skip
    for changed in others:
        XLMRXLClassifier(**(base | changed)).fit(**fit)
    for changed in ({"y": LABELS[::-1]}, {"X": TEXTS[::-1]}, {"X_val": TEXTS, "y_val": LABELS}):
        XLMRXLClassifier(**base).fit(**(fit | changed))
    XLMRXLClassifier(**base).fit(**fit, sample_weight=np.arange(1, 25))
    assert len(folders(tmp_path)) == 1 + len(others) + 4


def test_fit_from_a_finished_checkpoint_does_not_train(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointing.Checkpointing, "remove", lambda self: None)
    clf = XLMRXLClassifier("nano", tuning="head", random_state=0, max_epochs=2, checkpoint_dir=tmp_path)
    first = clf.fit(TEXTS, LABELS).predict_proba(TEXTS)
    monkeypatch.setattr("skxlmr.training.steps.accumulate_gradients", None)
    np.testing.assert_array_equal(clf.fit(TEXTS, LABELS).predict_proba(TEXTS), first)


class Failing(Callback):
    """Raise after an epoch, or at the end of the fit."""

    def __init__(self, epoch=None):
        self.epoch = epoch

    def on_epoch_end(self, trainer):
        if trainer.epoch == self.epoch:
            raise RuntimeError("no connection")

    def on_fit_end(self, trainer):
        if self.epoch is None:
            raise RuntimeError("no connection")


class Remembering(Callback):
    def state(self):
        return {"seen": 1}, {}


@pytest.mark.parametrize("epoch", [1, 2, None])
def test_fit_after_an_error_of_a_callback_resumes(epoch, tmp_path):
    parameters = {"model": "nano", "tuning": "head", "random_state": 0, "max_epochs": 2, "batch_size": 4}
    whole = XLMRXLClassifier(**parameters).fit(TEXTS, LABELS)
    clf = XLMRXLClassifier(**parameters, checkpoint_dir=tmp_path, checkpoint_steps=1)
    with pytest.raises(RuntimeError, match="no connection"):
        clf.set_params(callbacks=[Failing(epoch)]).fit(TEXTS, LABELS)
    assert len(list(tmp_path.rglob(NAME))) == 1, "the training so far is not lost"
    clf.set_params(callbacks=None).fit(TEXTS, LABELS)
    np.testing.assert_array_equal(clf.predict_proba(TEXTS), whole.predict_proba(TEXTS))
    assert not list(tmp_path.iterdir())


def test_fit_resumed_with_other_callbacks_raises(tmp_path):
    clf = XLMRXLClassifier("nano", tuning="head", random_state=0, max_epochs=2, checkpoint_dir=tmp_path)
    with pytest.raises(RuntimeError):
        clf.set_params(callbacks=[Failing(2)]).fit(TEXTS, LABELS)
    with pytest.raises(CheckpointError, match=r"0 callbacks that have a state, but there are 1 now.*remove the file"):
        clf.set_params(callbacks=[Remembering()]).fit(TEXTS, LABELS)


def test_training_directory_expands_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert training_directory("~/checkpoints", [1]).parent == tmp_path / "checkpoints"


def test_fit_in_threads_with_one_checkpoint_dir_stays_separate(tmp_path):
    settings = {"tuning": "head", "random_state": 0, "max_epochs": 30, "device": "cpu"}
    expected = XLMRXLClassifier("nano", **settings).fit(TEXTS, LABELS).predict_proba(TEXTS)
    results, errors = [], []

    def work():
        try:
            clf = XLMRXLClassifier("nano", **settings, checkpoint_dir=tmp_path, checkpoint_steps=1)
            results.append(clf.fit(TEXTS, LABELS).predict_proba(TEXTS))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for result in results:
        np.testing.assert_array_equal(result, expected)
    assert not list(tmp_path.iterdir())


def test_checkpointing_after_a_failed_start_releases_the_folder(tmp_path):
    callback = checkpointing.Checkpointing(tmp_path / "fit-1", 1)
    callback.directory.mkdir()
    write_checkpoint(callback.directory, {"seed": 0}, {})
    trainer = SimpleNamespace(state=Mock(load=Mock(side_effect=ValueError("it has other callbacks"))))
    with pytest.raises(CheckpointError, match=r"cannot resume .*it has other callbacks"):
        callback.on_fit_begin(trainer)
    (callback.directory / NAME).unlink()
    again = checkpointing.Checkpointing(tmp_path / "fit-1", 1)
    again.on_fit_begin(None)
    assert again._active
    again.on_fit_end(None)


def test_read_checkpoint_of_a_damaged_file_raises(tmp_path):
    write_checkpoint(tmp_path, {"a": 1}, {"x": torch.arange(3)})
    numbers, tensors = read_checkpoint(tmp_path)
    assert numbers == {"a": 1}
    assert tensors["x"].tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    data = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(data[:-5])
    with pytest.raises(CheckpointError, match=rf"{NAME} is damaged.*does not match its checksum"):
        read_checkpoint(tmp_path)


def test_write_checkpoint_keeps_numpy_and_nan_metrics(tmp_path):
    write_checkpoint(tmp_path, {"history": [{"a": np.float32(0.5), "b": float("nan"), "c": np.int64(3)}]}, {})
    ((row,),) = read_checkpoint(tmp_path)[0].values()
    assert (row["a"], row["c"]) == (0.5, 3)
    assert np.isnan(row["b"])


def test_training_directory_depends_on_every_part(tmp_path):
    parts = [np.arange(4), (1, 2.0), None]
    same = training_directory(tmp_path, [np.arange(4), (1, 2.0), None])
    assert training_directory(tmp_path, parts) == same
    for other in ([np.arange(4).astype(np.int32), *parts[1:]], [np.arange(4).reshape(2, 2), *parts[1:]], parts[:2]):
        assert training_directory(tmp_path, other) != same


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_fit_on_full_disk_warns_once_and_goes_on(number, tmp_path, monkeypatch):
    parameters = {"model": "nano", "tuning": "head", "random_state": 0, "max_epochs": 2, "batch_size": 4}
    whole = XLMRXLClassifier(**parameters).fit(TEXTS, LABELS)

    def fail(path, *args):
        raise OSError(number, os.strerror(number), str(path))

    clf = XLMRXLClassifier(**parameters, checkpoint_dir=tmp_path, checkpoint_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr("skxlmr.system.atomic.write_file", fail)
        with pytest.warns(UserWarning, match="checkpoint of the training cannot be written") as caught:
            clf.fit(TEXTS, LABELS)
    assert sum("cannot be written" in str(warning.message) for warning in caught) == 1
    np.testing.assert_array_equal(clf.predict_proba(TEXTS), whole.predict_proba(TEXTS))
    assert not list(tmp_path.iterdir())


def test_fit_on_disk_that_is_full_at_the_start_warns_and_goes_on(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    clf = XLMRXLClassifier("nano", tuning="head", random_state=0, max_epochs=1, checkpoint_dir=tmp_path / "new")
    with pytest.warns(UserWarning, match="cannot be written: .*No space left"):
        clf.fit(TEXTS, LABELS)
    assert clf.n_iter_ == 1


def test_fit_in_directory_that_is_a_file_raises(tmp_path):
    (tmp_path / "file").touch()
    clf = XLMRXLClassifier("nano", tuning="head", random_state=0, max_epochs=1, checkpoint_dir=tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        clf.fit(TEXTS, LABELS)


def test_fit_removes_leftovers_of_killed_fit(tmp_path, monkeypatch):
    clf = XLMRXLClassifier("nano", tuning="head", random_state=0, max_epochs=1, checkpoint_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpointing.Checkpointing, "remove", lambda self: None)
        clf.fit(TEXTS, LABELS)
    (folder,) = folders(tmp_path)
    (folder / f".{NAME}.0123456789abcdef.tmp").write_bytes(b"half")
    (folder / ".tmpA1b2C3").write_bytes(b"of safetensors")
    clf.fit(TEXTS, LABELS)
    assert not list(tmp_path.iterdir())
