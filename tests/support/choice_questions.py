"""Questions of multiple choice, with one to three choices each."""

import pandas as pd

PROMPTS = ["It rained.", "The sun shone.", "下雪了。", "There was fog, and", "It rained.", "The sun shone."]
CHOICES = [
    ["wet", "dry"],
    ["dark", "bright", "cold"],
    ["白", "黑"],
    ["blind"],
    ["dry", "wet", "wet and dry"],
    ["bright"],
]
RIGHT = [0, 1, 0, 0, 1, 0]
X = pd.DataFrame({"prompt": PROMPTS, "choices": CHOICES})
TEXTS = [choices[i] for choices, i in zip(CHOICES, RIGHT, strict=True)]  # the right choices
