"""Event logs as CSV: rows read one by one, activities turned into event names.

Owns: the columns, the checks that name a line, and the slugs. Knows nothing of the outbox.
Guarantees: memory does not grow with the log; a row is passed on whole or refused by its line
number; two activities never share an event name, and a name depends on the log alone, not on the
order in which it is read.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

from seaway.errors import ConfigError, InvalidName
from seaway.headers import ORDERING_KEY, check_header


class Columns(NamedTuple):
    """What the columns are called. The defaults are those of XES, as process logs have them."""

    case: str = "case:concept:name"
    activity: str = "concept:name"
    time: str = "time:timestamp"


XES = Columns()

MAX_ROW_BYTES = 1024 * 1024
"""Largest row, as JSON: what the outbox takes by default."""

_SLUG_LENGTH = 80
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True, slots=True)
class LogRow:
    """One event of a log. ``payload`` is the whole row as a JSON object of texts."""

    line: int
    case_id: str
    activity: str
    occurred_at: datetime
    payload: bytes


@dataclass(frozen=True, slots=True)
class LogSurvey:
    """What a log holds: rows, cases, and an event name for every activity."""

    rows: int
    cases: int
    event_names: Mapping[str, str]


def slug(activity: str) -> str:
    """``T02 Check confirmation`` gives ``t02_check_confirmation``; may be empty or cut short.

    Accents are taken off, every other run of foreign characters becomes one underscore, and a
    name that would begin with a digit is given a prefix.
    """
    plain = unicodedata.normalize("NFKD", activity).encode("ascii", "ignore").decode().lower()
    stem = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    if stem and not stem[0].isalpha():
        stem = f"activity_{stem}"
    return stem[:_SLUG_LENGTH].rstrip("_")


def event_names(activities: Collection[str]) -> dict[str, str]:
    """A valid event name for each activity, none twice.

    An activity whose slug says all of it keeps the plain slug. Where several share one, where it
    was cut, and where no letter is left, a digest of the activity tells them apart.
    """
    by_slug: defaultdict[str, list[str]] = defaultdict(list)
    for activity in set(activities):
        by_slug[slug(activity)].append(activity)
    names: dict[str, str] = {}
    for stem, sharing in by_slug.items():
        plain = len(sharing) == 1 and stem and len(stem) < _SLUG_LENGTH
        for activity in sharing:
            digest = hashlib.sha256(activity.encode()).hexdigest()[:12]
            names[activity] = stem if plain else f"{stem or 'activity'}_x{digest}"
    return names


def survey(path: Path, columns: Columns = XES) -> LogSurvey:
    """Read the log once from end to end, checking every row; ``ConfigError`` names what is wrong.

    Memory grows with the number of cases and activities, not with the rows.
    """
    rows = 0
    cases: set[str] = set()
    activities: set[str] = set()
    for row in read_log(path, columns):
        rows += 1
        cases.add(row.case_id)
        activities.add(row.activity)
    if rows == 0:
        raise ConfigError("the log has a header but no events", where=str(path))
    return LogSurvey(rows, len(cases), event_names(activities))


def read_log(path: Path, columns: Columns = XES) -> Iterator[LogRow]:
    """The rows of the log in file order. Raises ``ConfigError`` with ``file:line``."""
    try:
        with path.open("rb") as file:
            yield from _rows(path, file, columns)
    except OSError as error:
        raise ConfigError(
            f"the log cannot be read: {error.strerror or error}", where=str(path)
        ) from error


def _rows(path: Path, file: BinaryIO, columns: Columns) -> Iterator[LogRow]:
    lines = _lines(path, file)
    head = next(lines, None)
    if head is None:
        raise ConfigError(
            "the log is empty", where=str(path), hint="a CSV file with a header line is needed"
        )
    delimiter, header = _header(path, head, columns)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    csv.field_size_limit(2 * MAX_ROW_BYTES)
    while True:
        # The header was read apart, so the reader's count is one behind the file's.
        first = reader.line_num + 2
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise ConfigError(f"not CSV: {error}", where=f"{path}:{first}") from error
        if fields is None:
            return
        if fields:
            where = f"{path}:{first}"
            if len(fields) != len(header):
                had = f"{len(fields)} fields where the header has {len(header)}"
                raise ConfigError(had, where=where)
            yield _row(where, first, dict(zip(header, fields, strict=True)), columns)


def _row(where: str, line: int, row: Mapping[str, str], columns: Columns) -> LogRow:
    for column in columns:
        if not row[column].strip():
            raise ConfigError(f"column {column!r} is empty", where=where)
    case_id = row[columns.case].strip()
    try:
        check_header(ORDERING_KEY, case_id)
    except InvalidName as error:
        raise ConfigError(
            f"column {columns.case!r} cannot be an ordering key: {error}", where=where
        ) from (error)
    try:
        moment = datetime.fromisoformat(row[columns.time].strip().replace("/", "-"))
    except ValueError as error:
        raise ConfigError(
            f"column {columns.time!r} is not a time: {row[columns.time][:60]!r}",
            where=where,
            hint="like 2011-10-11 13:45:40.276+02:00; UTC where no zone is given",
        ) from error
    payload = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
    if len(payload) > MAX_ROW_BYTES:
        raise ConfigError(
            f"the row is {len(payload):,} bytes as JSON, an event may have {MAX_ROW_BYTES:,}",
            where=where,
        )
    return LogRow(
        line=line,
        case_id=case_id,
        activity=row[columns.activity],
        occurred_at=moment if moment.tzinfo else moment.replace(tzinfo=UTC),
        payload=payload,
    )


def _header(path: Path, line: str, columns: Columns) -> tuple[str, list[str]]:
    found: list[str] = []
    for delimiter in _DELIMITERS:
        names = next(csv.reader([line], delimiter=delimiter), [])
        if set(columns) <= set(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ConfigError(f"column {twice[0]!r} stands there twice", where=f"{path}:1")
            return delimiter, names
        found = max(found, names, key=len)
    missing = [column for column in columns if column not in found]
    listed = ", ".join(repr(name[:40]) for name in found[:20]) or "none"
    raise ConfigError(
        f"no column {' and no column '.join(repr(column) for column in missing)}",
        where=f"{path}:1",
        hint=f"name them with --case, --activity and --time; columns found: {listed}",
    )


def _lines(path: Path, file: BinaryIO) -> Iterator[str]:
    number = 0
    while raw := file.readline(2 * MAX_ROW_BYTES):
        number += 1
        where = f"{path}:{number}"
        if len(raw) == 2 * MAX_ROW_BYTES:
            raise ConfigError(
                f"the line is longer than {len(raw):,} bytes, an event may have {MAX_ROW_BYTES:,}",
                where=where,
            )
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"not UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}",
                where=where,
                hint="if it is Latin-1: iconv -f latin1 -t utf-8",
            ) from error
