"""Labels of trained heads."""

import pytest

from skxlmr.model import XLMRobertaConfig
from skxlmr.runtime.plan import Windows
from skxlmr.tasks.classification import Classification
from skxlmr.tasks.pretrained import check_length


def test_labels_of_a_length_that_would_fill_the_memory_raise():
    labels = ["a" * 2**24, "b", "c"]
    with pytest.raises(ValueError, match=r"the names in id2label are too long: 'aaa"):
        check_length(labels, "id2label")
    check_length([*range(100)], "id2label")
    task, config = Classification(Windows(None, None, False)), XLMRobertaConfig(num_labels=3)
    with pytest.raises(ValueError, match="the names in its classes are too long"):
        task.of_outputs(config, labels)
