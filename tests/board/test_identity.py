from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.board.board import Board
from edge_agent.board.identity import cores, is_raspberry_pi, machine
from edge_agent.board.process import resident_mb
from tests.helpers.boards.trees import NAMES, load


@pytest.mark.parametrize("name", NAMES)
def test_a_raspberry_pi_is_recognized(name: str, tmp_path: Path) -> None:
    load(name).write(tmp_path)
    assert is_raspberry_pi(tmp_path) is name.startswith("pi")


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("pi5", "Raspberry Pi 5 Model B Rev 1.0"),
        ("orin-nano", "NVIDIA Jetson Orin Nano Developer Kit"),
        ("x86-laptop", None),
    ],
)
def test_the_name_of_a_board_is_in_its_device_tree(name: str, model: str | None, tmp_path: Path) -> None:
    load(name).write(tmp_path)
    assert Board(tmp_path, tmp_path).model() == model


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [
        (b"Features\t: fp asimddp asimd\n\nprocessor\t: 1\nFeatures\t: fp\n", ["asimd", "asimddp", "fp"]),
        (b"flags\t\t: sse avx\n", ["avx", "sse"]),
        (b"nothing\n", []),
        (None, []),
    ],
)  # fmt: skip
def test_features_are_those_of_the_first_core(cpuinfo: bytes | None, features: list[str], tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    if cpuinfo is not None:
        (tmp_path / "proc/cpuinfo").write_bytes(cpuinfo)
    assert Board(tmp_path, tmp_path).cpu_features() == features


def test_this_machine_is_known() -> None:
    assert machine()
    assert cores() >= 1
    assert resident_mb(os.getpid())


def test_a_process_that_is_gone_has_no_size() -> None:
    assert resident_mb(2**22 + 1) is None
