"""Labelled rows: which label an answer is, and CSV with a column for the answer, whose others make the input."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from edge_agent.core.strict_json import NotJsonError, parse_json
from edge_agent.core.wording import shown

_ANSWER_COLUMNS = ("answer", "label")


def label_of(answer: object, labels: Sequence[str]) -> str | None:
    """The label that an answer is, however its characters are composed; None = it is none of them."""
    if not isinstance(answer, str):
        return None
    composed = unicodedata.normalize("NFC", answer)
    return next((label for label in labels if unicodedata.normalize("NFC", label) == composed), None)


def labelled_csv(
    text: str, name: str, beside: tuple[str, ...] = (), *, has_answers: bool = True
) -> Iterator[tuple[str, dict[str, Any]]]:
    """File and line, and `{"input": …, "answer": …}`, of each row. Raises ValueError, which names the line.

    The answer is the column `answer`, else `label`. The input is the column `input`; without it an object of all other
    columns with a value, in which numbers, true and false are as in JSON. beside: columns that stand beside the input.
    has_answers: False = rows of inputs alone, in which both columns are refused.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        answer = next((column for column in _ANSWER_COLUMNS if column in header), None)
        if not has_answers:
            if answer is not None or not header or len(set(header)) < len(header):
                rule = "should be a header of different names with commas between them, none of them answer or label"
                raise ValueError(f"{name}:1: {rule} (got {shown(header)})")
        elif answer is None or len(set(header)) < len(header) or len(header) < 2:
            rule = "should be a header of different names with commas between them, one of them answer or label"
            raise ValueError(f"{name}:1: {rule} (got {shown(header)})")
        if {*_ANSWER_COLUMNS} <= {*header}:
            raise ValueError(f"{name}:1: should have either answer or label, not both")
        for cells in reader:
            where = f"{name}:{reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise ValueError(f"{where}: should have {len(header)} cells (got {shown(cells)})")
            values = dict(zip(header, cells, strict=True))
            row: dict[str, Any] = {} if answer is None else {"answer": values.pop(answer)}
            row |= {column: _cell(values.pop(column)) for column in beside if column in values}
            is_whole = "input" in values
            row["input"] = values["input"] if is_whole else {key: _cell(cell) for key, cell in values.items() if cell}
            yield where, row
    except csv.Error as error:
        raise ValueError(f"{name}:{reader.line_num}: is not CSV: {error}") from error


def _cell(text: str) -> Any:
    """A number, true or false as JSON has it; else the text."""
    try:
        value = parse_json(text)
    except NotJsonError:
        return text
    return value if isinstance(value, int | float) else text
