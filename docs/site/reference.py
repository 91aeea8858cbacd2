"""The pages of the reference that are made from the code: options, keys, metrics, Python.

They are made when the site is built and lie nowhere else, so none of them can be out of date. The
pages of ``docs/reference`` say in sentences what these list.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import names
from layout import table, text_of
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from typer.main import get_command

from seaway.cli import app
from seaway.config import Rate, format_duration, format_size
from seaway.config.models import Section, Settings
from seaway.contracts import Backlog, ConsumerInfo, Notice, StreamInfo
from seaway.history.findings import ConsumerFigures, StreamFigures
from seaway.history.findings import Report as Audited
from seaway.history.gauges import families
from seaway.monitor import Activity, Sample, Snapshot, exposition
from seaway.monitor.findings import Report
from seaway.telemetry import DeadLettered, Delivered, Relayed


def pages() -> dict[str, str]:
    """Each page by its file's name."""
    return {
        "commands.md": commands(),
        "keys.md": keys(),
        "metrics.md": metrics(),
        "api.md": names.api(),
    }


# --- the command line, as it knows itself


def commands() -> str:
    root = get_command(app)
    parts = [
        "# Options of each command",
        "Made from the command line itself: what `--help` says. What each command is for, with "
        "its exit codes, is on [a page in sentences](command-line.md).",
        "## Before the command",
        _options(root),
    ]
    for words, command in _walk(root, ()):
        name = " ".join(words)
        arguments = [_argument(one) for one in command.params if one.param_type_name == "argument"]
        parts += [
            f"## `seaway {name}`",
            text_of(command.help or ""),
            f"```text\n{' '.join(['seaway', name, '[OPTIONS]', *arguments])}\n```",
            _options(command),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield words, command
    for name, one in (below or {}).items():
        yield from _walk(one, (*words, name))


def _argument(one: Any) -> str:
    name = (one.metavar or one.name).upper() + ("..." if one.nargs == -1 else "")
    return name if one.required else f"[{name}]"


def _options(command: Any) -> str:
    rows = []
    for one in command.params:
        if one.hidden or one.name in ("help", "install_completion", "show_completion"):
            continue
        names = [*one.opts, *one.secondary_opts]
        if one.param_type_name == "argument":
            names = [_argument(one)]
        value = "" if getattr(one, "is_flag", False) or not one.metavar else f" {one.metavar}"
        default = one.default if one.default not in (None, False, ()) else None
        rows.append(
            (
                ", ".join(f"`{name}{value}`" for name in names),
                text_of(getattr(one, "help", None) or ""),
                "" if default is None or callable(default) else f"`{default}`",
            )
        )
    return table(("option", "", "default"), rows) if rows else ""


# --- the configuration, as its models are


def keys() -> str:
    parts = [
        "# Keys of seaway.yaml",
        "Made from the models that read the file: each key with what it takes and its default. "
        "What they mean, and the variables that win over them, is on "
        "[a page in sentences](configuration.md).",
    ]
    parts += [_section("The file", Settings)]
    for name, field in Settings.model_fields.items():
        for section in _sections(field.annotation):
            parts.append(_section(f"`{name}`", section))
    return "\n\n".join(parts) + "\n"


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for one in get_args(annotation):
        yield from _sections(one)


def _section(title: str, model: type[Section]) -> str:
    rows = []
    for name, field in model.model_fields.items():
        if name in ("source", "implied"):  # what loading notes, and no file says
            continue
        default = (
            "required"
            if field.is_required()
            else _value(field.get_default(call_default_factory=True))
        )
        rows.append((f"`{name}`", _kind(field.annotation, name, model), default))
    doc = "" if model is Settings else text_of(model.__doc__ or "").partition("\n\n")[0] + "\n\n"
    return f"## {title}\n\n{doc}" + table(("key", "takes", "default"), rows)


def _kind(annotation: Any, name: str, model: type[Section]) -> str:
    """What a key takes, in words."""
    if annotation is timedelta:
        return "duration"
    if annotation is bool:
        return "`true` or `false`"
    if annotation is int:
        written = repr(model.model_fields[name].metadata)
        return "size" if "parse_size" in written else "number"
    if annotation is Rate:
        return "rate"
    if annotation in (str, Path, SecretStr):
        return {str: "text", Path: "file", SecretStr: "text, never shown"}[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "a mapping, see below"
    origin, within = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in within)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(one, name, model) for one in within if one is not type(None))
    if origin is tuple:
        inner = _kind(within[0], name, model)
        return "a list of mappings, see below" if "mapping" in inner else f"a list of {inner}s"
    if origin is dict:
        return "mappings by name, see below"
    if hasattr(annotation, "__metadata__"):
        return (
            "size"
            if "parse_size" in repr(annotation.__metadata__)
            else _kind(within[0], name, model)
        )
    raise TypeError(f"{model.__name__}.{name}: {annotation} has no words yet")


def _value(value: Any) -> str:
    match value:
        case None | "" | () | {}:
            return "none"
        case Section():
            return "see below"
        case bool():
            return f"`{str(value).lower()}`"
        case timedelta():
            return f"`{format_duration(value)}`"
        case int() if value >= 1 << 20:
            return f"`{format_size(value)}`"
        case _:
            return f"`{value}`"


# --- the metrics, as a scrape has them


def metrics() -> str:
    now = datetime.now(UTC)
    durable = ConsumerInfo(
        stream="S",
        durable="d",
        created="",
        num_pending=0,
        num_ack_pending=0,
        num_redelivered=0,
        num_waiting=0,
        consumer_seq=0,
        stream_seq=0,
        ack_floor=0,
    )
    stream = StreamInfo(
        name="S",
        subjects=("s.>",),
        created="",
        retention="limits",
        messages=0,
        bytes=0,
        first_seq=0,
        last_seq=0,
        consumer_count=1,
        max_bytes=1,
    )
    backlog = Backlog(0, 0, now, dead_rows=0, sent_dead_rows=0, inbox_rows=0, inbox_dead_rows=0)
    sample = Sample(
        Snapshot(
            now,
            streams=(stream,),
            consumers=(durable,),
            outbox=backlog,
            dead_letters={"s": 0},
            processes=(Notice("relay", process="a"),),
        )
    )
    activity = Activity()
    activity.listen(Relayed("S", 1, 0, 0, timedelta()))
    activity.listen(Delivered("S", "d", "id", "s", "handled", 1, timedelta()))
    activity.listen(DeadLettered("S", "d", "id", "exhausted", "E"))
    own = {
        one.name
        for one in text_string_to_metric_families(exposition(Sample(Snapshot(now)), activity))
    }
    watched = {
        one.name for one in text_string_to_metric_families(exposition(Sample(Snapshot(now))))
    }
    figures = StreamFigures("S", now, written=True, proven=now)
    figures.consumers.append(ConsumerFigures("d", proven=now))
    audited = families(Audited(now, streams=[figures]))
    rows = []
    scrape = exposition(sample, activity, Report(()), audited)
    for one in text_string_to_metric_families(scrape):
        name = (
            f"{one.name}_total"
            if one.type == "counter" and one.name.startswith("seaway_")
            else one.name
        )
        labels = ", ".join(f"`{label}`" for label in (one.samples[0].labels if one.samples else ()))
        whose = "a process at work" if one.name in own - watched else "`seaway serve`"
        rows.append((f"`{name}`", one.type, labels, one.documentation, whose))
    return (
        "# Metrics\n\nMade from a scrape of `/metrics`. What they mean, and what alerts on them, "
        "is in [watch a service](../how-to/monitor.md#prometheus).\n\n"
        + table(("metric", "type", "labels", "", "of"), rows)
    )
