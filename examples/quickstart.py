"""A text column in, labels and embeddings out.

Run with `make demo`. It uses "nano", the small checkpoint that is bundled for tests and examples; with
`model="facebook/xlm-roberta-xl"` the same lines run the full model.
"""

import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # write files; no screen is needed
import matplotlib.pyplot as plt
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

from skxlmr import LoRA, XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.datasets import load_reviews

started = time.perf_counter()

# Reviews in English and Chinese, as a DataFrame with the columns text and label.
df = load_reviews()
df = df.groupby("language").sample(1000, random_state=0)
train, test = train_test_split(df, test_size=0.3, stratify=df.language + df.label, random_state=0)
print(f"{len(train)} reviews to learn from, {len(test)} to test on\n")
print(train.sample(4, random_state=1).to_string(index=False, max_colwidth=60), "\n")

# Fine-tune. One GPU and XL: XLMRXLClassifier() with everything at its default.
clf = XLMRXLClassifier(
    model="nano",
    tuning=LoRA(rank=16, targets=["query", "key", "value", "output", "up", "down"]),
    learning_rate=3e-3,
    batch_size=16,
    max_epochs=4,
    random_state=0,
    verbose=1,
)
clf.fit(train.text, train.label)
print(clf.history_.round(4).to_string(index=False), "\n")

majority = DummyClassifier().fit(train.text, train.label)
tfidf = make_pipeline(TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4)), LogisticRegression(max_iter=1000))
tfidf.fit(train.text, train.label)


def accuracies(model):
    """Accuracy on each language and on both."""
    scores = {name: model.score(rows.text, rows.label) for name, rows in test.groupby("language")}
    return {**scores, "both": model.score(test.text, test.label)}


# Embeddings for any scikit-learn estimator, tuned like everything else in scikit-learn.
pipeline = make_pipeline(XLMRXLEmbedder(model="nano", normalize=True), LogisticRegression(max_iter=2000))
search = GridSearchCV(
    pipeline,
    {"xlmrxlembedder__layer": [0, 2, -1], "logisticregression__C": [1.0, 10.0]},
    cv=3,
).fit(train.text, train.label)

table = {
    "majority class": accuracies(majority),
    "character TF-IDF + LogisticRegression": accuracies(tfidf),
    "XLMRXLEmbedder + LogisticRegression, tuned": accuracies(search),
    "XLMRXLClassifier": accuracies(clf),
}
print("Accuracy on the test reviews")
print(pd.DataFrame(table).T.round(3).to_string(), "\n")
print("Best of the grid:", search.best_params_, "\n")

sentences = [
    "An absolute delight from start to finish.",
    "Dull, overlong and badly acted.",
    "房间很干净，服务也很好。",
    "质量太差了，完全是浪费钱。",
    "Ein wunderbarer Film.",
    "Este producto es una basura.",
]
answers = pd.DataFrame({"text": sentences, "label": clf.predict(sentences)})
answers["probability"] = clf.predict_proba(sentences).max(axis=1).round(2)
print(answers.to_string(index=False), "\n")

figure, axes = plt.subplots(figsize=(4.5, 4), layout="constrained")
ConfusionMatrixDisplay.from_estimator(clf, test.text, test.label, ax=axes, cmap="Blues", colorbar=False)
axes.set_title(f"XLMRXLClassifier, nano: accuracy {table['XLMRXLClassifier']['both']:.2f}")
picture = Path("confusion_matrix.png")
figure.savefig(picture, dpi=150)
print(f"{picture} written; all of this took {time.perf_counter() - started:.0f} s")
