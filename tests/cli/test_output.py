from __future__ import annotations

import io

import pytest

from skxlmr.cli.output import Output, OutputError


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_output_raises_its_own_errors():
    output = Output(Broken())
    with pytest.raises(OutputError) as caught:
        output.write("a")
    assert isinstance(caught.value.cause, BrokenPipeError)
    with pytest.raises(OutputError, match="No space left"):
        output.flush()


def test_output_writes_text_and_bytes_in_order():
    raw = io.BytesIO()
    output = Output(io.TextIOWrapper(raw, encoding="latin-1"))
    print("é好", file=output)
    output.write_bytes(b"\x00\xff")
    assert raw.getvalue() == "é好\n".encode() + b"\x00\xff"
    assert not output.isatty()


def test_output_without_a_stream_discards():
    output = Output(None)
    print("a", file=output)
    output.write_bytes(b"a")
    output.flush()
    assert not output.isatty()
