"""Second floor: what an estimator learns on a frozen base, and how."""

from skxlmr.training.callbacks import Callback, MLflowLogger, ProgressBar, TensorBoardLogger
from skxlmr.tuning import Bias, Full, Head, LoRA

__all__ = ["Bias", "Callback", "Full", "Head", "LoRA", "MLflowLogger", "ProgressBar", "TensorBoardLogger"]
