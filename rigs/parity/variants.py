"""Checkpoints derived from the given one, with the same weights (linked) and other tokenizer and configuration files.

They stand for forms of checkpoint that the given one does not show, so that keys can be compared for those too.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Files = dict[str, Any]
R1_TOKENS = {
    "<|endoftext|>": "<｜end▁of▁sentence｜>",
    "<|im_start|>": "<｜User｜>",
    "<|im_end|>": "<｜Assistant｜>",
    "<|object_ref_start|>": "<｜begin▁of▁sentence｜>",
    "<|object_ref_end|>": "<|EOT|>",
    "<|box_start|>": "<think>",
    "<|box_end|>": "</think>",
}
R1_TEMPLATE = "{{ bos_token }}{% for m in messages %}<｜User｜>{{ m['content'] }}{% endfor %}<｜Assistant｜><think>\n"


def r1_distill(files: Files) -> None:
    """Like DeepSeek-R1-Distill-Qwen, with a template that adds BOS, wide bars in markers, and ordinary think tokens."""
    tokenizer, config, settings = files["tokenizer.json"], files["config.json"], files["tokenizer_config.json"]
    for token in [*tokenizer["added_tokens"], *settings["added_tokens_decoder"].values()]:
        token["content"] = R1_TOKENS.get(token["content"], token["content"])
        if token["content"] in ("<think>", "</think>", "<｜User｜>", "<｜Assistant｜>", "<|EOT|>"):
            token["special"] = False
    bos = "<｜begin▁of▁sentence｜>"
    bos_id = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == bos)
    first, second = [{"SpecialToken": {"id": bos, "type_id": i}} for i in range(2)]
    text_a, text_b = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, text_a],
        "pair": [first, text_a, second, text_b],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }
    end = "<｜end▁of▁sentence｜>"
    settings |= {"add_bos_token": True, "add_eos_token": False, "legacy": True, "tokenizer_class": "LlamaTokenizerFast"}
    settings |= {
        "bos_token": _added(bos),
        "eos_token": _added(end),
        "pad_token": _added(end),
        "chat_template": R1_TEMPLATE,
    }
    del settings["add_prefix_space"]  # its presence makes transformers' Llama class look for a sentencepiece model
    config |= {"bos_token_id": bos_id, "eos_token_id": 151643, "rope_theta": 10000, "max_position_embeddings": 131072}


def yarn_and_pairs(files: Files) -> None:
    """Has static YaRN, merges as pairs, and the chat template in a file of its own."""
    tokenizer, settings = files["tokenizer.json"], files["tokenizer_config.json"]
    tokenizer["model"]["merges"] = [merge.split(" ") for merge in tokenizer["model"]["merges"]]
    files["chat_template.jinja"] = settings.pop("chat_template")
    scaling = {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn", "beta_fast": 32.0}
    files["config.json"]["rope_scaling"] = scaling


def nested_rope_and_named_templates(files: Files) -> None:
    """Has newer transformers' `rope_parameters`, a head_dim, named chat templates, and no generation_config.json."""
    config, settings = files["config.json"], files["tokenizer_config.json"]
    config["rope_parameters"] = {"rope_type": "linear", "rope_theta": config.pop("rope_theta"), "factor": 2.0}
    config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    settings["chat_template"] = [
        {"name": "default", "template": settings["chat_template"]},
        {"name": "tool-use", "template": "{{ tools }}"},
    ]
    files["generation_config.json"] = None


VARIANTS: dict[str, Callable[[Files], None]] = {
    "itself": lambda _files: None,
    "r1-distill": r1_distill,
    "yarn": yarn_and_pairs,
    "nested-rope": nested_rope_and_named_templates,
}


def write_variant(checkpoint: Path, folder: Path, change: Callable[[Files], None]) -> None:
    """A checkpoint in `folder` with `change` applied to the JSON files; the weights are symbolic links."""
    folder.mkdir(parents=True)
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
    files: Files = {name: json.loads((checkpoint / name).read_text("utf-8")) for name in names}
    change(files)
    for name, value in files.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            (folder / name).write_text(text, "utf-8")
    for path in checkpoint.glob("model*.safetensors*"):
        (folder / path.name).symlink_to(path.resolve())


def _added(text: str) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return {"__type": "AddedToken", "content": text} | flags
