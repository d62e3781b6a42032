"""The rows of each package: a text and its label, as they stand there."""

from __future__ import annotations

import ast
import csv
import gettext
import io
import json
import random
import re
import tarfile
from collections.abc import Callable, Iterator
from email import message_from_string
from email.message import Message
from pathlib import Path
from typing import Any

from edge_agent.tools.demo import readings
from rigs.accuracy.archives import files

Rows = Iterator[tuple[str, str]]

# SAE J2012 gives a group of diagnostic codes to each part of a vehicle. Groups of more than one part are left out.
VEHICLE_PARTS = {
    "fuel and air": ("P00", "P01", "P02"),
    "ignition": ("P03", "P23"),
    "emissions": ("P04",),
    "speed and idling": ("P05",),
    "computer": ("P06",),
    "transmission": ("P07", "P08", "P09", "P27"),
    "electric drive": ("P0A",),
    "network": ("U01", "U02", "U03", "U04"),
}
LANGUAGES = {
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "hu": "Hungarian",
    "it": "Italian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sv": "Swedish",
    "tr": "Turkish",
}
COMMANDS = {
    "HassStartTimer": "start timer",
    "HassCancelTimer": "cancel timer",
    "HassIncreaseTimer": "lengthen timer",
    "HassDecreaseTimer": "shorten timer",
    "HassTimerStatus": "time left",
    "HassClimateGetTemperature": "read temperature",
    "HassClimateSetTemperature": "set temperature",
    "HassFanSetSpeed": "set fan speed",
    "HassLightSet": "set light",
    "HassSetVolume": "set volume",
    "HassMediaNext": "next track",
    "HassMediaPrevious": "previous track",
    "HassShoppingListAddItem": "add to list",
    "HassTurnOn": "turn on or open",
    "HassTurnOff": "turn off or close",
    "HassGetState": "read state",
}
# Values of the lists that a house fills in.
_HOUSE = {
    "area": ["kitchen", "bedroom", "office", "garage", "living room", "workshop", "hall", "cellar"],
    "floor": ["basement", "attic", "upstairs", "mezzanine"],
    "timer_name": ["pizza", "laundry", "tea", "pump", "oven", "glue"],
    "shopping_list_item": ["milk", "batteries", "light bulbs", "bread", "screws", "coffee filters", "soap"],
}
_SENTENCES_PER_COMMAND = 200
MOST_CHARACTERS = 600  # of a text; a mail is cut there


def mails(archive: Path) -> Rows:
    """Subject and beginning of each mail. Those in base64 are left out: Python's versions mend damage differently."""
    for name, content in files(archive):
        found = re.search(r"/data/(spam|easy-ham|hard-ham)-\d/\w+\.\w+\.json$", name)
        if found:
            mail = message_from_string(json.loads(content)["text"])
            part = next((part for part in mail.walk() if part.get_content_maintype() == "text"), None)
            if part and str(part["content-transfer-encoding"]).lower() != "base64":
                text = f"Subject: {_plain(str(mail['subject'] or ''))} Text: {_plain(_body(part))}"
                yield text[:MOST_CHARACTERS], "spam" if found[1] == "spam" else "wanted"


def rated(file: str, label_of: Callable[[float], str | None]) -> Callable[[Path], Rows]:
    """A reader of one file of VADER's remarks, each with the mean of 20 persons' ratings from -4 to 4."""

    def rows(archive: Path) -> Rows:
        inner = next(content for name, content in files(archive) if name.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=io.BytesIO(inner)) as packed:
            found = packed.extractfile(f"hutto_ICWSM_2014/{file}")
            lines = found.read().decode().splitlines() if found else []
        for line in lines:
            _, rating, text = line.split("\t", 2)
            label = label_of(float(rating))
            if label:
                yield _plain(text), label

    return rows


def vehicle_faults(archive: Path) -> Rows:
    """The meanings of the diagnostic codes."""
    part_of = {group: part for part, groups in VEHICLE_PARTS.items() for group in groups}
    for statement in ast.parse(_file(archive, "obd/codes.py")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "DTC":
            for code, meaning in ast.literal_eval(statement.value).items():
                if code[:3] in part_of and not meaning.startswith("Reserved"):
                    yield meaning, part_of[code[:3]]


def messages(archive: Path) -> Rows:
    """The translated messages of Django's pages that have 20 characters or more."""
    for name, content in files(archive):
        found = re.search(r"/locale/(\w+)/LC_MESSAGES/django\.mo$", name)
        if found and found[1] in LANGUAGES:
            catalogue: dict[Any, str] = gettext.GNUTranslations(io.BytesIO(content))._catalog  # type: ignore[attr-defined]
            for key, text in catalogue.items():
                if key and len(text) >= 20:
                    yield _plain(text), LANGUAGES[found[1]]


def commands(archive: Path) -> Rows:
    """Sentences drawn from the templates of Home Assistant's English commands, without those that name a device."""
    known, draw = json.loads(_file(archive, "home_assistant_intents/data/en.json")), random.Random("commands")
    values = _HOUSE | {name: _list_values(entry) for name, entry in known["lists"].items() if "wildcard" not in entry}
    for intent, label in COMMANDS.items():
        templates = [
            template
            for entry in known["intents"][intent]["data"]
            for template in entry["sentences"]
            if set(re.findall(r"\{(\w+)", template)) <= set(values)
        ]
        for _ in range(_SENTENCES_PER_COMMAND):
            yield sentence(draw.choice(templates), known["expansion_rules"], values, draw), label


def sentence(template: str, rules: dict[str, str], values: dict[str, list[str]], draw: random.Random) -> str:
    """One sentence of a template of hassil: (this|that), [optional], (any;order), <rule> and {list:slot}."""

    def chosen(group: re.Match[str]) -> str:
        if group[2] is not None and draw.random() < 0.5:
            return ""
        inner = group[1] or group[2] or ""
        words = inner.split(";")
        return " ".join(draw.sample(words, len(words))) if len(words) > 1 else draw.choice(inner.split("|"))

    text = template
    while "<" in text:
        text = re.sub(r"<(\w+)>", lambda found: f"({rules[found[1]]})", text)
    text = re.sub(r"\{(\w+)[^}]*\}", lambda found: draw.choice(values[found[1]]), text)
    while re.search(r"[(\[]", text):
        text = re.sub(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]", chosen, text)
    return _plain(text)


def weather(archive: Path) -> Rows:
    """Days of two weather stations."""
    for row in csv.DictReader(io.StringIO(_file(archive, "package/data/weather.csv"))):
        names = {"precipitation_mm": "precipitation", "max_c": "temp_max", "min_c": "temp_min", "wind_m_s": "wind"}
        yield json.dumps({name: float(row[column]) for name, column in names.items()}), row["weather"]


def cold_rooms() -> Rows:
    """Readings made by this function: each condition has its own range of each sensor."""
    ranges = {
        "normal": ((-23, -18.5), (0, 40), (5.5, 8), (0, 3)),
        "door open": ((-15, -6), (180, 900), (7, 9), (0, 5)),
        "compressor fault": ((-14, 2), (0, 40), (0, 0.4), (0, 4)),
        "icing": ((-17, -12), (0, 60), (8.5, 10.5), (8, 16)),
        "sensor fault": ((60, 85), (0, 40), (5.5, 8), (0, 3)),
    }
    draw = random.Random("cold rooms")
    for _ in range(200):
        for label, ((low, high), (shut, open_), (idle, busy), (thin, thick)) in ranges.items():
            room, temperature, door = draw.randint(1, 12), draw.uniform(low, high), draw.randint(shut, open_)
            current, ice = draw.uniform(idle, busy), draw.randint(thin, thick)
            text = f"cold room {room}: {temperature:.1f} °C, door open {door} s, "
            yield f"{text}compressor {current:.1f} A, ice {ice} mm", label


def pumps() -> Rows:
    """The held-out readings of the demonstration."""
    for reading in readings.held_out():
        yield reading.payload, reading.fault


def _file(archive: Path, name: str) -> str:
    return next(content for found, content in files(archive) if found == name).decode()


def _plain(text: str) -> str:
    return " ".join(text.split())


def _body(part: Message) -> str:
    content = part.get_payload(decode=True)
    text = content.decode("latin-1") if isinstance(content, bytes) else ""
    return re.sub(r"<[^>]*>", " ", text)


def _list_values(entry: dict[str, Any]) -> list[str]:
    if "range" in entry:
        return [str(number) for number in range(entry["range"]["from"], entry["range"]["to"] + 1)]
    return [value["in"] for value in entry["values"]]
