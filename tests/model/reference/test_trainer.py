"""The Trainer and accelerate of transformers on models of this package."""

import accelerate
import pytest
import safetensors.torch
import torch
import transformers
from padded_batches import batch, build

from skxlmr.checkpoints.errors import CheckpointError

IDS, MASK = batch()
ROWS = [
    {"input_ids": ids, "attention_mask": mask, "labels": row % 2}
    for row, (ids, mask) in enumerate(zip(IDS, MASK, strict=True))
]


@pytest.fixture
def trained(tmp_path):
    """A trainer with options of the Trainer that reach into the model, after a step."""
    arguments = transformers.TrainingArguments(
        str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=4,
        label_smoothing_factor=0.1,  # computes the loss from the other outputs
        neftune_noise_alpha=5,  # a hook on the word embedding
        activation_checkpointing=True,
        activation_checkpointing_kwargs={"every_n_layers": 2},
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    model = build("ForSequenceClassification").float()
    trainer = transformers.Trainer(model, arguments, train_dataset=ROWS, eval_dataset=ROWS)
    trainer.train()
    return trainer


def test_trainer_trains_predicts_and_saves_weights(trained, tmp_path):
    predictions = trained.predict(ROWS)
    assert predictions.predictions.shape == (4, 2)
    saved = tmp_path / "saved"
    trained.save_model(str(saved))  # the weights alone, since it knows models of transformers only
    again = build("ForSequenceClassification").float()
    again.load_state_dict(safetensors.torch.load_file(saved / "model.safetensors"))
    loaded = type(again).from_pretrained(saved, config=trained.model.config)
    loaded.save_pretrained(tmp_path / "whole")
    for model in (again, loaded, type(again).from_pretrained(tmp_path / "whole")):
        torch.testing.assert_close(
            model(IDS, MASK).logits, torch.tensor(predictions.predictions), rtol=0, atol=1e-6
        )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"as transformers' Trainer saves .*config=model\.config"):
        type(again).from_pretrained(saved)


def test_model_is_saved_as_in_examples_of_accelerate(tmp_path):
    accelerator = accelerate.Accelerator(cpu=True)
    model = accelerator.prepare(build("ForSequenceClassification").float())
    accelerator.unwrap_model(model).save_pretrained(
        tmp_path,
        is_main_process=accelerator.is_main_process,
        save_function=accelerator.save,
        state_dict=accelerator.get_state_dict(model),
    )
    again = transformers.XLMRobertaXLForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(again(IDS, attention_mask=MASK).logits, model(IDS, MASK).logits, rtol=0, atol=1e-5)
