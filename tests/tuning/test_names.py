from skxlmr import Bias, Full, Head, LoRA
from skxlmr.tuning.names import as_tuning


def test_as_tuning_of_a_name_returns_its_defaults():
    tunings = [as_tuning(name) for name in ("lora", "bias", "head", "full")]
    assert [type(tuning) for tuning in tunings] == [LoRA, Bias, Head, Full]
    assert tunings[0].get_params() == LoRA().get_params()
    assert as_tuning(tunings[0]) is tunings[0]
