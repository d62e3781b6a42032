"""Measures a GGUF of the demonstration model on its held-out rows, with llama.cpp alone.

    python rigs/training/evaluate.py MODEL.gguf

Labels are scored, not generated: the sum of the log-probabilities of the label's tokens and the closing <|im_end|>.
Diagnoses and sentences are generated greedily. Exits 1 if fewer than 97 % of the labels, or fewer than 95 % of the
diagnoses (fault, severity and stop together), are right.
"""

import argparse
import ctypes
import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import jinja2
import llama_cpp
import numpy as np
import numpy.typing as npt

LEAST_LABELS_RIGHT = 0.97
LEAST_DIAGNOSES_RIGHT = 0.95
LONGEST_ANSWER_TOKENS = 80
CONTEXT_TOKENS = 4096
DEMO = Path(__file__).parents[2] / "edge_agent" / "tools" / "demo"


class Model:
    """A GGUF in llama.cpp: prompts from its own chat template, label scores and greedy text."""

    def __init__(self, path: Path, branches: int, threads: int) -> None:
        self._log_callback = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._log_callback, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(self._vocab)
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = CONTEXT_TOKENS
        parameters.n_batch = parameters.n_ubatch = 1024
        parameters.n_seq_max = 1 + branches
        parameters.kv_unified = True
        parameters.n_threads = parameters.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(1024, 0, 1)
        template = llama_cpp.llama_model_chat_template(self._model, None)
        environment = jinja2.Environment(autoescape=False)  # the output is a prompt, not a page
        self._template = environment.from_string(template.decode())

    def tokens(self, text: str, *, has_control_tokens: bool) -> list[int]:
        """Token ids; no token is added."""
        data = text.encode()
        room = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), room, len(room), False, has_control_tokens)
        return list(room[:count])

    def prompt(self, system: str | None, user: str) -> list[int]:
        """Token ids of the rendered chat, generation prompt included."""
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": user})
        text = self._template.render(messages=messages, add_generation_prompt=True)
        return self.tokens(text, has_control_tokens=True)

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Rows of token, position, sequence and whether its logits are wanted."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for at, (token, position, sequence, wants_logits) in enumerate(rows):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position, 1
            batch.seq_id[at][0], batch.logits[at] = sequence, wants_logits
        status = llama_cpp.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")

    def _log_probabilities(self, row: int) -> npt.NDArray[np.float64]:
        logits = llama_cpp.llama_get_logits_ith(self._context, row)
        values = np.ctypeslib.as_array(logits, (self._vocab_size,)).astype(np.float64)
        values -= values.max()
        return values - math.log(float(np.exp(values).sum()))

    def _start(self, prompt: list[int]) -> npt.NDArray[np.float64]:
        llama_cpp.llama_memory_clear(self._memory, False)
        last = len(prompt) - 1
        self._decode([(token, at, 0, at == last) for at, token in enumerate(prompt)])
        return self._log_probabilities(last)

    def label_scores(self, prompt: list[int], labels: list[str]) -> dict[str, float]:
        """Probability of each label as the whole answer; they sum to 1."""
        end = llama_cpp.llama_vocab_eot(self._vocab)
        if end < 0:
            end = llama_cpp.llama_vocab_eos(self._vocab)
        first = self._start(prompt)
        continuations = [self.tokens(label, has_control_tokens=False) for label in labels]
        rows = []
        for sequence, tokens in enumerate(continuations, start=1):
            llama_cpp.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
            rows += [(token, len(prompt) + at, sequence, True) for at, token in enumerate(tokens)]
        self._decode(rows)
        sums, row = [], 0
        for tokens in continuations:
            total = first[tokens[0]]
            for following in [*tokens[1:], end]:
                total += self._log_probabilities(row)[following]
                row += 1
            sums.append(total)
        weights = np.exp(np.array(sums) - max(sums))
        return dict(zip(labels, (weights / weights.sum()).tolist(), strict=True))

    def greedy_text(self, prompt: list[int]) -> str:
        """The most probable token at each step, up to the end of the turn."""
        token, answer = int(self._start(prompt).argmax()), b""
        for position in range(len(prompt), len(prompt) + LONGEST_ANSWER_TOKENS):
            if llama_cpp.llama_vocab_is_eog(self._vocab, token):
                break
            piece = ctypes.create_string_buffer(128)
            size = llama_cpp.llama_token_to_piece(self._vocab, token, piece, len(piece), 0, True)
            answer += piece.raw[:size]
            self._decode([(token, position, 0, True)])
            token = int(self._log_probabilities(0).argmax())
        return answer.decode("utf-8", errors="replace")


def user_text(payload: str) -> str:
    """The user message the agent makes of a payload: JSON compact in the sender's key order, other text as it is."""
    if not payload.lstrip().startswith(("{", "[")):
        return payload
    return json.dumps(json.loads(payload), separators=(",", ":"), ensure_ascii=False)


def parsed(text: str) -> dict[str, Any]:
    """The diagnosis in a generated text, or an empty one."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


class Tally:
    """Right answers by question and group."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))

    def add(self, question: str, row: dict[str, Any], *, is_right: bool) -> None:
        """One answer, counted under all, its variant, its fault, and borderline or clear."""
        groups = ("all", row["variant"], f"fault: {row['fault']}", "borderline" if row["borderline"] else "clear")
        for group in groups:
            counts = self._counts[group][question]
            counts[0] += is_right
            counts[1] += 1

    def share(self, question: str) -> float:
        """Share of right answers over all rows."""
        right, total = self._counts["all"][question]
        return right / total

    def lines(self) -> list[str]:
        """One line a group."""
        return [
            f"{group:22}"
            + "".join(
                f"  {question} {right:3}/{total:3} = {right / total:6.1%}"
                for question, (right, total) in questions.items()
            )
            for group, questions in self._counts.items()
        ]


def evaluate(model: Model, tasks: dict[str, Any], rows: list[dict[str, Any]], *, verbose: bool) -> Tally:
    """Asks the three tasks about every row."""
    triage, diagnosis, explanation = tasks["machine-triage"], tasks["machine-diagnosis"], tasks["machine-explanation"]
    tally = Tally()
    for row in rows:
        user = user_text(row["input"])
        scores = model.label_scores(model.prompt(triage["system"], user), triage["labels"])
        best = max(scores, key=lambda label: scores[label])
        tally.add("label", row, is_right=best == row["fault"])
        text = model.greedy_text(model.prompt(diagnosis["system"], user))
        answer, wanted = parsed(text), row["diagnosis"]
        is_right = all(answer.get(key) == wanted[key] for key in ("fault", "severity", "stop"))
        tally.add("diagnosis", row, is_right=is_right)
        tally.add("diagnosis exact", row, is_right=text == json.dumps(wanted, separators=(",", ":")))
        sentence = model.greedy_text(model.prompt(explanation["system"], user))
        tally.add("sentence", row, is_right=sentence == row["sentence"])
        if verbose and not (best == row["fault"] and is_right and sentence == row["sentence"]):
            print(
                json.dumps(
                    {
                        "input": user,
                        "fault": row["fault"],
                        "scores": {k: round(v, 3) for k, v in scores.items() if v > 0.02},
                    }
                )
            )
            print(f"  {text}\n  {sentence}\n  wanted {row['sentence']}")
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--demo", type=Path, default=DEMO, help="folder of tasks.json and heldout.jsonl")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="print every row that was not answered exactly")
    arguments = parser.parse_args()
    tasks = json.loads((arguments.demo / "tasks.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (arguments.demo / "heldout.jsonl").read_text(encoding="utf-8").splitlines()]
    model = Model(arguments.gguf, len(tasks["machine-triage"]["labels"]), arguments.threads)
    tally = evaluate(model, tasks, rows, verbose=arguments.verbose)
    print("\n".join(tally.lines()))
    is_good = tally.share("label") >= LEAST_LABELS_RIGHT and tally.share("diagnosis") >= LEAST_DIAGNOSES_RIGHT
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
