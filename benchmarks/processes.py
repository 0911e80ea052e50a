"""Training on several processes of a CPU: seconds of an epoch, against one process with as many threads.

python benchmarks/processes.py [n_processes]
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from skxlmr import Processes, XLMRXLClassifier

N_ROWS, WORDS = 192, 40


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    torch.set_num_threads(n)
    random = np.random.RandomState(0)
    vocabulary = np.array("good bad film book old new long short story ending actor page music plot scene".split())
    texts = [" ".join(random.choice(vocabulary, random.randint(5, WORDS))) for _ in range(N_ROWS)]
    labels = ["good" in text for text in texts]
    for tuning in ("lora", "full"):
        for processes in (None, Processes(n)):
            began = time.perf_counter()
            clf = XLMRXLClassifier(
                "e5-small",
                device="cpu",
                tuning=tuning,
                init="random",
                max_epochs=2,
                random_state=0,
                processes=processes,
            )
            clf.fit(texts, labels)
            whole, epoch = time.perf_counter() - began, clf.history_["seconds"].iloc[-1]
            kind = f"{n} processes" if processes else f"1 process, {n} threads"
            print(f"{tuning:<6}{kind:<24}{epoch:6.2f} s an epoch {whole:6.2f} s in all, losses {clf.loss_curve_}")


if __name__ == "__main__":
    main()
