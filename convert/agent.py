"""What the converter uses of the agent. Only `__main__` and `report/page` also import from the agent themselves.

mypy and ruff let this module re-export.
"""

from pathlib import Path

from edge_agent import __version__
from edge_agent.core.clock import expiry, is_expired
from edge_agent.core.codes import Code, Refusal
from edge_agent.core.config_file import ConfigError
from edge_agent.core.envelope import Envelope, Options
from edge_agent.core.environment import cores
from edge_agent.core.extras import missing_extra
from edge_agent.core.files import TooLongError, atomic_writer, read_bounded, sha256_of, sync_folder, write_atomically
from edge_agent.core.kinds.classify import MAX_LABELS, ClassifyTask
from edge_agent.core.kinds.estimate import DEFAULT_TOLERANCE, EstimateTask, level_of, ranges_of
from edge_agent.core.kinds.registry import BUILT_IN_TASK
from edge_agent.core.kinds.task import DEFAULT_TEMPLATE
from edge_agent.core.kinds.unusual import MAX_FALSE_ALARMS, MIN_FALSE_ALARMS, USUAL, UnusualTask
from edge_agent.core.labelled import GROUP_KEY, MACHINE_KEY, ROW_KEYS, TIME_KEYS, RowsError, json_values
from edge_agent.core.model import SHOWN_OF_KEY, Model, ModelError
from edge_agent.core.page.page import environment as page_environment
from edge_agent.core.pipe import (
    Adapter,
    EngineRequest,
    EngineSettings,
    Failed,
    Finished,
    Load,
    Sampling,
    TaskPrefix,
    weights_sha256,
)
from edge_agent.core.schemas import validator
from edge_agent.core.score_map import SCORE_MAPS_FILE, SCORE_MAPS_SCHEMA, ScoreMap
from edge_agent.core.strict_json import MAX_NUMBER, NotJsonError, compact_json, is_near, number_of, parse_json
from edge_agent.core.terminal import UNKNOWN, aligned, percent
from edge_agent.core.topics import NAME_PATTERN
from edge_agent.core.version import ShowVersion
from edge_agent.core.wording import first_fault, shown
from edge_agent.engine.backends import BackendError, load_backends
from edge_agent.engine.prompt.chat_template import ChatError, ChatTemplate, chat_template_fault
from edge_agent.engine.usual import SCORE_DIGITS, Comparison, NamedField, RarityModel, compress, value_text
from edge_agent.gguf.adapter import check_adapter
from edge_agent.gguf.field_table import (
    MAX_CODES,
    USUAL_SHARES,
    ControlToken,
    ErrorCode,
    FieldTable,
    InputField,
    NumberBins,
    TaskFields,
    code_control,
    fingerprints_of,
    strangeness,
    values_of,
)
from edge_agent.gguf.header import STRING, HeaderError, TensorInfo, read_header, read_strings
from edge_agent.gguf.model import ALL_TOKENS_KEY, FIELDS_KEY, MODELS, TOKENS_KEY, ModelFacts, read_model_facts
from edge_agent.gguf.usual_readings import (
    MAX_BYTES,
    MAX_COMPONENTS,
    MAX_FIELDS,
    UNSEEN,
    Component,
    NumberField,
    Tail,
    UsualReadings,
    UsualReadingsFile,
    ValueField,
    read_usual_readings,
)
from edge_agent.learning.maths.calibration import JudgedAnswer, calibration_error
from edge_agent.learning.maths.export import Export, read_export
from edge_agent.learning.maths.fit import board_map, shared_map
from edge_agent.learning.maths.groups import effective_sample_size, mean_interval
from edge_agent.learning.maths.shares import interval as share_interval
from edge_agent.models import canaries
from edge_agent.models.bundle import ADAPTER_FILE, MANIFEST_FILE, MODEL_FILE, REPAIR_FILE, STUDENT_FILE, open_model
from edge_agent.models.canaries import FILE as CANARIES_FILE
from edge_agent.models.canaries import read_canaries
from edge_agent.models.signatures import SIGNATURE_FILE
from edge_agent.models.trust import Trust, read_keys
from edge_agent.requests.collapse import is_collapsed
from edge_agent.requests.rows import TaskRow, check_required, judged_fault, read_rows
from edge_agent.requests.task_tables import load_task_configs
from edge_agent.requests.tasks import Task, prefixes_of, with_built_in
from edge_agent.requests.templates import TemplateInputError, render
from edge_agent.worker.client import WorkerClient, WorkerError
from edge_agent.worker.client import started as started_worker

from .errors import ConvertError, escaped


def model_tokens(path: Path) -> list[bytes]:
    """The vocabulary of a model file that `model_facts` has accepted."""
    return list(read_strings(path, read_header(path).array(TOKENS_KEY, STRING)))


def model_facts(path: Path) -> ModelFacts:
    """Raises ConvertError for a file that the agent would not open."""
    try:
        return read_model_facts(path)
    except HeaderError as error:
        raise ConvertError(f"{escaped(str(path))}: {error}") from None
    except OSError as error:
        raise ConvertError(f"{escaped(str(path))}: cannot be read: {error.strerror}") from None
