"""Checks of the model: whether it is whole, loads as `run` loads it and answers as recorded, and with which kernels."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from edge_agent.board.board import Board
from edge_agent.board.process import resident_mb
from edge_agent.core.codes import Code
from edge_agent.core.config import Config, ModelConfig
from edge_agent.core.envelope import Envelope
from edge_agent.core.extras import missing_extra
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.kinds.task import DEFAULT_TEMPLATE
from edge_agent.core.model import Model, ModelError
from edge_agent.core.pipe import EngineSettings, Failed, is_echo
from edge_agent.core.terminal import fail
from edge_agent.core.wording import printable, shown
from edge_agent.gguf.header import read_header
from edge_agent.gguf.model import FIELDS_KEY
from edge_agent.loader import load_config
from edge_agent.models.bundle import open_model
from edge_agent.models.canaries import FILE as CANARIES_FILE
from edge_agent.models.canaries import CanaryError, RenderedCanaries, find_canaries
from edge_agent.models.record import in_force, read_record, trust_in_force
from edge_agent.models.trial import load_and_run_canaries, open_with_canaries
from edge_agent.models.trust import read_trust
from edge_agent.requests.tasks import Task, prefixes_of
from edge_agent.tools.doctor.check import Check, failed, good, skipped, warning
from edge_agent.tools.doctor.system import KERNEL_FEATURES
from edge_agent.worker.client import WorkerClient, WorkerError, started

# The share of one label where an input says nothing, above which it wins nearly always.
_PREFERRED = 0.9
_SIGNATURES = {
    "good": "as listed, signed",
    "unchecked": "as listed; signed, not checked without models.default.public_key",
    None: "as listed, not signed",
}


def model_checks(
    config: Config,
    board: Board,
    available_mb: float | None,
    bundle: Path | None,
    *,
    is_running: bool,
    not_loading: str | None,
) -> Iterator[Check]:
    """Checks of a bundle, or of the model in force.

    It is loaded unless `not_loading` says why not, or it would need memory that a running service takes.
    """
    configured, path = config.models["default"], bundle or in_force(config)
    record = read_record(config) if bundle is None else None
    try:
        trust = trust_in_force(config) if bundle is None else read_trust(configured, config.state_dir)
        model = open_model("default", path, trust, configured.chat_templates)
    except ModelError as error:
        if record is not None and path != configured.path:
            before = record.previous or configured.path
            found = f"{path} is in force since a model-switch, but does not open: the agent starts with {before}"
            yield warning("model in force", found, "repair the model")
        advice = "name an intact bundle made by edge-convert"
        if bundle is None:
            advice = "train it, or copy it there (again), with Ansible by provision.yml; or switch to another one"
        if configured.key_files:
            advice += ", signed for models.default.public_key or public_keys, and not revoked"
        yield failed("model", _without_key(error, bundle), advice)
        return
    if record is not None and path != configured.path:
        found = f"{path} has been running since a model-switch; models.default.path is {configured.path}"
        yield good("model in force", found)
    vouched = "(no manifest)" if model.warning else _SIGNATURES[model.signature]
    found = (
        f"{model.bundle_name} {model.quantization}, {model.size_bytes / 1e6:.1f} MB, sha256 {model.sha256[:12]}… "
        f"{vouched}; chat template {model.chat_template_sha256 or 'none: ChatML, or the fields of a trained model'}"
    )
    yield warning("model", found, "make a bundle of it with edge-convert") if model.warning else good("model", found)
    if not is_echo(path) and (missing := missing_extra("engine")):
        if bundle is None:
            advice = "a PC that runs no model does not need it; `doctor --broker` is enough there"
            yield failed("engine", missing, advice)
        else:
            yield skipped("engine", f"only the bundle's files were checked; its model was not loaded: {missing}")
        return
    if is_running and not_loading is None:
        not_loading = _too_large_beside(model, available_mb)
    if not_loading is not None:
        yield skipped("engine", f"the model is not loaded: {not_loading}")
        return
    yield from engine_checks(board, config, model, available_mb)


def _without_key(error: Exception, bundle: Path | None) -> str:
    """The error without the configuration's key, which does not name a bundle of the command line."""
    return str(error) if bundle is None else str(error).removeprefix("models.default.path: ")


def _too_large_beside(model: Model, available_mb: float | None) -> str | None:
    """Why no second worker may start; None if one may. For lack of memory, the kernel might end the service's."""
    needed_mb = model.likely_worker_mb
    if available_mb is None or available_mb > needed_mb:
        return None
    return f"a second worker may need {needed_mb:.0f} MB, of {available_mb:.0f} MB available; stop the service first"


def engine_checks(board: Board, config: Config, model: Model, available_mb: float | None) -> Iterator[Check]:
    """Loads the model in a worker, as `run` does; `available_mb` was free before that."""
    try:
        canaries = find_canaries(model.source)
        with started(model.load_command(config.engine)) as worker:
            ready, differences = load_and_run_canaries(worker, canaries)
            worker_mb = resident_mb(worker.process.pid)
            of_tasks = [*preferences(config, model, worker), *untrained_tasks(config, model, worker)]
    except (CanaryError, WorkerError, OSError) as error:
        advice = "check how much memory is free; if there is enough, make the bundle again"
        yield failed("engine", str(error), advice)
        return
    yield memory(available_mb, worker_mb)
    chosen = " (the agent measures how many are best)" if config.engine.threads is None else ""
    yield good(
        "engine",
        f"loaded in {ready.load_s:.1f} s, {ready.context_tokens} tokens of context, threads: {ready.threads}{chosen}",
    )
    if is_echo(model.path):  # It has no kernels.
        return
    yield canaries_check(canaries, differences)
    yield from of_tasks
    yield from idle_students(config, model)
    yield from missing_models(config, model)
    if model.path.suffix != ".gguf":  # It has no kernels, either.
        return
    yield kernels(board.cpu_features(), ready.cpu_variant)
    yield repack(ready.repacked_mib)


def canaries_check(canaries: RenderedCanaries | None, differences: list[str]) -> Check:
    if canaries is None:
        return skipped("canaries", "the bundle has no canaries, so nothing says what its answers should be")
    asked = len(canaries.requests)
    found = f"{asked - len(differences)} of {asked} answered as they did where the bundle was made"
    if not differences:
        return good("canaries", found)
    advice = "copy the bundle again, and test memory and card; another llama.cpp may also answer differently"
    return failed("canaries", f"{found}: {'; '.join(differences)}", advice)


def preferences(config: Config, model: Model, worker: WorkerClient) -> Iterator[Check]:
    """Tasks where the model gives one label to anything, and nothing corrects that. Raises WorkerError."""
    tasks = {}
    for name, table in config.tasks.items():
        is_corrected = not isinstance(table, ClassifyTask) or table.measures_prior
        if table.enabled and not is_corrected and not Task(name, table).has_map_for(model.weights_sha256):
            tasks[name] = Task(name, table).with_prior_correction()
    priors = worker.set_tasks(prefixes_of(tasks.values())) if tasks else {}
    for name, task in tasks.items():
        prior = priors.get(task.definition, {})
        label = max(prior, key=prior.__getitem__, default="")
        if prior and prior[label] >= _PREFERRED:
            yield warning(
                "labels",
                f"task {name}: when the input says nothing, {shown(label)} gets a score of {prior[label]:.2f}",
                f"set tasks.{name}.prior to corrected, or run `edge-agent tune {name}` with labelled rows",
            )


def untrained_tasks(config: Config, model: Model, worker: WorkerClient) -> Iterator[Check]:
    """Tasks that a trained model refuses, having not learnt them, or their labels or template. Raises WorkerError."""
    is_gguf = model.path.suffix == ".gguf"  # Otherwise, the bundle has only small models.
    if is_echo(model.path) or (is_gguf and FIELDS_KEY not in read_header(model.path).values):
        return
    for name, table in config.tasks.items():
        if not table.enabled or table.has_own_model:
            continue
        # The input has no field, so that even a task that the model knows is refused, and costs no inference.
        task = Task(name, table.model_copy(update={"template": DEFAULT_TEMPLATE}))
        request = task.build_engine_request(1, Envelope(input="{}"))
        event = worker.ask(replace(request, template_sha256=Task(name, table).template_sha256))
        if isinstance(event, Failed) and event.code is Code.UNKNOWN_TASK:
            advice = "train the model for it with `edge-convert train`, or restore its labels or template, or remove it"
            yield warning("task", f"task {name}: {event.message}", advice)


def missing_models(config: Config, model: Model) -> Iterator[Check]:
    """Tasks that need a small model, which the bundle does not have."""
    for name, table in config.tasks.items():
        if table.enabled and table.has_own_model and model.answerer_of(name) is None:
            advice = "make one with `edge-convert train`, and add it with `edge-convert extend`"
            yield warning("task", f"task {name}: the bundle has no model for it, so it is not answered", advice)


def idle_students(config: Config, model: Model) -> Iterator[Check]:
    """Students that are not asked, because their task has other labels or another template now."""
    for student in model.students:
        for name, labels in student.tasks.items():
            table = config.tasks.get(name)
            if isinstance(table, ClassifyTask) and set(table.labels) != set(labels):
                yield warning(
                    "student",
                    f"{student.name} is not asked: it was trained for task {name} with the labels {', '.join(labels)}",
                    "train it again with `edge-convert train`, or restore the labels",
                )
            elif table is not None and (trained := student.templates.get(name, table.template)) != table.template:
                yield warning(
                    "student",
                    f"{student.name} is not asked: it was trained for task {name} with the template {shown(trained)}",
                    "train it again with `edge-convert train`, or restore the template",
                )


def memory(available_mb: float | None, worker_mb: float | None) -> Check:
    """Whether there is memory for the loaded model. It is measured, because it depends on model and context.

    This process's own memory is taken for the agent's.
    """
    own_mb = resident_mb()
    if available_mb is None:
        return skipped("memory", "/proc/meminfo does not say what is available")
    if worker_mb is None or own_mb is None:
        return skipped("memory", f"{available_mb:.0f} MB available")
    found = (
        f"{available_mb:.0f} MB available before loading, {worker_mb + own_mb:.0f} MB resident after it: "
        f"worker {worker_mb:.0f} MB with the mapped pages of the weights, agent about {own_mb:.0f} MB"
    )
    if available_mb < worker_mb + own_mb:
        return warning(
            "memory", found, "stop other services, choose a smaller quantization or a board with more memory"
        )
    return good("memory", found)


def kernels(cpu_features: Sequence[str], cpu_variant: str) -> Check:
    """Whether llama.cpp uses the features of the cores, by its system info `cpu_variant`."""
    words = cpu_variant.split()
    unused = [name for name, word in KERNEL_FEATURES.items() if name in cpu_features and word not in words]
    if not unused:
        return good("kernels", cpu_variant)
    return failed(
        "kernels",
        f"the cores have {', '.join(unused)}, but llama.cpp runs kernels that do not use that: {cpu_variant}",
        "install a llama-cpp-python with all kernel variants, from `make wheelhouse "
        f"ARCH={platform.machine()}`, or build it on this board with `pip install --force-reinstall --no-binary "
        "llama-cpp-python llama-cpp-python`",
    )


def repack(repacked_mib: float | None) -> Check:
    if repacked_mib is None:
        return skipped("repack", "unknown: the library does not say")
    found = f"{repacked_mib:.1f} MiB of weights in a fast layout"
    if repacked_mib == 0:
        advice = "no weight has a fast layout here; on ARM with dotprod q4_0, q8_0 and iq4_nl have one"
        return warning("repack", found, advice)
    return good("repack", found)


def probe(config_path: Path | None, bundle: Path | None) -> int:
    """Verifies, loads and asks a bundle, or the one in force, and prints which answers differ; 0 if none does.

    Without a configuration neither `public_key` nor `[engine]` applies. Raises ConfigError.
    """
    config = None if config_path is None else load_config(config_path)
    path = bundle or (in_force(config) if config else Path())
    configured = config.models["default"] if config else ModelConfig(path=path)
    settings = config.engine if config else EngineSettings()
    try:
        trust = read_trust(configured, config.state_dir if config else None)
        model, canaries = open_with_canaries(path, configured, trust)
        if canaries is None:
            raise CanaryError(f"the bundle has no {CANARIES_FILE}, so nothing says what its answers should be")
        # The service may run beside it, so memory for one request is enough.
        with started(model.load_command(settings.model_copy(update={"max_active": 1}))) as worker:
            _, differences = load_and_run_canaries(worker, canaries)
    except (ModelError, CanaryError, WorkerError, OSError) as error:
        return fail(_without_key(error, bundle))
    for difference in differences:
        fail(difference)
    asked = len(canaries.requests)
    print(printable(f"{model.bundle_name}: {asked - len(differences)} of {asked} canaries answered as recorded"))
    return 1 if differences else 0
