"""The examples of the reference's documentation page, with other imports and another checkpoint name.

Each example's outputs are then compared with those of the installed transformers on the same weights.
"""

import pytest
import torch
import transformers

from skxlmr import model as models
from skxlmr.model import (
    NewHeadWarning,
    XLMRobertaXLConfig,
    XLMRobertaXLForCausalLM,
    XLMRobertaXLForMaskedLM,
    XLMRobertaXLForMultipleChoice,
    XLMRobertaXLForQuestionAnswering,
    XLMRobertaXLForSequenceClassification,
    XLMRobertaXLForTokenClassification,
    XLMRobertaXLModel,
)
from skxlmr.model import XLMRobertaXLTokenizer as AutoTokenizer

# Most examples use a new head on a pretrained encoder; test_from_pretrained_new_heads_warn tests the warning.
pytestmark = pytest.mark.filterwarnings("ignore::skxlmr.model.NewHeadWarning")


@pytest.fixture
def assert_as_reference(tmp_path):
    """Compare the outputs of a call with those of the reference with the weights that we save."""

    def compare(model, outputs, **call):
        model.save_pretrained(tmp_path)
        reference = getattr(transformers, type(model).__name__).from_pretrained(tmp_path, dtype=torch.float32).eval()
        with torch.no_grad():
            expected = reference(**call)
        compared = 0
        for name in set(outputs.keys()) - {"past_key_values"}:
            torch.testing.assert_close(outputs[name], expected[name], rtol=1e-4, atol=1e-4)
            compared += 1
        assert compared

    return compare


def test_page_example_configuration():
    with torch.device("meta"):  # shapes only: the default is the model of 3.5 billion parameters
        # Initializing a configuration in the style of facebook/xlm-roberta-xl
        configuration = XLMRobertaXLConfig()

        # Initializing a model with random weights from it
        model = XLMRobertaXLModel(configuration)

        # Accessing the model configuration
        configuration = model.config

    assert configuration == XLMRobertaXLConfig.xl()
    assert round(sum(p.numel() for p in model.parameters()) / 1e9, 2) == 3.48


def test_page_example_model(assert_as_reference):
    tokenizer = AutoTokenizer.from_pretrained("nano")
    model = XLMRobertaXLModel.from_pretrained("nano")

    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")
    outputs = model(**inputs)

    last_hidden_states = outputs.last_hidden_state

    assert last_hidden_states.shape == (1, inputs.input_ids.shape[1], model.config.hidden_size)
    assert_as_reference(model, outputs, **inputs)


def test_page_example_causal_language_model(assert_as_reference):
    tokenizer = AutoTokenizer.from_pretrained("nano")
    config = XLMRobertaXLConfig.from_pretrained("nano")
    config.is_decoder = True
    model = XLMRobertaXLForCausalLM.from_pretrained("nano", config=config)

    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")
    outputs = model(**inputs)

    prediction_logits = outputs.logits

    assert prediction_logits.shape == (*inputs.input_ids.shape, config.vocab_size)
    assert_as_reference(model, outputs, **inputs)

    outputs = model(**inputs, labels=inputs["input_ids"])
    assert_as_reference(model, outputs, **inputs, labels=inputs["input_ids"])


def test_page_example_masked_language_model(assert_as_reference):
    tokenizer = AutoTokenizer.from_pretrained("nano")
    model = XLMRobertaXLForMaskedLM.from_pretrained("nano")

    inputs = tokenizer("The capital of France is <mask>.", return_tensors="pt")

    with torch.no_grad():
        logits = model(**inputs).logits

    # where the mask is
    mask_token_index = (inputs.input_ids == tokenizer.mask_token_id)[0].nonzero(as_tuple=True)[0]

    predicted_token_id = logits[0, mask_token_index].argmax(axis=-1)
    predicted = tokenizer.decode(predicted_token_id)

    labels = tokenizer("The capital of France is Paris.", return_tensors="pt")["input_ids"]
    # only the masked token has a label
    labels = torch.where(inputs.input_ids == tokenizer.mask_token_id, labels, -100)

    outputs = model(**inputs, labels=labels)
    loss = round(outputs.loss.item(), 2)

    assert tokenizer.convert_ids_to_tokens(labels[0, mask_token_index].tolist()) == ["▁Paris"]
    assert isinstance(predicted, str)
    surprise = -logits.log_softmax(-1)[0, mask_token_index, labels[0, mask_token_index]].item()
    assert loss == pytest.approx(surprise, abs=0.01)
    assert_as_reference(model, outputs, **inputs, labels=labels)


def test_page_example_single_label_classification(assert_as_reference):
    tokenizer = AutoTokenizer.from_pretrained("nano")
    model = XLMRobertaXLForSequenceClassification.from_pretrained("nano")

    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")

    with torch.no_grad():
        logits = model(**inputs).logits

    predicted_class_id = logits.argmax().item()
    predicted = model.config.id2label[predicted_class_id]

    # num_labels may be given to train a model on so many classes
    num_labels = len(model.config.id2label)
    model = XLMRobertaXLForSequenceClassification.from_pretrained("nano", num_labels=num_labels)

    labels = torch.tensor([1])
    outputs = model(**inputs, labels=labels)
    loss = round(outputs.loss.item(), 2)

    assert predicted == f"LABEL_{predicted_class_id}"
    assert loss == pytest.approx(-outputs.logits.log_softmax(-1)[0, 1].item(), abs=0.01)
    assert_as_reference(model, outputs, **inputs, labels=labels)


def test_page_example_multi_label_classification(assert_as_reference):
    tokenizer = AutoTokenizer.from_pretrained("nano")
    model = XLMRobertaXLForSequenceClassification.from_pretrained("nano", problem_type="multi_label_classification")

    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")

    with torch.no_grad():
        logits = model(**inputs).logits

    predicted_class_ids = torch.arange(0, logits.shape[-1])[torch.sigmoid(logits).squeeze(dim=0) > 0.5]

    # num_labels may be given to train a model on so many classes
    num_labels = len(model.config.id2label)
    model = XLMRobertaXLForSequenceClassification.from_pretrained(
        "nano", num_labels=num_labels, problem_type="multi_label_classification"
    )

    labels = torch.sum(
        torch.nn.functional.one_hot(predicted_class_ids[None, :].clone(), num_classes=num_labels), dim=1
    ).to(torch.float)
    outputs = model(**inputs, labels=labels)

    assert labels.tolist() == (logits > 0).float().tolist()
    assert model.config.problem_type == "multi_label_classification"
    assert_as_reference(model, outputs, **inputs, labels=labels)


def test_page_example_multiple_choice(assert_as_reference):
    tokenizer = AutoTokenizer.from_pretrained("nano")
    model = XLMRobertaXLForMultipleChoice.from_pretrained("nano")

    prompt = "In Italy, pizza served in formal settings, such as at a restaurant, is presented unsliced."
    choice0 = "It is eaten with a fork and a knife."
    choice1 = "It is eaten while held in the hand."
    labels = torch.tensor(0).unsqueeze(0)  # the first choice is right; one question

    encoding = tokenizer([prompt, prompt], [choice0, choice1], return_tensors="pt", padding=True)
    outputs = model(**{k: v.unsqueeze(0) for k, v in encoding.items()}, labels=labels)

    # the head is still to be trained
    loss = outputs.loss
    logits = outputs.logits

    assert logits.shape == (1, 2)
    assert loss.item() == pytest.approx(-logits.log_softmax(-1)[0, 0].item(), abs=1e-6)
    assert_as_reference(model, outputs, **{k: v.unsqueeze(0) for k, v in encoding.items()}, labels=labels)


def test_page_example_token_classification(assert_as_reference):
    tokenizer = AutoTokenizer.from_pretrained("nano")
    model = XLMRobertaXLForTokenClassification.from_pretrained("nano")

    inputs = tokenizer(
        "HuggingFace is a company based in Paris and New York", add_special_tokens=False, return_tensors="pt"
    )

    with torch.no_grad():
        logits = model(**inputs).logits

    predicted_token_class_ids = logits.argmax(-1)

    # Tokens are classified, not words: there may be more classes than words,
    # and several for one word
    predicted_tokens_classes = [model.config.id2label[t.item()] for t in predicted_token_class_ids[0]]

    labels = predicted_token_class_ids
    outputs = model(**inputs, labels=labels)
    loss = round(outputs.loss.item(), 2)

    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(inputs.input_ids[0].tolist())
    assert len(predicted_tokens_classes) == inputs.input_ids.shape[1]
    assert set(predicted_tokens_classes) <= {"LABEL_0", "LABEL_1"}
    assert loss == pytest.approx(-logits.log_softmax(-1).max(-1).values.mean().item(), abs=0.01)
    assert_as_reference(model, outputs, **inputs, labels=labels)


def test_page_example_question_answering(assert_as_reference):
    tokenizer = AutoTokenizer.from_pretrained("nano")
    model = XLMRobertaXLForQuestionAnswering.from_pretrained("nano")

    question, text = "Who was Jim Henson?", "Jim Henson was a nice puppet"

    inputs = tokenizer(question, text, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)

    answer_start_index = outputs.start_logits.argmax()
    answer_end_index = outputs.end_logits.argmax()

    predict_answer_tokens = inputs.input_ids[0, answer_start_index : answer_end_index + 1]
    answer = tokenizer.decode(predict_answer_tokens, skip_special_tokens=True)

    # the right answer is "nice puppet"
    target_start_index = torch.tensor([14])
    target_end_index = torch.tensor([15])

    outputs = model(**inputs, start_positions=target_start_index, end_positions=target_end_index)
    loss = round(outputs.loss.item(), 2)

    assert not {"<s>", "</s>"} & set(answer.split())
    surprises = [
        -outputs.start_logits.log_softmax(-1)[0, 14].item(), -outputs.end_logits.log_softmax(-1)[0, 15].item(),
    ]  # fmt: skip
    assert loss == pytest.approx(sum(surprises) / 2, abs=0.01)
    positions = {"start_positions": target_start_index, "end_positions": target_end_index}
    assert_as_reference(model, outputs, **inputs, **positions)


@pytest.mark.filterwarnings("default::skxlmr.model.NewHeadWarning")
@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("Model", "pooler.dense.weight"),
        ("ForSequenceClassification", "classifier.out_proj.weight"),
        ("ForMultipleChoice", "roberta.pooler.dense.weight"),
        ("ForTokenClassification", "classifier.weight"),
        ("ForQuestionAnswering", "qa_outputs.weight"),
    ],
)
def test_from_pretrained_new_heads_warn(name, new):
    with pytest.warns(NewHeadWarning, match=new):
        getattr(models, "XLMRobertaXL" + name).from_pretrained("nano")
