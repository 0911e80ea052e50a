"""The commands `tag` and `ask`: entities in texts, and answers to a question."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skxlmr.cli.columns import add_table_options, delimiter_of, is_missing, kind_of, text_columns, with_lists
from skxlmr.cli.loading import load_model, require_estimator
from skxlmr.cli.parameters import add_parameter_options
from skxlmr.cli.parsing import add_command
from skxlmr.cli.streaming import Failures, RowCount, add_output_options, check_output, first_of
from skxlmr.cli.tables import STDIN, Block, read_blocks

if TYPE_CHECKING:
    import pandas as pd

MAX_CONTEXT_BYTES = 2**26


def add_commands(commands: Any) -> None:
    """Add the commands."""
    _add_tag(commands)
    _add_ask(commands)


def _add_tag(commands: Any) -> None:
    parser = add_command(
        commands,
        "tag",
        _tag,
        "find entities in the texts of a table",
        "Prints one line per entity: row (of the text, counted from 0), the columns of --keep, label, start, end, text "
        "and score. start and end count characters, or in a column of lists of tokens, tokens. Exits with 3 if rows "
        "could not be tagged.",
        ["skxlmr tag tagger articles.csv --keep id", "skxlmr tag tagger notes.txt --json"],
    )
    parser.add_argument("model", metavar="MODEL", help="a tagger: of `skxlmr train --task tag`, or a checkpoint")
    add_table_options(parser)
    add_output_options(parser, "a column of the input to write, too; may be repeated")


def _tag(arguments: argparse.Namespace) -> int:
    from skxlmr.cli.writing import open_writer, output_format

    estimator, _ = load_model(arguments)
    tagger = require_estimator(estimator, "XLMRXLTagger", "tag", "tag")
    check_output(arguments)
    first, blocks = first_of(read_blocks(arguments.inputs, arguments.input_format, delimiter_of(arguments.delimiter)))
    format = output_format(arguments.output, arguments.output_format, first.format)
    (name,) = text_columns(first, arguments.text_column, tagger, kind_of(tagger))[:1]
    keep = arguments.keep or []
    first.require(keep)
    failures, before = Failures(), 0
    with open_writer(arguments.output, format) as writer, RowCount(arguments.quiet) as count:
        for block in blocks:
            spans, errors = _spans(tagger, block, name)
            rows = spans["row"].tolist()
            columns: dict[str, Any] = {"row": [before + row for row in rows]}
            columns |= {kept: [block.column(kept)[row] for row in rows] for kept in keep}
            columns |= {column: spans[column].tolist() for column in ("label", "start", "end", "text", "score")}
            writer.write(columns, [block.places[row] for row in rows])
            failures.add(block.places, errors)
            count.add(len(block))
            before += len(block)
    return failures.report()


def _spans(tagger: Any, block: Block, name: str) -> tuple[pd.DataFrame, list[str | None]]:
    """Return the spans of a block, with the rows' positions in it, and the errors of its rows."""
    import pandas as pd

    cells = with_lists(block, name)
    errors = [f"column {name!r}: a missing value, not a text" if is_missing(cell) else None for cell in cells]
    rows = [row for row, error in enumerate(errors) if error is None]
    if not rows:
        return pd.DataFrame(columns=["row", "label", "start", "end", "text", "score"]), errors
    index = pd.Index([block.places[row] for row in rows], dtype=object)
    spans = tagger.predict_spans(pd.Series([cells[row] for row in rows], index=index, dtype=object))
    return spans.assign(row=[rows[row] for row in spans["row"]]), errors


def _add_ask(commands: Any) -> None:
    parser = add_command(
        commands,
        "ask",
        _ask,
        "answer a question from texts",
        "Prints the best answers of all texts, with their scores, and where they stand: the file, and the first and "
        "last character. A score is the probability among the answers of its text and that the text has none.",
        [
            "skxlmr ask qa 'Who wrote it?' notes.txt chapter-*.txt",
            "cat notes.txt | skxlmr ask qa 'Who wrote it?' --top 1 --json",
        ],
    )
    parser.add_argument("model", metavar="MODEL", help="of `skxlmr train --task answer`, or a checkpoint")
    parser.add_argument("question", metavar="QUESTION")
    parser.add_argument("contexts", nargs="*", metavar="FILE", help="texts in UTF-8; default: standard input")
    parser.add_argument("--top", type=_positive, default=3, metavar="N", help="answers; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON lines, one per answer")
    add_parameter_options(parser)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number


def _ask(arguments: argparse.Namespace) -> None:
    import pandas as pd

    estimator, _ = load_model(arguments)
    qa = require_estimator(estimator, "XLMRXLQA", "ask", "answer")
    names = arguments.contexts or [STDIN]
    contexts = [_read_context(name) for name in names]
    names_of_columns = getattr(qa, "feature_names_in_", ("question", "context"))
    X = pd.DataFrame([[arguments.question, context] for context in contexts], columns=list(names_of_columns))
    found = qa.predict_answers(X, top_k=arguments.top)
    found = found[found["is_answered"]].sort_values("score", ascending=False, kind="stable").head(arguments.top)
    for answer in found.to_dict("records"):
        file = "standard input" if names[answer["row"]] == STDIN else names[answer["row"]]
        if arguments.json:
            record = {name: answer[name] for name in ("answer", "score", "start", "end")}
            print(json.dumps({**record, "file": file}, ensure_ascii=False))
        else:
            print(f"{answer['score']:.4f}  {answer['answer']}  ({file}, {answer['start']}-{answer['end']})")
    if found.empty:
        print("skxlmr: no answer in these texts", file=sys.stderr)


def _read_context(name: str) -> str:
    shown = "standard input" if name == STDIN else name
    if name == STDIN:
        data = sys.stdin.buffer.read(MAX_CONTEXT_BYTES + 1)
    else:
        with open(Path(name).expanduser(), "rb") as file:
            data = file.read(MAX_CONTEXT_BYTES + 1)
    if len(data) > MAX_CONTEXT_BYTES:
        raise ValueError(f"{shown} has more than {MAX_CONTEXT_BYTES:,} bytes, which is the limit. Split it.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown}: byte {error.start + 1} is not UTF-8. Convert the file first.") from error
    if not text.strip():
        raise ValueError(f"{shown} has no text.")
    return text
