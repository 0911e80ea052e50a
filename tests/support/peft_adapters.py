"""Tiny checkpoints of transformers, and adapters that peft makes for them, with random weights that matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from torch import nn

import skxlmr
from skxlmr.runtime.backbone import get_backbone

TEXTS = ["a wonderful film", "很好看的电影", "dreadful", "I loved every minute of it"]
SHAPE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
SEQUENCES = ("ForSequenceClassification", "SEQ_CLS")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
WARNINGS_OF_PEFT = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # in peft
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True:UserWarning"),  # in peft
    pytest.mark.filterwarnings(
        "ignore:Adapter 'default'. 3 LoRA tensor.s. have invalid shape"
    ),  # of lora_bias, in peft
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),  # in peft
    pytest.mark.filterwarnings("ignore:.*peft stores neither the names of labels nor whether"),  # test_trained_adapter
]
FAMILIES = {"xlm-roberta-xl": "XLMRobertaXL", "xlm-roberta": "XLMRoberta", "bert": "Bert"}


def write_base(directory: Path, kind: str = "xlm-roberta-xl", ending: str = "ForMaskedLM") -> str:
    """Write a checkpoint with random weights and the bundled vocabulary."""
    tokenizer = get_backbone("nano").tokenizer
    torch.manual_seed(0)
    settings = {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 64, "initializer_range": 0.1}
    config = getattr(transformers, FAMILIES[kind] + "Config")(**SHAPE, **settings)
    model = getattr(transformers, FAMILIES[kind] + ending)(config)
    randomise(model)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def randomise(model: nn.Module) -> None:
    """Draw trained weights that peft or transformers sets to constants, so that they matter."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ("bias" in name or "lora_B" in name or "classifier" in name):
            nn.init.normal_(parameter, std=0.3)


def make_adapter(directory: Path, base: str, ending: str, task: str | None, kind: str = "xlm-roberta-xl", **options):
    """Write an adapter of peft for a class of transformers; returns the model in evaluation mode."""
    of_model = {name: options.pop(name) for name in ("num_labels", "is_decoder", "id2label") if name in options}
    safe = options.pop("safe", True)
    torch.manual_seed(2)
    config = transformers.AutoConfig.from_pretrained(base, **of_model)
    model = getattr(transformers, FAMILIES[kind] + ending).from_pretrained(base, config=config)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type=task, **{"r": 2, **options}))
    randomise(model)
    model.save_pretrained(directory, safe_serialization=safe)
    return model.eval()


@torch.no_grad()
def logits_of(model: nn.Module, texts=TEXTS) -> np.ndarray:
    """Outputs of transformers' model for single texts, on a padded batch."""
    batch = get_backbone("nano").tokenizer(list(texts), padding=True, return_tensors="pt")
    return model(**batch).logits.numpy()


def edit(directory: Path, **changes: Any) -> None:
    """Change entries of adapter_config.json."""
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def load(directory: Path, **parameters: Any) -> Any:
    """Return the estimator of an adapter, in float32."""
    return skxlmr.load(directory, device="cpu", dtype="float32", **parameters)
