"""Parts of modules that are watched."""

import pytest
import torch
from torch import nn

from skxlmr.model.watched import Watched


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def watched_model():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
    watched = Watched()
    watched.module(model, "0", "1")
    for linear in model:
        watched.module(linear)
        watched.tensors(linear._parameters, "weight", "bias")
    watched.attributes(model, training=True)
    watched.packed.append(model[0].weight)
    watched.finish()
    return model, watched


CHANGES = {
    "child": lambda model: setattr(model, "0", nn.Linear(3, 3)),
    "class": lambda model: setattr(model[1], "__class__", Doubled),
    "hook": lambda model: model[1].register_forward_hook(lambda *_: None),
    "hook before": lambda model: model.register_forward_pre_hook(lambda *_: None),
    "parameter": lambda model: setattr(model[1], "weight", nn.Parameter(torch.zeros(3, 3))),
    "storage": lambda model: setattr(model[0].bias, "data", torch.zeros(3)),
    "new bias": lambda model: setattr(model[1], "bias", nn.Parameter(torch.zeros(3))),
    "missing bias": lambda model: delattr(model[0], "bias"),
    "attribute": lambda model: model.eval(),
    "packed in place": lambda model: nn.init.zeros_(model[0].weight),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_change_is_noticed(change):
    model, watched = watched_model()
    assert watched.is_unchanged()
    change(model)
    assert not watched.is_unchanged()


def test_values_that_are_not_packed_may_change():
    model, watched = watched_model()
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[0].bias)
    assert watched.is_unchanged()
