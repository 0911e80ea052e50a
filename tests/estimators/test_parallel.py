"""Fits in parallel workers, in forked children, and many in one process."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skxlmr import LoRA, XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.runtime import backbone

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull", "great", "grim", "sweet", "sour"]
LABELS = ["yes", "no"] * 6


CLASSIFIER = XLMRXLClassifier("nano", tuning=LoRA(rank=2), max_epochs=2, random_state=0, device="cpu")
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


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_forked_children_after_model_run_do_not_hang():
    program = (
        "from joblib import Parallel, delayed\n"
        "from skxlmr import XLMRXLClassifier, XLMRXLEmbedder\n"
        f"texts, labels = {TEXTS * 8!r}, {LABELS * 8!r}\n"
        "clf = XLMRXLClassifier('nano', max_epochs=1, random_state=0, device='cpu').fit(texts, labels)\n"
        "parallel = Parallel(n_jobs=2, backend='multiprocessing')\n"
        "fitted = parallel(delayed(clf.fit)(texts, labels) for _ in range(3))\n"
        "import os\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    XLMRXLEmbedder('nano', device='cpu').fit_transform(texts + ['new text'])\n"
        "    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "print(fitted[0].score(texts, labels))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, errors = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail("a forked child hangs")
    assert process.returncode == 0, errors
    assert 0 <= float(out) <= 1


def test_get_backbone_on_gpu_in_parallel_workers_warns(monkeypatch):
    def load():
        with contextlib.suppress(RuntimeError):
            backbone.get_backbone("nano", device="cuda")

    monkeypatch.setattr(backbone, "choose_device", torch.device)
    monkeypatch.setattr(backbone, "find_checkpoint", lambda model: (_ for _ in ()).throw(RuntimeError("stop here")))
    load()  # no warning outside of workers
    with pytest.warns(UserWarning, match="n_jobs > 1 gains nothing on a GPU"):
        Parallel(n_jobs=2, backend="threading")(delayed(load)() for _ in range(2))


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
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=True)
    seen = json.loads(done.stdout)
    # One head holds 0.15 MB, one Full(layers=1) 1.9 MB; the allocator adds a few MB of noise.
    assert min(seen[60:]) - min(seen[10:30]) < 4e6, "growth in bytes over fifty fits"
