"""Sentences as lists of tokens, their tags in the scheme BIO, and a tagger that learns them."""

from skxlmr import XLMRXLTagger

SENTENCES = [
    ["Ada", "lives", "in", "Rome", "."], ["New", "York", "is", "large"], ["I", "saw", "Ada", "in", "New", "York"],
    ["Rome", "is", "old"], ["who", "is", "Bob", "?"], ["Bob", "likes", "tea"], [], ["Ada", "and", "Bob", "left"],
]  # fmt: skip
TAGS = [
    ["B-PER", "O", "O", "B-LOC", "O"], ["B-LOC", "I-LOC", "O", "O"], ["O", "O", "B-PER", "O", "B-LOC", "I-LOC"],
    ["B-LOC", "O", "O"], ["O", "O", "B-PER", "O"], ["B-PER", "O", "O"], [], ["B-PER", "O", "B-PER", "O"],
]  # fmt: skip


def tagger(**parameters):
    settings = {"model": "nano", "random_state": 0, "max_epochs": 25, "learning_rate": 5e-3, "batch_size": 4}
    return XLMRXLTagger(**(settings | parameters))
