import threading

import numpy as np
import pytest

import skxlmr
from skxlmr.runtime import feature_cache
from skxlmr.runtime.feature_cache import ArrayCache, streaming


def test_array_cache_when_full_evicts_the_least_recently_used():
    cache = ArrayCache(max_bytes=3 * (80 + feature_cache.ENTRY_BYTES))
    arrays = [np.full(10, float(i)) for i in range(5)]
    cache.put("abc", arrays[:3])
    assert cache.get("b")[0] is arrays[1]
    cache.put("de", arrays[3:])
    assert [array is None for array in cache.get("abcde")] == [True, False, True, False, False]
    assert cache.nbytes == cache.max_bytes
    cache.put("d", [np.zeros(1000)])  # larger than all
    assert cache.get("d") == [None]
    assert cache.get("be") == [arrays[1], arrays[4]], "an array that cannot fit evicts nothing"
    cache.resize(0)
    assert len(cache) == cache.nbytes == 0


def test_array_cache_with_spare_keeps_recent_entries():
    cache = ArrayCache(max_bytes=3 * (80 + feature_cache.ENTRY_BYTES))
    array = np.zeros(10)
    cache.put("xy", [array, array])
    began = cache.now
    for key in "abcdef":
        cache.put(key, [array], spare=began)
    assert [found is not None for found in cache.get("xyabcdef")] == [False, False, True, True, True] + [False] * 3


def test_array_cache_keeps_little_of_streams_and_evicts_nothing_else_for_them(monkeypatch):
    entry = 80 + feature_cache.ENTRY_BYTES
    monkeypatch.setattr(feature_cache, "STREAM_BYTES", 2 * entry)
    cache, array = ArrayCache(max_bytes=5 * entry), np.zeros(10)
    cache.put("abc", [array] * 3)
    with streaming():
        for key in "rstu":
            cache.put(key, [array])
        assert [found is not None for found in cache.get("abcrstu")] == [True] * 3 + [False] * 2 + [True] * 2
        cache.put("a", [np.ones(10)])
        assert cache.get("a") == [array], "an ordinary entry stays"
    assert cache.nbytes == 5 * entry
    cache.put("d", [array])
    assert [found is not None for found in cache.get("abcdtu")] == [True] * 4 + [False, True]
    with streaming():
        cache.put("v", [array])
    assert cache.get("v") == [None], "the cache is full of ordinary entries: u became one when it was used"
    assert cache.nbytes == cache.max_bytes
    cache.resize(entry)
    assert [found is not None for found in cache.get("abcdu")] == [False] * 4 + [True]
    with streaming():
        cache.put("w", [np.zeros(1000)])
    assert len(cache) == 1
    cache.clear()
    assert len(cache) == cache.nbytes == cache.nbytes_of_streams == 0


def test_array_cache_without_a_bound_takes_a_quarter_of_the_free_memory(monkeypatch):
    monkeypatch.setattr(feature_cache, "available_memory", lambda device: 4000)
    cache = ArrayCache()
    cache.put("a", [np.zeros(1, np.int8)])
    assert cache.max_bytes == 1000


def test_array_cache_in_threads_stays_consistent():
    cache, errors = ArrayCache(max_bytes=20 * (80 + feature_cache.ENTRY_BYTES)), []

    def work(offset):
        try:
            for i in range(300):
                key = (offset + i) % 40
                cache.put([key], [np.full(10, key)])
                (found,) = cache.get([(key + 7) % 40])
                assert found is None or (found == (key + 7) % 40).all()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(10 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert cache.nbytes == len(cache) * (80 + feature_cache.ENTRY_BYTES) <= cache.max_bytes


def test_set_feature_cache_with_a_negative_size_raises():
    with pytest.raises(TypeError, match=r"max_bytes must be None or a number of bytes.*'2GB'"):
        skxlmr.set_feature_cache("2GB")
    with pytest.raises(ValueError, match="max_bytes must be None or at least 0, got -1"):
        skxlmr.set_feature_cache(-1)
