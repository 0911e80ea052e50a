"""Serve a model that `export_onnx` or `export_openvino` has written, without torch and skxlmr.

It needs numpy, tokenizers, and onnxruntime or openvino. Run `python examples/serve.py DIRECTORY TEXT...`, or copy
`load` into your server; a text of a model of pairs is written as "first text || second text".
"""

import json
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer


def load(directory):
    """Return a function from rows to results, and the description of the model; a row is a text or a pair of texts."""
    about = json.loads(Path(directory, "serving.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(Path(directory, "tokenizer.json")))  # it cuts long texts, and pads
    path, prompt, words = str(Path(directory, about["file"])), about["prompt"], about["kind"] == "tagging"
    if path.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
    else:
        import openvino

        model = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # "bf16" is faster

    def run(rows):
        if about["pairs"] == "separate":
            rows = [text for pair in rows for text in pair]
        if not words:
            rows = [prompt + row if isinstance(row, str) else (prompt + row[0], row[1]) for row in rows]
        encoded = tokenizer.encode_batch(rows, is_pretokenized=words)
        ids, mask = [e.ids for e in encoded], [e.attention_mask for e in encoded]
        inputs = {"input_ids": np.array(ids, np.int64), "attention_mask": np.array(mask, np.int64)}
        outputs = session.run(None, inputs)[0] if path.endswith(".onnx") else model(inputs)[0]
        return word_probabilities(outputs, encoded, rows, about) if words else outputs

    return run, about


def word_probabilities(logits, encoded, rows, about):
    """Return the probabilities of the tags of each word; those of words that were cut off are NaN."""
    results = [np.full((len(words), len(about["classes"])), np.nan, np.float32) for words in rows]
    for of_pieces, encoding, result in zip(logits, encoded, results, strict=True):
        for word in {number for number in encoding.word_ids if number is not None}:
            pieces = [i for i, number in enumerate(encoding.word_ids) if number == word]
            if len(pieces) > 1 and encoding.ids[pieces[0]] == about.get("space_id"):
                del pieces[0]  # a bare space says nothing of the word
            of_word = of_pieces[pieces[:1] if about["aggregation"] == "first" else pieces].mean(axis=0)
            result[word] = np.exp(of_word - of_word.max()) / np.exp(of_word - of_word.max()).sum()
    return results


if __name__ == "__main__":
    run, about = load(sys.argv[1])
    rows = [text.split(" || ") if about["pairs"] else text for text in sys.argv[2:]]
    results = run([text.split() for text in rows] if about["kind"] == "tagging" else rows)
    for row, result in zip(rows, results, strict=True):
        best = about["classes"][result.argmax()] if about["kind"] == "classification" else ""
        print(row, best, result)
