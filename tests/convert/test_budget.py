"""`--budget` is kept to the byte and used as far as a matrix's next type fits, whatever else the file holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from convert.cli import main
from convert.conversion import Job, Source, Tuned, Tuning, decide_types, open_source
from convert.errors import ConvertError
from convert.measure.texts import calibration_files, evaluation_files, read_texts
from convert.plan import Plan
from convert.quantize.recipe import Quantization
from convert.quantize.targets import Target, candidates
from tests.convert.checkpoints import make_checkpoint
from tests.convert.conversions import ignore_progress

NAMES = [("m", None), ("a name that is longer than the reference's", "apache-2.0"), ("ü" * 63, "x" * 100)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matrices whose bytes are no multiples of anything: odd rows, and columns of which some fit no block."""
    return make_checkpoint(hidden=96, heads=3, heads_kv=1, feed_forward=145, vocab_size=321).write(
        tmp_path_factory.mktemp("odd") / "checkpoint"
    )


@pytest.fixture(scope="module")
def source(folder: Path) -> Iterator[Source]:
    with open_source(Job(checkpoint=folder, quantization=Quantization.AUTO)) as opened:
        yield opened


def chosen(source: Source, budget: int, name: str, licence: str | None) -> tuple[Plan, Tuned]:
    folder = source.checkpoint.folder
    tuning = Tuning(
        budget=budget,
        calibration=read_texts(calibration_files()),
        evaluation=read_texts(evaluation_files()),
        seed=0,
        work=folder.parent / "work",
    )
    job = Job(checkpoint=folder, quantization=Quantization.AUTO, name=name, licence=licence, tuning=tuning)
    plan, tuned = decide_types(job, source, ignore_progress)
    assert tuned is not None
    return plan, tuned


def least(source: Source, name: str, licence: str | None) -> int:
    with pytest.raises(ConvertError, match="at least") as caught:
        chosen(source, 1000, name, licence)
    return int(str(caught.value).partition("at least ")[2].split()[0])


@pytest.mark.parametrize(("name", "licence"), NAMES, ids=("short", "long", "longest"))
def test_a_file_is_within_the_budget_and_a_step_more_is_not(source: Source, name: str, licence: str | None) -> None:
    smallest = least(source, name, licence)
    for budget in range(smallest, smallest + 140_000, 10_407):
        plan, tuned = chosen(source, budget, name, licence)

        size = plan.file_bytes
        assert size <= budget
        assert chosen(source, size, name, licence)[0].file_bytes == size
        assert size == smallest or chosen(source, size - 1, name, licence)[0].file_bytes < size
        for tensor in plan.matrices:
            option = tuned.chosen[tensor.name]
            steps = [
                other.file_bytes - option.file_bytes
                for other in tuned.sensitivities.options(tensor, candidates(Target.ANY, tensor))
                if other.divergence < option.divergence and other.nbytes > option.nbytes
            ]
            assert not steps or size + min(steps) > budget, tensor.name


@pytest.mark.parametrize(("name", "licence"), NAMES, ids=("short", "long", "longest"))
def test_the_least_budget_in_the_message_is_enough_to_the_byte(
    source: Source, folder: Path, tmp_path: Path, name: str, licence: str | None
) -> None:
    budget = least(source, name, licence)
    words = [folder, "--budget", budget, "--out", tmp_path / "b", "--work", folder.parent / "work", "--name", name]
    words += [] if licence is None else ["--licence", licence]

    assert main([*map(str, words), "--no-canaries"]) == 0
    assert (tmp_path / "b" / "model.gguf").stat().st_size == budget
    with pytest.raises(ConvertError, match=f"at least {budget} bytes"):
        chosen(source, budget - 1, name, licence)
