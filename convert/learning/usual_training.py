"""From rows without answers to a bundle for tasks of the kind `unusual`, which needs no large model and no PyTorch."""

import math
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ..agent import (
    CANARIES_FILE,
    MANIFEST_FILE,
    MAX_BYTES,
    MAX_FALSE_ALARMS,
    MAX_FIELDS,
    MIN_FALSE_ALARMS,
    SCORE_DIGITS,
    SIGNATURE_FILE,
    USUAL_SHARES,
    Comparison,
    RarityModel,
    UnusualTask,
    UsualReadings,
    UsualReadingsFile,
    __version__,
    number_of,
    shown,
    value_text,
)
from ..agent import canaries as canary_format
from ..errors import ConvertError, escaped
from ..write.bundle import student_name
from ..write.manifest import PAGE_FILE, QUALITY_FILE, TRAINED_SCHEMA, canonical_json, describe_files, versions
from .doubts import comma_doubts, counter_doubts, text_doubts, time_doubts
from .outliers import MIN_CODE_ROWS, code_text, has_decimal_comma, ordinary_by_field
from .runs import effective_rows
from .study import PARTS, folds_of
from .training_rows import MIN_ROWS, Row, by_task
from .usual import RUN_GAP, in_other_states, learn_and_find_rarest, learn_usual
from .usual_report import (
    Choice,
    Noticed,
    NoticedFault,
    RareRow,
    UnusualQuality,
    UnusualTraining,
    WatchedField,
    render_unusual,
)

_CANARIES = 20
_RAREST = 20
# Neighbours in a run of rare rows are at most so many times as far apart as rows usually are.
_MAX_GAP = 10
# Each number jumps in so many rows.
_JUMP_ROWS = 200
_MAX_SHOWN = 8
_TIME_RATES = ("1 per month", "1 per week", "1 per day", "1 per 100 readings")
_READING_RATES = ("1 per 10000 readings", "1 per 1000 readings", "1 per 100 readings")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusualJob:
    rows: Sequence[Row]  # The rows are of tasks of the kind `unusual`.
    seed: int
    name: str
    version: int
    expires: str | None
    licence: str | None
    sign: Callable[[bytes], bytes] | None  # Makes the signature of the manifest's bytes.


def judge_unusual(job: UnusualJob) -> tuple[UnusualTraining, dict[str, UsualReadings]]:
    """Learns from all usual rows, and judges that on rows that were held out. Raises ConvertError."""
    learnt, qualities = dict[str, UsualReadings](), list[UnusualQuality]()
    for name, rows in by_task(job.rows).items():
        usual, others = list[Row](), list[Row]()
        for row in rows:
            (usual if is_usual(row) else others).append(row)
        if len(usual) < MIN_ROWS:
            raise ConvertError(f"task {name}: should have at least {MIN_ROWS} usual rows (got {len(usual)})")
        if (fields := len({field for row in usual for field in row.values})) > MAX_FIELDS:
            raise ConvertError(f"task {name}: its rows should have at most {MAX_FIELDS} fields (got {fields})")
        readings, rarest = learn_and_find_rarest(
            _values(usual),
            _blocks(usual),
            job.seed,
            is_sample=_are_sample(usual),
            places=_places(usual),
            count=_RAREST,
        )
        learnt[name] = readings.model_copy(update={"template": usual[0].task.config.template})
        qualities.append(_judge(usual, others, learnt[name], rarest, job.seed))
    training = UnusualTraining(
        name=job.name, version=job.version, licence=job.licence, seed=job.seed, tasks=tuple(qualities)
    )
    return training, learnt


def write_unusual_bundle(job: UnusualJob, folder: Path) -> UnusualTraining:
    """All files of the bundle, into an empty folder. Raises ConvertError."""
    training, learnt = judge_unusual(job)
    file = UsualReadingsFile(tasks=learnt).model_dump_json(by_alias=True).encode()
    if len(file) > MAX_BYTES:
        rule = f"should be at most {MAX_BYTES:,} bytes (got {len(file):,}): leave out fields, or long texts that repeat"
        raise ConvertError(f"what usual readings look like {rule}")
    files = {
        f"{student_name(job.name)}.json": file,
        CANARIES_FILE: _record_canaries(job.rows, learnt).encode(),
        QUALITY_FILE: training.encode(),
        PAGE_FILE: render_unusual(training).encode(),
    }
    for path, data in files.items():
        (folder / path).write_bytes(data)
    document = {
        "schema": TRAINED_SCHEMA,
        "name": job.name,
        "version": job.version,
        "architecture": "none",
        "quantization": "none",
        "licence": job.licence,
        "files": describe_files(folder),
        "tools": {"edge-convert": __version__, **versions("numpy", "scipy"), "machine": platform.machine()},
        **({} if job.expires is None else {"expires": job.expires}),
    }
    manifest = canonical_json(document)
    (folder / MANIFEST_FILE).write_bytes(manifest)
    if job.sign is not None:
        (folder / SIGNATURE_FILE).write_bytes(job.sign(manifest))
    return training


def is_usual(row: Row) -> bool:
    """Whether its answer means usual in its task, which is of the kind `unusual`."""
    return _config(row).is_usual(row.answer_text)


def _config(row: Row) -> UnusualTask:
    config = row.task.config
    assert isinstance(config, UnusualTask)
    return config


def _blocks(rows: Sequence[Row]) -> list[int] | None:
    """The number of each row's group; None if there are fewer groups than parts to hold out."""
    groups = {group: number for number, group in enumerate(dict.fromkeys(row.group for row in rows))}
    return None if len(groups) < PARTS else [groups[row.group] for row in rows]


def _places(rows: Sequence[Row]) -> list[int]:
    """A number for each row that differs by one from those of the rows before and after it of the same machine.

    Rows that a board noticed may be days apart, so they are not neighbours of one another.
    """
    ordered = sorted(range(len(rows)), key=lambda at: rows[at].machine or "")
    gaps = [
        (rows[at].time or 0.0) - (rows[before].time or 0.0) if rows[at].machine == rows[before].machine else math.inf
        for before, at in pairwise(ordered)
    ]
    usual_gap = median([gap for gap in gaps if 0 < gap < math.inf] or [math.inf])
    steps = [1 if gap < math.inf and gap <= _MAX_GAP * usual_gap else 1 + RUN_GAP for gap in gaps]
    places = [0] * len(rows)
    for at, place in zip(ordered, accumulate(steps, initial=0), strict=True):
        places[at] = place
    return places


def _judge(
    usual: Sequence[Row],
    others: Sequence[Row],
    learnt: UsualReadings,
    rarest: Sequence[tuple[list[int], Comparison]],
    seed: int,
) -> UnusualQuality:
    """False alarms come from models that have not seen the rows. `others` are judged by the written one.

    No model learns from `others`. None is judged on usual rows that are a selection, the rarest ones.
    """
    config = _config(usual[0])
    sample, selection = list[Row](), list[Row]()
    for row in usual:
        (selection if row.is_selection else sample).append(row)
    folds, held_out = folds_of(sample, seed, "unlabelled rows" if selection else "rows")
    judged = [row for fold in folds for row in fold.held_out]
    alarm_rarities = [
        rarity
        for fold in folds
        for rarity in _rarities(
            _learnt_from([*fold.train, *_unseen(selection, fold.held_out)], seed), _values(fold.held_out)
        )
    ]
    are_alarms = [rarity <= config.max_rarity for rarity in alarm_rarities]
    is_in_state = in_other_states([field.name for field in learnt.numbers], _values(usual))
    in_state = {id(row) for row, is_other in zip(usual, is_in_state, strict=True) if is_other}
    written = RarityModel(learnt)
    of_codes = [
        row.values
        for row, alarm in zip(judged, are_alarms, strict=True)
        if alarm
        and id(row) not in in_state
        and any(_is_code(row.values.get(number.name), number.low, number.high) for number in learnt.numbers)
    ]
    by_answer: dict[str, list[tuple[bool, str | None]]] = {}
    for row, rarity in zip(others, _rarities(written, _values(others)), strict=True):
        by_answer.setdefault(row.answer_text, []).append((rarity <= config.max_rarity, row.group))
    fields = tuple(_watched_fields(usual, learnt))
    jumps = _jumps(sample, fields, written)
    drifts = _drifts(sample, fields, written)
    return UnusualQuality(
        name=usual[0].task.name,
        rows=len(usual),
        held_out=held_out,
        false_alarms=config.false_alarms,
        asked=config.max_rarity,
        judged=Noticed(rows=len(judged), unusual=sum(are_alarms)),
        alarms_in_states=sum(alarm and id(row) in in_state for row, alarm in zip(judged, are_alarms, strict=True)),
        alarms_of_codes=len(of_codes),
        unusual_codes=sum(rarity <= config.max_rarity for rarity in _rarities(written, of_codes)),
        independent=effective_rows(judged, are_alarms),
        answers={answer: _noticed_fault(rows) for answer, rows in by_answer.items()},
        fields=fields,
        jumps={name: _noticed(rarities, config.max_rarity) for name, rarities in jumps.items()},
        choices=tuple(
            Choice(
                false_alarms=rate,
                asked=asked,
                alarms=_noticed(alarm_rarities, asked),
                jumps=_noticed([rarity for rarities in jumps.values() for rarity in rarities], asked),
                drifts=_noticed(drifts, asked),
            )
            for rate, asked in _rates(config)
        ),
        rarest=tuple(
            RareRow(
                where=usual[run[0]].request.where,
                time=usual[run[0]].time_text,
                machine=usual[run[0]].machine,
                rows=len(run),
                first=usual[min(run)].request.where,
                last=usual[max(run)].request.where,
                rarity=compared.rarity,
                because=tuple(compared.because),
            )
            for run, compared in rarest
        ),
        doubts=tuple(_doubts(usual, learnt)),
    )


def _learnt_from(rows: Sequence[Row], seed: int) -> RarityModel:
    return RarityModel(learn_usual(_values(rows), _blocks(rows), seed, is_sample=_are_sample(rows)))


def _are_sample(rows: Sequence[Row]) -> list[bool]:
    return [not row.is_selection for row in rows]


def _unseen(selection: Sequence[Row], held_out: Sequence[Row]) -> list[Row]:
    """The rows that give no held-out row away, because they are of other groups and other readings."""
    groups = {row.group for row in held_out} - {None}
    readings = {row.identity for row in held_out}
    return [row for row in selection if row.group not in groups and row.identity not in readings]


def _values(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [row.values for row in rows]


def _jumps(rows: Sequence[Row], fields: Sequence[WatchedField], usual: RarityModel) -> dict[str, list[float]]:
    """For each number, how rare rows are in which it is moved up or down by its usual range."""
    chosen = rows[:: -(-len(rows) // _JUMP_ROWS)]
    return {
        field.name: _rarities(usual, filter(None, (_moved(row, [field], 1.0, at) for at, row in enumerate(chosen))))
        for field in fields
        if field.low is not None
    }


def _drifts(rows: Sequence[Row], fields: Sequence[WatchedField], usual: RarityModel) -> list[float]:
    """How rare rows are in which two numbers, different ones in each row, are moved by a quarter of that range."""
    pairs = [*combinations([field for field in fields if field.low is not None], 2)]
    chosen = rows[:: -(-len(rows) // _JUMP_ROWS)] if pairs else []
    moved = (_moved(row, pairs[at * len(pairs) // len(chosen)], 0.25, at) for at, row in enumerate(chosen))
    return _rarities(usual, filter(None, moved))


def _moved(row: Row, fields: Sequence[WatchedField], ranges: float, at: int) -> dict[str, Any] | None:
    """The row's values with some moved by `ranges` times their range, in every other row down.

    None unless these were within their ranges.
    """
    values = dict(row.values)
    for field in fields:
        low, high, number = field.low or 0.0, field.high or 0.0, number_of(row.values.get(field.name))
        if number is None or not low < number < high:
            return None
        values[field.name] = number + (high - low) * (ranges if at % 2 else -ranges)
    return values


def _doubts(rows: Sequence[Row], learnt: UsualReadings) -> Iterator[str]:
    names = [number.name for number in learnt.numbers]
    yield from comma_doubts(rows, names)
    yield from time_doubts(rows)
    yield from counter_doubts(rows, names)
    for number in learnt.numbers:
        values = [row.values.get(number.name) for row in rows]
        odd = Counter(shown(value) for value in values if _is_code(value, number.low, number.high))
        if odd:
            counts = [
                f"{count} row{' has' if count == 1 else 's have'} {value}"
                for value, count in odd.most_common(_MAX_SHOWN)
            ]
            yield f"the field {escaped(number.name)}: {', '.join(counts)}: an error code?"
    constant = list[str]()
    for field in learnt.values:
        name = f"the field {escaped(field.name)}" if field.name else "the whole text"
        values = [row.values[field.name] for row in rows if field.name in row.values]
        if len(set(map(value_text, values))) == 1:
            constant.append(f"{escaped(field.name) or name} {shown(values[0])}")
        yield from text_doubts(name, values)
    if constant:
        more = ", …" if len(constant) > _MAX_SHOWN else ""
        yield f"always the same, so any other value will be unusual: {', '.join(constant[:_MAX_SHOWN])}{more}"


def _is_code(value: Any, low: float, high: float) -> bool:
    """Whether the value is a text, or a number far from all others of its field, such as an error code."""
    if value is None or has_decimal_comma(value):
        return False
    return (number := number_of(value)) is None or not low <= number <= high


def _rarities(usual: RarityModel, readings: Iterable[dict[str, Any]]) -> list[float]:
    return [usual.compare(reading, max_rarity=0.0).rarity for reading in readings]


def _noticed(rarities: Sequence[float], max_rarity: float) -> Noticed:
    return Noticed(rows=len(rarities), unusual=sum(rarity <= max_rarity for rarity in rarities))


def _noticed_fault(rows: Sequence[tuple[bool, str | None]]) -> NoticedFault:
    groups = {group for _, group in rows}
    return NoticedFault(
        rows=len(rows),
        unusual=sum(is_unusual for is_unusual, _ in rows),
        groups=None if None in groups else len(groups),
    )


def _rates(config: UnusualTask) -> list[tuple[str, float]]:
    """Rates of false alarms to choose from, and the share of readings of each, the rarest first."""
    rates = {config.false_alarms, *(_READING_RATES if config.reading_interval_s is None else _TIME_RATES)}
    shares = [(rate, config.model_copy(update={"false_alarms": rate}).max_rarity) for rate in rates]
    return sorted(
        ((rate, share) for rate, share in shares if MIN_FALSE_ALARMS <= share <= MAX_FALSE_ALARMS),
        key=lambda one: one[1],
    )


def _watched_fields(rows: Sequence[Row], learnt: UsualReadings) -> Iterator[WatchedField]:
    """Codes are told as for other kinds, so a number of a state such as off, which is learnt as usual, may be one."""
    values = {number.name: [row.values.get(number.name) for row in rows] for number in learnt.numbers}
    numbers = {
        name: np.sort([number for number in map(number_of, of_field) if number is not None])
        for name, of_field in values.items()
    }
    for name, ordinary in ordinary_by_field(numbers).items():
        far = Counter(_code_text(value) for value in values[name] if _is_code(value, ordinary[0], ordinary[-1]))
        low, high = np.quantile(ordinary, USUAL_SHARES, method="inverted_cdf").tolist()
        codes = {code: count for code, count in far.most_common(_MAX_SHOWN) if count >= MIN_CODE_ROWS}
        missing = values[name].count(None) / len(rows)
        yield WatchedField(name=name, low=low, high=high, values=(), missing=missing, codes=codes)
    for field in learnt.values:
        shown = tuple([*field.values][:_MAX_SHOWN])
        missing = sum(field.name not in row.values for row in rows) / len(rows)
        yield WatchedField(name=field.name, low=None, high=None, values=shown, missing=missing, codes={})


def _code_text(value: Any) -> str:
    return shown(value) if (number := number_of(value)) is None else code_text(number)


def _record_canaries(rows: Sequence[Row], learnt: Mapping[str, UsualReadings]) -> canary_format.CanaryFile:
    usual = {name: RarityModel(readings) for name, readings in learnt.items()}
    chosen = rows[:: -(-len(rows) // _CANARIES)]
    return canary_format.CanaryFile(
        schema=canary_format.SCHEMA,
        tolerances=canary_format.Tolerances(score=0.1, number=0.01),
        tasks={row.task.name: row.task.config for row in chosen},
        canaries=tuple(
            canary_format.Canary(
                task=row.task.name,
                input=row.request.input,
                answer=canary_format.RecordedAnswer(
                    values={"score": round(usual[row.task.name].score(row.values), SCORE_DIGITS)}
                ),
            )
            for row in chosen
        ),
    )
