"""Sentences as lists of tokens, and their tags in the scheme BIO."""

SENTENCES = [
    ["Ada", "lives", "in", "Rome", "."], ["New", "York", "is", "large"], ["I", "saw", "Ada", "in", "New", "York"],
    ["Rome", "is", "old"], ["who", "is", "Bob", "?"], ["Bob", "likes", "tea"], [], ["Ada", "and", "Bob", "left"],
]  # fmt: skip
TAGS = [
    ["B-PER", "O", "O", "B-LOC", "O"], ["B-LOC", "I-LOC", "O", "O"], ["O", "O", "B-PER", "O", "B-LOC", "I-LOC"],
    ["B-LOC", "O", "O"], ["O", "O", "B-PER", "O"], ["B-PER", "O", "O"], [], ["B-PER", "O", "B-PER", "O"],
]  # fmt: skip
