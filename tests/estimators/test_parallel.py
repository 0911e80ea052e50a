"""Fits in parallel workers, in forked children, and many in one process."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed, parallel_config
from joblib._parallel_backends import SequentialBackend
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skxlmr import LoRA, XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.runtime import backbone

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull", "great", "grim", "sweet", "sour"]
LABELS = ["yes", "no"] * 6


CLASSIFIER = XLMRXLClassifier("nano", tuning=LoRA(rank=2), max_epochs=2, random_state=0, device="cpu")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

EMBEDDER = make_pipeline(XLMRXLEmbedder("nano", device="cpu"), LogisticRegression())


@pytest.mark.parametrize(
    ("estimator", "grid"),
    [(CLASSIFIER, {"learning_rate": [1e-3, 1e-2]}), (EMBEDDER, {"xlmrxlembedder__pooling": ["mean", "max"]})],
    ids=["classifier", "embedder"],
)
def test_grid_search_with_two_jobs_equals_one_job(estimator, grid):
    results = [GridSearchCV(estimator, grid, cv=2, n_jobs=n).fit(TEXTS, LABELS).cv_results_ for n in (1, 2)]
    for name in ("mean_test_score", "params"):
        np.testing.assert_array_equal(results[1][name], results[0][name])


FITTED = f"""
import gc, multiprocessing, os, threading
import numpy as np, torch
import skxlmr
from skxlmr import XLMRXLClassifier, XLMRXLEmbedder
torch.set_num_threads(2)  # a pool of threads also on one processor
texts, labels = {TEXTS * 8!r}, {LABELS * 8!r}
def fitted():
    return XLMRXLClassifier("nano", max_epochs=1, random_state=0, device="cpu").fit(texts, labels)
def in_child(function):
    child = os.fork()
    if not child:
        os._exit(not function())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def output_of(program, seconds=300):
    """Return the output of a program after `FITTED`; after so many seconds it and its children are killed."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FITTED + program], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail("a child hangs")
    assert process.returncode == 0, errors
    return out


@needs_fork
def test_forked_children_after_model_run_predict_and_fit():
    out = output_of(
        "clf = fitted()\n"
        "from joblib import Parallel, delayed\n"
        "children = Parallel(n_jobs=2, backend='multiprocessing')(delayed(clf.fit)(texts, labels) for _ in range(3))\n"
        "print(in_child(lambda: XLMRXLEmbedder('nano', device='cpu').fit_transform(texts + ['new text']).any()))\n"
        "print(all(np.allclose(child.predict_proba(texts), clf.predict_proba(texts)) for child in children))\n"
    )
    assert out == "0\nTrue\n"


@needs_fork
@pytest.mark.parametrize(
    "parent",
    [
        "clf = fitted(); clf.save(directory); del clf; skxlmr.release_models(); gc.collect()",
        "from skxlmr.model import XLMRobertaXLModel\n"
        "model = XLMRobertaXLModel.from_pretrained('nano', add_pooling_layer=False)\n"
        "ids = torch.arange(4, 400)[None]\n"
        "with torch.no_grad(): model(ids)\n",
        "matrix = torch.ones(600, 600); matrix @ matrix",
    ],
    ids=["models released", "model without estimator", "torch without model"],
)
def test_forked_children_of_process_without_estimator_predict_and_fit(parent, tmp_path):
    out = output_of(
        f"directory = {str(tmp_path)!r}\n{parent}\n"
        "def work(saved):\n"
        "    clf = skxlmr.load(directory) if saved else fitted()\n"
        "    return len(clf.predict([text + ' again' for text in texts]))\n"
        "saved = os.path.exists(os.path.join(directory, 'estimator.json'))\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    print(pool.map(work, [saved, False]))\n"
        "if 'model' in globals():\n"
        "    with torch.no_grad(): want = model(ids).last_hidden_state\n"
        "    def same():\n"
        "        with torch.no_grad(): return torch.allclose(model(ids).last_hidden_state, want, atol=1e-5)\n"
        "    print(in_child(same))\n"
    )
    assert out.splitlines()[0] == f"[{len(TEXTS * 8)}, {len(TEXTS * 8)}]"
    assert out.splitlines()[1:] in ([], ["0"])


@needs_fork
def test_forked_children_while_other_threads_predict_fit_and_load():
    out = output_of(
        "clf = fitted(); want = clf.predict_proba(texts); stop = threading.Event()\n"
        "def serve():\n"
        "    i = 0\n"
        "    while not stop.is_set(): i += 1; clf.predict([f'request {i}'] * 3)\n"
        "def train():\n"
        "    while not stop.is_set(): fitted()\n"
        "def load():\n"
        "    while not stop.is_set():\n"
        "        skxlmr.release_models(); gc.collect()\n"
        "        XLMRXLEmbedder('nano', load_in_8bit=True, device='cpu').fit(['a']).transform(['a'])\n"
        "threads = [threading.Thread(target=target, daemon=True) for target in (serve, train, load)]\n"
        "[thread.start() for thread in threads]\n"
        "skxlmr.set_feature_cache(0)\n"
        "same = lambda: np.allclose(clf.predict_proba(texts), want, atol=1e-5)\n"
        "print([in_child(same) for _ in range(8)], in_child(lambda: fitted().score(texts, labels) <= 1))\n"
        "stop.set(); [thread.join() for thread in threads]\n"
    )
    assert out == f"{[0] * 8} 0\n"


def _score(estimator):
    return estimator.fit(TEXTS, LABELS).score(TEXTS, LABELS)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns where there are other threads
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_process_pool_after_model_run_fits_and_scores(method):
    want = _score(clone(CLASSIFIER))
    with multiprocessing.get_context(method).Pool(1) as pool:  # its end kills the worker
        assert pool.apply_async(_score, [CLASSIFIER]).get(timeout=300) == want


def test_get_backbone_on_gpu_in_parallel_workers_warns(monkeypatch):
    def load():
        with contextlib.suppress(RuntimeError):
            backbone.get_backbone("nano", device="cuda")

    monkeypatch.setattr(backbone, "choose_devices", lambda device: [torch.device(device)])
    monkeypatch.setattr(backbone, "find_checkpoint", lambda model: (_ for _ in ()).throw(RuntimeError("stop here")))
    load()  # no warning outside of workers
    with pytest.warns(UserWarning, match="n_jobs > 1 gains nothing on a GPU"):
        Parallel(n_jobs=2, backend="threading")(delayed(load)() for _ in range(2))
    worker = SequentialBackend(nesting_level=1)
    worker.has_own_gpu = True  # as skxlmr.scale.grid_backend has it
    with parallel_config(backend=worker):
        load()  # no warning


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory of Linux")
def test_resident_memory_over_fifty_fits_stays_flat():
    program = (
        "import gc, json\n"
        "from skxlmr import Full, LoRA, XLMRXLClassifier, XLMRXLEmbedder\n"
        f"texts, labels = {TEXTS!r}, {LABELS!r}\n"
        "tunings = ['head', 'lora', 'bias', LoRA(layers=2), Full(layers=1)]\n"
        "def resident():\n"
        "    gc.collect()\n"
        "    line = next(l for l in open('/proc/self/status') if l.startswith('VmRSS'))\n"
        "    return int(line.split()[1]) * 1024\n"
        "seen = []\n"
        "for i in range(80):\n"
        "    clf = XLMRXLClassifier('nano', tuning=tunings[i % 5], max_epochs=1, random_state=i, device='cpu')\n"
        "    clf.fit(texts, labels).predict(texts)\n"
        "    seen.append(resident())\n"
        "print(json.dumps(seen))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    seen = json.loads(done.stdout)
    # One head holds 0.15 MB, one Full(layers=1) 1.9 MB; the allocator adds a few MB of noise.
    assert min(seen[60:]) - min(seen[10:30]) < 4e6, "growth in bytes over fifty fits"
