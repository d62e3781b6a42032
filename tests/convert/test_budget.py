"""`--budget` is kept to the byte and used as far as a matrix's next type fits, whatever else the file holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from convert.automatic import Choice, Wish, choose
from convert.cli import main
from convert.conversion import Options
from convert.errors import ConvertError
from convert.measure.texts import calibration_files, evaluation_files, read_texts
from convert.read.checkpoint import Checkpoint
from convert.tune.candidates import Target, candidates
from convert.weights.recipe import Quantization
from tests.convert.checkpoints import make_checkpoint

NAMES = [("m", None), ("a name that is longer than the reference's", "apache-2.0"), ("ü" * 63, "x" * 100)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matrices whose bytes are no multiples of anything: odd rows, and columns of which some fit no block."""
    return make_checkpoint(hidden=96, heads=3, heads_kv=1, feed_forward=145, vocab_size=321).write(
        tmp_path_factory.mktemp("odd") / "checkpoint"
    )


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Iterator[Checkpoint]:
    with Checkpoint(folder) as opened:
        yield opened


def chosen(checkpoint: Checkpoint, folder: Path, budget: int, name: str, licence: str | None) -> Choice:
    wish = Wish(
        budget=budget,
        target=Target.ANY,
        calibration=read_texts(calibration_files()),
        evaluation=read_texts(evaluation_files()),
        seed=0,
        work=folder.parent / "work",
    )
    return choose(checkpoint, Options(Quantization.AUTO, name, 1, licence), wish, lambda _what, _share: None)


def least(checkpoint: Checkpoint, folder: Path, name: str, licence: str | None) -> int:
    with pytest.raises(ConvertError, match="at least") as caught:
        chosen(checkpoint, folder, 1000, name, licence)
    return int(str(caught.value).partition("at least ")[2].split()[0])


@pytest.mark.parametrize(("name", "licence"), NAMES, ids=("short", "long", "longest"))
def test_a_file_is_within_the_budget_and_a_step_more_is_not(
    checkpoint: Checkpoint, folder: Path, name: str, licence: str | None
) -> None:
    smallest = least(checkpoint, folder, name, licence)
    for budget in range(smallest, smallest + 140_000, 3_407):
        choice = chosen(checkpoint, folder, budget, name, licence)

        size = choice.plan.file_bytes
        assert size <= budget
        assert chosen(checkpoint, folder, size, name, licence).plan.file_bytes == size
        assert size == smallest or chosen(checkpoint, folder, size - 1, name, licence).plan.file_bytes < size
        for tensor in choice.plan.tensors:
            if not tensor.is_quantizable:
                continue
            option = choice.chosen[tensor.name]
            steps = [
                other.file_bytes - option.file_bytes
                for other in choice.tuned.options(tensor, candidates(Target.ANY, tensor))
                if other.divergence < option.divergence and other.nbytes > option.nbytes
            ]
            assert not steps or size + min(steps) > budget, tensor.name


@pytest.mark.parametrize(("name", "licence"), NAMES, ids=("short", "long", "longest"))
def test_the_least_budget_that_is_told_is_enough_to_the_byte(
    checkpoint: Checkpoint, folder: Path, tmp_path: Path, name: str, licence: str | None
) -> None:
    budget = least(checkpoint, folder, name, licence)
    words = [folder, "--budget", budget, "--out", tmp_path / "b", "--work", folder.parent / "work", "--name", name]
    words += [] if licence is None else ["--licence", licence]

    assert main([*map(str, words), "--no-canaries"]) == 0
    assert (tmp_path / "b" / "model.gguf").stat().st_size == budget
    with pytest.raises(ConvertError, match=f"at least {budget} bytes"):
        chosen(checkpoint, folder, budget - 1, name, licence)
