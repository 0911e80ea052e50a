"""Second floor: what an estimator learns on a frozen base, and how."""

from skxlmr.training.adapters import Bias, Full, Head, LoRA
from skxlmr.training.callbacks import Callback, MLflowLogger, ProgressBar, TensorBoardLogger

__all__ = ["Bias", "Callback", "Full", "Head", "LoRA", "MLflowLogger", "ProgressBar", "TensorBoardLogger"]
