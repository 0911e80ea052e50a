"""Training on a frozen base model: the tunings and callbacks that users pass to estimators."""

from skxlmr.training.callbacks import Callback, MLflowLogger, ProgressBar, TensorBoardLogger
from skxlmr.tuning import Bias, Full, Head, LoRA

__all__ = ["Bias", "Callback", "Full", "Head", "LoRA", "MLflowLogger", "ProgressBar", "TensorBoardLogger"]
