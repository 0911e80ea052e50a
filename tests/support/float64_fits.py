"""Fits in float64, in which results that differ by rounding alone agree to ten digits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.hardware.device import DTYPES

attend = F.scaled_dot_product_attention


def attend_without_dropout(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout_p: float = 0.0, **options: Any
) -> Tensor:
    return attend(q, k, v, mask, **options)


@contextmanager
def float64(dropout: bool = False) -> Iterator[None]:
    """Compute in float64 where estimators compute in float32; and without dropout."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(Tensor, "float", Tensor.double),
            mock.patch.object(nn.Module, "float", nn.Module.double),
            mock.patch.dict(DTYPES, float32=torch.float64),
            mock.patch.object(F, "dropout", F.dropout if dropout else lambda x, *_: x),
            mock.patch.object(F, "scaled_dot_product_attention", attend if dropout else attend_without_dropout),
        ):
            yield
    finally:
        torch.set_default_dtype(before)


def fit_in_float64(fits: list[tuple[Any, tuple]], dropout: bool = False) -> list[tuple[list[float], dict[str, Any]]]:
    """Fit estimators one after the other, each with its data; return the losses and the trained weights of each."""
    results = []
    with float64(dropout):
        for estimator, data in fits:
            estimator._fit(*data)
            assert not any(module.training for module in estimator._finetuned.modules())
            assert not any(parameter.requires_grad for parameter in estimator._finetuned.parameters())
            weights = {name: p.detach().numpy() for name, p in estimator._finetuned.state_dict().items()}
            assert all(weight.dtype == np.float64 for weight in weights.values() if weight.dtype.kind == "f")
            results.append((estimator.loss_curve_, weights))
    return results
