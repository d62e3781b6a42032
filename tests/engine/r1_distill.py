"""The demonstration checkpoint with the special tokens, the BOS rule and the chat form of DeepSeek-R1-Distill-Qwen.

Source: tokenizer_config.json of deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B. The weights know nothing of these tokens.
"""

import json
import subprocess
import sys
from pathlib import Path

BOS, EOS, USER, ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
TEMPLATE = (
    "{% set ns = namespace(system='') %}"
    "{% for m in messages %}{% if m['role'] == 'system' %}{% set ns.system = m['content'] %}{% endif %}{% endfor %}"
    "{{ bos_token }}{{ ns.system }}"
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] }}"
    "{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)
# The last three tokens of the demonstration's vocabulary give their places to those that ChatML has no word for.
_RENAMED = {"<|endoftext|>": EOS, "<|im_start|>": USER, "<|im_end|>": ASSISTANT}
_NEW = (BOS, "<think>", "</think>")
_SPECIAL = (BOS, EOS)


def convert(checkpoint: Path, folder: Path) -> Path:
    """Path of a BF16 model.gguf made of it by our own converter."""
    source, bundle = folder / "checkpoint", folder / "bundle"
    source.mkdir(parents=True)
    files = {name: json.loads((checkpoint / name).read_text("utf-8")) for name in ("tokenizer.json", "config.json")}
    tokenizer, config = files["tokenizer.json"], files["config.json"]
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text("utf-8"))
    model = tokenizer["model"]
    room = sorted(model["vocab"].items(), key=lambda item: item[1])[-len(_NEW) :]
    for token, _ in room:
        del model["vocab"][token]
    gone = {token for token, _ in room}
    model["merges"] = [merge for merge in model["merges"] if "".join(merge) not in gone]
    for token in tokenizer["added_tokens"]:
        token["content"] = _RENAMED[token["content"]]
        token["special"] = token["content"] in _SPECIAL
    added = dict(tokenizer["added_tokens"][0])
    for (_, token_id), text in zip(room, _NEW, strict=True):
        tokenizer["added_tokens"].append({**added, "id": token_id, "content": text, "special": text in _SPECIAL})
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    first, rest = {"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    tokenizer["post_processor"] = {"type": "TemplateProcessing", "single": [first, rest], "pair": [first, rest]}
    settings |= {"add_bos_token": True, "bos_token": BOS, "eos_token": EOS, "pad_token": EOS}
    settings |= {"chat_template": TEMPLATE, "additional_special_tokens": []}
    settings.pop("added_tokens_decoder")
    config |= {"bos_token_id": ids[BOS], "eos_token_id": ids[EOS]}
    for name, value in (*files.items(), ("tokenizer_config.json", settings)):
        (source / name).write_text(json.dumps(value, ensure_ascii=False), "utf-8")
    (source / "model.safetensors").symlink_to(checkpoint / "model.safetensors")
    command = [sys.executable, "-m", "edge_convert", str(source), "--out", str(bundle)]
    subprocess.run([*command, "--type", "bf16", "--name", "r1-distill-tiny", "--no-canaries"], check=True)
    return bundle / "model.gguf"
