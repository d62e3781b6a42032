from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.engine.answer.text_stream import TextStream


def written(stream: TextStream, *pieces: bytes) -> tuple[list[str], str]:
    """What a client sees piece by piece, and the whole text at the end."""
    deltas = []
    for piece in pieces:
        stream.write(piece)
        deltas.append(stream.take_delta())
    stream.end()
    deltas.append(stream.take_delta())
    return deltas, stream.text


def test_a_character_that_spans_tokens_appears_once_it_is_whole() -> None:
    assert written(TextStream(), b"7 \xc2", b"\xb0", b"C") == (["7 ", "°", "C", ""], "7 °C")


def test_a_stop_string_that_spans_tokens_is_never_shown() -> None:
    stream = TextStream(stop=("\n\n",))
    deltas, text = written(stream, b"one\n", b"two\n", b"\nthree")
    assert text == "one\ntwo"
    assert deltas == ["one", "\ntwo", "", ""]
    assert stream.is_stopped


def test_a_thought_that_the_prompt_opened_is_kept_apart() -> None:
    stream = TextStream(is_reasoning=True, is_open=True)
    deltas, text = written(stream, b"hm ", b"</th", b"ink>", b"\n\n", b"yes")
    assert (text, stream.reasoning) == ("yes", "hm")
    assert "".join(deltas) == "yes"


def test_a_thought_that_the_model_opens_is_kept_apart() -> None:
    stream = TextStream(is_reasoning=True)
    stream.write(b"\n<thi")
    assert not stream.is_thinking
    stream.write(b"nk>")
    assert stream.is_thinking
    assert written(stream, b"so", b"</think>", b"no")[1] == "no"
    assert stream.reasoning == "so"


def test_an_answer_without_a_thought_is_all_text() -> None:
    stream = TextStream(is_reasoning=True)
    assert written(stream, b"<", b"b>bold") == (["", "<b>bold", ""], "<b>bold")
    assert stream.reasoning is None


def test_a_thought_that_never_ends_leaves_the_text_empty() -> None:
    stream = TextStream(is_reasoning=True, is_open=True)
    assert written(stream, b"hm </th")[1] == ""
    assert stream.reasoning == "hm </th"


def test_stop_strings_mean_the_answer_and_not_the_thought() -> None:
    stream = TextStream(stop=("x",), is_reasoning=True, is_open=True)
    assert written(stream, b"x x</think>a", b"bx")[1] == "ab"
    assert stream.reasoning == "x x"


@settings(deadline=None)
@given(
    text=st.text(alphabet="ab<>/think°€ \n", max_size=60),
    stop=st.lists(st.text(alphabet="ab<°", min_size=1, max_size=3), max_size=2),
    cuts=st.lists(st.integers(0, 80), max_size=8),
    is_open=st.booleans(),
)
def test_how_tokens_cut_the_text_changes_nothing(text: str, stop: list[str], cuts: list[int], *, is_open: bool) -> None:
    data = text.encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    whole = TextStream(stop=stop, is_reasoning=True, is_open=is_open)
    pieced = TextStream(stop=stop, is_reasoning=True, is_open=is_open)

    _, expected = written(whole, data)
    deltas, found = written(pieced, *(data[a:b] for a, b in pairwise(edges)))

    assert found == expected
    assert "".join(deltas) == expected
    assert (pieced.reasoning, pieced.is_stopped) == (whole.reasoning, whole.is_stopped)
