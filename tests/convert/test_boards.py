"""`edge-convert boards`: predictions that follow from bytes and published figures, and come near published runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from convert.board_cost import bytes_per_token, cost_of_shape, ram_bytes
from convert.cli import main
from convert.conversion import Options, make_plan
from convert.family import family
from convert.read.checkpoint import Checkpoint
from convert.read.model_cost import read_cost
from convert.sizing import Sizing, sized_boards, sizing
from convert.tune.candidates import Target
from convert.weights.recipe import Quantization
from tests.convert.checkpoints import make_checkpoint

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def predicted(board: str, model: str, kind: Quantization, context_tokens: int = 4096, max_active: int = 4) -> Sizing:
    (known,) = (one for one in sized_boards() if one.name == board)
    return sizing(cost_of_shape(model, family()[model], kind), known, context_tokens, max_active)


@pytest.mark.parametrize(
    ("board", "model", "kind", "tokens_per_s"),
    [
        # github.com/ArmDeveloperEcosystem/arm-learning-paths: llama-bench with the threads that are best there.
        ("Raspberry Pi 5", "0.5B", Quantization.Q4_0, 34.2),
        ("Raspberry Pi 5", "0.5B", Quantization.Q8_0, 22.6),
        ("Raspberry Pi 5", "1.5B", Quantization.Q4_0, 12.4),
        # Ollama, Q4_K_M (github.com/stratosphereips/StratosphereLinuxIPS): not what the bandwidth was taken from.
        ("Raspberry Pi 5", "3B", Quantization.Q4_K_M, 5.2),
    ],
)
def test_predicted_speeds_come_near_what_was_published(
    board: str, model: str, kind: Quantization, tokens_per_s: float
) -> None:
    assert predicted(board, model, kind).tokens_per_s == pytest.approx(tokens_per_s, rel=0.2)


def test_sizes_of_the_family_are_those_of_its_files() -> None:
    # Published bytes per token of Q4_0 with the output matrix in more bits.
    cost = {name: cost_of_shape(name, config, Quantization.Q4_0) for name, config in family().items()}
    assert [round(cost[name].bytes_per_token / 1e6) for name in ("0.5B", "1.5B", "3B")] == [346, 928, 1816]
    assert [cost[name].cache_bytes(1) for name in ("0.5B", "1.5B", "3B", "7B")] == [12288, 28672, 36864, 57344]


def test_a_context_is_shared_by_those_who_write_and_at_most_the_models_own() -> None:
    one, eight = (predicted("Raspberry Pi 5", "0.5B", Quantization.Q4_0, max_active=active) for active in (1, 8))
    assert one.cache_bytes == eight.cache_bytes == 4096 * 12288
    assert one.needed_bytes < eight.needed_bytes
    assert predicted("Raspberry Pi 5", "0.5B", Quantization.Q4_0, 131072).cache_bytes == 32768 * 12288


def test_what_does_not_fit_is_said_and_what_is_not_published_is_unknown() -> None:
    assert predicted("Raspberry Pi 5", "7B", Quantization.Q4_0).fits_gb == (8, 16)
    assert predicted("Raspberry Pi 4", "7B", Quantization.Q8_0).fits_gb == ()
    assert predicted("RK3588", "0.5B", Quantization.Q4_0).joules_per_token is None


def test_cores_without_dotprod_copy_nothing() -> None:
    assert predicted("Raspberry Pi 4", "0.5B", Quantization.Q4_0).copied_bytes == 0
    found = predicted("Raspberry Pi 5", "0.5B", Quantization.Q4_0)
    assert 0 < found.copied_bytes < found.needed_bytes


@pytest.mark.parametrize("tied", [True, False])
def test_a_shape_a_plan_and_a_file_cost_the_same(tmp_path: Path, tied: bool) -> None:  # noqa: FBT001
    folder = make_checkpoint(layers=2, tied=tied).write(tmp_path / "checkpoint")
    with Checkpoint(folder) as checkpoint:
        plan = make_plan(checkpoint, Options(Quantization.Q4_0))
    assert main([str(folder), "--out", str(tmp_path / "bundle"), "--type", "q4_0", "--no-canaries"]) == 0
    shape, file = cost_of_shape("bundle", plan.config, Quantization.Q4_0), read_cost(tmp_path / "bundle")
    assert file.bytes_per_token == shape.bytes_per_token == bytes_per_token(plan)
    assert file.copied_bytes(Target.DOTPROD) == shape.copied_bytes(Target.DOTPROD) == ram_bytes(plan, Target.DOTPROD)
    assert file.weights(with_output=False) == shape.weights(with_output=False) < shape.weights()
    assert replace(file, types="", matrices=()) == replace(shape, types="", matrices=())


def test_the_readmes_table_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boards"]) == 0
    printed = capsys.readouterr().out.split("\n\n")[0]
    assert f"```console\n$ edge-convert boards\n{printed}\n```" in README


def test_json_calls_them_predictions_and_has_the_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boards", "--json", "--type", "q8_0"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["are_predictions"] is True
    assert {one["types"] for one in told["sizings"]} == {"Q8_0"}
    assert all(figures["reached_gb_s"]["source"] for figures in told["figures"].values())


def test_a_file_that_is_no_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert main(["boards", str(tmp_path / "x.gguf")]) == 1
    assert capsys.readouterr().err.startswith("edge-convert: ")
