"""Twenty training steps have the same losses as transformers with peft and torch's AdamW."""

import numpy as np
import peft
import pytest
import torch
import torch.nn.functional as F
import transformers

from skxlmr import LoRA
from skxlmr.checkpoints.peft_adapter import PEFT_PREFIX
from skxlmr.model import XLMRobertaXLForSequenceClassification
from skxlmr.model.key_maps import key_map
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import WindowPlan
from skxlmr.runtime.run import HostBatch
from skxlmr.training import Callback
from skxlmr.training.loop import Trainer
from skxlmr.training.schedule import Schedule
from skxlmr.tuning import LINEAR_LAYERS, PATHS

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers

N_ROWS, N_STEPS = 40, 20


class Losses(Callback):
    """Record the loss and the rows of each step."""

    def __init__(self):
        self.losses, self.rows, self.of_step = [], [], []

    def on_step_end(self, trainer):
        self.losses.append(trainer.loss)
        self.rows.append(self.of_step)
        self.of_step = []


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.XLMRobertaXLConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=40, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("model")
    transformers.XLMRobertaXLForSequenceClassification(config).double().save_pretrained(directory)
    return directory


@pytest.mark.parametrize("batch_tokens", [1000, 20], ids=["whole", "micro-batches"])
@pytest.mark.parametrize("targets", [("query", "value"), tuple(LINEAR_LAYERS)], ids=["query-value", "all"])
@pytest.mark.parametrize(("lr_schedule", "warmup"), [("linear", 0.06), ("cosine", 0.2), ("constant", 0.0)])
def test_trainer_losses_equal_peft(theirs, targets, lr_schedule, warmup, batch_tokens):
    rng = np.random.RandomState(0)
    windows = [np.array([0, *rng.randint(5, 60, rng.randint(1, 14)), 2], np.int32) for _ in range(N_ROWS)]
    labels = torch.from_numpy(rng.randint(0, 3, N_ROWS))
    schedule = Schedule(
        batch_size=4,
        batch_tokens=batch_tokens,
        max_epochs=2,
        learning_rate=5e-3,
        lr_schedule=lr_schedule,
        warmup=warmup,
    )
    model = XLMRobertaXLForSequenceClassification.from_pretrained(theirs, dtype=torch.float64).eval()
    torch.manual_seed(1)
    learned = Finetuned(LoRA(rank=4, targets=targets, layers=None), model.roberta, model.classifier).double().train()
    start = {name: value.clone() for name, value in learned.state_dict().items()}
    record = Losses()

    def losses(chosen, rows, recompute):
        record.of_step.extend(rows)
        batch = HostBatch.of([windows[i] for i in chosen], model.roberta).to(torch.device("cpu"))
        (hidden,) = model.roberta.encode(batch.ids, batch.position_ids, batch.packing, adapter=learned.adapter)
        return F.cross_entropy(learned.head(hidden[batch.packing.first]), labels[rows], reduction="none")

    model.roberta.requires_grad_(False)
    plan = WindowPlan(windows, np.arange(N_ROWS), np.arange(N_ROWS))
    trainer = Trainer(losses, learned, plan, np.ones(N_ROWS), schedule, seed=0, callbacks=[record])
    trainer.run()
    assert trainer.step == N_STEPS

    expected = peft_losses(theirs, targets, start, windows, labels, record.rows, schedule)
    np.testing.assert_allclose(record.losses, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(record.losses, expected, rtol=1e-10)
    assert record.losses[-1] != record.losses[0]


def peft_losses(directory, targets, start, windows, labels, rows_of_step, schedule):
    """Return the losses of the reference on padded batches of the same rows."""
    model = transformers.XLMRobertaXLForSequenceClassification.from_pretrained(directory, dtype=torch.float64)
    keys = key_map("xlm-roberta-xl")
    names = {
        (i, name): keys.to_theirs(f"roberta.layers.{i}.{PATHS[name]}.weight").removesuffix(".weight")
        for i in range(model.config.num_hidden_layers)
        for name in targets
    }
    settings = {"r": 4, "lora_alpha": 16, "lora_dropout": 0.0, "modules_to_save": ["classifier"]}
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=list(names.values()), **settings)
    model = peft.get_peft_model(model, config).double().train()
    for (i, name), theirs in names.items():
        module = model.get_submodule(PEFT_PREFIX + theirs)
        module.lora_A["default"].weight.data.copy_(start[f"adapter.{i}.{name}.a"])
        module.lora_B["default"].weight.data.copy_(start[f"adapter.{i}.{name}.b"])
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices, others = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}])
    result = []
    for step, rows in enumerate(rows_of_step):
        ids = [torch.from_numpy(windows[row]).long() for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=1)
        loss = model(input_ids=ids, attention_mask=ids.ne(1).long(), labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step, N_STEPS)
        optimizer.step()
        result.append(loss.item())
    return result
