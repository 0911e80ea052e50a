"""
Where is it wrong?
==================

One call reports the scores by class, by language and by length, and shows the worst errors with their texts.
"""

from skxlmr import XLMRXLClassifier
from skxlmr.datasets import load_reviews
from skxlmr.inspection import report

df = load_reviews().sample(500, random_state=0)
train, test = df[:250], df[250:]
clf = XLMRXLClassifier("e5-small", tuning="head", random_state=0).fit(train.text, train.label)
found = report(clf, test.text, test.label, groups=test.language, n_worst=5)
print(found)

# %%
# In a notebook, `found` alone renders as HTML. Its tables are DataFrames:
found.by_group  # noqa: B018

# %%
_ = found.by_length["accuracy"].plot.bar(rot=0, ylim=(0.5, 1), ylabel="accuracy")
