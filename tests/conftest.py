"""Fixtures shared by all tests: the optional real data, and a small sentencepiece model trained on the spot."""

from __future__ import annotations

import gc
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sentencepiece
import torch
from emulated_cuda import GPUS, EmulatedCuda

REPOSITORY = Path(__file__).resolve().parents[1]
HAS_CUDA = torch.cuda.is_available()
FAST_GPU = "H100"  # the one that plain `pytest` emulates; `pytest -m gpu` emulates all

# Article 1 of the Universal Declaration of Human Rights, and a few everyday sentences, in several scripts.
TINY_CORPUS = [
    "All human beings are born free and equal in dignity and rights.",
    "They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Sie sind mit Vernunft und Gewissen begabt und sollen einander im Geiste der Brüderlichkeit begegnen.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "人人生而自由，在尊严和权利上一律平等。",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
    "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
    "Hello world! The quick brown fox jumps over the lazy dog. 0 1 2 3 4 5 6 7 8 9",
    "This film is wonderful, I loved it. That book was boring, I hated every page (and it cost $20).",
]


def pytest_configure() -> None:
    """Keep the user's cache of quantised weights out of the tests, doctests included."""
    os.environ["SKXLMR_CACHE"] = tempfile.mkdtemp(prefix="skxlmr-cache-")


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["SKXLMR_CACHE"], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the fixture `gpu`, so that `pytest -m gpu` selects them."""
    for item in items:
        if "gpu" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)


@contextmanager
def emulated(name: str, memory: int | None = None, n_devices: int = 1) -> Iterator[EmulatedCuda]:
    """Emulate one or more GPUs of a kind; models and features of earlier ones are forgotten, as they are afterwards."""
    _forget_models()
    try:
        with EmulatedCuda(GPUS[name], memory, n_devices=n_devices) as device:
            yield device
    finally:
        _forget_models()


def _forget_models() -> None:
    """Release the models and features on emulated GPUs."""
    from skxlmr.runtime import backbone
    from skxlmr.runtime.feature_cache import clear_features

    backbone.release_models()
    clear_features()
    if any(each.model.device.type == "cuda" for each in backbone._pool.values()):
        gc.collect()  # cycles may refer to estimators of earlier tests, which share their models


@pytest.fixture(
    params=["device"]
    if HAS_CUDA
    else [pytest.param(name, marks=[] if name == FAST_GPU else pytest.mark.slow) for name in GPUS]
)
def gpu(request: pytest.FixtureRequest) -> Iterator[EmulatedCuda | None]:
    """The CUDA device of this machine, for which this is None; without one, an emulated device."""
    if request.param == "device":
        yield None
        return
    with emulated(request.param) as device:
        yield device


@pytest.fixture
def emulate() -> Iterator[Callable[..., EmulatedCuda]]:
    """A function that emulates GPUs until the test ends: name and, if wanted, bytes of memory and number of devices."""
    if HAS_CUDA:
        pytest.skip("only machines without a CUDA device emulate one")
    with ExitStack() as stack:
        yield lambda *args: stack.enter_context(emulated(*args))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of quantised weights for one test."""
    monkeypatch.setenv("SKXLMR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "quantized"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets that are not part of the repository; the test skips where it is absent."""
    folder = Path(os.environ.get("SKXLMR_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set SKXLMR_SHARED_DATA to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def tiny_spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory holding a ``sentencepiece.bpe.model`` of some 300 pieces over several scripts, in XLM-R's layout."""
    directory = tmp_path_factory.mktemp("tiny_spm")
    (directory / "sentencepiece.bpe.model").write_bytes(train_sentencepiece())
    return directory


@pytest.fixture(scope="session")
def train_spm() -> Callable[..., bytes]:
    """The function that trained `tiny_spm`; it takes other settings of the trainer."""
    return train_sentencepiece


def train_sentencepiece(**settings: int | str) -> bytes:
    model = io.BytesIO()
    defaults = {"vocab_size": 400, "hard_vocab_limit": False, "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TINY_CORPUS),
        model_writer=model,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc",
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
        **(defaults | settings),
    )
    return model.getvalue()
