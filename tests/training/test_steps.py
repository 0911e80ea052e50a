"""The gradients of steps: lack of memory, and the scaling of losses in float16."""

import pytest
import torch
from trainers import train

from skxlmr.training.optimizers import AdamW


def test_trainer_out_of_memory_halves_the_batch_and_repeats_the_step():
    def run(most):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.ones(8, dtype=torch.float64))
        failures, draws = [], []

        def losses(windows, rows, recompute):
            draws.append(torch.rand(1).item())
            if len(windows) > most:
                failures.append(len(windows))
                raise torch.OutOfMemoryError("injected")
            return (parameter[rows] - 3) ** 2

        _, history = train(losses, parameter, batch_tokens=32)
        return parameter.detach(), history, failures, draws

    whole, plain, none, _ = run(8)
    parts, retried, failures, draws = run(4)
    assert not none
    assert failures == [8]
    assert draws[1] == draws[0], "the second attempt draws the same numbers"
    assert len(set(draws)) == len(draws) - 1
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    assert retried.loss.tolist() == pytest.approx(plain.loss.tolist(), abs=1e-12)


def test_trainer_out_of_memory_with_one_text_raises():
    parameter = torch.nn.Parameter(torch.ones(1))

    def losses(windows, rows, recompute):
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later.")

    with pytest.raises(
        torch.OutOfMemoryError, match=r"out of memory(.|\n)*smallest batches and gradient checkpointing"
    ):
        train(losses, parameter)


def test_trainer_out_of_memory_turns_checkpointing_on_last():
    asked = []

    def losses(parameter, windows, recompute):
        asked.append((len(windows), recompute))
        if len(windows) > 1 or not recompute:
            raise torch.OutOfMemoryError("injected")
        return parameter[windows] ** 2

    parameter = torch.nn.Parameter(torch.ones(8))
    train(lambda w, rows, recompute: losses(parameter, w, recompute), parameter, max_epochs=1, batch_tokens=8)
    assert asked == [(2, False), (1, False), *[(1, True)] * 8]


STEP = {"max_epochs": 3, "batch_tokens": 8, "weight_decay": 0.1}


def train_on(device, sizes=(1000, 10), **settings):
    """Train matrices and a vector, two groups of the optimizer; return the parameters."""
    module = torch.nn.ParameterList([torch.ones(sizes[0], 2), torch.ones(sizes[1])]).to(device)

    def losses(windows, rows, recompute):
        return sum((p - 3).square().sum() for p in module).expand(len(windows))

    return module, lambda: train(losses, module, **(STEP | settings))


def test_state_of_the_optimizer_that_does_not_fit_raises_before_any_weight_changes(emulate):
    gpu = emulate("A10")
    module, run = train_on("cuda")
    gpu.memory.total = gpu.memory.allocated + 2 * (module[0].nbytes + module[1].nbytes) - 1
    with pytest.raises(torch.OutOfMemoryError, match=r"state of the optimizer does not fit(.|\n)*'adamw8bit'"):
        run()
    assert all((p == 1).all() for p in module)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_step_of_an_optimizer_allocates_nothing(optimizer, emulate, monkeypatch):
    """So that memory cannot run out when some of the weights are updated."""
    gpu, before = emulate("A10"), []
    module, run = train_on("cuda", (5000, 10), optimizer=optimizer)

    def observed(step):
        def call(*args):
            gpu.memory.reset_peak()
            before.append(gpu.memory.allocated)
            step(*args)
            before[-1] = gpu.memory.peak - before[-1]

        return call

    import bitsandbytes.optim

    for cls in (AdamW, bitsandbytes.optim.AdamW8bit):
        monkeypatch.setattr(cls, "step", observed(cls.step))
    run()
    assert len(before) == 3
    assert max(before) < module[0].nbytes / 10
    assert all((p > 1).all() for p in module)


def test_out_of_memory_within_a_step_of_the_optimizer_says_that_the_training_cannot_go_on(monkeypatch):
    def fails(self):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(AdamW, "step", fails)
    _, run = train_on("cpu")
    with pytest.raises(
        torch.OutOfMemoryError, match=r"out of memory(.|\n)*Some of them are updated and others are not"
    ):
        run()


def train_numbers(losses, half):
    parameter = torch.nn.Parameter(torch.full((8,), 0.5))
    settings = {"max_epochs": 4, "batch_tokens": 8}
    trainer, history = train(lambda windows, rows, _: losses(parameter, rows), parameter, half, **settings)
    return trainer, history, parameter.detach()


def test_loss_scale_shrinks_until_float16_fits():
    def losses(parameter, rows):
        return (parameter[rows].half() * 100).square().float() / 100

    trainer, history, scaled = train_numbers(losses, half=True)
    _, plain_history, plain = train_numbers(losses, half=False)
    assert 1 < trainer.position.loss_scale < 2.0**16, "it started too high, and no step was skipped"
    assert trainer.step == 4
    torch.testing.assert_close(scaled, plain, rtol=1e-3, atol=1e-4)
    assert history.loss.tolist() == pytest.approx(plain_history.loss.tolist(), rel=1e-3)


def test_loss_scale_keeps_small_float16_gradients():
    def losses(parameter, rows):
        return (parameter[rows].half() * 1e-4).float() * 1e-4  # a gradient of 1e-8, which is zero in float16

    _, _, scaled = train_numbers(losses, half=True)
    assert (scaled < 0.5).all()


def test_loss_scale_with_an_invalid_gradient_raises():
    with pytest.raises(FloatingPointError, match="gradient became"):
        train_numbers(lambda parameter, rows: (parameter[rows] - 0.5).abs().sqrt(), half=True)


def test_trainer_with_a_foreign_overflow_error_raises_it():
    def losses(parameter, rows):
        raise OverflowError("my own")

    with pytest.raises(OverflowError, match="my own"):
        train_numbers(losses, half=True)
