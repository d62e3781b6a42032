from __future__ import annotations

import pytest

from edge_agent.tools.watch.keyboard import keys_of


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        ("q", ["quit"]),
        ("\x1b[A\x1b[B\x1bOA", ["up", "down", "up"]),
        ("\x1b[5~\x1b[6~ ", ["page up", "page down", "page down"]),
        ("\x1b[H\x1b[FgG", ["home", "end", "home", "end"]),
        ("xjys", ["down", "sort"]),
        ("\x1b[1;5A\x1b[200~é\x1b", []),
        ("", []),
    ],
)
def test_what_terminals_send(sent: str, keys: list[str]) -> None:
    assert keys_of(sent) == keys
