from __future__ import annotations

import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest

from skxlmr.cli import main
from skxlmr.cli.program import MODULES, new_parser, one_line


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["info"],
        ["convert"],
        ["convert", "onnx"],
        ["convert", "fairseq", "model.pt"],
        ["nonsense"],
        ["train", "--epochs=3"],
        ["predict", "model", "--method"],
        ["ask", "model", "Why?", "--top", "0"],
    ],
    ids=str,
)
def test_main_with_wrong_usage_exits_with_2(wrong: list[str], capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as caught:
        main(wrong)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("skxlmr")
    assert "error: " in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_main_help_and_version_exit_with_0(capsys: pytest.CaptureFixture):
    for arguments, expected in (
        (["--version"], f"skxlmr {version('skxlmr')}"),
        (["--help"], "convert"),
        (["info", "--help"], "No weights are loaded"),
        (["convert", "fairseq", "--help"], "No code in the file is run"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        assert expected in " ".join(capsys.readouterr().out.split())


def test_help_of_each_command_with_tables_has_examples(capsys: pytest.CaptureFixture):
    for command in ("train", "predict", "embed", "evaluate", "tag", "ask"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert f"examples:\n  skxlmr {command} " in capsys.readouterr().out


def test_parser_has_the_commands_of_all_modules():
    (commands,) = (action for action in new_parser()._actions if action.dest == "==SUPPRESS==" or action.choices)
    assert {"train", "predict", "embed", "evaluate", "tag", "ask", "info", "cache"} < set(commands.choices)
    assert len({module.__name__ for module in MODULES}) == len(MODULES)


def test_one_line_of_an_error_without_message_is_its_type():
    assert one_line(MemoryError()) == "MemoryError"
    assert one_line(ValueError("a\n  b\n  c")) == "a b; c"


def test_main_shows_warnings_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def warned(model: str) -> None:
        warnings.warn("Take care,\nplease.", UserWarning, stacklevel=1)
        warnings.warn("of no user", DeprecationWarning, stacklevel=1)
        raise ValueError("wrong")

    monkeypatch.setattr("skxlmr.hardware.estimate.find_config", warned)
    assert main(["info", "nano"]) == 1
    assert capsys.readouterr().err == "skxlmr: warning: Take care, please.\nskxlmr: error: wrong\n"


def test_main_with_traceback_raises(monkeypatch: pytest.MonkeyPatch):
    def broken(model: str) -> None:
        raise ValueError("wrong")

    monkeypatch.setattr("skxlmr.hardware.estimate.find_config", broken)
    with pytest.raises(ValueError, match="wrong"):
        main(["--traceback", "info", "nano"])


def test_main_that_is_interrupted_returns_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def interrupted(model: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("skxlmr.hardware.estimate.find_config", interrupted)
    assert main(["info", "nano"]) == 130
    assert capsys.readouterr().err == "skxlmr: interrupted\n"


def run_into(output: int, arguments: list[str], cache: Path) -> tuple[int, str]:
    """Run the command with a file descriptor as its standard output; return its status and its standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "skxlmr", *arguments],
        stdout=output, stderr=subprocess.PIPE, text=True, timeout=300, env={**os.environ, "SKXLMR_CACHE": str(cache)},
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="closed pipes are other errors there")
@pytest.mark.parametrize("arguments", [["info", "nano"], ["versions"], ["cache", "list"], ["--help"]], ids=" ".join)
def test_main_whose_reader_has_ended_is_silent(arguments: list[str], tmp_path: Path):
    reader, writer = os.pipe()
    os.close(reader)
    assert run_into(writer, arguments, tmp_path) == (141, "")
    os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, of Linux")
def test_main_whose_output_does_not_fit_on_the_disk_reports_it(tmp_path: Path):
    with open("/dev/full", "w") as full:
        status, errors = run_into(full.fileno(), ["info", "nano"], tmp_path)
    assert (status, errors) == (1, "skxlmr: error: [Errno 28] No space left on device\n")


def test_main_with_an_error_of_a_connection_reports_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def broken(model: str) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("skxlmr.hardware.estimate.find_config", broken)
    assert main(["info", "nano"]) == 1
    assert capsys.readouterr().err == "skxlmr: error: [Errno 32] Broken pipe\n"


@pytest.mark.skipif(sys.platform == "win32", reason="closed pipes are other errors there")
def test_predict_whose_reader_ends_stops_with_141(classifier: str, tmp_path: Path):
    lines = 'lovely,"A lovely film.\nTwo lines."\n' * 3000  # more than a block, and than a pipe holds
    (tmp_path / "long.csv").write_text("id,text\n" + lines)
    program = [sys.executable, "-m", "skxlmr", "predict", classifier, str(tmp_path / "long.csv"), "--device", "cpu"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == "id,text,prediction,error\n"
        running.stdout.close()
        errors = running.stderr.read()
        assert running.wait(300) == 141
    assert errors == ""
