"""Second floor: what an estimator learns on a frozen base, and how."""

from skxlmr.training.adapters import Full, Head, LoRA

__all__ = ["Full", "Head", "LoRA"]
