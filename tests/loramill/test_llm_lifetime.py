"""How an `LLM` ends: closed, forgotten, or with its process; its threads end with it."""

import gc
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from loramill import LLM


def test_a_closed_one_has_no_threads_and_says_that_it_is_closed(tiny_llama: Path) -> None:
    gc.collect()  # what earlier tests forgot closes itself, in threads that are not this one's
    for thread in threading.enumerate():
        if thread.name == "loramill-llm":
            thread.join(timeout=30)
    before = set(threading.enumerate())
    llm = LLM(tiny_llama)
    assert len(llm.generate("the cat")) == 1
    assert set(threading.enumerate()) - before
    llm.close()
    llm.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(RuntimeError, match="closed"):
        llm.generate("the cat")


def test_one_that_is_forgotten_is_closed(tiny_llama: Path) -> None:
    llm = LLM(tiny_llama)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "loramill-llm")
    del llm
    gc.collect()
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_a_program_that_never_closes_it_ends(tiny_llama: Path) -> None:
    LLM(tiny_llama).close()  # what it asks of transformers, the program need not import for it
    code = f"from loramill import LLM; print(len(LLM({str(tiny_llama)!r}).generate('the cat')))\n"
    kept = code + f"llm = LLM({str(tiny_llama)!r}); print(len(llm.generate('the cat')))"
    done = subprocess.run([sys.executable, "-c", kept], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "1\n1\n"), done.stderr


def test_a_program_that_ends_in_the_middle_of_answers_ends(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAMILL_ENGINE_NATIVE", "false")  # so that the engine is in torch's C++ nearly all the time
    code = f"""
import threading
from loramill import LLM

def ask():
    while True:
        llm.generate(["the cat"] * 8, max_tokens=32, ignore_end=True, temperature=1.0)

llm = LLM({str(tiny_llama)!r})
threading.Thread(target=ask, daemon=True).start()
print([len(llm.generate("the cat")) for _ in range(3)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[1, 1, 1]\n"), done.stderr
