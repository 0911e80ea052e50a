"""Multiple choice: which of two sentences is the cause, or the effect, of a third?

Run with `python examples/multiple_choice.py FOLDER`, where FOLDER holds val.jsonl and test.jsonl of one language of
XCOPA (CC BY 4.0). It uses "e5-small", which comes with pip; with `model="facebook/xlm-roberta-xl"` the same lines run
the full model.
"""

import argparse
from pathlib import Path

import pandas as pd

from skxlmr import XLMRXLMultipleChoice

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", type=Path, help="folder of one language of XCOPA")
parser.add_argument("--rows", type=int, help="use only this many questions")
arguments = parser.parse_args()

train, test = (pd.read_json(arguments.folder / f"{part}.jsonl", lines=True) for part in ("val", "test"))
train, test = train[: arguments.rows], test[: arguments.rows]
for df in (train, test):
    df["prompt"] = df.premise + " " + df.question + ":"

# The prompt is the first column, followed by one column per choice; a column of lists works too.
columns = ["prompt", "choice1", "choice2"]
chooser = XLMRXLMultipleChoice(model="e5-small", learning_rate=3e-3, max_epochs=5, random_state=0, verbose=1)
chooser.fit(train[columns], train.label)

print(f"Accuracy on {len(test)} questions")
print(f"  always the first      {(test.label == 0).mean():.3f}")
print(f"  XLMRXLMultipleChoice  {chooser.score(test[columns], test.label):.3f}\n")

some = test[columns][:3].reset_index(drop=True)
some[["p1", "p2"]] = chooser.predict_proba(some).round(2)
some["predicted"] = chooser.predict(some[columns])
print(some.to_string(index=False, max_colwidth=40))
