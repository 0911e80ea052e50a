"""Compare loading and running a checkpoint in 8 bits with transformers and bitsandbytes, in one run.

Each row of the table is measured in a separate process, because of its peak memory. Writes
benchmarks/results/eight-bit-<model>-<device>.json.

    python benchmarks/make_checkpoint.py xl OUT
    python benchmarks/eight_bit.py OUT [--texts 48] [--device cuda] [--only "ours, 8-bit"]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from shared import padded_means, real_texts

RUNS = {
    "ours, 8-bit, first load": {"load_in_8bit": True},
    "ours, 8-bit": {"load_in_8bit": True},
    "ours, 8-bit, float32 activations": {"load_in_8bit": True, "dtype": "float32"},
    "ours, bfloat16": {"load_in_8bit": False, "dtype": "bfloat16"},
    "ours, float32": {"load_in_8bit": False, "dtype": "float32"},
    "ours, 4-bit": {"load_in_4bit": True},
    "transformers, 8-bit by bitsandbytes": {"peer": True, "load_in_8bit": True},
    "transformers, bfloat16": {"peer": True},
}
REFERENCE = "ours, float32"
BATCH = 32  # rows of the padded batches of transformers


def resident() -> dict[str, float]:
    """Return the peak resident, current resident and proportional set size of this process in GB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    rollup = dict(line.split(":", 1) for line in lines)
    gb = {"peak": fields["VmHWM"], "resident": fields["VmRSS"], "proportional": rollup["Pss"]}
    return {name: int(value.split()[0]) * 1024 / 1e9 for name, value in gb.items()}


def ours(model: str, texts: list[str], options: dict, device: str) -> tuple[dict, np.ndarray]:
    from skxlmr import XLMRXLEmbedder, set_feature_cache
    from skxlmr.runtime.plan import make_plan

    set_feature_cache(0)  # measure the encoder, not the cache
    embedder = XLMRXLEmbedder(model=model, device=device, **options)
    started = time.perf_counter()
    embedder.fit(texts[:1])
    report = {"load_s": time.perf_counter() - started, "after_load": resident()}
    backbone = embedder._fitted_backbone()
    report["model_gb"] = sum(p.nbytes for p in backbone.model.parameters()) / 1e9
    lengths = make_plan(backbone.tokenizer, texts, max_length=512, stride=64).lengths
    embedder.transform(texts[:2])
    started = time.perf_counter()
    vectors = embedder.transform(texts)
    report["tokens_per_s"] = int(lengths.sum()) / (time.perf_counter() - started)
    alone = np.concatenate([embedder.transform(texts[i : i + 1]) for i in range(4)])
    report["alone_or_in_a_batch"] = float(
        (np.linalg.norm(alone - vectors[:4], axis=1) / np.linalg.norm(alone, axis=1)).max()
    )
    return report, vectors


def transformers(model: str, texts: list[str], options: dict, device: str) -> tuple[dict, np.ndarray]:
    """Compute mean-pooled states on padded batches of 32 texts sorted by length, the fastest way to pad."""
    import warnings

    from transformers import BitsAndBytesConfig, XLMRobertaXLModel
    from transformers.utils import logging

    from skxlmr.model import XLMRobertaXLTokenizer

    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = XLMRobertaXLTokenizer.from_pretrained(model)
    windows = [tokenizer.build_inputs(ids) for ids in tokenizer.encode_batch(texts)]
    extra = {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)} if options.get("load_in_8bit") else {}
    started = time.perf_counter()
    base = XLMRobertaXLModel.from_pretrained(
        model, dtype=torch.bfloat16, device_map=device, add_pooling_layer=False, **extra
    ).eval()
    report = {"load_s": time.perf_counter() - started, "after_load": resident()}
    started = time.perf_counter()
    vectors = padded_means(base, windows, BATCH, device)
    report["tokens_per_s"] = sum(map(len, windows)) / (time.perf_counter() - started)
    return report, vectors


def child(model: str, name: str, n_texts: int, device: str, out: Path) -> None:
    """Measure one row of the table, in this process."""
    options = dict(RUNS[name])
    run = transformers if options.pop("peer", False) else ours
    report, vectors = run(model, real_texts(n_texts), options, device)
    report["end"] = resident()
    if device != "cpu":
        report["gpu_peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    np.save(out.with_suffix(".npy"), vectors)
    out.write_text(json.dumps(report))


def proportional_of_two(model: str) -> list[float]:
    """Return the proportional set sizes of two simultaneous processes that have run the 8-bit model on a text."""
    code = (
        "import sys; from skxlmr import XLMRXLEmbedder; from eight_bit import resident\n"
        "XLMRXLEmbedder(model=sys.argv[1], load_in_8bit=True, device='cpu').fit_transform(['good morning'])\n"
        "print('ready', flush=True); sys.stdin.readline(); print(resident()['proportional'], flush=True)\n"
        "sys.stdin.readline()"
    )
    command = [sys.executable, "-c", code, model]
    here = Path(__file__).parent
    both = [
        subprocess.Popen(command, cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in both:
        process.stdout.readline()
    sizes = []
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
        sizes.append(float(process.stdout.readline()))
    for process in both:
        process.communicate("\n")
    return sizes


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the lowest cosine of corresponding rows."""
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def table(reports: dict[str, dict]) -> str:
    lines = [
        "| how | load s | peak GB | model GB | tokens/s | cosine to float32 | alone or in a batch |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, report in reports.items():
        cells = [
            f"{report['load_s']:.1f}",
            f"{report['gpu_peak_gb']:.2f} (GPU)" if "gpu_peak_gb" in report else f"{report['after_load']['peak']:.2f}",
            f"{report['model_gb']:.2f}" if "model_gb" in report else "",
            f"{report['tokens_per_s']:.0f}",
            f"{report['cosine']:.5f}" if "cosine" in report else "",
            f"{report['alone_or_in_a_batch']:.1e}" if "alone_or_in_a_batch" in report else "",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a checkpoint directory")
    parser.add_argument("--texts", type=int, default=48)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", action="append", help="a row of the table; may be repeated")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.model, arguments.child, arguments.texts, arguments.device, arguments.out)
        return
    reports, vectors = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SKXLMR_CACHE"] = str(Path(folder) / "cache")
        for number, name in enumerate(arguments.only or RUNS):
            out = Path(folder) / f"{number}.json"
            command = [sys.executable, __file__, arguments.model, "--texts", str(arguments.texts)]
            command += ["--device", arguments.device, "--child", name, "--out", str(out)]
            finished = subprocess.run(command)
            if finished.returncode:
                print(f"{name}: ended with {finished.returncode}", flush=True)
                continue
            reports[name] = json.loads(out.read_text())
            vectors[name] = np.load(out.with_suffix(".npy"))
            print(table({name: reports[name]}).splitlines()[-1], flush=True)
        if REFERENCE in vectors:
            for name, report in reports.items():
                report["cosine"] = cosine(vectors[name], vectors[REFERENCE])
        print(table(reports))
        shared = proportional_of_two(arguments.model) if arguments.device == "cpu" and "ours, 8-bit" in reports else []
        if shared:
            print(f"two processes at once, proportional set sizes: {shared[0]:.2f} and {shared[1]:.2f} GB")
    device = torch.cuda.get_device_name() if arguments.device != "cpu" else platform.processor() or platform.machine()
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    path = results / f"eight-bit-{Path(arguments.model).name}-{arguments.device}.json"
    about = {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__, "texts": arguments.texts}
    path.write_text(json.dumps({**about, "two_processes_gb": shared, "runs": reports}, indent=2) + "\n")


if __name__ == "__main__":
    main()
