"""
A map of texts
==============

Vectors of texts in two dimensions: what they say by colour, their language by marker.
"""

from skxlmr import XLMRXLEmbedder
from skxlmr.datasets import load_reviews, load_udhr
from skxlmr.inspection import EmbeddingMapDisplay

df = load_reviews().sample(250, random_state=0)
embedder = XLMRXLEmbedder("e5-small").fit(df.text)
_ = EmbeddingMapDisplay.from_estimator(embedder, df.text, labels=df.label, groups=df.language)

# %%
# The first component separates the languages, the second one the sentiment. Texts that say the same are closer: some
# articles of the Universal Declaration of Human Rights in six languages. `method="tsne"` keeps neighbours together.
articles = {3: "life", 4: "slavery", 9: "arrest", 15: "nationality", 18: "religion", 24: "rest", 26: "education"}
udhr = load_udhr()
udhr = udhr[udhr.language.isin(["en", "de", "es", "ru", "zh", "sw"]) & udhr.article.isin(articles)]
_ = EmbeddingMapDisplay.from_estimator(
    embedder, udhr.text, labels=udhr.article.map(articles), groups=udhr.language, method="tsne"
)
