"""The agent against llama-server and llama.cpp's own benchmarks, on one workload.

All sides get the same model file, threads and context, and are loaded at the same time; they take turns within each
round. The ratios within a round count: median, lowest and highest of all rounds. The first run fetches and builds
llama.cpp's programs, which takes some minutes. Exit code 1 if a target is missed or an answer is not as it must be.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Protocol

from edge_agent.models.bundle import MODEL_FILE
from rigs.bench.agent import AgentSide, UnexpectedReply, running_agent, task_name, workload_tasks
from rigs.bench.asking import Run, Side, ask_all
from rigs.bench.figures import Figures
from rigs.bench.server import PROGRAMS, LlamaServer, batched_tokens_per_s, prefill_tokens_per_s
from rigs.bench.workload import (
    BATCH_TOKENS,
    CLIENTS,
    CONTEXT_TOKENS,
    GENERATED_TOKENS,
    THREADS,
    Answer,
    Kind,
    constant_text,
    free_text,
    readings,
)
from rigs.llama_sources import build_llama_cpp
from rigs.machine import model_path, parser_of

ENGINE = {"threads": THREADS, "prefill_threads": THREADS, "max_active": CLIENTS, "context_tokens": CONTEXT_TOKENS}
PARTS = ("classify", "extract", "generate", "idle")
WIDTHS = (CLIENTS, 1, 2, 4)
# The tokens that a request of a few values computes, with the end of the chat template.
SHORT_TOKENS = 24
_IDLE_REQUESTS = 25
# Long enough for the worker to sleep again.
_IDLE_PAUSE_S = 0.05


class Server(Side, Protocol):
    def count_tokens(self, text: str) -> int: ...


class Comparison:
    """Measures these of PARTS round by round into `figures`, with as many requests of each kind in each run.

    `prefill` and `batched` tell what llama.cpp's own benchmarks reach, in tokens per second.
    """

    def __init__(
        self,
        agent: AgentSide,
        server: Server,
        programs: Path,
        model: Path,
        parts: Iterable[str],
        *,
        requests: int,
        prefill: Callable[..., float] = prefill_tokens_per_s,
        batched: Callable[..., float] = batched_tokens_per_s,
    ) -> None:
        self.figures = Figures()
        self._agent, self._server = agent, server
        self._programs, self._model, self._prefill, self._batched = programs, model, prefill, batched
        self._requests = requests
        self._parts = [part for part in PARTS if part in set(parts)]
        self._constant_tokens = {kind: server.count_tokens(constant_text(kind)) for kind in Kind}

    def run(self, number: int) -> None:
        """One round. Raises what a side raises for an answer that is not as it must be."""
        both: list[Side] = [self._agent, self._server]
        # The order alternates, because the machine gets warmer, or busier, within a round.
        if number % 2:
            both.reverse()
        parts: dict[str, Callable[[list[Side], str], None]] = {
            "classify": self._classify,
            "extract": self._extract,
            "generate": self._generate,
            "idle": self._idle,
        }
        for part in self._parts:
            if sys.stderr.isatty():
                print(f"\r\x1b[Kround {number + 1} {part}", end="", file=sys.stderr, flush=True)
            parts[part](both, f"round {number}")

    def _classify(self, both: list[Side], seed: str) -> None:
        note = self.figures.note
        ours: dict[int, Run] = {}
        theirs: dict[int, Run] = {}
        self._warm_up(both, Kind.CLASSIFY, seed)
        for width in WIDTHS:
            for side in both:
                if side is self._server:
                    theirs[width] = self._ask(side, Kind.CLASSIFY, width, seed)
                elif width in {1, CLIENTS}:
                    ours[width] = self._ask(side, Kind.CLASSIFY, width, seed)
        together, alone = ours[CLIENTS], ours[1]
        rate = together.requests_per_s
        note(f"classify: requests/s, {CLIENTS} clients", rate, "1/s")
        note("  one client", alone.requests_per_s, "1/s")
        for width, run in theirs.items():
            note(f"  llama-server, {width}", run.requests_per_s, "1/s")
        note("  tokens computed per request", together.computed_tokens, "tokens")
        note("  the same of llama-server", theirs[CLIENTS].computed_tokens, "tokens")
        note(f"classify: ratio at {CLIENTS}", rate / theirs[CLIENTS].requests_per_s, at_least=1.6)
        best = max(run.requests_per_s for run in theirs.values())
        note("classify: ratio to its best number of clients", rate / best, at_least=1.4)
        note("classify: ratio at 1", alone.requests_per_s / theirs[1].requests_per_s)
        shared_tokens = self._constant_tokens[Kind.CLASSIFY]
        prefill = self._prefill(self._programs, self._model, batch_tokens=BATCH_TOKENS, shared_tokens=shared_tokens)
        share = rate / (prefill / together.computed_tokens)
        note("classify: of what llama-bench's prefill allows", share, at_least=0.9)
        note("classify: same label alone and in a batch", _agreement(alone, together), at_least=0.99)
        note("  largest difference of a probability", _largest_difference(alone, together), at_most=0.02)
        note("  same label as llama-server", _agreement(together, theirs[CLIENTS]))

    def _extract(self, both: list[Side], seed: str) -> None:
        self._warm_up(both, Kind.EXTRACT, seed)
        for width, at_least in ((CLIENTS, 2.0), (1, 2.2)):
            runs = {side.name: self._ask(side, Kind.EXTRACT, width, seed) for side in both}
            ours, theirs = runs[self._agent.name], runs[self._server.name]
            written = ask_all(
                self._agent, Kind.GENERATE, readings(CLIENTS, seed=f"{seed} text"), clients=width
            ).tokens_per_s
            tokens = [self._free_tokens(run) for run in (ours, theirs)]
            self.figures.note(f"extract: requests/s, {width}", ours.requests_per_s, "1/s")
            self.figures.note(f"  tokens of free text, {width}", tokens[0], "tokens")
            self.figures.note(f"  llama-server, {width} ", theirs.requests_per_s, "1/s")
            self.figures.note(f"  its tokens of free text, {width}", tokens[1], "tokens")
            ratio = at_equal_text(ours.requests_per_s, theirs.requests_per_s, *tokens, tokens_per_s=written)
            self.figures.note(f"extract: ratio at {width}", ratio, at_least=at_least)

    def _free_tokens(self, run: Run) -> float:
        """The mean tokens of an answer's free text. The server counts those of both sides' texts."""
        return sum(self._server.count_tokens(free_text(answer)) for answer in run.answers) / len(run.answers)

    def _generate(self, both: list[Side], seed: str) -> None:
        self._warm_up(both, Kind.GENERATE, seed)
        runs = {side.name: self._ask(side, Kind.GENERATE, CLIENTS, seed) for side in both}
        ours, theirs = runs[self._agent.name], runs[self._server.name]
        limit = self._batched(
            self._programs,
            self._model,
            shared_tokens=self._constant_tokens[Kind.GENERATE],
            own_tokens=round(ours.computed_tokens),
            written_tokens=GENERATED_TOKENS,
        )
        note = self.figures.note
        note(f"generate: tokens/s, {CLIENTS} clients", ours.tokens_per_s, "tokens/s")
        note("  of llama-server", theirs.tokens_per_s, "tokens/s")
        note("  of llama-batched-bench", limit, "tokens/s")
        note(f"generate: ratio at {CLIENTS}", ours.tokens_per_s / theirs.tokens_per_s, at_least=1.15)
        note("generate: of what llama-batched-bench allows", ours.tokens_per_s / limit, at_least=0.95)

    def _idle(self, _both: list[Side], _seed: str) -> None:
        """Raises ValueError if more than SHORT_TOKENS of a prompt were computed."""
        answers_ms, queued_ms = [], []
        for number in range(_IDLE_REQUESTS):
            time.sleep(_IDLE_PAUSE_S)
            value = {"pump": number, "reading": f"{number % 9}.4 mm/s, {60 + number % 30} °C"}
            began = time.perf_counter()
            reply = self._agent.reply(task_name(Kind.CLASSIFY), value)
            answers_ms.append((time.perf_counter() - began) * 1000)
            queued_ms.append(reply["timing"]["queued_ms"])
            computed = reply["usage"]["prompt_tokens"] - reply["usage"]["cached_tokens"]
            # The first request of a task computes its prefix.
            if number and computed > SHORT_TOKENS:
                raise ValueError(f"{computed} tokens were computed, more than {SHORT_TOKENS}")
        name = f"classify on an idle agent, ≤ {SHORT_TOKENS} new tokens: p50"
        self.figures.note(name, statistics.median(answers_ms), "ms", at_most=90)
        name = "from the packet to the first step on an idle agent: p50"
        self.figures.note(name, statistics.median(queued_ms), "ms", at_most=3)

    def _warm_up(self, sides: list[Side], kind: Kind, seed: str) -> None:
        """Each side sees the constant text of this kind, once for each client."""
        for side in sides:
            ask_all(side, kind, readings(2 * CLIENTS, seed=f"warm-up {seed} {kind}"), clients=CLIENTS)

    def _ask(self, side: Side, kind: Kind, clients: int, seed: str) -> Run:
        # The agent gets the same questions alone and in batches. The server, which keeps whole prompts, does not.
        shared_seed = side is self._agent or clients == CLIENTS
        questions = readings(self._requests, seed=f"{seed} {kind}" if shared_seed else f"{seed} {kind} {clients}")
        return ask_all(side, kind, questions, clients=clients, constant_tokens=self._constant_tokens[kind])


def at_equal_text(rate: float, their_rate: float, tokens: float, their_tokens: float, *, tokens_per_s: float) -> float:
    """The ratio of rates where both word a text freely.

    It is lower by the time that the longer text of the other side would take the agent, which writes texts at
    `tokens_per_s`, prompts included. A longer text of its own raises nothing.
    """
    return rate / their_rate / (1 + max(0.0, their_tokens - tokens) * rate / tokens_per_s)


def _pairs(one: Run, other: Run) -> list[tuple[Answer, Answer]]:
    return list(zip(one.answers, other.answers, strict=True))


def _agreement(one: Run, other: Run) -> float:
    return statistics.mean(mine.text == theirs.text for mine, theirs in _pairs(one, other))


def _largest_difference(one: Run, other: Run) -> float:
    return max(
        abs(mine.scores[label] - theirs.scores[label])
        for mine, theirs in _pairs(one, other)
        if mine.scores is not None and theirs.scores is not None
        for label in mine.scores
    )


def main() -> int:
    parser = parser_of("rigs.bench.compare", __doc__)
    parser.add_argument("model", type=model_path, metavar="MODEL", help="a bundle or a .gguf with a ChatML template")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=32, help="of each kind in each run (%(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="keeps what was built (%(default)s)")
    options = parser.parse_args()
    model = (options.model / MODEL_FILE if options.model.is_dir() else options.model).absolute()
    options.work.mkdir(parents=True, exist_ok=True)
    programs = build_llama_cpp(options.work, PROGRAMS).absolute()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(closing(LlamaServer(programs, model, folder)))
        agent = stack.enter_context(running_agent(options.model, folder, workload_tasks(), ENGINE))
        comparison = Comparison(agent, server, programs, model, options.parts, requests=options.requests)
        try:
            for number in range(options.rounds):
                comparison.run(number)
        except (UnexpectedReply, ValueError) as error:
            raise SystemExit(f"\nan answer is not as it must be: {error}") from error
    print(comparison.figures.table())
    return 0 if comparison.figures.are_met else 1


if __name__ == "__main__":
    sys.exit(main())
