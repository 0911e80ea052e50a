"""Extractive question answering: answers are parts of the context.

Run with `python examples/question_answering.py FILE`, where FILE is xquad.en.json, or another language, of XQuAD
(CC BY-SA 4.0), or any file in SQuAD's format. It uses "e5-small", which comes with pip; with
`model="facebook/xlm-roberta-xl"` the same lines run the full model.
"""

import argparse
from pathlib import Path

import pandas as pd

from skxlmr import XLMRXLQA, LoRA
from skxlmr.datasets import read_squad
from skxlmr.metrics import squad_scores

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("file", type=Path, help="questions in SQuAD's format, such as xquad.en.json")
parser.add_argument("--rows", type=int, default=500, help="use only this many questions")
arguments = parser.parse_args()

# One row per question: the columns question, context and answers.
df = read_squad(arguments.file)[: arguments.rows]
articles = df.title.unique()
is_test = df.title.isin(articles[-len(articles) // 5 :])  # no article is in both sets
train, test = (df, df) if is_test.all() else (df[~is_test], df[is_test])
print(f"{len(train)} training questions, {len(test)} test questions\n")

qa = XLMRXLQA(
    model="e5-small",
    tuning=LoRA(rank=16, layers=None),
    learning_rate=3e-3,
    max_epochs=2,
    random_state=0,
    verbose=1,
)
qa.fit(train[["question", "context"]], train.answers)

first_sentences = [context.split(". ")[0] for context in test.context]
table = {
    "first sentence of the context": squad_scores(first_sentences, [answers["text"] for answers in test.answers]),
    "XLMRXLQA": qa.metrics(test[["question", "context"]], test.answers),
}
print("On the test questions")
print(pd.DataFrame(table).T.round(3).to_string(), "\n")

some = test[["question", "context"]].iloc[:2]
best = qa.predict_answers(some, top_k=2)
best.insert(1, "question", [some.question.iloc[row] for row in best.row])
print(best[["question", "answer", "start", "end", "score"]].round(3).to_string(index=False, max_colwidth=50))
