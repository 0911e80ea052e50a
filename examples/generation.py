"""Text generation: train the model to predict the next piece, and let it continue prompts.

Run with `python examples/generation.py`; the texts, from the Universal Declaration of Human Rights, are bundled. It
uses "nano", the small checkpoint that is bundled for tests and examples (e5-small does not predict words), and lets it
memorise them; with `model="facebook/xlm-roberta-xl"` the same lines run the full model.
"""

import argparse

import numpy as np
import pandas as pd

from skxlmr import XLMRXLGenerator
from skxlmr.datasets import load_udhr

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rows", type=int, default=60, help="number of training paragraphs")
parser.add_argument("--epochs", type=int, default=60)
arguments = parser.parse_args()

udhr = load_udhr()
texts = udhr.text[udhr.language == "en"][: arguments.rows]
print(f"{len(texts)} paragraphs, such as {texts.iloc[0]!r:.90}\n")

# XLM-RoBERTa was pretrained with attention in both directions; causal attention is new to it, so train all weights.
writer = XLMRXLGenerator(
    model="nano",
    tuning="full",
    learning_rate=1e-3,
    batch_size=1,
    max_epochs=arguments.epochs,
    random_state=0,
    verbose=1,
)
writer.fit(texts)
print(f"Perplexity of the training texts: {np.exp(-writer.score(texts)):.1f}\n")

prompts = pd.Series(["Everyone has the right to", "No one shall be", "All human beings"])
print("Greedy decoding")
for text in prompts + writer.generate(prompts, max_new_tokens=20):
    print(" ", text)
print("Sampling")
for text in prompts + writer.generate(prompts, max_new_tokens=20, do_sample=True, top_p=0.9):
    print(" ", text)
