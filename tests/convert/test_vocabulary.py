"""`--vocabulary`: a model with a part of its tokens reads covered texts as before, and computes the same for them."""

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.agent import model_facts
from convert.errors import ConvertError
from convert.evaluate.requests import read_tasks, with_tasks
from convert.measure.runner import LoadedVocabulary, Runner
from convert.measure.texts import read_texts
from convert.measure.vocabulary import WantedVocabulary, fit_vocabulary
from convert.plan import make_plan
from convert.quantize.recipe import Quantization
from convert.read.checkpoint import Checkpoint
from convert.read.model import SourceModel, read_model
from convert.read.vocabulary import cut_model, kept_tokens
from convert.write.gguf_file import write_gguf
from edge_agent.models.bundle import open_model
from edge_agent.tools.demo.readings import checkpoint_folder, held_out
from tests.convert.adapters import make_adapter
from tests.convert.checkpoints import make_checkpoint
from tests.convert.conversions import Cli, convert
from tests.convert.test_family import FORMS, lively
from tests.helpers.bundles import DEMO_TASKS

WORDS = ("vibration", "temperature", " bearing", "\n\n", "5.25", "Ä", "泵", "🔧", "_", " the", "  ", "}\n", '{"', "ab")


@pytest.fixture(scope="module")
def demo() -> Iterator[SourceModel]:
    with Checkpoint(checkpoint_folder()) as checkpoint:
        yield read_model(checkpoint)


def loaded(model: SourceModel, path: Path) -> LoadedVocabulary:
    write_gguf(path, make_plan(model, Quantization.BF16).entries, [], [])
    return LoadedVocabulary(path)


def random_text(draw: random.Random) -> str:
    readings = [reading.payload for reading in held_out()[:50]]
    parts = [draw.choice([*WORDS, draw.choice(readings)[draw.randrange(20) :]]) for _ in range(draw.randrange(1, 6))]
    return "".join(parts)


def test_texts_of_kept_tokens_are_read_as_before_and_others_byte_for_byte(demo: SourceModel, tmp_path: Path) -> None:
    draw, seen = random.Random(4), {True: 0, False: 0}
    for number in range(3):
        used = draw.sample(range(len(demo.tokenizer.tokens)), 30)
        kept = kept_tokens(demo.tokenizer, used, draw.choice((400, 600, 800)))
        assert kept == sorted({*kept, *used})
        with ExitStack() as stack:
            models = (demo, cut_model(demo, kept))
            whole, part = (
                stack.enter_context(loaded(model, tmp_path / f"{number}-{at}")) for at, model in enumerate(models)
            )
            for _ in range(200):
                tokens = whole.tokenize(text := random_text(draw), parse_special=False)
                now = part.tokenize(text, parse_special=False)
                is_covered = set(tokens) <= {*kept}
                seen[is_covered] += 1
                assert b"".join(map(part.piece, now)) == text.encode()
                assert ([kept[one] for one in now] == tokens) is is_covered
    assert min(seen.values()) > 50


def test_what_fills_up_merges_first_and_too_few_tokens_are_refused(demo: SourceModel) -> None:
    least = 256 + 3
    assert kept_tokens(demo.tokenizer, [], 700)[:697] == list(range(697))
    # Tokens like `[PAD…]`, which no text has, do not count.
    for size in (1020, 1024, 1025, 65_536):
        with pytest.raises(
            ConvertError, match=rf"should be less than 1024, the tokens in use \(got {size}(, the default)?\)"
        ):
            kept_tokens(demo.tokenizer, [], size)
    with pytest.raises(ConvertError, match=rf"--vocabulary-size: should be at least {least}, .* \(got 100\)"):
        kept_tokens(demo.tokenizer, [], 100)


@pytest.mark.parametrize("form", ["0.5B", "7B, untied", "R1-Distill, untied"])
def test_a_cut_model_computes_what_the_whole_one_does_for_its_tokens(form: str, tmp_path: Path) -> None:
    shape, change = FORMS[form]
    files = change(lively(make_checkpoint(**shape)))
    checkpoint = files.write(tmp_path / "checkpoint")
    texts = tmp_path / "texts.txt"
    texts.write_text("a")
    with Checkpoint(checkpoint) as opened:
        model = read_model(opened)
        cut, kept = fit_vocabulary(model, WantedVocabulary(read_texts([texts]), 264, read_texts([texts])))
        assert len(kept) == 264 < model.checkpoint_tokens
        make_plan(cut, Quantization.BF16).write(tmp_path / "cut.gguf")
        make_plan(model, Quantization.BF16).write(tmp_path / "whole.gguf")
    draw = np.random.default_rng(5)
    places = [int(one) for one in draw.permutation(len(kept))[:128]]
    with Runner(tmp_path / "cut.gguf") as part, Runner(tmp_path / "whole.gguf") as whole:
        np.testing.assert_allclose(part.logits(places), whole.logits([kept[one] for one in places])[:, kept], atol=1e-3)
    facts = model_facts(tmp_path / "cut.gguf")
    assert (facts.tokens, facts.all_tokens) == (264, model.checkpoint_tokens)


def test_an_adapter_of_the_output_matrix_loses_the_same_rows(tmp_path: Path) -> None:
    files = make_checkpoint(tied=False)
    checkpoint = files.write(tmp_path / "checkpoint")
    head = {name: values for name, values in files.tensors.items() if name == "lm_head.weight"}
    lora = make_adapter(head, modules=("lm_head",), strength=0.5).write(tmp_path / "lora")
    texts = read_texts([Path(__file__).parents[2] / "LICENSE"])
    wanted = WantedVocabulary(texts, 264, texts)
    convert(checkpoint, tmp_path / "whole", Quantization.BF16, lora=lora)
    manifest = convert(checkpoint, tmp_path / "cut", Quantization.BF16, lora=lora, vocabulary=wanted)
    assert manifest["vocabulary"] == {"tokens": 264, "of": 320}
    with Checkpoint(checkpoint) as opened:
        _, kept = fit_vocabulary(read_model(opened), wanted)
    places = list(range(200))

    def logits(name: str, tokens: list[int]) -> Any:
        with Runner(tmp_path / name / "model.gguf", [tmp_path / name / "adapter.gguf"]) as runner:
            return runner.logits(tokens).copy()

    np.testing.assert_allclose(
        logits("cut", places), logits("whole", [kept[one] for one in places])[:, kept], atol=1e-3
    )


@pytest.mark.usefixtures("few_texts")
def test_a_bundle_says_what_its_vocabulary_covers(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convert.evaluate.comparison.PLAIN", ())
    bundle, rows = tmp_path / "bundle", tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"input": one.payload, "answer": one.fault}) + "\n" for one in held_out()[:40]))
    words = (checkpoint_folder(), "--type", "q8_0", "--calibration", "--work", tmp_path / "work", "--out", bundle)
    cut = ("--vocabulary", rows, "--tasks", DEMO_TASKS, "--vocabulary-size", 1000)
    for more in (["--dry-run"], []):
        code, printed, _ = cli(*words, *cut, *more)
        assert (code, "vocabulary: 1,000 of 1,024 tokens" in printed) == (0, True)
        assert "lines are read as before; all take" in printed
    page = (bundle / "quality.html").read_text("utf-8")
    assert "1,000 of 1,024 tokens" in page
    model = open_model("default", bundle)
    assert model.describe()["vocabulary"] == {"tokens": 1000, "of": 1024}
    quality = json.loads((bundle / "quality.json").read_text())["bundle"]
    assert quality["vocabulary"]["coverage"]["lines"] > 100
    assert quality["bytes_per_token"] == model.bytes_per_token
    # The checkpoint is compared with the same part of its vocabulary.
    code, out, err = cli("evaluate", bundle, "--against", checkpoint_folder(), "--work", tmp_path / "other")
    assert (code, "KL divergence" in out) == (0, True)
    assert "note: the checkpoint is read with only the bundle's 1,000 tokens" in err
    other = make_checkpoint().write(tmp_path / "checkpoint")
    code, _, err = cli("evaluate", bundle, "--against", other, "--work", tmp_path / "other")
    assert (code, "has other tokens than this checkpoint" in err) == (1, True)


def test_a_line_and_a_row_are_covered_as_a_request_has_them(demo: SourceModel, tmp_path: Path) -> None:
    # A newline joins the mark before it first, as in Qwen's vocabulary.
    old = demo.tokenizer
    tokens, types = [*old.tokens, ".Ċ", ")."], [*old.token_types, 1, 1]
    model = replace(demo, tokenizer=replace(old, tokens=tokens, token_types=types, merges=[*old.merges, ". Ċ", ") ."]))
    rows, lines = tmp_path / "rows.jsonl", tmp_path / "lines.txt"
    rows.write_text(json.dumps({"input": {"note": "the pump is hot"}, "answer": "stop the motor"}) + "\n")
    lines.write_text("the seal leaks (see A).\nthe inlet is blocked\n")
    part, kept = fit_vocabulary(model, WantedVocabulary(read_texts([rows, lines]), 480, read_texts([lines])))
    with loaded(model, tmp_path / "whole.gguf") as whole:
        joined = whole.tokenize("(see A).\n", parse_special=False)
        assert whole.tokenize("(see A).", parse_special=False)[-1] == len(tokens) - 1 not in joined
        assert whole.end_of_turn == kept[part.tokenizer.special_ids["eot"]]
        for text in ('{"note":"the pump is hot"}', "stop the motor", "the seal leaks (see A).", "the inlet is blocked"):
            assert {*whole.tokenize(text, parse_special=False)} <= {*kept}


def test_rows_are_also_read_as_a_template_puts_them(tmp_path: Path) -> None:
    rows, config = tmp_path / "rows.jsonl", tmp_path / "config.toml"
    rows.write_text(json.dumps({"input": {"note": "the pump is hot"}}) + "\n" + json.dumps({"input": "no note"}) + "\n")
    config.write_text(
        '[tasks.t]\nkind = "classify"\nlabels = ["a", "b"]\ntemplate = "It says, {{ input.note }}. State:"\n'
    )
    wanted = with_tasks(read_texts([rows]), read_tasks(config))
    assert [one.messages for one in wanted.documents if "It says, the" in str(one.messages)] == [
        (("user", "It says, the pump is hot. State:"),)
    ]


def test_a_trained_model_keeps_its_tokens(demo: SourceModel) -> None:
    with pytest.raises(ConvertError, match="the checkpoint is of a trained model"):
        cut_model(replace(demo, fields="{}"), [0])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--vocabulary-size", "1000"), "--vocabulary-size goes with --vocabulary"),
        (("--vocabulary", "FILE", "--vocabulary-size", "0"), "must be a number of tokens, from 1 to 9999999"),
        (("--vocabulary", "FILE", "--vocabulary-size", "300"), "--vocabulary-size: should be at least "),
        (
            ("--vocabulary", "FILE"),
            "--vocabulary-size: should be less than 1024, the tokens in use (got 65536, the default)",
        ),
        (("--vocabulary", "FILE", "--vocabulary-size", "1000", "--eval", "BLANK"), "blank.txt: holds no text"),
        (("--vocabulary", "FILE", "BLANK"), "blank.txt: holds no text"),
        (("--vocabulary", "gone.txt"), "gone.txt: No such file or directory"),
        (("--tasks", "FILE"), "--tasks goes with --labelled, --canaries or --vocabulary"),
    ],
)
def test_what_cannot_be_cut_is_refused(words: tuple[str, ...], told: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("vibration")
    (tmp_path / "blank.txt").write_text(" \n\t\n")
    names = {"FILE": str(tmp_path / "texts.txt"), "BLANK": str(tmp_path / "blank.txt")}
    given = (names.get(word, word) for word in words)
    done = cli(checkpoint_folder(), "--type", "q8_0", "--out", tmp_path / "bundle", *given)
    assert (done.returncode in (1, 2), told in done.stderr) == (True, True)
    assert not (tmp_path / "bundle").exists()
