import json

from edge_agent.core.wording import MAX_SHOWN_VALUE, end_of_log, field_name, how_ended, printable, printable_json, shown


def test_control_characters_are_escaped_and_letters_are_not() -> None:
    assert printable("Lager prüfen 轴承") == "Lager prüfen 轴承"
    assert printable("a\x1b[2Jb\n\x00\x9bc") == "a\\x1b[2Jb\\n\\x00\\x9bc"
    assert printable("\u2028\u202e\ud800") == "\\u2028\\u202e\\ud800"


def test_values_are_shown_as_json() -> None:
    values = ("a", None, {"a": [1, "ü"]}, float("nan"), {1, 2}, b"\xff")
    assert list(map(shown, values)) == ['"a"', "null", '{"a": [1, "ü"]}', "NaN", "{1, 2}", r"b'\xff'"]


def test_a_shown_value_is_one_line_of_bounded_length() -> None:
    text = shown("x\n\x1b" * 1000)
    assert len(text) == MAX_SHOWN_VALUE
    assert text.endswith("…")
    assert "\n" not in text
    assert "\x1b" not in text


def test_field_names_read_like_the_document() -> None:
    assert field_name(("tasks", "pump", "labels", 2)) == "tasks.pump.labels[2]"
    assert field_name(("options", "stop", 0)) == "options.stop[0]"
    assert field_name(()) == ""


def test_json_for_a_terminal_is_printable_and_valid() -> None:
    value = {"a": "\x9b2J\x7f\u202e é\n"}
    text = printable_json(value)
    assert json.loads(text) == value
    assert all(c == "\n" or c.isprintable() for c in text)


def test_how_a_process_ended_names_its_signal() -> None:
    assert [how_ended(code) for code in (1, -9, -50)] == ["exit code 1", "killed by SIGKILL", "killed by signal 50"]
    assert how_ended(-26) == "killed by SIGVTALRM, its chat template did not end"


def test_the_end_of_a_log_is_its_last_warnings_tracebacks_and_aborts() -> None:
    idle = ["INFO edge_agent.engine.x: loaded", "DEBUG edge_agent.engine.x: CPU model buffer size = 5 MiB", ""]
    abort = "/build/ggml/src/ggml.c:1234: GGML_ASSERT(a->ne[0] == b->ne[0]) failed"
    traceback = [
        "Traceback (most recent call last):",
        '  File "worker.py", line 9, in main',
        "    x()",
        "KeyError: 'a\x1b'",
    ]
    assert end_of_log(idle) == ""
    assert end_of_log([*idle, "WARNING llama: careful", abort]) == f"WARNING llama: careful | {abort}"
    assert end_of_log([*traceback, *idle]).endswith("in main | x() | KeyError: 'a\\x1b'")
    assert len(end_of_log(["x" * 10_000] * 20)) < 2000
