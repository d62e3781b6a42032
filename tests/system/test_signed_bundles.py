"""An agent that opens signed bundles only."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from edge_agent.tools.doctor.check import Check, Verdict
from edge_agent.tools.doctor.doctor import checks
from tests.helpers.keys import sign, write_keys
from tests.helpers.processes import AgentProcess, wait_until, workers
from tests.helpers.site import StartSite, written_config


def keyed_config(folder: Path, model: str | Path) -> Path:
    """A configuration whose `public_key` is beside it."""
    return written_config(folder, f'{model}"\npublic_key = "key.pub.pem', device="k")


@pytest.fixture
def signed_bundle(tmp_path: Path, demo_bundle: Path) -> Path:
    """A bundle signed with key.pem, which lies beside it with key.pub.pem."""
    bundle = Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))
    sign(bundle, write_keys(tmp_path)[0])
    return bundle


def test_signed_bundles_answer_and_unsigned_ones_do_not_take_their_place(
    signed_bundle: Path, demo_bundle: Path, tmp_path: Path, start_site: StartSite
) -> None:
    models = tmp_path / "models"
    shutil.copytree(demo_bundle, models / "unsigned")
    shutil.copytree(signed_bundle, models / "signed")
    model = f'{signed_bundle}"\npublic_key = "key.pub.pem'
    site = start_site("5", model=model, more='[commands]\nallow = ["model-switch"]\n')
    assert site.client.wait(f"{site.base}/info")[-1].json["models"][0]["signature"] == "good"
    assert site.ask("triage", "normal")["status"] == "ok"

    codes: list[str | None] = []
    for name in ("unsigned", "signed"):
        result = site.command("model-switch", {"model": "default", "bundle": name})
        codes.append(result["error"] and result["error"]["code"])
    assert codes == ["bundle_refused", None]
    assert site.client.wait(f"{site.base}/info")[-1].json["models"][0]["signature"] == "good"

    for bundle in (models / "signed", signed_bundle):
        shutil.rmtree(bundle)
        shutil.copytree(demo_bundle, bundle)
    wait_until(lambda: len(workers(site.agent.process.pid)) == 1, "the old worker has ended")
    os.kill(workers(site.agent.process.pid)[0], signal.SIGKILL)
    # The agent verifies bundles at its start only, so it ends.
    assert site.agent.wait() == 1
    again = AgentProcess(site.agent.config)
    alarm = site.client.wait_for_alarm(site.base, "model-load-failed")
    assert "manifest.sig: missing; a configured public key requires" in alarm["message"]
    assert again.stop() == 0
    assert "signed/manifest.sig: missing; a configured public key requires" in again.log


@pytest.mark.expects_warning
def test_doctor_shows_whether_the_model_is_signed(tmp_path: Path, signed_bundle: Path) -> None:
    def check(path: Path) -> Check:
        """What doctor says of the model, without loading it."""
        return next(one for one in checks(path, not_loading="only its files are asked for") if one.name == "model")

    def found(path: Path) -> str:
        return check(path).found.split("; chat template ")[0]

    assert found(keyed_config(tmp_path, signed_bundle)).endswith("… as listed, signed")
    unkeyed = written_config(tmp_path, signed_bundle)
    assert found(unkeyed).endswith("… as listed; signed, not checked without models.default.public_key")
    (signed_bundle / "manifest.sig").unlink()
    assert found(unkeyed).endswith("… as listed, not signed")
    (tmp_path / "key.pub.pem").unlink()
    without_key = check(keyed_config(tmp_path, signed_bundle))
    assert without_key.verdict is Verdict.FAILED
    assert without_key.found.startswith("models.default.public_key: ")
    assert "models.default.public_key" in (without_key.advice or "")
