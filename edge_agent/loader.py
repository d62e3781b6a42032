"""Loads a configuration file for `run`, `check-config`, `reload` and the tools: a Config, or every fault at once.

The types and ranges stand in core/config. This module adds what tasks mean together and what other parts find wrong
with the files that the configuration names.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge_agent.core import topics
from edge_agent.core.bounded import OutOfBoundsError, run_in_child
from edge_agent.core.config import Config
from edge_agent.core.config_file import ConfigError, read_document, table_faults
from edge_agent.core.extras import missing_extra
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.kinds.extract import ExtractTask
from edge_agent.core.kinds.fields import AuditedTask
from edge_agent.core.pipe import ECHO_MODEL
from edge_agent.core.signal_tables import MAX_TRACKS, WHOLE_COVERAGE
from edge_agent.core.wording import field_name, file_fault, shown
from edge_agent.models.bundle import listed_weights, trained_tasks
from edge_agent.models.record import (
    in_force,
    model_key_faults,
    model_path_faults,
    model_refusals,
    revocations_hint,
    switched_hint,
)
from edge_agent.mqtt.credentials import credential_faults, secret_fault
from edge_agent.requests.task_tables import example_faults, prepare_tasks
from edge_agent.requests.tasks import Task
from edge_agent.requests.templates import TemplateInputError, render

DEFAULT_PATH = Path("/etc/edge-agent/config.toml")
# The limit of AMQP 0.9.1.
MAX_ROUTING_KEY_BYTES = 255
# Instead of faulty tables, so that these cause no other fault. There may be no default, or not the one meant.
_STAND_INS: dict[str, dict[str, Any]] = {
    "device": {"site": "-", "id": "-"},
    "feedback": {"enabled": True},
    "models": {"default": {"path": ECHO_MODEL}},
    "mqtt": {"root": "-"},
}


def load_config(path: Path, extra_checks: Callable[[Config], list[str]] | None = None) -> Config:
    """Loads and checks a configuration file. Raises ConfigError with every fault, what tables mean together last.

    `extra_checks` gives the faults of the files that the caller will use, as `file_faults` does. By default no file is
    asked for, because on a new board the files may come later than the configuration.
    """
    return check_document(read_document(path), path, extra_checks)


def check_document(
    raw: dict[str, Any], path: Path, extra_checks: Callable[[Config], list[str]] | None = None
) -> Config:
    """The same for a document that is or will be the file's; its tasks are completed in place."""
    folder = path.absolute().parent
    faults = prepare_tasks(raw, folder)
    try:
        config = Config.model_validate(raw, context={"folder": folder})
    except ValidationError as error:
        faults += table_faults(error, raw)
        config = Config.model_validate(_good_tables(raw, error), context={"folder": folder})
    faults += [
        *_topics_faults(config),
        *_promise_faults(config),
        *_pool_faults(config),
        *_signals_faults(config, raw.get("signals", {})),
        *example_faults(config.tasks),
        *(extra_checks(config) if extra_checks else ()),
    ]
    if faults:
        raise ConfigError(path, faults)
    return config


def _good_tables(raw: dict[str, Any], error: ValidationError) -> dict[str, Any]:
    """The document without the tables that have faults; what the others mean together can still be checked."""
    good = {**raw, "tasks": raw.get("tasks", {})}
    for key, *more in (details["loc"] for details in error.errors()):
        table = str(key)
        if table == "tasks" and more:
            good["tasks"] = {name: task for name, task in good["tasks"].items() if name != more[0]}
        elif table in _STAND_INS:
            good[table] = _STAND_INS[table]
        else:
            good.pop(table, None)
    return good


def file_faults(config: Config) -> list[str]:
    """Faults with which `run` does not start: of keys, certificates, passwords, and the pool's package."""
    missing = missing_extra("pool") if config.pool is not None else None
    pool_faults = [f"pool: {missing}"] if missing else []
    return [*credential_faults(config.mqtt), *signing_key_faults(config), *model_key_faults(config), *pool_faults]


def all_file_faults(config: Config) -> list[str]:
    """Those, and a missing model, with which `run` starts but answers no request."""
    return [*file_faults(config), *model_path_faults(config)]


def signing_key_faults(config: Config) -> list[str]:
    fault = file_fault("commands.key_file", config.commands.key_file, secret_fault)
    return [fault] if fault else []


def config_hints(config: Config) -> list[str]:
    """What is allowed, but likely not meant, and what `run` would refuse."""
    refused = [f"{fault}; `run` refuses it" for fault in model_refusals(config)]
    of_model = filter(None, (revocations_hint(config), switched_hint(config)))
    hints = [*_schema_hints(config), *_score_map_hints(config), *_training_hints(config)]
    return [*hints, *_reading_hints(config), *_signals_hints(config), *refused, *of_model]


def _reading_hints(config: Config) -> Iterator[str]:
    """Tasks that take each of several topics as a reading, or that answer all machines on one topic."""
    for name, task in config.tasks.items():
        if len(task.subscribe) > 1:
            key = field_name(("tasks", name, "subscribe"))
            yield f"{key}: every message is a reading of its own; `[signals]` joins single values instead"
        has_machines = any(set("+#") & set(text) for text in task.subscribe)
        if has_machines and (task.publish_on == "change" or task.retain) and "{" not in (task.publish or ""):
            key = field_name(("tasks", name, "publish"))
            yield f"{key}: has no `{{1}}`, so answers to readings of different topics replace each other"


def _signals_hints(config: Config) -> Iterator[str]:
    """Tables whose readings nobody uses, and those that make readings of less of a window than a model has learnt."""
    used = {table for task in config.tasks.values() for table in task.signal_tables}
    for name, table in config.signals.items():
        if name not in used and not table.record_every_s:
            key = field_name(("signals", name))
            yield f"{key}: is not used: no task has `signals = {shown(name)}`, and `record_every_s` is 0"
    for name, task in config.tasks.items():
        for table_name in task.signal_tables if task.has_own_model else ():
            share, has_windows = config.signals[table_name].min_coverage, config.signals[table_name].has_windows
            if has_windows and share < WHOLE_COVERAGE:
                key = field_name(("signals", table_name, "min_coverage"))
                why = (
                    f"the model of {shown(name)} has learnt whole windows, and after a start readings have less of one"
                )
                yield f"{key}: should be at least {WHOLE_COVERAGE}, because {why} (got {share:g})"


def _score_map_hints(config: Config) -> Iterator[str]:
    """Maps that are not used. For a bare .gguf this is unknown, because it would have to be read in full."""
    weights = listed_weights(in_force(config))
    for name, table in config.tasks.items():
        task = Task(name, table)
        if weights is not None and task.score_map is not None and not task.has_map_for(weights):
            key = field_name(("tasks", name, "score_map"))
            yield f"{key}: made for another model or text, so it is not used; run `edge-agent tune` again"


def _training_hints(config: Config) -> Iterator[str]:
    """Labels and templates that a trained model was not trained with."""
    label_sets, templates = trained_tasks(in_force(config))
    for name, table in config.tasks.items():
        if set(labels := label_sets.get(name, table.choices)) != set(table.choices):
            key = field_name(("tasks", name, "labels"))
            yield f"{key}: the model was trained with {', '.join(labels)}; with other labels it does not answer"
        if (trained := templates.get(name, table.template)) != table.template:
            key = field_name(("tasks", name, "template"))
            yield f"{key}: the model was trained with {shown(trained)}; with another template it does not answer"


def _schema_hints(config: Config) -> list[str]:
    """What answers of `extract` tasks are only validated against; the engine that knows it runs as another process."""
    schemas = {name: task.output_schema for name, task in config.tasks.items() if isinstance(task, ExtractTask)}
    if not schemas:
        return []
    if missing := missing_extra("engine"):
        return [f"tasks: cannot tell which parts of a schema are only validated: {missing}"]
    try:
        found = json.loads(run_in_child("edge_agent.engine.answer.schema_check", json.dumps(schemas).encode()))
    except OutOfBoundsError as error:
        return [f"tasks: the check of the schemas {error}"]
    return [
        f"{field_name(('tasks', name, 'schema'))}: {warning}"
        for name, warnings in found.items()
        for warning in warnings
    ]


def _promise_faults(config: Config) -> Iterator[str]:
    """Tasks that promise what nothing would measure."""
    for name, task in config.tasks.items():
        if not isinstance(task, AuditedTask):
            continue
        if task.audit_rate and not config.feedback.enabled:
            key = field_name(("tasks", name, "audit_rate"))
            yield f"{key}: requires `feedback.enabled = true` (got {task.audit_rate})"
        if isinstance(task, ClassifyTask) and task.min_accuracy and not task.audit_rate:
            key = field_name(("tasks", name, "min_accuracy"))
            yield f"{key}: requires an `audit_rate` above 0 (got {task.min_accuracy})"


def _signals_faults(config: Config, tables: Any) -> Iterator[str]:
    """Tasks that name an unknown table, and tables that would take too much memory.

    `tables` are those of the document; `config` lacks them if one has faults.
    """
    for name, task in config.tasks.items():
        for table in task.signal_tables:
            if isinstance(tables, dict) and table not in tables:
                rule = f"should be one of {', '.join(tables)}" if tables else "requires a table in `[signals]`"
                yield f"{field_name(('tasks', name, 'signals'))}: {rule} (got {shown(table)})"
            elif table in config.signals and (fault := _sample_fault(config, name, table)):
                yield f"{field_name(('tasks', name, 'template'))}: no reading of [signals.{table}] fits it: {fault}"
    tracks = sum(table.max_machines * len(table.values) for table in config.signals.values())
    if tracks > MAX_TRACKS:
        yield f"signals: machines × values of all tables should be at most {MAX_TRACKS} (got {tracks})"


def _sample_fault(config: Config, name: str, table: str) -> str | None:
    """Why a task's template takes no complete reading of a table; None if it takes one."""
    task, fault = config.tasks[name], None
    for number in (0.5, 20.0):  # A template may dislike one number.
        try:
            render(task.template, config.signals[table].sample_reading(number), topics.signals_topic(table, "x"))
        except TemplateInputError as error:
            fault = str(error)
        else:
            return None
    return fault


def _pool_faults(config: Config) -> Iterator[str]:
    """Topics that AMQP cannot carry. A message with one would cut off each board that gets it."""
    if config.pool_topics is None:
        return
    length = len(config.pool_topics.request("x" * 64).encode())
    if length > MAX_ROUTING_KEY_BYTES:
        rule = (
            f"a request's topic with a task name of 64 should be at most {MAX_ROUTING_KEY_BYTES} bytes; "
            "shorten mqtt.root"
        )
        yield f"pool.name: {rule} (got {length})"


def _topics_faults(config: Config) -> Iterator[str]:
    """Topics by which a task would receive its own answers, or a message would be answered twice."""
    # Each filter and the key that names it first: several tasks may share a filter.
    filters: dict[str, str] = {}
    for name, task in config.tasks.items():
        for number, text in enumerate(task.subscribe):
            filters.setdefault(text, field_name(("tasks", name, "subscribe", number)))
    heard = filters | {
        value.topic: field_name(("signals", table, "values", name))
        for table, signals in config.signals.items()
        for name, value in signals.values.items()
        if value.topic is not None
    }
    for name, task in config.tasks.items():
        answer = topics.sample_of_publish_pattern(task.reply_pattern)
        readers = [key for text, key in heard.items() if answer and topics.matches(text, answer)]
        if readers:
            reason = f"its answers would be readings of {', '.join(readers)}; use another topic"
            yield f"{field_name(('tasks', name, 'publish'))}: {reason} (got {shown(task.publish)})"
    requests = config.topics.all_requests
    for text, key in filters.items():
        if topics.overlap(text, requests):
            yield f"{key}: overlaps the request topics {requests}; use other topics (got {shown(text)})"
    # A broker may deliver a message once for each filter that it matches.
    for (first, owner), (second, key) in itertools.combinations(filters.items(), 2):
        if topics.overlap(first, second):
            rule = "use the same filter, or separate ones"
            yield f"{key}: overlaps {shown(first)} of {owner}; {rule} (got {shown(second)})"
