"""Home Assistant with its MQTT integration alone; prints its entities once a second as a line of JSON.

It runs in its own environment, as `python instance.py FOLDER PORT`.
"""

import asyncio
import json
import socket
import sys
from pathlib import Path

from homeassistant import bootstrap, runner

TIME = "2026-01-01T00:00:00+00:00"


def configure(folder: Path, port: int) -> None:
    """What its dialogue for a new MQTT broker would have stored."""
    entry = {
        "entry_id": "broker",
        "domain": "mqtt",
        "title": "broker",
        "version": 1,
        "minor_version": 2,
        "data": {"broker": "127.0.0.1", "port": port, "protocol": "5", "discovery": True},
        "options": {},
        "source": "user",
        "unique_id": None,
        "disabled_by": None,
        "discovery_keys": {},
        "subentries": [],
        "pref_disable_new_entities": False,
        "pref_disable_polling": False,
        "created_at": TIME,
        "modified_at": TIME,
    }
    store = {"version": 1, "minor_version": 5, "key": "core.config_entries", "data": {"entries": [entry]}}
    (folder / ".storage").mkdir(parents=True)
    (folder / ".storage/core.config_entries").write_text(json.dumps(store), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free_port = listener.getsockname()[1]
    text = f"http:\n  server_host: 127.0.0.1\n  server_port: {free_port}\n"
    (folder / "configuration.yaml").write_text(text, encoding="utf-8")


async def run(folder: Path) -> None:
    home = await bootstrap.async_setup_hass(runner.RuntimeConfig(config_dir=str(folder), skip_pip=False))
    if home is None:
        raise SystemExit("Home Assistant could not be set up")
    await home.async_start()
    while True:
        states = {
            state.entity_id: {"state": state.state, **{name: str(value) for name, value in state.attributes.items()}}
            for state in home.states.async_all()
        }
        print(json.dumps(states), flush=True)
        await asyncio.sleep(1)


if __name__ == "__main__":
    configure(Path(sys.argv[1]), int(sys.argv[2]))
    asyncio.run(run(Path(sys.argv[1])))
