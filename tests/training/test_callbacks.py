import copy
import importlib.util
import logging
import re
import sys
import types

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import skxlmr
from skxlmr import XLMRXLClassifier
from skxlmr.training import Callback, MLflowLogger, ProgressBar, TensorBoardLogger
from skxlmr.training import sklearn_callbacks as sklearn_callbacks_module

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull"]
LABELS = ["yes", "no"] * 4


def classifier(**parameters):
    settings = {"model": "nano", "tuning": "head", "random_state": 0, "batch_size": 4, "max_epochs": 3}
    return XLMRXLClassifier(**(settings | parameters))


class Record(Callback):
    """Record the calls; optionally stop after an epoch."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.calls = []

    def on_fit_begin(self, trainer):
        self.calls.append(("fit begins", trainer.step, trainer.n_steps))

    def on_epoch_begin(self, trainer):
        self.calls.append(("epoch begins", trainer.epoch, trainer.max_epochs))

    def on_step_end(self, trainer):
        self.calls.append(("step", trainer.step, trainer.loss > 0 and trainer.learning_rate > 0))

    def on_epoch_end(self, trainer):
        trainer.metrics["steps"] = trainer.step
        self.calls.append(("epoch", trainer.epoch, sorted(trainer.metrics)))
        return trainer.epoch == self.stop_after

    def on_fit_end(self, trainer):
        self.calls.append(("fit ends", trainer.step, trainer.finished))


def test_callback_hooks_are_called_around_steps_and_epochs():
    record = Record()
    clf = classifier(max_epochs=2, callbacks=[record]).fit(TEXTS, LABELS)
    metrics = ["epoch", "learning_rate", "loss", "seconds", "steps"]
    assert record.calls == [
        ("fit begins", 0, 4),
        ("epoch begins", 0, 2), ("step", 1, True), ("step", 2, True), ("epoch", 1, metrics),
        ("epoch begins", 1, 2), ("step", 3, True), ("step", 4, True), ("epoch", 2, metrics),
        ("fit ends", 4, True),
    ]  # fmt: skip
    assert clf.history_.steps.tolist() == [2, 4]


def test_callback_on_fit_end_is_called_though_another_raises():
    class Failing(Callback):
        def on_fit_end(self, trainer):
            raise RuntimeError("no connection")

    record = Record()
    with pytest.raises(RuntimeError, match="no connection"):
        classifier(callbacks=[Failing(), record]).fit(TEXTS, LABELS)
    assert record.calls[-1] == ("fit ends", 6, True)


def test_fit_with_an_invalid_callback_raises():
    with pytest.raises(TypeError, match=r"callbacks must be instances of skxlmr\.training\.Callback.*set_callbacks"):
        classifier(callbacks=[print]).fit(TEXTS, LABELS)


def test_callback_returning_true_ends_the_training():
    clf = classifier(callbacks=[Record(stop_after=2), Record()]).fit(TEXTS, LABELS)
    assert clf.n_iter_ == 2
    assert [call[0] for call in clf.callbacks[1].calls].count("epoch") == 2, "the other callbacks are called, too"


def test_callback_on_fit_end_is_called_after_an_error():
    class Fail(Callback):
        def on_step_end(self, trainer):
            raise RuntimeError("my own")

    record = Record()
    with pytest.raises(RuntimeError, match="my own"):
        classifier(callbacks=[record, Fail()]).fit(TEXTS, LABELS)
    assert record.calls[-1] == ("fit ends", 1, False)


def test_clone_copies_callbacks():
    record = Record()
    copied = clone(classifier(callbacks=[record])).fit(TEXTS, LABELS)
    assert copied.callbacks[0].calls
    assert not record.calls


def validated(clf):
    return clf.fit(TEXTS, LABELS, X_val=TEXTS[:2], y_val=LABELS[:2])


def test_fit_without_verbose_writes_nothing(capsys):
    validated(classifier())
    assert capsys.readouterr() == ("", "")


def test_verbose_fit_without_a_terminal_writes_a_line_an_epoch(capsys):
    validated(classifier(verbose=1))
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3, "and no carriage returns"
    for i, line in enumerate(lines, 1):
        assert re.fullmatch(
            rf"fit: epoch {i}/3, loss \d\.\d+, validation_\w+ \d\.\d+.*, \d+ s passed, \d+ s left", line
        )
    assert lines[-1].endswith(", 0 s left")


def test_progress_bar_in_a_terminal_counts_steps(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    validated(classifier(verbose=1))
    err = capsys.readouterr().err
    assert "6/6" in err
    assert re.search(r"epoch=3/3, loss=\d\.\d{4}, validation=\d\.\d{4}", err)
    assert "fit: epoch" not in err


def test_verbose_2_in_a_terminal_writes_lines_beside_the_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    validated(classifier(verbose=2))
    err = capsys.readouterr().err
    assert "6/6" in err
    assert len(re.findall(r"^.*fit: epoch \d/3, .*validation_score \d\.\d{4}.* left$", err, re.MULTILINE)) == 3


def test_fit_that_stops_early_says_so(capsys):
    classifier(callbacks=[ProgressBar(), Record(stop_after=2)]).fit(TEXTS, LABELS)
    assert capsys.readouterr().err.splitlines()[-1] == "fit: stopped after 2 of 3 epochs"


def test_fit_without_epochs_says_so(capsys):
    classifier(init="auto", max_epochs="auto", verbose=1).fit(TEXTS, LABELS)
    assert re.fullmatch(r"fit: the head is at its optimum, loss \d\.\d{4}\n", capsys.readouterr().err)


def test_fits_of_a_search_are_numbered_and_leave_no_bar(monkeypatch, capsys):
    search = GridSearchCV(classifier(verbose=1), {"max_epochs": [1, 2]}, cv=2)
    search.fit(TEXTS, LABELS)
    numbers = re.findall(r"^fit (\d): epoch (\d)", capsys.readouterr().err, re.MULTILINE)
    assert numbers[:7] == [("1", "1"), ("2", "1"), ("3", "1"), ("3", "2"), ("4", "1"), ("4", "2"), ("5", "1")]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    search.fit(TEXTS, LABELS)
    err = capsys.readouterr().err
    assert re.findall(r"fit \d(?=:   0%)", err) == [f"fit {i}" for i in range(1, 6)], "a new search counts anew"
    assert "\n" not in err, "each bar takes the line of the one before"


def test_each_epoch_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="skxlmr"):
        classifier(max_epochs=2).fit(TEXTS, LABELS)
    assert [(record.name, record.levelname) for record in caplog.records] == [("skxlmr.fit", "INFO")] * 2
    assert caplog.messages[0].startswith("fit: epoch 1/2, loss ")
    with caplog.at_level(logging.DEBUG, logger="skxlmr"):
        classifier(max_epochs=1).fit(TEXTS, LABELS)
    assert any(message.startswith("fit begins: {'batch_size': 4") for message in caplog.messages)


def test_verbose_fit_whose_log_is_shown_writes_no_lines(caplog, capsys):
    with caplog.at_level(logging.INFO, logger="skxlmr"):
        classifier(verbose=1).fit(TEXTS, LABELS)
    assert len(caplog.records) == 3
    assert capsys.readouterr().err == ""


def test_progress_bar_of_resumed_fit_begins_at_its_step(monkeypatch, capsys, tmp_path):
    class Kill(Callback):
        def on_epoch_end(self, trainer):
            if trainer.epoch == 2:
                raise RuntimeError("killed")

    def resumable(**parameters):
        return classifier(checkpoint_dir=tmp_path, checkpoint_steps=1, **parameters)

    with pytest.raises(RuntimeError, match="killed"):
        resumable(callbacks=[Kill()]).fit(TEXTS, LABELS)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    resumable(verbose=1).fit(TEXTS, LABELS)
    err = capsys.readouterr().err
    assert "fit:  67%" in err
    assert "fit:   0%" not in err


def test_tensorboard_logger_writes_steps_and_epochs(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, log_dir):
            self.log_dir = log_dir

        def add_scalar(self, name, value, step):
            written.append((name, round(value, 9), step))

        def close(self):
            written.append("closed")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    clf = classifier(callbacks=[TensorBoardLogger(tmp_path)]).fit(TEXTS, LABELS)
    for row in clf.history_.itertuples():
        assert ("epoch/loss", round(row.loss, 9), row.epoch) in written
        assert ("step/learning_rate", round(row.learning_rate, 9), 2 * row.epoch) in written
    assert written[-1] == "closed"


def test_mlflow_logger_logs_parameters_and_metrics(monkeypatch):
    calls = []
    mlflow = types.ModuleType("mlflow")
    mlflow.active_run = lambda: None
    mlflow.set_experiment = lambda name: calls.append(("experiment", name))
    mlflow.start_run = lambda run_name, nested: calls.append(("start", run_name, nested))
    mlflow.log_params = lambda params: calls.append(("params", params["batch_size"], params["optimizer"]))
    mlflow.log_metrics = lambda metrics, step: calls.append(("metrics", sorted(metrics), step))
    mlflow.end_run = lambda: calls.append(("end",))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    classifier(max_epochs=1, callbacks=[MLflowLogger("reviews", "first")]).fit(TEXTS, LABELS)
    assert calls == [
        ("experiment", "reviews"), ("start", "first", False), ("params", 4, "adamw"),
        ("metrics", ["step_learning_rate", "step_loss"], 1), ("metrics", ["step_learning_rate", "step_loss"], 2),
        ("metrics", ["epoch", "learning_rate", "loss", "seconds"], 1), ("end",),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "logger"), [("torch.utils.tensorboard", TensorBoardLogger("logs")), ("mlflow", MLflowLogger())]
)
def test_logger_without_its_library_says_what_to_install(name, logger, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install"):
        classifier(callbacks=[logger]).fit(TEXTS, LABELS)


class Tasks:
    """A callback in scikit-learn's protocol."""

    max_propagation_depth = None

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.begun, self.ended, self.scores = [], [], []

    def setup(self, estimator, context):
        self.begun.append("setup")

    def teardown(self, estimator, context):
        self.ended.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X):
        self.begun.append((context.estimator_name, context.task_name, context.task_id, context.max_subtasks))

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        self.ended.append((context.estimator_name, context.task_name, context.task_id))
        if context.task_name == "epoch":
            self.scores.append(fitted_estimator.score(X, y))
            return context.task_id + 1 == self.stop_after
        return None


@pytest.fixture
def sklearn_callbacks():
    return pytest.importorskip("sklearn.callback", reason="this scikit-learn has no callbacks")


def test_sklearn_callback_is_called_for_each_epoch(sklearn_callbacks):
    name, tasks = "XLMRXLClassifier", Tasks()
    clf = classifier().set_callbacks(tasks).fit(TEXTS, LABELS)
    assert tasks.begun == ["setup", (name, "fit", 0, 3), *((name, "epoch", i, 0) for i in range(3))]
    assert tasks.ended == [*((name, "epoch", i) for i in range(3)), (name, "fit", 0), "teardown"]
    assert tasks.scores[-1] == clf.score(TEXTS, LABELS), "the estimator in its current state"
    assert not hasattr(clf, "_callback_fit_ctx")
    stopped = classifier().set_callbacks(Tasks(stop_after=1)).fit(TEXTS, LABELS)
    assert stopped.n_iter_ == 1


def test_sklearn_callback_does_not_change_the_training(sklearn_callbacks):
    plain = classifier(tuning="lora").fit(TEXTS, LABELS)
    watched = classifier(tuning="lora").set_callbacks(Tasks()).fit(TEXTS, LABELS)
    assert watched.loss_curve_ == plain.loss_curve_


def test_save_and_copy_in_sklearn_callback_of_next_fit_hold_earlier_fit(sklearn_callbacks, tmp_path):
    class Keeping(Tasks):
        def on_fit_task_begin(self, estimator, context, *, X):
            clf.save(tmp_path / "earlier")
            self.copied = copy.copy(clf)  # by the state of pickles

        def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
            fitted_estimator.save(tmp_path / "current")

    clf, keeping = classifier().fit(TEXTS, LABELS), Keeping()
    before = clf.predict_proba(TEXTS)
    clf.set_params(learning_rate=1e-2).set_callbacks(keeping).fit(TEXTS, LABELS)
    for earlier in (skxlmr.load(tmp_path / "earlier"), keeping.copied):
        np.testing.assert_allclose(earlier.predict_proba(TEXTS), before, atol=1e-6)
        assert not [name for name in vars(earlier) if name.endswith("_ctx")]
    current = skxlmr.load(tmp_path / "current")
    np.testing.assert_allclose(current.predict_proba(TEXTS), clf.predict_proba(TEXTS), atol=1e-6)


def test_sklearn_scoring_monitor_logs_each_epoch(sklearn_callbacks):
    monitor = sklearn_callbacks.ScoringMonitor(scoring="accuracy")
    clf = classifier().set_callbacks(monitor).fit(TEXTS, LABELS)
    log = monitor.get_logs()
    scores = [
        row["accuracy"] for row in (log[-1] if isinstance(log, list) else log).data if row["task_name"] == "epoch"
    ]
    assert len(scores) == 3
    assert scores[-1] == clf.score(TEXTS, LABELS)


def test_sklearn_callback_in_a_grid_search_sees_every_candidate(sklearn_callbacks):
    tasks = Tasks()
    grid = GridSearchCV(classifier(max_epochs=2), {"learning_rate": [1e-3, 1e-2]}, cv=2, refit=False)
    grid.set_callbacks(tasks).fit(TEXTS, LABELS)
    epochs = [task for task in tasks.ended if task[:2] == ("XLMRXLClassifier", "epoch")]
    assert len(epochs) == 2 * 2 * 2
    assert tasks.begun.count("setup") == tasks.ended.count("teardown") == 1


def test_with_callbacks_without_sklearn_callbacks_returns_the_method(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.callback", None)
    old = importlib.util.module_from_spec(sklearn_callbacks_module.__spec__)
    sklearn_callbacks_module.__spec__.loader.exec_module(old)

    class Estimator(old.CallbackSupportMixin):
        def fit(self):
            return self

    assert old.with_callbacks(Estimator.fit) is Estimator.fit
    assert not hasattr(Estimator, "set_callbacks")
