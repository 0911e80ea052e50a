import gc
import shutil
import threading

import pytest
import torch

from skxlmr.backbone import choose_device, choose_dtype, get_backbone, release_models
from skxlmr.weights.resolve import resolve


def test_the_same_checkpoint_is_loaded_once(tmp_path):
    first = get_backbone("nano")
    assert get_backbone("nano") is first
    copy = shutil.copytree(resolve("nano").directory, tmp_path / "copy")
    assert get_backbone(copy) is first, "the content decides, not the path"
    assert get_backbone("nano", dtype="bfloat16") is not first
    assert not any(p.requires_grad for p in first.model.parameters())
    assert not first.model.training


def test_threads_share_one_load():
    release_models()
    gc.collect()
    found = []
    threads = [threading.Thread(target=lambda: found.append(get_backbone("nano"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(backbone) for backbone in found}) == 1


def test_a_released_base_is_freed_and_loaded_again():
    identity = id(get_backbone("nano", dtype="float16").model)
    kept = get_backbone("nano", dtype="float16")
    assert id(kept.model) == identity, "the latest one is kept although nothing held it"
    import weakref

    watch = weakref.ref(kept)
    del kept
    release_models()
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "tpu"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ValueError, match=f"device='{device}'"):
        choose_device(device)


def test_auto():
    device = choose_device("auto")
    assert device.type in ("cpu", "cuda", "mps")
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("bfloat16", device) == torch.bfloat16
