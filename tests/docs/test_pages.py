"""On every page, links lead somewhere, configurations load, commands parse, and sentences are short."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from convert.arguments import CONVERSION, EVALUATION, VERIFICATION
from convert.learning.commands import EXTENSION, TRAINING
from edge_agent import cli
from edge_agent.loader import load_config
from tests.docs.pages import PAGES, ROOT, commands, page, samples

# What a fragment of a configuration is completed with.
_REST = {"device": '[device]\nsite = "hall1"\nid = "board1"\n', "models.default": '[models.default]\npath = "echo:"\n'}


def parse_convert(words: list[str]) -> object:
    commands = {command.name: command for command in (EVALUATION, VERIFICATION, TRAINING, EXTENSION)}
    if words[0] in commands:
        return commands[words[0]].parse(words[1:])
    return CONVERSION.parse(words)


# What parses a command line, by program.
_PARSE: dict[str, Callable[[list[str]], object]] = {
    "edge-agent": cli.parser().parse_args,
    "edge-convert": parse_convert,
}


def anchors(text: str) -> set[str]:
    """The anchors that GitHub and MkDocs make from headings."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_pages_and_headings(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page(name)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (PAGES[name].parent / path).resolve() if path else PAGES[name]
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text("utf-8")), target


@pytest.mark.parametrize("name", PAGES)
def test_configurations_load(name: str, tmp_path: Path) -> None:
    for text in samples(name, "toml"):
        rest = "".join(table for head, table in _REST.items() if f"[{head}]" not in text)
        path = tmp_path / "config.toml"
        # Keys before the first table must stay there.
        path.write_text(f"{text}\n{rest}", encoding="utf-8")
        load_config(path)


@pytest.mark.parametrize("name", PAGES)
def test_json_samples_parse(name: str) -> None:
    for text in samples(name, "json"):
        json.loads(text)


@pytest.mark.parametrize("name", PAGES)
def test_commands_parse(name: str) -> None:
    inline = re.findall(r"`((?:edge-agent|edge-convert) [^`A-Z…]+ --?[a-z][^`A-Z…]*)`", page(name))
    for command in (*commands(name), *inline):
        words = shlex.split(command)
        while words and (words[0] == "sudo" or re.fullmatch(r"\w+=\S*", words[0])):
            words.pop(0)
        if words and (program := Path(words[0]).name) in _PARSE:
            try:
                _PARSE[program](words[1:])
            except SystemExit as ended:
                assert ended.code == 0, command  # noqa: PT017 - argparse ends the process


@pytest.mark.parametrize("name", PAGES)
def test_make_targets_and_rigs_exist(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:`|^)make ([a-z0-9-]+)", page(name), flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    contributing = page("CONTRIBUTING")
    studies = re.findall(r"^\| `(rigs[.\w]+)", contributing, flags=re.MULTILINE)
    for command, rig in re.findall(r"(python -m )?(rigs(?:\.\w+)+)", page(name)):
        path = ROOT / rig.replace(".", "/")
        is_here = path.is_dir() or path.with_suffix(".py").is_file()
        assert is_here or rig == "rigs.NAME" or (rig.startswith(tuple(studies)) and not command), rig


def test_the_readme_is_short_and_names_every_page() -> None:
    readme = page("README")
    assert len(readme.splitlines()) <= 150
    others = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"cli"}
    assert not {name for name in others if f"docs/{name}.md" not in readme}
