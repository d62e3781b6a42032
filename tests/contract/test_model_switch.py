"""`cmd/model-switch` and `cmd/model-rollback` over a real broker, with workers of the demonstration model."""

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.clock import parse_timestamp
from edge_agent.loader import load_config
from edge_agent.requests.tasks import with_built_in
from tests.helpers.bundles import BAD, changed, sha256_of
from tests.helpers.processes import BrokerPort, wait_until
from tests.helpers.site import SHORT_OF_MEMORY, Site, StartSite, running_site

# Each model is measured once, and narrow steps are soon done.
ALLOWED = """\
[commands]
allow = ["health", "drain", "resume", "model-switch", "model-rollback"]
[engine]
batch_tokens = 32
"""
SWITCH_S = 120.0
NUMBERS = itertools.count()


def command(site: Site, operation: str, fields: dict[str, Any]) -> dict[str, Any]:
    number = next(NUMBERS)
    result = site.command(operation, {"id": number, **fields}, timeout_s=SWITCH_S)
    assert result["id"] == number
    return result


def switch(site: Site, bundle: str, **fields: Any) -> dict[str, Any]:
    return command(site, "model-switch", {"model": "default", "bundle": bundle, **fields})


def worker_pid(site: Site) -> int:
    """The process number of the worker that answers now."""
    command(site, "health", {})
    return int(site.client.on(f"{site.base}/health")[-1].json["worker"]["pid"])


def model_of_answer(site: Site) -> str:
    """The model that answers, by its hash."""
    # A measured deadline is short on a machine that runs other tests, too.
    reply = site.ask("triage", {"input": "normal", "deadline_ms": 60_000})
    assert reply["status"] == "ok"
    return str(reply["model"]["sha256"])


def info(site: Site) -> dict[str, Any]:
    told: dict[str, Any] = site.client.on(f"{site.base}/info")[-1].json["models"][0]
    return told


def states(site: Site) -> list[str]:
    """The states from the first `online` on."""
    told = [message.json["state"] for message in site.client.on(f"{site.base}/state")]
    return told[told.index("online") :]


@pytest.fixture(scope="module")
def protocol() -> str:
    """Nothing of a switch depends on the MQTT version."""
    return "5"


@pytest.fixture
def models(model_bundles: Path, tmp_path: Path) -> Path:
    """A models_dir of this test's own."""
    return Path(shutil.copytree(model_bundles, tmp_path / "models"))


@pytest.fixture
def start(start_site: StartSite, models: Path) -> StartSite:
    """A site that runs the bundle `one`."""
    assert (models / "one").is_dir()
    return lambda protocol, more="": start_site(protocol, model="models/one", more=f"{ALLOWED}{more}")


@pytest.fixture(scope="module")
def agent_with_models(
    broker_port: BrokerPort, tmp_path_factory: pytest.TempPathFactory, model_bundles: Path, protocol: str
) -> Iterator[Site]:
    """One agent that switches between good bundles."""
    folder = tmp_path_factory.mktemp("switch")
    shutil.copytree(model_bundles, folder / "models")
    with running_site(folder, broker_port(protocol), protocol, model="models/one", more=ALLOWED) as site:
        yield site


@pytest.fixture
def shared(agent_with_models: Site, with_fresh_client: Callable[[Site], Site]) -> Site:
    """That agent, while it runs the bundle `one`."""
    site = with_fresh_client(agent_with_models)
    assert switch(site, "one", allow_downgrade=True)["status"] == "ok"
    return with_fresh_client(agent_with_models)


def test_a_switch_is_published_everywhere_and_undone_by_a_rollback(shared: Site, model_bundles: Path) -> None:
    one, two = (sha256_of(model_bundles / name) for name in ("one", "two"))
    assert model_of_answer(shared) == one
    pid = worker_pid(shared)

    result = switch(shared, "two", by="ana")

    old, new = (
        {"name": "pump-demo", "folder": folder, "version": version, "sha256": sha256}
        for folder, version, sha256 in (("one", 1, one), ("two", 2, two))
    )
    told = {"model": "default", "how": "switch", "old": old, "new": new, "by": "ana"}
    assert (result["status"], result["data"]) == (
        "ok", {"changed": True, **told, "canaries": 6, "is_beside": True, "unserved_tasks": []},
    )  # fmt: skip
    event = shared.client.wait(f"{shared.base}/event/model-switched")[-1].json
    assert event.pop("ts")
    assert event == told
    assert model_of_answer(shared) == two
    wait_until(lambda: info(shared)["sha256"] == two, "info tells")
    assert (info(shared)["folder"], info(shared)["previous"], info(shared)["version"]) == ("two", "one", 2)
    assert parse_timestamp(info(shared)["changed_at"])
    assert info(shared)["changed_by"] == "ana"
    assert worker_pid(shared) != pid
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the old worker is gone")

    assert switch(shared, "two")["data"] == {"changed": False}
    refused = switch(shared, "one")
    assert refused["error"]["code"] == "downgrade"
    assert "version 1 is older than 2, the running one" in refused["error"]["message"]

    result = command(shared, "model-rollback", {"model": "default"})
    assert (result["status"], result["data"]["how"], result["data"]["new"]) == ("ok", "rollback", old)
    assert model_of_answer(shared) == one
    assert switch(shared, "two")["status"] == "ok"
    assert switch(shared, "one", allow_downgrade=True)["status"] == "ok"
    assert model_of_answer(shared) == one
    assert set(states(shared)) == {"online"}


def test_maps_of_a_bundle_come_and_go_with_it(shared: Site) -> None:
    site, models = shared, shared.agent.config.parent / "models"
    task = with_built_in(load_config(site.agent.config).tasks)["triage"]
    entry = {"task": "triage", "map": {"normal": [1, 0], "bearing fault": [1, 0], "cavitation": [1, 99]}, "boards": {}}
    document = {"schema": 1, "maps": {task.definition: entry}}
    changed(models / "one", models / "mapped", lambda copy: (copy / "score_maps.json").write_text(json.dumps(document)))

    def source() -> Any:
        return site.client.on(f"{site.base}/info")[-1].json["tasks"]["triage"]["scores_from"]

    before = site.ask("triage", {"input": "normal", "deadline_ms": 60_000})["scores"]
    assert switch(site, "mapped", allow_downgrade=True)["data"]["changed"]
    wait_until(lambda: source() == "bundle", "info tells")
    assert site.ask("triage", {"input": "normal", "deadline_ms": 60_000})["output"] == "cavitation"
    assert command(site, "model-rollback", {"model": "default"})["status"] == "ok"
    wait_until(lambda: source() != "bundle", "info tells")
    assert site.ask("triage", {"input": "normal", "deadline_ms": 60_000})["scores"] == pytest.approx(before, abs=0.01)


def test_the_switch_outlives_a_restart(start: StartSite, start_agent: Callable[..., Any], models: Path) -> None:
    """test_record.py has what ends it."""
    site = start("5")
    assert switch(site, "two")["status"] == "ok"
    shutil.rmtree(models / "one")  # it is no longer needed
    site.agent.stop()
    seen = len(site.client.on(f"{site.base}/state"))
    start_agent(site.agent.config.read_text("utf-8"), name=site.agent.config.stem)
    wait_until(lambda: "online" in states(site)[seen:], "it is online again")
    assert model_of_answer(site) == sha256_of(models / "two")


@pytest.mark.parametrize("is_beside", [True, False], ids=["beside", "after"])
def test_bad_bundles_are_refused_with_their_faults_and_the_old_model_goes_on(
    start: StartSite,
    models: Path,
    is_beside: bool,  # noqa: FBT001
) -> None:
    """With little memory the old model goes first and comes back, and a good one answers what waited meanwhile."""
    site = start("3.1.1", "" if is_beside else SHORT_OF_MEMORY)
    one = sha256_of(models / "one")
    (models / "no-manifest").mkdir()
    wanted = {
        "damaged": ("canaries_differ", "canaries["),
        "wrong-hash": ("bundle_refused", "wrong-hash/model.gguf: should have sha256"),
        "unloadable": ("load_failed", "adapter.gguf"),
        "bad-canaries": ("bundle_refused", "canaries.json"),
        "no-manifest": ("bundle_refused", 'bundle: "'),
        "none": ("not_found", '/models": "'),
        "no": ("not_found", '"two", "unloadable", "wrong-hash" (got "no")'),
        # No file system has such a name.
        "x" * 256: ("not_found", '"wrong-hash" (got "xxx'),
        "../models/two": ("bad_field", "bundle: should be the name of a folder in models_dir"),
    }
    assert set(BAD) < set(wanted)
    for bundle, (code, text) in wanted.items():
        if not is_beside and code not in {"canaries_differ", "load_failed"}:
            continue  # What is refused before the old model goes is refused alike.
        result = switch(site, bundle)
        assert (result["status"], result["error"]["code"]) == ("failed", code), result
        assert text in result["error"]["message"]
        if code not in {"not_found", "bad_field"}:  # it had begun
            heard = site.client.wait_for(
                f"{site.base}/event/model-switch-failed", lambda event, bundle=bundle: event["bundle"] == bundle
            )
            assert (heard.json["code"], heard.json["message"]) == (code, result["error"]["message"])
        assert model_of_answer(site) == one
    assert command(site, "model-rollback", {"model": "default"})["error"]["code"] == "no_previous"
    assert command(site, "model-switch", {"model": "other", "bundle": "two"})["error"]["code"] == "bad_field"
    assert not (site.agent.config.parent / "state" / "model-1.json").exists()
    assert not site.client.on(f"{site.base}/event/model-switched")
    assert info(site)["folder"] == "one"
    if is_beside:
        return

    pid = worker_pid(site)
    topic = f"{site.base}/cmd/model-switch/result"
    told = len(site.client.on(topic))
    site.client.publish(f"{site.base}/cmd/model-switch", {"model": "default", "bundle": "two"})
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the old worker is gone")
    assert len(site.client.on(topic)) == told
    waiting = site.ask("triage", "cavitation")
    result = site.client.wait(topic, count=told + 1, timeout_s=SWITCH_S)[-1].json
    assert (result["status"], result["data"]["is_beside"]) == ("ok", False)
    assert (waiting["status"], waiting["model"]["sha256"]) == ("ok", sha256_of(models / "two"))
    assert set(states(site)) == {"online"}


def test_with_enough_memory_the_old_model_answers_until_the_new_one_does(shared: Site, model_bundles: Path) -> None:
    one, two = (sha256_of(model_bundles / name) for name in ("one", "two"))
    topic = f"{shared.base}/cmd/model-switch/result"
    shared.client.publish(f"{shared.base}/cmd/model-switch", {"model": "default", "bundle": "two"})
    seen: list[str] = []
    while not shared.client.on(topic):
        seen.append(model_of_answer(shared))
    seen += [model_of_answer(shared) for _ in range(3)]
    assert shared.client.on(topic)[0].json["status"] == "ok"
    assert seen == sorted(seen, key=[one, two].index)
    assert set(seen) == {one, two}
    assert seen.count(one) > 3, "it answered meanwhile"


def test_one_switch_at_a_time_and_none_while_draining(shared: Site) -> None:
    for bundle in ("two", "damaged"):
        shared.client.publish(f"{shared.base}/cmd/model-switch", {"id": bundle, "model": "default", "bundle": bundle})
    first, second = shared.client.wait(f"{shared.base}/cmd/model-switch/result", count=2, timeout_s=SWITCH_S)
    assert (first.json["id"], first.json["error"]["code"]) == ("damaged", "switching")
    assert (second.json["id"], second.json["status"]) == ("two", "ok")
    command(shared, "drain", {})
    assert switch(shared, "one", allow_downgrade=True)["error"]["code"] == "draining"
    command(shared, "resume", {})


def test_the_adopted_worker_is_replaced_like_any_other_when_it_dies(shared: Site, model_bundles: Path) -> None:
    assert switch(shared, "two")["status"] == "ok"
    os.kill(worker_pid(shared), signal.SIGKILL)
    shared.client.wait(f"{shared.base}/event/worker-restarted")
    assert model_of_answer(shared) == sha256_of(model_bundles / "two")


def test_the_echo_engine_gives_way_to_a_model(start_site: StartSite, models: Path) -> None:
    site = start_site("5", model="echo:", more=ALLOWED)
    assert switch(site, "two")["status"] == "ok"
    assert model_of_answer(site) == sha256_of(models / "two")
    assert command(site, "model-rollback", {"model": "default"})["status"] == "ok"
    assert info(site)["bundle"] == "echo"


def test_a_model_with_wrong_canaries_raises_an_alarm_until_another_runs(start_site: StartSite, models: Path) -> None:
    model = 'models/damaged"\ncanary_interval_s = 1\n#"'
    site = start_site("5", model=model.removesuffix('"'), more=ALLOWED)
    alarm = f"{site.base}/alarm/model-quality"
    told = next(message for message in site.client.wait(alarm, count=2) if message.payload).json
    assert told["severity"] == "critical"
    assert "canaries are answered differently than where the model was made, for example canaries[" in told["message"]
    site.client.wait_for(f"{site.base}/health", lambda health: "model-quality" in health["reasons"])
    assert switch(site, "two", allow_downgrade=True)["status"] == "ok"
    wait_until(lambda: not site.client.on(alarm)[-1].payload, "the alarm ends")
    wait_until(lambda: site.agent.log.count("canaries asked=6 differing=0") >= 2, "the new one is asked, too")
    assert model_of_answer(site) == sha256_of(models / "two")
