"""tokenizer.json and tokenizer_config.json, in the forms that checkpoints of several years have them."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from convert.errors import CheckpointError
from convert.measure.runner import Runner
from convert.measure.texts import TextDocument, Texts, chunks
from convert.read.config import parse_config
from convert.read.tokenizer import Tokenizer, parse_tokenizer
from tests.convert.checkpoints import BYTE_LEVEL, CheckpointFiles, make_checkpoint

R1_BOS, R1_EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"


@pytest.fixture
def files() -> CheckpointFiles:
    return make_checkpoint(layers=1)


def parse(files: CheckpointFiles) -> Tokenizer:
    config = parse_config(files.config)
    return parse_tokenizer(files.tokenizer, files.tokenizer_config, config.special_token_ids, config.vocab_size)


def refused(files: CheckpointFiles) -> str:
    with pytest.raises(CheckpointError) as caught:
        parse(files)
    assert str(caught.value).isprintable()
    return str(caught.value)


def added(files: CheckpointFiles, text: str) -> dict[str, Any]:
    found: dict[str, Any] = next(token for token in files.tokenizer["added_tokens"] if token["content"] == text)
    return found


def r1_distill(files: CheckpointFiles) -> CheckpointFiles:
    """Renames the special tokens to those of DeepSeek-R1-Distill-Qwen and lets a template add the first."""
    for old, new, special in (
        ("<|endoftext|>", R1_EOS, True),
        ("<|im_start|>", "<｜User｜>", False),
        ("<|im_end|>", R1_BOS, True),
        ("<tool_call>", "<think>", False),
    ):
        added(files, old).update(content=new, special=special)
    bos_id = added(files, R1_BOS)["id"]
    first, second = ({"SpecialToken": {"id": R1_BOS, "type_id": i}} for i in range(2))
    text_a, text_b = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    files.tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, text_a],
        "pair": [first, text_a, second, text_b],
    }
    files.tokenizer_config |= {"add_bos_token": True, "add_eos_token": False, "bos_token": {"content": R1_BOS}}
    files.tokenizer_config |= {"eos_token": {"content": R1_EOS}, "pad_token": {"content": R1_EOS}}
    files.config |= {"bos_token_id": bos_id, "eos_token_id": added(files, R1_EOS)["id"]}
    return files


def test_a_qwen2_vocabulary_is_padded_to_the_rows_of_the_embedding(files: CheckpointFiles) -> None:
    tokenizer = parse(files)
    assert tokenizer.pre == "qwen2"
    assert len(tokenizer.tokens) == len(tokenizer.token_types) == 320
    assert tokenizer.tokens[265] == "[PAD265]"
    assert tokenizer.token_types[256:266] == [1, 1, 1, 1, 1, 3, 3, 3, 4, 5]
    assert tokenizer.merges[:3] == ["h e", "l l", "he ll"]


def test_special_tokens_come_from_the_tokenizer_and_then_from_config_json(files: CheckpointFiles) -> None:
    assert parse(files).special_ids == {"bos": 261, "eos": 263, "pad": 261}
    assert parse(files).adds == {"bos": False, "eos": False}


def test_a_token_that_looks_like_control_is_control_even_if_not_marked_special(files: CheckpointFiles) -> None:
    added(files, "<|im_start|>")["special"] = False
    assert parse(files).token_types[added(files, "<|im_start|>")["id"]] == TokenType.CONTROL


def test_an_added_token_that_only_tokenizer_config_knows_is_taken(files: CheckpointFiles) -> None:
    files.tokenizer_config["added_tokens_decoder"] = {"300": {"content": "<extra>", "special": False}}
    tokenizer = parse(files)
    assert (tokenizer.tokens[300], tokenizer.token_types[300]) == ("<extra>", TokenType.USER_DEFINED)


def test_merges_as_pairs_give_the_same_as_merges_as_strings(files: CheckpointFiles) -> None:
    plain = parse(files).merges
    files.tokenizer["model"]["merges"] = [merge.split(" ") for merge in files.tokenizer["model"]["merges"]]
    assert parse(files).merges == plain


def test_a_space_inside_a_merged_part_is_written_as_its_byte_level_stand_in(files: CheckpointFiles) -> None:
    files.tokenizer["model"]["vocab"] |= {"a b": 270, "a bc": 271}
    files.tokenizer["model"]["merges"] = [["a b", "c"]]
    assert parse(files).merges == ["aĠb c"]


def test_r1_distill_is_known_its_think_tokens_are_user_defined_and_its_markers_control(files: CheckpointFiles) -> None:
    tokenizer = parse(r1_distill(files))
    assert tokenizer.pre == "deepseek-r1-qwen"
    assert tokenizer.adds == {"bos": True, "eos": False, "sep": False}
    assert tokenizer.tokens[tokenizer.special_ids["bos"]] == R1_BOS
    assert tokenizer.tokens[tokenizer.special_ids["eos"]] == R1_EOS
    types = dict(zip(tokenizer.tokens, tokenizer.token_types, strict=True))
    assert types["<think>"] == TokenType.USER_DEFINED
    assert types["<｜User｜>"] == types[R1_BOS] == types[R1_EOS] == TokenType.CONTROL


def test_r1_distill_adds_its_first_token_even_if_only_tokenizer_config_says_so(files: CheckpointFiles) -> None:
    r1_distill(files).tokenizer["post_processor"] = BYTE_LEVEL
    assert parse(files).adds["bos"] is True
    assert parse(files).pre == "deepseek-r1-qwen"


def test_a_qwen2_tokenizer_follows_its_post_processor_and_not_add_bos_token(files: CheckpointFiles) -> None:
    files.tokenizer_config["add_bos_token"] = True
    assert parse(files).adds["bos"] is False


def test_special_tokens_must_be_known_and_in_the_vocabulary(files: CheckpointFiles) -> None:
    files.config["bos_token_id"] = 320
    assert "bos_token has id 320, allowed is 0 to 319" in refused(files)
    files.tokenizer_config["eos_token"] = None
    files.config |= {"bos_token_id": 0, "eos_token_id": [1, 2]}
    assert "no eos_token" in refused(files)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("model",), [], "model is"),
        (("model", "type"), "Unigram", "model.type"),
        (("model", "byte_fallback"), True, "model.byte_fallback"),
        (("model", "ignore_merges"), True, "model.ignore_merges"),
        (("model", "vocab"), {}, "model.vocab"),
        (("model", "vocab", "a"), "1", "model.vocab"),
        (("model", "vocab", "a"), -1, "token a has id -1"),
        (("model", "vocab", "x\x1b"), 320, r"token x\x1b has id 320, vocab_size in config.json allows 0 to 319"),
        (("model", "merges"), [], "model.merges"),
        (("model", "merges"), ["h  e"], "merge h  e"),
        (("model", "merges"), [["h", "e", "l"]], "merge"),
        (("model", "merges"), [["h", "z"]], "merge ['h', 'z']"),
        (("normalizer",), {"type": "NFKC"}, "normalizer"),
        (("pre_tokenizer",), None, "pre_tokenizer"),
        (("pre_tokenizer",), BYTE_LEVEL, "pre_tokenizer"),
        (("pre_tokenizer", "pretokenizers", 0, "pattern"), {"Regex": r"\p{N}{1,3}"}, "regular expression"),
        (("pre_tokenizer", "pretokenizers", 1, "add_prefix_space"), True, "ByteLevel"),
        (("post_processor",), {"type": "BertProcessing"}, "BertProcessing"),
        (("post_processor",), {"type": "TemplateProcessing", "single": 3}, "post_processor is"),
        (("added_tokens",), "x", "added_tokens must be a list"),
        (("added_tokens", 0, "id"), None, "must have a text and an integer id"),
        (("added_tokens", 0, "content"), 5, "must have a text"),
        (("added_tokens", 0, "content"), "<|im_end|>", "contradicts"),
        (("added_tokens", 0, "id"), 0, "belongs to both"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(
    files: CheckpointFiles, path: tuple[Any, ...], value: Any, named: str
) -> None:
    place: Any = files.tokenizer
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert named in refused(files)


def test_a_template_that_adds_another_token_than_bos_is_refused(files: CheckpointFiles) -> None:
    r1_distill(files).tokenizer_config["bos_token"] = {"content": "<｜User｜>"}
    assert "post_processor adds" in refused(files)


def golden() -> list[dict[str, Any]]:
    """How Hugging Face's `tokenizers` reads texts with the demonstration model's vocabulary."""
    found: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden_tokens.json").read_text("utf-8"))
    return found


def test_llama_cpp_reads_texts_in_nfc_into_the_tokens_that_hugging_face_reads(demo_bundle: Path) -> None:
    with Runner(demo_bundle / "model.gguf") as runner:
        for known in golden():
            text = unicodedata.normalize("NFC", known["text"])
            assert runner.tokenize(text, parse_special=True) == known["ids"], known["text"]
            assert b"".join(map(runner.piece, known["ids"])) == text.encode()
    assert any(unicodedata.normalize("NFC", known["text"]) != known["text"] for known in golden())


def test_texts_to_tune_on_are_read_in_nfc(demo_bundle: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Größe prüfen, café. " * 200) for form in ("NFC", "NFD"))
    with Runner(demo_bundle / "model.gguf") as runner:
        first, second = (
            chunks(Texts("t", "0", [TextDocument(text=text), talk(text)]), runner, seed=0, max_chunks=20)
            for text in (composed, decomposed)
        )
    assert first == second


def talk(text: str) -> TextDocument:
    return TextDocument(messages=(("user", text), ("assistant", text)))
