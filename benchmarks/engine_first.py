"""The seconds and the memory of fresh processes up to their first vector of e5-small, tokenised there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from engine_kinds import environment, not_installed

RUNS = 4
MEMORY = """
import json
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps(int(fields["VmHWM"].split()[0]) * 1024 / 1e6))
"""
TOKENIZE = """
from tokenizers import Tokenizer
import numpy as np
ids = np.array([Tokenizer.from_file("{folder}/checkpoint/tokenizer.json").encode("query: good morning").ids])
"""
OURS = """
from skxlmr import XLMRXLEmbedder
XLMRXLEmbedder("e5-small", device="cpu"{more}).fit_transform(["good morning"])
"""
CTRANSLATE2 = """
import ctranslate2
encoder = ctranslate2.Encoder("{folder}/ctranslate2", compute_type="int8_float32", intra_threads=2)
np.asarray(encoder.forward_batch(ids.tolist()).last_hidden_state).mean(1)
"""
OPENVINO = """
import openvino
core = openvino.Core()
core.set_property({"CACHE_DIR": "{folder}/openvino-cache"})
settings = {"INFERENCE_NUM_THREADS": 2, "INFERENCE_PRECISION_HINT": "bf16"}
core.compile_model("{folder}/{file}", "CPU", settings)([ids, np.ones_like(ids)])[0]
"""
ONNX_RUNTIME = """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
session = onnxruntime.InferenceSession("{folder}/onnx/int8.onnx", options)
session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
"""
TRANSFORMERS = """
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained("{folder}/checkpoint", dtype=torch.bfloat16, add_pooling_layer=False)
with torch.no_grad():
    model(input_ids=torch.from_numpy(ids)).last_hidden_state.float().mean(1)
"""

PROGRAMS = {  # with the packages that they need
    "import torch, sklearn, pandas": ("import torch, sklearn.base, pandas", ()),
    "skxlmr, 8 bits": (OURS.replace("{more}", ", load_in_8bit=True"), ()),
    "skxlmr, bfloat16": (OURS.replace("{more}", ", load_in_8bit=False, dtype='bfloat16'"), ()),
    "skxlmr, float32": (OURS.replace("{more}", ", load_in_8bit=False, dtype='float32'"), ()),
    "OpenVINO, int8 and bfloat16": (
        TOKENIZE + OPENVINO.replace("{file}", "openvino-int8/int8.xml"), ("openvino", "nncf", "tokenizers"),
    ),
    "OpenVINO, bfloat16": (
        TOKENIZE + OPENVINO.replace("{file}", "openvino/float32.xml"), ("openvino", "tokenizers"),
    ),
    "CTranslate2, int8": (TOKENIZE + CTRANSLATE2, ("ctranslate2", "tokenizers")),
    "ONNX Runtime, int8, fused": (TOKENIZE + ONNX_RUNTIME, ("onnxruntime", "onnx", "tokenizers")),
    "transformers, bfloat16": (TOKENIZE + TRANSFORMERS, ("transformers", "tokenizers")),
}  # fmt: skip


def first_vector(name: str, folder: Path) -> dict[str, object]:
    """Return the seconds of the fastest of several processes after one that fills caches, and its peak memory in MB."""
    program, packages = PROGRAMS[name]
    if not_installed(packages):
        return {"missing": f"not installed: {', '.join(not_installed(packages))}"}
    program, seconds, peaks = program.replace("{folder}", str(folder)), [], []
    env = environment()
    for _ in range(RUNS):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program + MEMORY], capture_output=True, text=True, env=env)
        seconds.append(time.perf_counter() - started)
        if done.returncode:
            return {"failed": f"{done.stderr.strip().splitlines()[-1][:200]} (exit status {done.returncode})"}
        peaks.append(json.loads(done.stdout.splitlines()[-1]))
    return {"seconds": min(seconds[1:]), "peak_mb": min(peaks[1:])}
