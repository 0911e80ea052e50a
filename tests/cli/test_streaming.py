from __future__ import annotations

from skxlmr.cli.streaming import RowCount


def test_count_of_rows_is_a_line_from_time_to_time(monkeypatch, capsys):
    monkeypatch.setattr("skxlmr.cli.streaming.SECONDS_BETWEEN_LINES", 0.0)
    with RowCount(quiet=False) as count:
        count.add(1000)
        count.add(234)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("skxlmr: 1,000 rows, ")
    assert second.startswith("skxlmr: 1,234 rows, ")
    with RowCount(quiet=True) as count:
        count.add(1)
    assert capsys.readouterr().err == ""
