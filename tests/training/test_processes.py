"""Trainings on two processes, which exchange gradients by gloo."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from float64_fits import fit_in_float64
from sklearn.base import clone
from training_callbacks import FailOnce, KillOnce, Record, processes_of

import skxlmr
from skxlmr import (
    Full,
    LoRA,
    Processes,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLMaskedLM,
    XLMRXLRegressor,
    XLMRXLTagger,
)
from skxlmr.training.launch import ProcessError, launch

TEXTS = [
    ("a good film, number %d. " if i % 3 else "a bad book, number %d. ") % i * (1 + i % 5) for i in range(29)
]  # of many lengths, and as many as leave one row in the last step of an epoch
LABELS = ["good" if i % 3 else "bad" for i in range(29)]
NUMBERS = np.arange(29.0) % 5
WORDS = [text.split() for text in TEXTS]
TAGS = [["B-X" if word == "film," else "O" for word in words] for words in WORDS]
SETTINGS = {"model": "nano", "device": "cpu", "batch_size": 7, "batch_tokens": 64, "max_epochs": 2, "random_state": 0}


def fits(processes):
    """Estimators of many kinds, and their data."""
    settings = SETTINGS | {"max_epochs": 1, "dtype": "float32", "processes": processes}
    return [
        (XLMRXLClassifier(**settings), (TEXTS, LABELS, np.linspace(0.5, 2, 29))),
        (XLMRXLClassifier(**settings, tuning=Full(layers=1), init="random"), (TEXTS, LABELS)),
        (XLMRXLTagger(**settings, tuning=LoRA(layers=None)), (WORDS, TAGS)),
        (XLMRXLRegressor(**settings, tuning="bias"), (TEXTS, NUMBERS)),
        (XLMRXLMaskedLM(**settings), (TEXTS, None)),
        (XLMRXLEmbedder(**settings, objective="classes"), (TEXTS, LABELS, False)),
    ]


def with_dropout(processes):
    """An estimator whose steps are cut into the same micro-batches in one process and in two: equally long texts."""
    settings = SETTINGS | {"batch_size": 4, "batch_tokens": 1, "max_epochs": 1, "processes": processes}
    estimator = XLMRXLClassifier(**settings, dtype="float32", tuning=LoRA(dropout=0.3), init="random")
    return [(estimator, (["good", "bad", "nice", "dull"], [1, 0, 1, 0]))]


def assert_same(got, expected, tolerance):
    (losses, weights), (expected_losses, expected_weights) = got, expected
    assert np.abs(np.subtract(losses, expected_losses)).max() < tolerance
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        np.testing.assert_allclose(weight, expected_weights[name], atol=tolerance, rtol=0, err_msg=name)


def weights_of(estimator):
    return {name: p.numpy() for name, p in estimator._finetuned.state_dict().items()}


def classifier(**settings):
    return XLMRXLClassifier(**SETTINGS | {"init": "random", "tuning": LoRA(rank=2)} | settings)


def embedder(directory, *callbacks, processes=None):
    """An estimator without dropout; 26 rows, so 4 steps in each of 2 epochs, beside 3 that are validated."""
    settings = SETTINGS | {"random_state": np.random.RandomState(3), "tuning": LoRA(rank=2), "early_stopping": True}
    settings |= {"checkpoint_dir": directory, "checkpoint_steps": 2, "callbacks": list(callbacks)}
    return XLMRXLEmbedder(**settings, objective="classes", processes=processes)


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    """An estimator that two processes have fitted, undisturbed."""
    return embedder(tmp_path_factory.mktemp("on_two"), Record(), processes=Processes(2)).fit(TEXTS, LABELS)


def test_fit_on_two_processes_gives_the_losses_and_weights_of_one():
    got = launch(_both, n=2)
    for on_two, on_one in zip(got, fit_in_float64(fits(None)) + fit_in_float64(with_dropout(None), True), strict=True):
        assert_same(on_two, on_one, 1e-9)


def _both():
    return fit_in_float64(fits(Processes(2))) + fit_in_float64(with_dropout(Processes(2)), dropout=True)


def test_fit_leaves_here_what_rank_0_has(on_two):
    (record,) = on_two.callbacks
    assert len(record.losses) == 8
    assert len(record.processes) == 1
    assert record.processes != {os.getpid()}
    assert not list(Path(on_two.checkpoint_dir).glob("fit-*"))
    assert len(on_two.validation_scores_) == on_two.n_iter_ == 2
    assert on_two.transform(TEXTS).shape == (29, 192)
    drawn = np.random.RandomState(3)
    drawn.randint(2**31 - 1)
    assert on_two.random_state.randint(2**31) == drawn.randint(2**31)


def test_fit_ends_with_the_error_of_a_process_and_resumes_in_one(tmp_path, on_two):
    failing = embedder(tmp_path, FailOnce(6, tmp_path / "failed"), processes=Processes(2))
    with pytest.raises(ValueError, match="failed on purpose") as error:
        failing.fit(TEXTS, LABELS)
    assert isinstance(error.value.__cause__, ProcessError)
    assert "rank 0" in str(error.value.__cause__)
    assert "in on_step_end" in str(error.value.__cause__)
    assert not hasattr(failing, "history_")
    assert not processes_of(str(os.getpid()))
    assert len(list(tmp_path.glob("fit-*/training.safetensors"))) == 1
    record = Record()
    one = embedder(tmp_path, record).fit(TEXTS, LABELS)
    assert len(record.losses) == 8 - 4  # the checkpoint after step 6 comes after the callback that failed
    np.testing.assert_allclose(one.loss_curve_, on_two.loss_curve_, rtol=1e-4)
    np.testing.assert_allclose(one.validation_scores_, on_two.validation_scores_, rtol=1e-3)
    np.testing.assert_allclose(one.transform(TEXTS), on_two.transform(TEXTS), atol=1e-3)


def test_fit_goes_on_after_a_process_is_killed(tmp_path, on_two):
    estimator = embedder(tmp_path, KillOnce(3, tmp_path / "killed"), processes=Processes(2, max_restarts=1))
    with pytest.warns(UserWarning, match=r"rank 1 was killed by SIGKILL.*started again \(1 of 1\)"):
        estimator.fit(TEXTS, LABELS)
    assert estimator.loss_curve_ == on_two.loss_curve_
    for got, expected in zip(weights_of(estimator).values(), weights_of(on_two).values(), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert not processes_of(str(os.getpid()))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("step", [1, 5])
def test_fit_goes_on_after_any_process_is_killed_at_any_step(rank, step, tmp_path, on_two):
    killing = KillOnce(step, tmp_path / "killed")
    killing.rank = rank
    estimator = embedder(tmp_path, killing, processes=Processes(2, max_restarts=1))
    with pytest.warns(UserWarning, match=f"rank {rank} was killed by SIGKILL"):
        estimator.fit(TEXTS, LABELS)
    for got, expected in zip(weights_of(estimator).values(), weights_of(on_two).values(), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3])
def test_fit_resumes_on_processes_what_one_has_begun(n, tmp_path, on_two):
    with pytest.raises(ValueError, match="failed on purpose"):
        embedder(tmp_path, FailOnce(6, tmp_path / "failed")).fit(TEXTS, LABELS)
    several = embedder(tmp_path, processes=Processes(n)).fit(TEXTS, LABELS)
    np.testing.assert_allclose(several.loss_curve_, on_two.loss_curve_, rtol=1e-4)
    np.testing.assert_allclose(several.transform(TEXTS), on_two.transform(TEXTS), atol=1e-3)


def test_fit_refuses_parallel_workers():
    estimator = classifier(processes=Processes(2))
    calls = [joblib.delayed(estimator.fit)(TEXTS, LABELS)] * 2
    with pytest.raises(ValueError, match="cannot be used inside of parallel workers"):
        joblib.Parallel(n_jobs=2, backend="threading")(calls)


@pytest.mark.parametrize(
    ("processes", "error"),
    [
        (Processes(0), "'n' parameter of Processes must be"),
        (Processes(2, strategy="zero"), "'strategy' parameter of Processes must be"),
        (Processes(2, start="mpi"), "'start' parameter of Processes must be"),
        (Processes(2, start="torchrun", max_restarts=1), "torchrun has --max-restarts"),
        (Processes(2, start="torchrun"), "'WORLD_SIZE' is not set"),
    ],
)
def test_fit_checks_processes(processes, error, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match=error):
        classifier(processes=processes).fit(TEXTS, LABELS)


def test_fit_refuses_another_number_than_that_of_torchrun(monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "LOCAL_RANK": "0", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"n=2\), but torchrun has started 4"):
        classifier(processes=Processes(2, start="torchrun")).fit(TEXTS, LABELS)


@pytest.mark.parametrize(
    ("device", "error"), [("cuda:1", "cannot train on device='cuda:1'"), ("auto", "There are 2 GPUs"), ("cpu", None)]
)
def test_fit_needs_a_gpu_for_each_process(device, error, emulate):
    from skxlmr.training.processes import device_type

    emulate("H100", None, 2)
    if error is None:
        assert device_type(device, 4) == "cpu"
        return
    with pytest.raises(ValueError, match=error):
        classifier(device=device, processes=Processes(3)).fit(TEXTS, LABELS)
    assert device_type("cuda:all", 2) == "cuda"


def test_processes_are_kept_by_clones_and_pickles_and_not_saved(tmp_path):
    estimator = classifier(max_epochs=1).fit(TEXTS, LABELS).set_params(processes=Processes(2))
    assert estimator.get_params()["processes__n"] == 2
    assert clone(estimator).processes.n == pickle.loads(pickle.dumps(estimator)).processes.n == 2
    estimator.save(tmp_path / "saved")
    loaded = skxlmr.load(tmp_path / "saved")
    assert loaded.processes is None
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), estimator.predict_proba(TEXTS))


@pytest.mark.slow
def test_partial_fit_and_warm_start_go_on_on_one_process_and_on_two():
    one, two = (classifier(processes=processes, warm_start=True) for processes in (Processes(1), Processes(2)))
    for estimator in (one, two):
        for _ in range(2):
            estimator.partial_fit(TEXTS, LABELS, classes=["bad", "good"])
        estimator.fit(TEXTS, LABELS)
    assert one.n_iter_ == two.n_iter_ == 2


@pytest.mark.slow
def test_fit_that_a_callback_interrupts_is_fitted_so_far(tmp_path):
    estimator = classifier(callbacks=[FailOnce(3, tmp_path / "interrupted", KeyboardInterrupt)], processes=Processes(2))
    with pytest.warns(UserWarning, match="Training was interrupted in epoch 1 of 2, after 3 of 10 steps"):
        estimator.fit(TEXTS, LABELS)
    assert estimator.n_iter_ == 1


SCRIPT = """
import os, sys
import numpy as np
from skxlmr import LoRA, Processes, XLMRXLClassifier
processes = Processes(start="torchrun", strategy=sys.argv[2])
settings = {"device": "cpu", "max_epochs": 1, "random_state": 0, "tuning": LoRA(layers=None)}
clf = XLMRXLClassifier("nano", processes=processes, **settings)
for _ in range(2):
    clf.fit(["good", "bad", "fine"] * 4, [1, 0, 1] * 4)
np.save(sys.argv[1] + os.environ["RANK"] + ".npy", clf.predict_proba(["good"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_fit_in_a_script_of_torchrun_fits_all_processes(strategy, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, script, f"{tmp_path}/", strategy], env=environment, check=True, timeout=300)
    np.testing.assert_allclose(np.load(tmp_path / "0.npy"), np.load(tmp_path / "1.npy"), rtol=1e-6)
