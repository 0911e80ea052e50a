"""A thread works ahead, and ends with the caller."""

import subprocess
import sys
import threading

import pytest

from skxlmr.runtime.ahead import ahead


def test_ahead_computes_one_item_in_advance():
    asked, threads = [], set()

    def function(item):
        asked.append(item)
        threads.add(threading.current_thread())
        return item

    results = ahead(function, range(10))
    assert next(results) == 0
    while len(asked) < 2:  # wait for the thread
        pass
    assert next(results) == 1
    assert len(asked) <= 3
    results.close()
    assert threading.main_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_ahead_raises_an_error_of_the_thread_with_its_traceback(error):
    threads = set()

    def failing(item):
        threads.add(threading.current_thread())
        if item == 2:
            raise error("item 2")
        return item

    results = ahead(failing, range(5))
    assert next(results) == 0
    with pytest.raises(error, match="item 2") as caught:
        list(results)
    assert "failing" in [entry.name for entry in caught.traceback]
    assert not any(thread.is_alive() for thread in threads)


def test_ahead_ends_its_thread_if_the_caller_is_interrupted():
    threads = set()
    results = ahead(lambda item: threads.add(threading.current_thread()) or item, range(5))

    def consume():
        try:
            for item in results:
                if item == 1:
                    raise KeyboardInterrupt
        finally:
            results.close()

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert threads
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("begin", ["threading.Thread(target=run).start()", "atexit.register(run)"])
def test_ahead_after_the_main_thread_still_works(begin):
    program = (
        "import atexit, threading\n"
        "from skxlmr.runtime.ahead import ahead\n"
        "def run():\n"
        "    if threading.current_thread() is not threading.main_thread():\n"
        "        threading.main_thread().join()\n"
        "    print(list(ahead(abs, [-1, -2, -3])))\n"
        f"{begin}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.stdout.strip(), done.stderr) == ("[1, 2, 3]", "")
