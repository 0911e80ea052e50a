"""Trainings of a few numbers, without a model."""

import numpy as np
import torch

from skxlmr.runtime.plan import WindowPlan
from skxlmr.training.loop import Trainer
from skxlmr.training.schedule import Schedule


def train(losses, parameter, half=False, order=None, **settings):
    """Train a parameter on eight rows of four tokens; return the trainer and the history."""
    n_rows = 8
    plan = WindowPlan([np.arange(4, dtype=np.int32)] * n_rows, np.arange(n_rows), np.arange(n_rows))
    schedule = Schedule(**{"batch_size": 8, "batch_tokens": 100, "max_epochs": 3, "learning_rate": 0.1, **settings})
    module = torch.nn.ParameterList([parameter])
    trainer = Trainer(losses, module, plan, np.ones(n_rows), schedule, seed=0, order=order, half=half)
    return trainer, trainer.run()
