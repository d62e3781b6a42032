"""Where chat templates are found, and which of several wins."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from convert.chat_template import ChatTemplates, read_chat_templates
from convert.checkpoint import Checkpoint
from convert.errors import CheckpointError
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


@pytest.mark.parametrize("value", [3, {"default": "a"}, [{"name": "default"}], [{"template": "a"}], ["a"], "\ud800"])
def test_a_template_that_is_no_text_is_refused(folder: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match="chat_template"):
        read(folder, chat_template=value)
