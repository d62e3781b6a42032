"""Where chat templates are found, and which of several wins."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from convert.errors import CheckpointError
from convert.read.chat_template import ChatTemplates, read_chat_templates
from convert.read.checkpoint import Checkpoint
from tests.convert.checkpoints import make_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_checkpoint(layers=1).write(tmp_path / "checkpoint")


def read(folder: Path, **tokenizer_config: Any) -> ChatTemplates:
    with Checkpoint(folder) as checkpoint:
        return read_chat_templates(checkpoint, tokenizer_config)


def test_a_base_model_has_no_template(folder: Path) -> None:
    assert read(folder) == ChatTemplates(None, {})
    assert read(folder).default_sha256 is None


def test_the_template_in_tokenizer_config_wins_over_the_file(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("from the file")
    assert read(folder, chat_template="from the config").default == "from the config"


def test_the_hash_is_of_the_template_as_utf8(folder: Path) -> None:
    text = "<｜User｜>"
    assert read(folder, chat_template=text).default_sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_a_template_file_is_read_with_its_folder_of_more(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("main", "utf-8")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool-use.jinja").write_text("tools", "utf-8")
    assert read(folder) == ChatTemplates("main", {"tool_use": "tools"})


def test_a_template_in_a_json_file_is_read(folder: Path) -> None:
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "wrapped"}))
    assert read(folder).default == "wrapped"


def test_a_list_of_named_templates_is_read(folder: Path) -> None:
    named = [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]
    assert read(folder, chat_template=named) == ChatTemplates("a", {"rag": "b"})


BROKEN = {
    "{% for m in messages %}\nab\n{% if %}": "line 3: Expected an expression",
    "{{ messages": "line 1: unexpected end of template",
    "{% generation %}{% endgeneration %}": "line 1: Encountered unknown tag 'generation'",
    "{{ messages | no_such_filter }}": "line 1: No filter named 'no_such_filter'",
    "{% break %}": "'break' outside loop",
    "{% for a in b %}" * 30 + "{% endfor %}" * 30: "too many statically nested blocks",
    "{{ " + "(" * 5000 + ")" * 5000 + " }}": "nested too deeply",
    "{{ " + "1" * 5000 + " }}": "Exceeds the limit",
    "{{ 'x' * 10 ** 10 }}": "takes more than 64 MB of memory",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}": "takes more than 1 s of CPU time",
}


@pytest.mark.parametrize(("template", "fault"), BROKEN.items(), ids=BROKEN.values())
def test_a_template_that_cannot_be_used_is_refused_with_its_place(folder: Path, template: str, fault: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(folder, chat_template=template)
    assert str(caught.value).startswith("tokenizer_config.json: chat_template default cannot be used: ")
    assert fault in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_a_broken_template_in_a_file_of_its_own_is_refused_under_the_files_name(folder: Path, name: str) -> None:
    text = "{% if %}" if name.endswith("jinja") else json.dumps({"chat_template": "{% if %}"})
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=f"^{name}: chat_template default cannot be used: line 1: "):
        read(folder)


def test_a_template_with_all_that_the_agent_offers_compiles(folder: Path) -> None:
    template = (
        "{%- for m in messages -%}{% if m.role == 'x' %}{% continue %}{% endif %}{{ m | tojson }}{% break %}"
        "{%- endfor -%}{{ raise_exception('no') }}{{ strftime_now('%Y') }}"
    )
    assert read(folder, chat_template=template).default == template


def test_a_broken_template_that_chats_do_not_use_is_kept(folder: Path) -> None:
    named = [{"name": "default", "template": "a"}, {"name": "rag", "template": "{% if %}"}]
    assert read(folder, chat_template=named).named == {"rag": "{% if %}"}


@pytest.mark.parametrize("value", [3, {"default": "a"}, [{"name": "default"}], [{"template": "a"}], ["a"], "\ud800"])
def test_a_template_that_is_no_text_is_refused(folder: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match="chat_template"):
        read(folder, chat_template=value)
