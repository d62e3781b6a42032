"""The choice of types within a budget."""

import itertools
import random

import pytest

from convert.allocate import Option, allocate
from convert.quantize.ggml import GgmlType
from convert.quantize.targets import Target, candidates, is_repacked
from convert.read.tensors import ModelTensor

SMALL, MIDDLE, LARGE = GgmlType.IQ4_NL, GgmlType.Q5_K, GgmlType.Q8_0
UNIT = 32  # the places of tensors in a file are multiples of this


def test_the_bytes_go_where_they_gain_most() -> None:
    options = {
        "sensitive": [Option(SMALL, 100 * UNIT, 1.0), Option(LARGE, 200 * UNIT, 0.0)],
        "robust": [Option(SMALL, 100 * UNIT, 0.1), Option(LARGE, 200 * UNIT, 0.0)],
    }
    chosen = allocate(options, 300 * UNIT)
    assert {name: option.kind for name, option in chosen.items()} == {"sensitive": LARGE, "robust": SMALL}


def test_a_step_that_does_not_fit_is_skipped_for_a_smaller_one() -> None:
    options = {
        "large": [Option(SMALL, 1000 * UNIT, 5.0), Option(LARGE, 2000 * UNIT, 0.0)],
        "small": [Option(SMALL, 10 * UNIT, 0.01), Option(LARGE, 20 * UNIT, 0.0)],
    }
    chosen = allocate(options, 1030 * UNIT)
    assert [chosen["large"].kind, chosen["small"].kind] == [SMALL, LARGE]


def test_a_budget_below_the_smallest_types_is_refused() -> None:
    options = {"one": [Option(SMALL, 100 * UNIT - 5, 0.5)]}
    # The next tensor begins at a multiple.
    with pytest.raises(ValueError, match="1 too few"):
        allocate(options, 100 * UNIT - 1)
    assert allocate(options, 100 * UNIT) == {"one": options["one"][0]}


def test_it_is_nearly_the_best_of_all_choices_and_never_over_the_budget() -> None:
    randoms = random.Random(1)
    for _ in range(50):
        options = {
            str(number): [
                Option(kind, nbytes, divergence)
                for kind, nbytes, divergence in zip(
                    (SMALL, MIDDLE, LARGE),
                    sorted(randoms.sample(range(10 * UNIT, 100 * UNIT), 3)),
                    sorted((randoms.random() for _ in range(3)), reverse=True),
                    strict=True,
                )
            ]
            for number in range(7)
        }
        budget = sum(several[0].file_bytes for several in options.values()) + randoms.randrange(200 * UNIT)

        chosen = allocate(options, budget)

        assert sum(option.file_bytes for option in chosen.values()) <= budget
        found = sum(option.divergence for option in chosen.values())
        every = itertools.product(*options.values())
        best = min(
            sum(option.divergence for option in choice)
            for choice in every
            if sum(option.file_bytes for option in choice) <= budget
        )
        # The last step that does not fit is what greedy choice may lose.
        assert found <= best + max(several[0].divergence for several in options.values())


@pytest.mark.parametrize("columns", [896, 1024])
def test_a_type_for_any_board_is_fast_on_each_of_them(columns: int) -> None:
    matrix = ModelTensor("blk.0.ffn_up.weight", (64, columns), source=None)  # type: ignore[arg-type]
    kinds = candidates(Target.ANY, matrix)
    assert GgmlType.IQ4_NL in kinds
    # A Pi 4 reads each of these row by row; the others copy them for kernels of several rows.
    assert set(kinds) <= set(candidates(Target.ARMV8_0, matrix))
    assert all(is_repacked(target, kind, 64) for target in (Target.DOTPROD, Target.I8MM) for kind in kinds)
