"""Text classification and embeddings: train on English reviews, test on Chinese ones.

Run with `make demo`. It uses "e5-small", a multilingual model of 117 million parameters that comes with pip; with
`model="facebook/xlm-roberta-xl"` the same lines run the full model.
"""

import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # write files without a display
import matplotlib.pyplot as plt
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skxlmr import XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.datasets import load_reviews

MODEL = "e5-small"
started = time.perf_counter()

# English and Chinese reviews, as a DataFrame with the columns text and label. Only English ones are used for training.
df = load_reviews()
english = df[df.language == "en"].sample(1200, random_state=0)
train, tests = english[:800], {"English": english[800:], "Chinese": df[df.language == "zh"].sample(400, random_state=0)}
print(f"{len(train)} English training reviews, {' and '.join(f'400 {name}' for name in tests)} test reviews\n")
print(train.sample(4, random_state=1)[["text", "label"]].to_string(index=False, max_colwidth=80), "\n")

# Fine-tune. With a GPU, use XLMRXLClassifier() with its defaults, which runs XL.
clf = XLMRXLClassifier(MODEL, max_epochs=3, random_state=0, verbose=1)
clf.fit(train.text, train.label)
print(clf.history_.round(4).to_string(index=False), "\n")

# Embeddings for any scikit-learn estimator, in a pipeline and a grid search.
pipeline = make_pipeline(XLMRXLEmbedder(MODEL, normalize=True), LogisticRegression(max_iter=2000))
search = GridSearchCV(pipeline, {"logisticregression__C": [1, 10, 100]}, cv=3).fit(train.text, train.label)

tfidf = make_pipeline(TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4)), LogisticRegression(max_iter=2000))
models = {
    "majority class": DummyClassifier().fit(train.text, train.label),
    "character TF-IDF + LogisticRegression": tfidf.fit(train.text, train.label),
    "XLMRXLEmbedder + LogisticRegression": search,
    "XLMRXLClassifier": clf,
}
table = pd.DataFrame({
    name: {language: model.score(test.text, test.label) for language, test in tests.items()}
    for name, model in models.items()
}).T  # fmt: skip
print("Accuracy on the test reviews; all models are trained on English reviews only")
print(table.round(3).to_string(), "\n")

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

figure, axes = plt.subplots(1, len(tests), figsize=(7.5, 3.6), layout="constrained")
for (language, test), ax in zip(tests.items(), axes, strict=True):
    ConfusionMatrixDisplay.from_estimator(clf, test.text, test.label, ax=ax, cmap="Blues", colorbar=False)
    ax.set_title(f"{language}: accuracy {table.loc['XLMRXLClassifier', language]:.2f}")
figure.suptitle(f"XLMRXLClassifier on {MODEL}, trained on English reviews")
picture = Path("confusion_matrix.png")
figure.savefig(picture, dpi=150)
print(f"{picture} written; total time {time.perf_counter() - started:.0f} s")
