"""What a plan costs on a board: the bytes that a token reads, and the copies that fast kernels want."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convert.board_cost import bytes_per_token, ram_bytes
from convert.conversion import Options, Plan, make_plan
from convert.read.checkpoint import Checkpoint
from convert.tune.candidates import Target
from convert.weights.recipe import Quantization
from tests.convert.checkpoints import make_checkpoint

# One layer of 256 columns: q and o, k and v, gate and up and down.
BODY = 256 * 256 * 2 + 128 * 256 * 2 + 512 * 256 * 3
Q8_0 = 34 / 32


def plan(folder: Path, kind: Quantization, **shape: Any) -> Plan:
    with Checkpoint(make_checkpoint(layers=1, **shape).write(folder)) as checkpoint:
        return make_plan(checkpoint, Options(kind))


@pytest.mark.parametrize(
    ("shape", "read", "copied"),
    [
        # Tied, the embedding is the output matrix and is copied for it.
        ({}, BODY + 320 * 256, BODY + 320 * 256),
        # Untied, it is only looked up in, and the output matrix is as large.
        ({"tied": False}, BODY + 320 * 256, BODY + 320 * 256),
        # Kernels take 4 rows at once; a rest leaves the matrix where it is.
        ({"vocab_size": 321}, BODY + 321 * 256, BODY),
    ],
)
def test_a_token_reads_every_matrix_and_kernels_copy_those_of_whole_groups_of_rows(
    tmp_path: Path, shape: dict[str, Any], read: int, copied: int
) -> None:
    made = plan(tmp_path, Quantization.Q8_0, **shape)

    assert bytes_per_token(made) == read * Q8_0
    assert ram_bytes(made, Target.DOTPROD) == ram_bytes(made, Target.I8MM) == copied * Q8_0
    assert ram_bytes(made, Target.ARMV8_0) == 0


def test_what_has_no_such_kernels_is_not_copied(tmp_path: Path) -> None:
    assert ram_bytes(plan(tmp_path, Quantization.BF16), Target.ANY) == 0
