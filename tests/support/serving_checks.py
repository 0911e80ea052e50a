"""What the tests of the formats for serving share: fitted estimators, and the loader in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

LOADER = Path(__file__).resolve().parents[2] / "examples" / "serve.py"
TEXTS = ["good", "bad film", "fine, and a longer text, for which others are padded", "", "很好看", "awful </s> <mask>"]
LABELS = ["yes", "no"] * 3
TOKENS = [["Ada", "lives", "in", "Rome"], ["罗马", "is", "语"], ["I", "saw", "Ada"]]
TAGS = [["B", "O", "O", "B"], ["B", "O", "O"], ["O", "O", "B"]]
HEAD = {"tuning": "head", "max_epochs": 2, "random_state": 0, "device": "cpu", "dtype": "float32"}
# In a process in which skxlmr and torch cannot be imported; the rows come together, and one by one.
SERVER = """
import json, runpy, sys
sys.modules.update(dict.fromkeys(["torch", "skxlmr", "transformers"]))
run, about = runpy.run_path(sys.argv[1])["load"](sys.argv[2])
rows = json.load(sys.stdin)
results = [run(rows), [run([row])[0] for row in rows]]
print(json.dumps([[result.tolist() for result in each] for each in results]))
"""


def serve(directory, rows):
    """Return the results of rows by the loader of the documentation: of all together, and of one at a time."""
    command = [sys.executable, "-c", SERVER, str(LOADER), str(directory)]
    done = subprocess.run(command, input=json.dumps(rows), capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stderr
    together, alone = json.loads(done.stdout)
    return [np.array(result) for result in together], [np.array(result) for result in alone]


def assert_serves(directory, rows, expected, atol=1e-4):
    together, alone = serve(directory, rows)
    for result, single, of_estimator in zip(together, alone, expected, strict=True):
        np.testing.assert_allclose(result, of_estimator, atol=atol)
        np.testing.assert_allclose(result, single, atol=max(1e-5, atol / 10))
