"""The benchmarks within seconds, of a real agent with the demonstration model beside a stand-in for llama-server."""

import json
import sys
from pathlib import Path

import pytest

from edge_agent.models.bundle import MODEL_FILE
from rigs.bench import __main__ as widths
from rigs.bench import compare, overload
from rigs.bench.agent import running_agent, workload_tasks
from rigs.bench.compare import Comparison, at_equal_text
from rigs.bench.figures import Figures
from rigs.bench.workload import GENERATED_TOKENS, Answer, Kind, Reading, check_answer, constant_text, prompt


class StandIn:
    """Answers as llama-server would, without a model."""

    name = "llama-server"

    def count_tokens(self, text: str) -> int:
        return len(text) // 10

    def ask(self, kind: Kind, _reading: Reading) -> Answer:
        report = {"condition": "leak", "severity": "low", "stop": True, "action": "Close the valve."}
        text = json.dumps(report) if kind is Kind.EXTRACT else "normal"
        constant = self.count_tokens(constant_text(kind))
        return Answer(text, prompt_tokens=constant + 50, cached_tokens=constant, completion_tokens=GENERATED_TOKENS)


@pytest.fixture(scope="module")
def model(demo_bundle: Path) -> Path:
    return demo_bundle / MODEL_FILE


def test_all_parts_of_the_comparison_run(model: Path, tmp_path: Path) -> None:
    limits = {"prefill": lambda *_, **__: 1000.0, "batched": lambda *_, **__: 100.0}
    with running_agent(model, tmp_path, workload_tasks(), compare.ENGINE) as agent:
        comparison = Comparison(agent, StandIn(), tmp_path, model, compare.PARTS, requests=4, **limits)
        comparison.run(0)
    names = comparison.figures.by_name
    assert all(any(name.startswith(part) for name in names) for part in ("classify", "extract", "generate"))
    assert "  the same of llama-server" in names


@pytest.mark.parametrize(
    ("rig", "words", "said"),
    [
        (
            widths,
            ["{model}", "--engine", "threads=1", "--kinds", "extract", "--clients", "2", "--rounds", "1"],
            "extract of 2 clients: ratio",
        ),
        (overload, ["echo:step_ms=20", "--seconds", "1"], "capacity"),
    ],
)
def test_a_benchmark_runs_and_shows_its_table(
    rig: object,
    words: list[str],
    said: str,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["rig", *(word.format(model=model) for word in words)])
    assert rig.main() == 0  # type: ignore[attr-defined]
    assert said in capsys.readouterr().out


def test_a_table_has_the_median_of_the_rounds_with_their_spread_and_whether_the_target_is_met() -> None:
    figures = Figures()
    for value in (3.0, 1.0, 2.0):
        figures.note("fast", value, at_least=2.0)
        figures.note("slow", value, at_least=2.1)
        figures.note("small", value, at_most=2.0)
        figures.note("large", value, "MiB", at_most=1.9)
    lines = [line.split() for line in figures.table().splitlines()[2:]]
    assert [line[:3] for line in lines] == [[name, "2", "1–3"] for name in ("fast", "slow", "small", "large")]
    assert [line[-1] for line in lines] == ["met", "MISSED", "met", "MISSED"]
    assert not figures.are_met


def test_a_shorter_text_of_ours_lowers_the_ratio_and_a_longer_one_does_not_raise_it() -> None:
    # An answer takes 0.2 s, and 0.1 s more with three more tokens.
    assert at_equal_text(5.0, 2.5, 3.0, 6.0, tokens_per_s=30.0) == pytest.approx(2.0 / 1.5)
    assert at_equal_text(5.0, 2.5, 6.0, 3.0, tokens_per_s=30.0) == pytest.approx(2.0)


@pytest.mark.parametrize("kind", Kind)
def test_every_prompt_begins_with_the_constant_text_and_then_differs(kind: Kind) -> None:
    one, other = (prompt(kind, reading) for reading in ({"pump": 1, "reading": {}}, {"pump": 2, "reading": {}}))
    length = len(constant_text(kind))
    assert one[:length] == other[:length] == constant_text(kind)
    assert one[length] != other[length]


@pytest.mark.parametrize(
    ("kind", "text", "completion_tokens"),
    [
        (Kind.CLASSIFY, "broken", 0),
        (Kind.EXTRACT, '{"condition":"leak"}', 9),
        (Kind.EXTRACT, '{"condition":"leak","severity":"low","stop":true,"action":"' + "x" * 61 + '"}', 40),
        (Kind.GENERATE, "", 0),
        (Kind.GENERATE, "too long", 33),
    ],
)
def test_an_answer_of_another_form_is_refused(kind: Kind, text: str, completion_tokens: int) -> None:
    answer = Answer(text=text, prompt_tokens=235, cached_tokens=185, completion_tokens=completion_tokens)
    with pytest.raises(ValueError, match=r"label|schema|tokens"):
        check_answer(kind, answer, constant_tokens=185)


def test_an_answer_whose_constant_text_was_computed_again_is_refused() -> None:
    answer = Answer(text="leak", prompt_tokens=235, cached_tokens=185, completion_tokens=0, scores={"leak": 1.0})
    with pytest.raises(ValueError, match="only 185 of 300"):
        check_answer(Kind.CLASSIFY, answer, constant_tokens=300)
