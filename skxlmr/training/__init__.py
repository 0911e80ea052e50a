"""Second floor: what an estimator learns on a frozen base, and how."""

from skxlmr.training.adapters import Bias, Full, Head, LoRA

__all__ = ["Bias", "Full", "Head", "LoRA"]
