"""Training an adapter and a head on a frozen base model."""

from skxlmr.training.callbacks import Callback, MLflowLogger, ProgressBar, TensorBoardLogger
from skxlmr.tuning import Bias, Full, Head, LoRA

__all__ = ["Bias", "Callback", "Full", "Head", "LoRA", "MLflowLogger", "ProgressBar", "TensorBoardLogger"]
