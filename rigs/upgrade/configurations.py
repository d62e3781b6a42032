"""Each key of the old configuration in the new agent, and each new key in the old one."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from rigs.upgrade.trees import NEW, OLD, Tree
from tests.docs.pages import sample

SCHEMA = "import json; from {} import Config; print(json.dumps(Config.model_json_schema()))"
# The keys of a schema that are for people.
WORDS = ("title", "description", "default")
OLD_KINDS = {"classify", "extract", "generate"}


def keys_of(tree: Tree, module: str) -> dict[str, Any]:
    """What the value of each key may be; `*` in a key is any name."""
    command = [*tree.program()[:-2], "-c", SCHEMA.format(module)]
    schema = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    found: dict[str, Any] = {}
    _collect(schema, schema["$defs"], "", found)
    return found


def _collect(schema: dict[str, Any], definitions: dict[str, Any], path: str, found: dict[str, Any]) -> None:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[1]]
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        _collect(branch, definitions, path, found)
    tables = dict(schema.get("properties", {}))
    for more in (schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()):
        if isinstance(more, dict) and more:
            tables["*"] = more
    for name, below in tables.items():
        found[f"{path}{name}"] = {word: value for word, value in below.items() if word not in WORDS}
        _collect(below, definitions, f"{path}{name}.", found)


@pytest.fixture(scope="module")
def keys() -> tuple[dict[str, Any], dict[str, Any]]:
    return keys_of(OLD, "edge_agent.config"), keys_of(NEW, "edge_agent.core.config")


def test_no_key_is_gone(keys: tuple[dict[str, Any], dict[str, Any]]) -> None:
    old, new = keys
    assert not old.keys() - new.keys()
    changed = {key for key in old if old[key] != new[key]}
    # They are wider, or narrower only for what did not work before (another model than `default`, a port in `host`).
    assert changed == {
        *("commands.allow", "engine", "tasks.*.schema"),
        *("models", "tasks.*.model"),
        # There are more kinds.
        *("tasks", "tasks.*", "tasks.*.kind"),
        "queue.default_deadline_ms",
        "mqtt.host",
    }


def checked(tree: Tree, text: str, folder: Path) -> tuple[int, str]:
    """The exit code and the words of `check-config`."""
    path = folder / "config.toml"
    path.write_text(text, "utf-8")
    done = tree.run("check-config", path)
    return done.returncode, done.stderr


def test_the_new_agent_takes_the_samples_of_the_old_manual_which_have_all_its_keys(
    keys: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    samples = re.findall(
        r"^```toml\n(.*?)^```", (OLD.folder / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    used = set(re.findall(r"^\[?(?:[\w-]+\.)*(\w+)", "\n".join(samples), flags=re.MULTILINE))
    assert {key.rsplit(".", 1)[-1] for key in keys[0]} - {"*", "models", "tasks"} <= used
    for text in samples:
        for tree in (OLD, NEW):
            assert checked(tree, text, tmp_path)[0] == 0, text


def test_the_old_agent_names_each_key_that_it_does_not_know(
    keys: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    """It names each in the complete sample of the new manual.

    What is below a table that it does not know is not named, nor what stands in tasks of kinds that it does not know.
    """
    complete = sample("configuration", "toml", "[device]")
    assert checked(NEW, complete, tmp_path)[0] == 0
    code, words = checked(OLD, complete, tmp_path)
    assert code == 78
    named = re.findall(r"([\w.-]+): unknown key", words)
    unknown = keys[1].keys() - keys[0].keys()
    tasks = tomllib.loads(complete)["tasks"].values()
    read = {f"tasks.*.{key}" for task in tasks if task.get("kind", "generate") in OLD_KINDS for key in task}
    unread = {key for key in unknown if key.startswith("tasks.*.") and key not in read}
    assert {re.sub(r"^(tasks|models)\.[\w-]+", r"\1.*", key) for key in named} == {
        key for key in unknown - unread if key.rpartition(".")[0] not in unknown
    }
