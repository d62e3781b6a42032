"""Files of rows, as JSON lines or CSV, and which label an answer is."""

import csv
import io
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_agent.core.files import private_file
from edge_agent.core.strict_json import NotJsonError, encode, parse_json
from edge_agent.core.wording import printable, shown

# These say when a row was taken. They belong to the row, not to its input, and so do the other keys of ROW_KEYS.
TIME_KEYS = ("ts", "time", "timestamp")
# These say which rows belong together, such as those of an episode or a day, and which machine a row is from.
GROUP_KEY, MACHINE_KEY = "group", "machine"
ROW_KEYS = (*TIME_KEYS, GROUP_KEY, MACHINE_KEY)
_ANSWER_COLUMNS = ("answer", "label")


class RowsError(Exception):
    """The file cannot be used. Each of `faults` names file and line, the value and what is allowed."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def label_of(answer: object, labels: Sequence[str]) -> str | None:
    """The label that an answer is, however its characters are composed; None if it is none of them."""
    if not isinstance(answer, str):
        return None
    composed = unicodedata.normalize("NFC", answer)
    return next((label for label in labels if unicodedata.normalize("NFC", label) == composed), None)


def read_values(path: Path, *, is_labelled: bool) -> Iterator[tuple[str, Any]]:
    """File and line with the value of each row, which is a line of JSON, or `{"input": …, "answer": …}` for CSV.

    The answer in CSV is the column `answer`, else `label`. The input is the column `input`; without it an object of all
    other columns with a value, in which numbers, true and false are as in JSON. The columns `task` and ROW_KEYS stand
    next to the input. With `is_labelled`, CSV must have an answer. Raises RowsError.
    """
    name = printable(str(path))
    if path.suffix.lower() == ".csv":
        yield from _csv_values(read_text(path), name, is_labelled=is_labelled)
    else:
        yield from json_values(read_text(path), name)


def write_rows(path: Path, rows: Iterable[dict[str, Any]], *, force: bool) -> None:
    """Writes rows as JSON lines, into a file that only its owner can read. Raises RowsError."""
    try:
        if path.exists() and not force:
            raise RowsError([f"{path} exists; --force replaces it"])
        with private_file(path) as file:
            file.writelines(encode(row) + b"\n" for row in rows)
    except OSError as error:
        raise RowsError([f"{path}: cannot be written: {error.strerror}"]) from error


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark. Raises RowsError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RowsError([f"{printable(str(path))}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        hint = 'save it as UTF-8, which Excel calls "CSV UTF-8"'
        fault = f"is not UTF-8: {error.reason} at byte {error.start}; {hint}"
        raise RowsError([f"{printable(str(path))}: {fault}"]) from error


def text_lines(text: str, name: str) -> Iterator[tuple[str, str]]:
    """File and line with the text of each line that is not blank."""
    # Not splitlines: texts may hold other separators than the end of a line.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{name}:{number}", line.strip()


def json_values(text: str, name: str) -> Iterator[tuple[str, Any]]:
    """File and line with the value of each line that is not blank. Raises RowsError."""
    for where, line in text_lines(text, name):
        try:
            yield where, parse_json(line)
        except NotJsonError as error:
            raise RowsError([f"{where}: should be a line of JSON: {error} (got {shown(line)})"]) from error


def _csv_values(text: str, name: str, *, is_labelled: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        joined = ",".join(header)
        for separator, words in ((";", "semicolons"), ("\t", "tabs")):
            if joined.count(separator) > joined.count(","):
                rule = f"should be separated by commas, and decimals have a point; here, {words} separate the columns"
                raise RowsError([f"{name}:1: {rule} (got {shown(header)})"])
        if not header or len(set(header)) < len(header):
            rule = "should be a header of distinct names separated by commas"
            raise RowsError([f"{name}:1: {rule} (got {shown(header)})"])
        answers = [column for column in _ANSWER_COLUMNS if column in header]
        if len(answers) > 1 or (is_labelled and not answers):
            raise RowsError([f"{name}:1: should have a column answer or label, but not both (got {shown(header)})"])
        for cells in reader:
            if not cells:
                continue
            where = f"{name}:{reader.line_num}"
            if len(cells) != len(header):
                raise RowsError([f"{where}: should have {len(header)} cells (got {shown(cells)})"])
            values = dict(zip(header, cells, strict=True))
            row: dict[str, Any] = {"answer": values.pop(answers[0])} if answers else {}
            if "task" in values:
                row["task"] = values.pop("task")
            row |= {key: _cell(values.pop(key)) for key in ROW_KEYS if key in values}
            is_whole = "input" in values
            row["input"] = values["input"] if is_whole else {key: _cell(cell) for key, cell in values.items() if cell}
            yield where, row
    except csv.Error as error:
        raise RowsError([f"{name}:{reader.line_num}: is not CSV: {error}"]) from error


def _cell(text: str) -> Any:
    """A number, true or false if the text is one in JSON, otherwise the text."""
    try:
        value = parse_json(text)
    except NotJsonError:
        return text
    return value if isinstance(value, int | float) else text
