"""Measure the milliseconds per text of single texts after a warm-up: the median.

    python benchmarks/one_text.py classifier|embedder|pipeline|sentence-transformers DIRECTORY [--device cpu]

"pipeline" is text classification with transformers. Its DIRECTORY holds a classifier, that of the others nano.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from skxlmr.datasets import load_reviews

WARM_UP = 10  # texts


def classifier(directory: str, device: str, texts: list[str]) -> Callable[[str], object]:
    from skxlmr import XLMRXLClassifier

    clf = XLMRXLClassifier(directory, device=device, dtype="float32", max_epochs=1, random_state=0)
    clf.fit(texts[:8], [0, 1] * 4)
    return lambda text: clf.predict([text])


def embedder(directory: str, device: str, texts: list[str]) -> Callable[[str], object]:
    from skxlmr import XLMRXLEmbedder

    fitted = XLMRXLEmbedder(directory, device=device, dtype="float32").fit(texts)
    return lambda text: fitted.transform([text])


def pipeline(directory: str, device: str, texts: list[str]) -> Callable[[str], object]:
    import transformers

    return transformers.pipeline("text-classification", directory, device=device, dtype="float32")


def sentence_transformers(directory: str, device: str, texts: list[str]) -> Callable[[str], object]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(directory, device=device)
    return lambda text: model.encode([text], show_progress_bar=False)


ENGINES = {
    "classifier": classifier,
    "embedder": embedder,
    "pipeline": pipeline,
    "sentence-transformers": sentence_transformers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("directory")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    texts = [text for text in load_reviews().drop_duplicates("text").text if 40 < len(text) < 80][:210]
    engine = ENGINES[arguments.engine](arguments.directory, arguments.device, texts)
    seconds = []
    for text in texts:
        started = time.perf_counter()
        engine(text)
        seconds.append(time.perf_counter() - started)
    print(1000 * statistics.median(seconds[WARM_UP:]))


if __name__ == "__main__":
    main()
