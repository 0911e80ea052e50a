"""The settings of a training that "auto" stands for."""

from __future__ import annotations

from collections.abc import Sequence

from skxlmr.hardware.advice import training_budget
from skxlmr.hardware.estimate import Together
from skxlmr.model.storage import EightBit
from skxlmr.runtime.backbone import Backbone
from skxlmr.training.ranks import ALONE, Ranks
from skxlmr.training.schedule import Schedule
from skxlmr.training.settings import TrainingParameters
from skxlmr.tuning import Tuning

# A study on topics, sentiment and pairs (benchmarks/NOTES.md): few rows gain from ten epochs, many need fewer.
MAX_EPOCHS = 10
MIN_EPOCHS = 3
STEPS = 150


def auto_epochs(n_rows: int, batch_size: int) -> int:
    """Return the number of epochs of `max_epochs="auto"`: about `STEPS` steps, within bounds.

    Examples
    --------
    >>> [auto_epochs(n_rows, 32) for n_rows in (56, 700, 4500)]
    [10, 7, 3]
    """
    per_epoch = -(-n_rows // batch_size)
    return min(max(-(-STEPS // per_epoch), MIN_EPOCHS), MAX_EPOCHS)


def resolved_schedule(
    settings: TrainingParameters,
    backbone: Backbone,
    tuning: Tuning,
    n_rows: int,
    ranks: Ranks = ALONE,
    language_model: str | None = None,
) -> Schedule:
    """Resolve the "auto" of the settings, by the number of rows, the tuning and the free memory.

    `language_model` is that of `skxlmr.hardware.footprint.LANGUAGE_MODELS` whose head is trained, if one is.
    """
    batch_tokens, gradient_checkpointing = backbone.batch_tokens(settings.batch_tokens), False
    if settings.batch_tokens == "auto":
        batch_tokens, gradient_checkpointing = training_budget(
            backbone.model.config,
            batch_tokens,
            tuning=tuning,
            load_in_8bit=backbone.storage if isinstance(backbone.storage, EightBit) else False,
            load_in_4bit=backbone.storage == "nf4",
            dtype=str(backbone.model.dtype).removeprefix("torch."),
            device=str(backbone.model.device),
            processes=Together(ranks.size_here, getattr(settings.processes, "strategy", "ddp")),
            language_model=language_model,
        )
    return Schedule(
        batch_size=settings.batch_size,
        batch_tokens=batch_tokens,
        max_epochs=(
            auto_epochs(n_rows, settings.batch_size) if settings.max_epochs == "auto" else int(settings.max_epochs)
        ),
        learning_rate=(
            tuning.default_learning_rate(backbone.model.config)
            if settings.learning_rate == "auto"
            else float(settings.learning_rate)
        ),
        lr_schedule=settings.lr_schedule,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optimizer=settings.optimizer,
        gradient_checkpointing=gradient_checkpointing,
    )


def least_memory(schedules: Sequence[Schedule]) -> Schedule:
    """Return that one of the schedules that needs the least memory; they are the same otherwise."""
    return min(schedules, key=lambda each: (not each.gradient_checkpointing, each.batch_tokens))
