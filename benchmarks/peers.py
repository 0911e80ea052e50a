"""The alternatives with the same weights: transformers, sentence-transformers, SetFit, peft, skorch."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers

from skxlmr.checkpoints.resolve import resolve

warnings.filterwarnings("ignore", category=FutureWarning)  # peft uses deprecated functions of transformers
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
logging.getLogger("sentence_transformers").setLevel(logging.ERROR)

Labels = Sequence[int]


def tokenizer(directory: Path) -> transformers.PreTrainedTokenizerBase:
    """Return the tokenizer of transformers for a directory, and save it there for `AutoTokenizer`."""
    found = transformers.XLMRobertaTokenizer.from_pretrained(directory)
    if not (directory / "tokenizer.json").exists():
        found.save_pretrained(directory)
    return found


def export(model: str, directory: Path) -> Path:
    """Copy a model, with the tokenizer of transformers and the modules of sentence-transformers: mean, length 1."""
    shutil.copytree(resolve(model).directory, directory)
    tokenizer(directory)
    if not (directory / "modules.json").exists():
        hidden = json.loads((directory / "config.json").read_text())["hidden_size"]
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling"), ("2", "Normalize")))
        ]
        pooling = {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True}
        (directory / "1_Pooling").mkdir()
        (directory / "modules.json").write_text(json.dumps(modules))
        (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512}))
    return directory


def mean_of_tokens(output: transformers.utils.ModelOutput, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of the last hidden states of each text."""
    mask = mask[..., None]
    return (output.last_hidden_state.float() * mask).sum(1) / mask.sum(1)


def answer_of_head(output: transformers.utils.ModelOutput, mask: torch.Tensor) -> torch.Tensor:
    """Return the best class of each text or token, or the start of each answer."""
    return (output["logits"] if "logits" in output else output["start_logits"]).argmax(-1)


class Padded:
    """A model of transformers on padded batches.

    Parameters
    ----------
    directory : Path
    auto : class
        For example AutoModel.
    reduce : callable
        Computes the result of a batch from the output and the mask, on the device.
    dtype : torch.dtype
    device : str
    batch_size : int, default=32
        Texts per batch.
    by_length : bool, default=False
        Sort the texts by length instead of keeping the order of the caller.
    """

    def __init__(
        self,
        directory: Path,
        auto: type = transformers.AutoModel,
        reduce: Callable = mean_of_tokens,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        *,
        batch_size: int = 32,
        by_length: bool = False,
    ) -> None:
        self.tokenizer = tokenizer(directory)
        self.model = auto.from_pretrained(directory, dtype=dtype).to(device).eval()
        self.reduce, self.device = reduce, device
        self.batch_size, self.by_length = batch_size, by_length

    def with_batches(self, batch_size: int, *, by_length: bool) -> Padded:
        """Return the same model with another batch size."""
        other = copy.copy(self)
        other.batch_size, other.by_length = batch_size, by_length
        return other

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str] | Sequence[list[str]], pairs: Sequence[str] | None = None) -> list:
        words = not isinstance(texts[0], str)
        encoded = self.tokenizer(
            list(texts), pairs and list(pairs), is_split_into_words=words, truncation=True, max_length=512
        )
        lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        order = np.argsort(-lengths, kind="stable") if self.by_length else np.arange(len(lengths))
        results: list = [None] * len(lengths)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = self.tokenizer.pad(
                {name: [encoded[name][i] for i in rows] for name in ("input_ids", "attention_mask")},
                return_tensors="pt",
            ).to(self.device)
            output = self.reduce(self.model(**batch), batch["attention_mask"]).cpu()
            for row, value in zip(rows, output, strict=True):
                results[row] = value.numpy()
        return results


def pipeline(directory: Path, device: str, batch_size: int) -> Callable[[list[str]], object]:
    """Return `pipeline("feature-extraction")`, which keeps the order of the texts; by default one text per batch."""
    model = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32)
    extract = transformers.pipeline(
        "feature-extraction", model=model, tokenizer=tokenizer(directory), device=device, batch_size=batch_size
    )
    return lambda texts: extract(list(texts), return_tensors=True)


def sentence_transformers(directory: Path, device: str) -> Callable[[list[str]], np.ndarray]:
    """Return a SentenceTransformer with its defaults: float32, batches of 32, sorted by length."""
    from sentence_transformers import SentenceTransformer

    tokenizer(directory)
    with contextlib.redirect_stderr(io.StringIO()):
        model = SentenceTransformer(str(directory), device=device, model_kwargs={"dtype": torch.float32})
    return lambda texts: model.encode(list(texts), show_progress_bar=False)


def classifier(directory: Path, dtype: torch.dtype) -> torch.nn.Module:
    """Return the classifier of transformers for two classes, without dropout, like the frozen layers of skxlmr."""
    return transformers.AutoModelForSequenceClassification.from_pretrained(
        directory, num_labels=2, dtype=dtype, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )


def with_lora(model: torch.nn.Module, rank: int) -> torch.nn.Module:
    """Add LoRA of peft on queries and values to a model; `unload` removes it."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="SEQ_CLS", r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=["query", "value"]
    )
    return get_peft_model(model, config, autocast_adapter_dtype=True)


def trainer(
    directory: Path, dtype: torch.dtype, device: str, *, rank: int, batch_size: int
) -> Callable[[list[str], Labels], None]:
    """Train an epoch with transformers' Trainer and peft: random batches, each padded to its longest text."""
    tokens, base = tokenizer(directory), classifier(directory, dtype)

    def epoch(texts: list[str], labels: Labels) -> None:
        model = with_lora(base, rank)
        rows = [
            {"input_ids": ids, "labels": int(label)}
            for ids, label in zip(tokens(list(texts))["input_ids"], labels, strict=True)
        ]
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            settings = transformers.TrainingArguments(
                output_dir=folder, num_train_epochs=1, per_device_train_batch_size=batch_size, learning_rate=5e-4,
                report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=device == "cpu",
                dataloader_pin_memory=device != "cpu",
            )  # fmt: skip
            collator = transformers.DataCollatorWithPadding(tokens)
            transformers.Trainer(model, settings, train_dataset=rows, data_collator=collator).train()
        model.unload()

    return epoch


class LogitsOf(torch.nn.Module):
    """A classifier of transformers with LoRA, with the interface that skorch needs."""

    def __init__(self, base: torch.nn.Module, rank: int) -> None:
        super().__init__()
        self.model = with_lora(base, rank)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def skorch(
    directory: Path, dtype: torch.dtype, device: str, *, rank: int, batch_size: int
) -> Callable[[list[str], Labels], None]:
    """Train an epoch with skorch and the same model; its tokenizer for pipelines pads all texts to the longest."""
    from skorch import NeuralNetClassifier

    tokens, base = tokenizer(directory), classifier(directory, dtype)

    def epoch(texts: list[str], labels: Labels) -> None:
        encoded = tokens(list(texts), padding=True, return_tensors="np")
        net = NeuralNetClassifier(
            LogitsOf, module__base=base, module__rank=rank, criterion=torch.nn.CrossEntropyLoss,
            optimizer=torch.optim.AdamW, lr=5e-4, batch_size=batch_size, max_epochs=1, train_split=None,
            iterator_train__shuffle=True, verbose=0, device=device,
        )  # fmt: skip
        X = {name: encoded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        net.fit(X, np.asarray(labels, np.int64))
        net.module_.model.unload()

    return epoch


def encode(tokens: transformers.PreTrainedTokenizerBase, X: pd.Series | pd.DataFrame) -> list[dict[str, list[int]]]:
    """Return the pieces of each text, or of two columns."""
    columns = [X] if isinstance(X, pd.Series) else [X[name] for name in X]
    found = tokens(*(column.tolist() for column in columns), truncation=True, max_length=512)
    return [{"input_ids": ids} for ids in found["input_ids"]]


def fine_tuned(
    directory: Path,
    X: pd.Series | pd.DataFrame,
    y: pd.Series,
    *,
    device: str,
    seed: int,
    epochs: int = 10,
    learning_rate: float = 5e-5,
    warmup: float = 0.06,
) -> Callable[[pd.Series | pd.DataFrame], np.ndarray]:
    """Fine-tune all weights with transformers' Trainer on texts, or two columns; return the function that predicts.

    Batches have 32 rows, or 16 if there are fewer than 300. Numbers are standardised for training.
    """
    is_number = y.dtype.kind == "f"
    classes, labels = (None, (y - y.mean()) / y.std()) if is_number else np.unique(y, return_inverse=True)
    transformers.set_seed(seed)
    tokens = tokenizer(directory)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        directory, num_labels=1 if is_number else len(classes), dtype=torch.float32
    )
    targets = np.asarray(labels).astype(np.float32 if is_number else np.int64).tolist()
    rows = [{**row, "labels": target} for row, target in zip(encode(tokens, X), targets, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            output_dir=folder, num_train_epochs=epochs, learning_rate=learning_rate, warmup_steps=warmup, seed=seed,
            per_device_train_batch_size=32 if len(X) >= 300 else 16, per_device_eval_batch_size=64, report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=device == "cpu",
            bf16=device != "cpu", dataloader_pin_memory=device != "cpu",
        )  # fmt: skip
        twin = transformers.Trainer(
            model, settings, train_dataset=rows, data_collator=transformers.DataCollatorWithPadding(tokens)
        )
        with contextlib.redirect_stdout(io.StringIO()):
            twin.train()

    def predict(X: pd.Series | pd.DataFrame) -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()):
            outputs = twin.predict(encode(tokens, X)).predictions
        return outputs[:, 0] if is_number else classes[outputs.argmax(1)]

    return predict


def setfit(
    directory: Path, X: pd.Series, y: pd.Series, *, device: str, seed: int, prompt: str = "", pairs: int = 2240
) -> Callable[[pd.Series], np.ndarray]:
    """Train with SetFit, one epoch on pairs of texts, then LogisticRegression; return the function that predicts.

    SetFit draws two pairs per row and iteration: 20 iterations, or fewer so that there are about as many pairs as
    asked for. Everything else are its defaults, but for the prompt before each text.
    """
    import setfit as library
    from datasets import Dataset, disable_progress_bars
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    library.logging.set_verbosity_error()
    disable_progress_bars()
    warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true")  # SetFit has no setting for it
    transformers.set_seed(seed)
    classes, labels = np.unique(y, return_inverse=True)
    with contextlib.redirect_stderr(io.StringIO()):
        body = SentenceTransformer(str(directory), device=device, model_kwargs={"dtype": torch.float32})
    model = library.SetFitModel(body, LogisticRegression())
    rows = Dataset.from_dict({"text": [prompt + text for text in X], "label": labels.tolist()})
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        settings = library.TrainingArguments(
            output_dir=folder, num_iterations=max(1, min(20, round(pairs / (2 * len(X))))), seed=seed, report_to="none",
            save_strategy="no", logging_strategy="no", show_progress_bar=False,
        )  # fmt: skip
        library.Trainer(model, settings, train_dataset=rows).train()

    def predict(X: pd.Series) -> np.ndarray:
        found = model.predict([prompt + text for text in X], batch_size=32, as_numpy=True)
        return classes[found]

    return predict
