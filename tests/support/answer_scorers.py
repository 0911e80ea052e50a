"""What the scorers of SQuAD 1.1 and 2.0 (arXiv:1606.05250, 1806.03822) and MLQA (arXiv:1910.07475) compute.

Written anew from their rules:

- Answers are compared in lower case, without punctuation (ASCII's in SQuAD, Unicode's categories P in MLQA, too), then
  without the articles of the language as whole words (in Arabic wherever they stand), each replaced by a space.
- The words of an answer are separated by white space; in Chinese, each character from U+4E00 to U+9FA5 is a word, too.
- F1 is the harmonic mean of precision and recall of words, with repetitions; 0 where no word is shared.
- The best of a question's answers counts, for F1 and exact match separately.
- SQuAD 2.0 leaves out answers without words, and compares with "" if no answer is left; F1 of two answers of which one
  has no words is whether both have none.
"""

import string
import sys
import unicodedata

ARTICLES = {
    "en": "a an the",
    "es": "un una unos unas el la los las",
    "de": "ein eine einen einem eines einer der die das den dem des",
    "vi": "của là cái chiếc những",
}
ASCII_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))
ALL_PUNCTUATION = ASCII_PUNCTUATION | {
    i: None for i in range(sys.maxunicode) if unicodedata.category(chr(i)).startswith("P")
}


def words_of(answer, language=None):
    """The words of an answer; a language of MLQA, or None for SQuAD."""
    answer = answer.lower().translate(ASCII_PUNCTUATION if language is None else ALL_PUNCTUATION)
    if language == "ar":
        answer = answer.replace("ال", " ")
    articles = ARTICLES.get(language or "en", "").split()
    parts, word = [], ""
    for character in [*answer, " "]:  # a whole word ends where a character is neither a letter, a digit nor "_"
        if character.isalnum() or character == "_":
            word += character
            continue
        parts += [" " if word in articles else word, character]
        word = ""
    answer = "".join(parts)
    if language == "zh":
        answer = "".join(f" {c} " if "\u4e00" <= c <= "\u9fa5" else c for c in answer)
    return answer.split()


def f1_and_exact_match(prediction, answers, language=None, version="1.1"):
    """The scores of one question."""
    predicted, true = words_of(prediction, language), [words_of(answer, language) for answer in answers]
    if version == "2.0":
        true = [words for words in true if words] or [[]]
    f1 = []
    for words in true:
        left = list(words)
        shared = sum(left.remove(word) is None for word in predicted if word in left)
        if version == "2.0" and not (words and predicted):
            f1.append(float(words == predicted))
        elif not shared:
            f1.append(0.0)
        else:
            precision, recall = shared / len(predicted), shared / len(words)
            f1.append(2 * precision * recall / (precision + recall))
    return max(f1), float(predicted in true)
