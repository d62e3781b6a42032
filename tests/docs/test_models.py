"""docs/models.md: its commands write the bundles that it names."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from convert.quantize.recipe import Quantization
from edge_agent.commands.fields import SwitchFields, parse_fields
from edge_agent.tools.demo.readings import checkpoint_folder
from tests.conftest import NEEDS_OPENSSL
from tests.docs.pages import page, samples
from tests.engine.adapters import demo_adapter

PACKAGE = Path(__file__).parents[2] / "edge_agent"


# A test has no package index and no hub, so `hf download` brings the demonstration's checkpoint.
STAND_INS = """
pip() { test "$1" = install; }
hf() { test "$1 $3 $#" = "download --local-dir 4" && ln -sfn "$CHECKPOINT" "$4"; }
"""


@pytest.mark.parametrize(
    ("wanted", "bundle", "told"),
    [
        ("--type q8_0 --name", "qwen2.5-0.5b-q8_0", "canaries   not asked"),
        ("--type q4_k_m", "r1-1.5b", "licence mit"),
        ("--budget", "qwen2.5-0.5b", "KL divergence"),
        ("--lora", "pumps", "Q4_0"),
        pytest.param("--sign", "qwen2.5-0.5b-signed", "signature  good", marks=NEEDS_OPENSSL),
    ],
)
def test_converter_samples_write_a_bundle(
    wanted: str, bundle: str, told: str, tmp_path: Path, converter_cache: Path
) -> None:
    (sample,) = (text for text in samples("models", "sh") if "edge-convert" in text and wanted in text)
    (tmp_path / "Qwen2.5-0.5B-Instruct").symlink_to(checkpoint_folder())
    demo_adapter().write(tmp_path / "my-adapter")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    known = {"PATH": path, "XDG_CACHE_HOME": str(converter_cache), "CHECKPOINT": str(checkpoint_folder())}
    command, environment = ["bash", "-ec", STAND_INS + sample], {**os.environ, **known}
    assert told in subprocess.check_output(command, cwd=tmp_path, env=environment, timeout=120, text=True)
    assert (tmp_path / bundle / "manifest.json").is_file()


def test_the_sample_of_a_switch_parses_and_its_errors_are_named() -> None:
    text = page("models") + page("mqtt-api")
    (sample,) = re.findall(r"`([^`]+)` on `cmd/model-switch`", text)
    assert parse_fields(SwitchFields, json.loads(sample)).bundle == "pumps-2"
    code = (PACKAGE / "models" / "switch.py").read_text("utf-8")
    codes = set(map(str.lower, re.findall(r"CommandCode\.(\w+)", code)))
    assert "downgrade" in codes
    assert not {name for name in codes if f"`{name}`" not in text}


def test_the_page_lists_every_type_of_the_converter() -> None:
    (listed,) = re.findall(r"All values of `--type`: `([^`]+)`", page("models"))
    assert listed.split() == [one.value for one in Quantization if one is not Quantization.AUTO]
