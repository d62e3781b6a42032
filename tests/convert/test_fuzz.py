"""Files that a stranger may have written: whatever is in them, they are read, or refused with one printable line."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import setitem
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.errors import CheckpointError
from convert.read.config import parse_config
from convert.read.files import parse_object
from convert.read.lora import parse_lora_config
from convert.read.tokenizer import parse_tokenizer
from tests.convert.adapters import make_adapter
from tests.convert.checkpoints import make_checkpoint

FILES = make_checkpoint(layers=1)
# All that a JSON file may hold, and what is most likely to be taken for something else.
VALUES = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, 0.5, -1e308, 1e308, "", "\0", "\ud800", [], {}]),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6),
    st.lists(st.integers() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.none() | st.integers(), max_size=2),
)


def remove(place: Any, key: Any, _value: Any) -> None:
    del place[key]


def add(place: Any, _key: Any, value: Any) -> None:
    if isinstance(place, dict):
        place[str(value)[:8]] = value
    else:
        place.append(value)


CHANGES: tuple[Callable[[Any, Any, Any], object], ...] = (setitem, remove, add)


@st.composite
def damaged(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    """The document with up to three changes, at any depth."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        place: Any = document
        while place:
            key = draw(st.sampled_from(sorted(place)) if isinstance(place, dict) else st.integers(0, len(place) - 1))
            if not isinstance(place[key], dict | list) or draw(st.booleans()):
                draw(st.sampled_from(CHANGES))(place, key, draw(VALUES))
                break
            place = place[key]
    return document


@contextmanager
def refused_or_read() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        assert str(error).isprintable()  # noqa: PT017
        assert len(str(error)) < 10_000  # noqa: PT017


@given(config=damaged(FILES.config))
def test_any_configuration(config: dict[str, Any]) -> None:
    with refused_or_read():
        parse_config(config)


@given(config=damaged(make_adapter({}).config))
def test_any_adapter_configuration(config: dict[str, Any]) -> None:
    with refused_or_read():
        parse_lora_config(config)


@given(
    tokenizer=damaged(FILES.tokenizer),
    tokenizer_config=damaged(FILES.tokenizer_config),
    size=st.sampled_from([0, 1, 265, 320]),
)
def test_any_tokenizer(tokenizer: dict[str, Any], tokenizer_config: dict[str, Any], size: int) -> None:
    with refused_or_read():
        parse_tokenizer(tokenizer, tokenizer_config, parse_config(FILES.config).special_token_ids, size)


@given(data=st.binary(max_size=80) | st.text(alphabet='{}[]":,0e-9\\utrfnal ', max_size=80).map(str.encode))
def test_any_json(data: bytes) -> None:
    with refused_or_read():
        parse_object(data, "a.json")


def test_more_json_than_memory_is_bounded_for_is_not_read() -> None:
    with pytest.raises(CheckpointError, match="more than 4000000 values"):
        parse_object(b'{"a":[' + b"{}," * 4_000_000 + b"{}]}"[:-1], "a.json")
