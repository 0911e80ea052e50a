"""Measure the seconds that `import skxlmr` adds to torch, pandas and scikit-learn: the median of several processes.

python benchmarks/import_time.py
"""

import statistics
import subprocess
import sys

PROGRAM = """
import time
import pandas, sklearn.decomposition, sklearn.base, torch
started = time.perf_counter()
import skxlmr
print(time.perf_counter() - started)
import sys
late = ("bitsandbytes", "huggingface_hub", "matplotlib", "transformers", "tqdm")
print(*[name for name in late if name in sys.modules])
"""

runs = [subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True) for _ in range(5)]
seconds = [float(run.stdout.splitlines()[0]) for run in runs]
print(f"import skxlmr: {statistics.median(seconds):.3f} s beyond torch, pandas and scikit-learn")
print("imported too, although not needed yet:", runs[0].stdout.splitlines()[1] or "nothing")
