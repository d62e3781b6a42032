"""Bundles of the old converter in the new agent, and of the new converter in the old one."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent.tools.demo.readings import checkpoint_folder
from rigs.upgrade.trees import NEW, OLD, Tree
from tests.convert.adapters import make_adapter, read_tensors
from tests.convert.learning.test_extension import export
from tests.engine.prompt.test_field_prompts import trained
from tests.helpers.bundles import DEMO_TASKS, demo_requests
from tests.helpers.keys import write_keys

__all__ = ["trained"]


@dataclass(frozen=True)
class Workshop:
    """Where bundles are made and signed."""

    folder: Path
    private: Path
    public: Path

    @property
    def asked(self) -> tuple[str | Path, ...]:
        """The converter's options for canaries and a signature."""
        requests = demo_requests(self.folder / "requests.jsonl", 2)
        return "--tasks", DEMO_TASKS, "--canaries", requests, "--sign", self.private

    def copy(self, command: str, bundle: Path, *words: str | Path) -> Path:
        """A signed copy by a command of the new converter."""
        out = bundle.with_name(f"{bundle.name}-{command}")
        done = NEW.run(command, bundle, *words, "--out", out, "--sign", self.private, module="convert")
        assert done.returncode == 0, done.stderr
        return out

    def config(self, bundle: Path, key: str = "") -> Path:
        path = self.folder / "config.toml"
        path.write_text(
            f'state_dir = "state"\n[device]\nsite = "hall1"\nid = "press-04"\n'
            f"[models.default]\npath = {json.dumps(str(bundle))}\n{key}",
            encoding="utf-8",
        )
        return path

    def check(self, tree: Tree, bundle: Path) -> None:
        """Checks that it is verified, opens with the key, and that its canaries are answered as they are recorded."""
        done = tree.run("verify", bundle, "--public-key", self.public, module="convert")
        assert done.returncode == 0, done.stdout + done.stderr
        key = f"public_key = {json.dumps(str(self.public))}\n"
        done = tree.run("probe", "--config", self.config(bundle, key))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("bundles")
    return Workshop(folder, *write_keys(folder))


@pytest.fixture(scope="module")
def lora(workshop: Workshop) -> Path:
    return make_adapter(read_tensors(checkpoint_folder()), strength=0.01).write(workshop.folder / "lora")


@pytest.mark.parametrize("made_by", [OLD, NEW], ids=str)
def test_a_signed_bundle_with_canaries_opens_in_the_other_version(workshop: Workshop, made_by: Tree) -> None:
    bundle = made_by.convert(workshop.folder / f"signed-{made_by}", *workshop.asked, "--model-version", "3")
    workshop.check(OLD if made_by is NEW else NEW, bundle)


@pytest.mark.parametrize("made_by", [OLD, NEW], ids=str)
def test_a_bundle_with_an_adapter_opens_in_the_other_version(workshop: Workshop, lora: Path, made_by: Tree) -> None:
    bundle = made_by.convert(workshop.folder / f"lora-{made_by}", *workshop.asked, "--lora", lora)
    workshop.check(OLD if made_by is NEW else NEW, bundle)


def test_a_smaller_vocabulary_and_an_expiry_open_in_the_old_agent(workshop: Workshop) -> None:
    words = workshop.folder / "words.txt"
    words.write_text("The bearing of pump 4 is loud.\n", "utf-8")
    cut = ("--vocabulary", words, "--vocabulary-size", "1000", "--expires", "2030-01-01")
    workshop.check(OLD, NEW.convert(workshop.folder / "cut", *workshop.asked, *cut))


def test_the_old_agent_does_not_heed_an_expiry(workshop: Workshop) -> None:
    bundle = NEW.convert(workshop.folder / "expired", *workshop.asked, "--expires", "2020-01-01")
    done = NEW.run("verify", bundle, module="convert")
    assert "2020-01-01" in done.stdout
    workshop.check(OLD, bundle)


def test_the_old_agent_opens_a_bundle_with_students_and_score_maps_without_them(
    workshop: Workshop, trained: Path
) -> None:
    large = NEW.convert(workshop.folder / "large", *workshop.asked)
    both = workshop.copy("students", large, "--students", trained.parent)
    exports = [export(both, workshop.folder / f"{number}.json", device=f"b{number}", number=60) for number in range(3)]
    workshop.check(OLD, workshop.copy("maps", both, "--feedback", *exports))


def test_the_old_agent_refuses_a_trained_model(workshop: Workshop, trained: Path) -> None:
    done = OLD.run("check-config", workshop.config(trained.parent))
    assert "manifest.json: schema: should be 1 (got 2); `run` refuses it" in done.stderr
