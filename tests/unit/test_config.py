from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway.config import REDRIVE_WINDOW, Rate, Settings, load_settings, settings_from_mapping
from seaway.errors import ConfigError
from seaway.topology.shape import ADVISORY_AGE

STREAM_AS_IN_THE_SPEC = """\
name: SEA_EVENTS
subjects:
  - "sea.event.>"
retention: limits
max_age: 7d
max_bytes: 10GB
storage: file
replicas: 3  # production
"""
CONSUMER_AS_IN_THE_SPEC = """\
stream: SEA_EVENTS
durable: case_mgmt__from_sea
filter_subject: "sea.event.>"
ack_policy: explicit
ack_wait: 120s
max_deliver: 20
max_ack_pending: 50
"""
POSTGRES = "database: 'postgresql://host/db'\n"
STREAM = "streams:\n  - name: SEA_EVENTS\n"
CONSUMER = "consumers:\n  - stream: SEA_EVENTS\n    durable: case_mgmt__from_sea\n"


def _item(block: str) -> str:
    first, *rest = block.splitlines()
    return "\n".join([f"  - {first}", *(f"    {line}" for line in rest)]) + "\n"


def _load(folder: Path, text: str, **more: Any) -> Settings:
    path = folder / "seaway.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environ=more.pop("environ", {}), **more)


def _refused(folder: Path, text: str, **more: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        _load(folder, text, **more)
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_blocks_of_the_spec_paste_in(tmp_path: Path) -> None:
    text = f"streams:\n{_item(STREAM_AS_IN_THE_SPEC)}consumers:\n{_item(CONSUMER_AS_IN_THE_SPEC)}"
    settings = _load(tmp_path, text)
    (stream,) = settings.streams
    (consumer,) = settings.consumers
    assert stream.subjects == ("sea.event.>",)
    assert (stream.retention, stream.storage, stream.replicas) == ("limits", "file", 3)
    assert (stream.max_age, stream.max_bytes) == (timedelta(days=7), 10 * 1024**3)
    assert (consumer.stream, consumer.durable) == ("SEA_EVENTS", "case_mgmt__from_sea")
    assert (consumer.filters, consumer.ack_policy) == (("sea.event.>",), "explicit")
    assert consumer.ack_wait == timedelta(seconds=120)
    assert (consumer.max_deliver, consumer.max_ack_pending) == (20, 50)
    assert settings.alerts.consumer_redelivery_count == Rate.parse("50/min")
    assert settings.source == str(tmp_path / "seaway.yaml")


def test_a_context_that_names_only_itself_has_the_values_of_the_spec(tmp_path: Path) -> None:
    whole = _load(tmp_path, f"streams:\n{_item(STREAM_AS_IN_THE_SPEC)}")
    short = _load(tmp_path, "contexts: [sea]\n")
    assert short.streams == whole.streams
    assert short.contexts == whole.contexts == ("sea",)
    (consumer,) = short.consumers
    assert (consumer.durable, consumer.filters) == ("sea__default", ("sea.event.>",))
    assert (consumer.ack_wait, consumer.max_deliver) == (timedelta(seconds=120), 20)


def test_a_context_beside_its_own_blocks_adds_only_what_is_missing(tmp_path: Path) -> None:
    settings = _load(tmp_path, f"contexts: [sea]\n{STREAM}    max_age: 1d\n{CONSUMER}")
    assert [stream.max_age for stream in settings.streams] == [timedelta(days=1)]
    assert [one.durable for one in settings.consumers] == ["case_mgmt__from_sea", "sea__default"]


def test_the_sample_at_the_root_loads() -> None:
    sample = Path(__file__).parents[2] / "seaway.yaml"
    settings = load_settings(sample, environ={})
    assert [stream.replicas for stream in settings.streams] == [1]
    assert (
        load_settings(sample, environ={}, flags={"profile": "production"}).streams[0].replicas == 3
    )


def test_a_profile_overrides_every_stream(tmp_path: Path) -> None:
    text = "contexts: [sea, vibespro]\nprofiles: {development: {replicas: 1, max_age: 60s}}\n"
    assert {stream.replicas for stream in _load(tmp_path, text).streams} == {3}
    for settings in (
        _load(tmp_path, text + "profile: development\n"),
        _load(tmp_path, text, environ={"SEAWAY_PROFILE": "development"}),
        _load(tmp_path, text, flags={"profile": "development"}),
    ):
        assert {stream.replicas for stream in settings.streams} == {1}
        # A window longer than max_age would be refused by the server.
        assert {stream.duplicate_window for stream in settings.streams} == {timedelta(seconds=60)}


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("contexts: [sea]\n", 14),
        (f"contexts: [sea]\n{STREAM}    max_age: 30d\n  - name: B_EVENTS\n    max_age: 1d\n", 37),
        ("contexts: [sea]\ninbox: {retention: 14d}\n", 14),
        ("contexts: [sea]\ninbox: {retention: 90d}\n", 90),
        # The profile's ages are those that count.
        ("contexts: [sea]\nprofile: p\nprofiles: {p: {max_age: 1d}}\n", 8),
        ("contexts: [sea]\nprofile: p\nprofiles: {p: {max_age: 1d}}\ninbox: {retention: 8d}\n", 8),
        # For ever: what a stream keeps for ever can come again at any time.
        (f"{STREAM}    max_age: 0\n", None),
        (f"{STREAM}    max_age: 0\n  - name: B_EVENTS\n", None),
        ("contexts: [sea]\ninbox: {retention: 0}\n", 0),
        (f"{STREAM}    max_age: 0\ninbox: {{retention: 1d}}\n", 1),
        ("profiles: {}\n", None),
        ("inbox: {retention: 1d}\n", 1),
    ],
)
def test_the_inbox_outlasts_every_stream(tmp_path: Path, text: str, days: int | None) -> None:
    expected = None if days is None else timedelta(days=days)
    assert _load(tmp_path, text).inbox.retention == expected


def test_a_redrive_may_follow_the_last_advisory() -> None:
    assert REDRIVE_WINDOW >= ADVISORY_AGE


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("contexts: [sea]\nstream: []\n", 2, "unknown key 'stream' (did you mean streams?)"),
        (f"{STREAM}    max_agee: 7d\n", 3, "unknown key 'max_agee' (did you mean max_age?)"),
        (f"{STREAM}{CONSUMER}    backoff: [1s]\n", 5 + 1, "Seaway computes the delays itself"),
        (f"{STREAM}    max_age: 7x\n", 3, "'7x' is not a duration"),
        (f"{STREAM}    max_age: 7\n", 3, "7 is not a duration"),
        (f"{STREAM}    max_bytes: 10XB\n", 3, "'10XB' is not a size"),
        (f"{STREAM}    max_bytes: 0\n", 3, "a limit is 1 or more"),
        (f"{STREAM}    replicas: three\n", 3, "replicas: input should be a valid integer"),
        (f"{STREAM}    replicas: '3'\n", 3, "not '3'"),
        (f"{STREAM}    replicas: true\n", 3, "not True"),
        (f"{STREAM}    replicas: 6\n", 3, "less than or equal to 5, not 6"),
        (f"{STREAM}    storage: disk\n", 3, "'file' or 'memory', not 'disk'"),
        (f"{STREAM}    subjects: sea.event.>\n", 3, "subjects: must be a list, like [sea.event.>]"),
        (f"{STREAM}    subjects: [vibes.event.>]\n", 3, "SEA_EVENTS cannot hold 'vibes.event.>'"),
        (f"{STREAM}    subjects: [sea.event..a]\n", 3, "invalid token ''"),
        (f"{STREAM}    subjects:\n      - sea.event.>\n      - sea.event.a\n", 5, "overlap"),
        (f"{STREAM}    max_age: 1m\n    duplicate_window: 2m\n", 4, "longer than max_age"),
        (
            "contexts: [sea]\ninbox: {retention: 13d}\n",
            2,
            "13d is shorter than the max_age of SEA_EVENTS (7d) and the redrive window (7d)",
        ),
        (
            f"{STREAM}    max_age: 9d\n  - name: B_EVENTS\n    max_age: 0\n"
            "inbox: {retention: 15d}\n",
            6,
            "at the least 16d, or leave it out",
        ),
        ("inbox: {retention: -1d}\n", 1, "is not a duration"),
        (f"{STREAM}  - name: SEA_EVENTS\n", 3, "the stream SEA_EVENTS is there twice"),
        ("streams:\n  - name: sea_events\n", 2, "not an event stream's name"),
        ("streams:\n  - name: SEA_DLQ\n", 2, "not an event stream's name"),
        ("streams:\n  - replicas: 1\n", 2, "name is missing"),
        ("streams: {name: SEA_EVENTS}\n", 1, "streams"),
        (CONSUMER, 2, "names no known stream: 'SEA_EVENTS'"),
        (f"{STREAM}consumers:\n  - {{stream: SEA_EVENT, durable: a__b}}\n", 4, "mean SEA_EVENTS?"),
        (f"{STREAM}{CONSUMER}    filter_subject: sea.dlq.>\n", 6, "is not within SEA_EVENTS"),
        (f"{STREAM}{CONSUMER}    filter_subjects: [a.>]\n", 6, "'a.>' is not within SEA_EVENTS"),
        (
            f"{STREAM}{CONSUMER}    filter_subject: sea.event.a\n"
            "    filter_subjects: [sea.event.b]\n",
            7,
            "not both",
        ),
        (f"{STREAM}{CONSUMER}    ack_policy: none\n", 6, "'explicit', not 'none'"),
        (f"{STREAM}{CONSUMER}    ack_wait: 0\n", 6, "longer than 0"),
        (f"{STREAM}{CONSUMER}    max_deliver: 0\n", 6, "greater than or equal to 1, not 0"),
        (
            f"{STREAM}{CONSUMER}  - {{stream: SEA_EVENTS, durable: case_mgmt__from_sea}}\n",
            6,
            "twice",
        ),
        (
            f"{STREAM}consumers:\n  - {{stream: SEA_EVENTS, durable: x}}\n",
            4,
            "{service}__{purpose}",
        ),
        ("contexts: [sea]\ncontexts: [sea]\n", 2, "there twice, first in line 1"),
        ("contexts: [Sea]\n", 1, "'Sea' is not a valid name"),
        ("contexts: [sea]\nprofile: production\n", 2, "no profile 'production'"),
        ("profiles: {a: {replica: 1}}\n", 1, "did you mean replicas?"),
        ("nats: {urll: x}\n", 1, "did you mean url?"),
        ("\nnats: {url: 'http://a'}\n", 2, "is not a server's URL"),
        ("nats: {url: 'nats://a:port'}\n", 1, "is not a server's URL"),
        ("database: seaway.db\n", 1, "is not a database URL"),
        ("alerts: {consumer_redelivery_count: 50}\n", 1, "50 is not a rate"),
        ("outbox: {batch: 1001}\n", 1, "less than or equal to 1000"),
        ("outbox: {pol: 1s}\n", 1, "did you mean poll?"),
        ("outbox: {poll: 0}\n", 1, "longer than 0"),
        ("outbox: {retention: -1s}\n", 1, "is not a duration"),
        ("outbox: {notify: 1}\n", 1, "notify: input should be a valid boolean"),
        ("outbox: {on_parked: skip}\n", 1, "'wait' or 'pass', not 'skip'"),
        (f"{POSTGRES}outbox:\n  shards: 0\n", 3, "greater than or equal to 1, not 0"),
        (f"{POSTGRES}outbox:\n  shards: 1025\n", 3, "less than or equal to 1024, not 1025"),
        (f"{POSTGRES}database_schema: Events\n", 2, "'Events' is not a schema's name"),
        (f"{POSTGRES}database_shema: a\n", 2, "did you mean database_schema?"),
        ("outbox:\n  shards: 2\n", 2, "an SQLite outbox has one shard"),
        ("outbox:\n  notify: true\n", 2, "an SQLite database cannot notify"),
        ("database: 'sqlite:///a.db'\ndatabase_schema: a\n", 2, "an SQLite file has no schemas"),
        ("contexts: [sea\n", 2, "is not YAML"),
        ("contexts: sea\n", 1, "contexts: must be a list, like [sea]"),
        ("streams: {name: SEA_EVENTS}\n", 1, "streams: must be a list"),
        ("- sea\n", 1, "must be a mapping"),
        ("contexts: [sea]\n\x00", 1, "is not YAML"),
        ("1: 2\n", 1, "the key '1' is not text"),
        ("a: &a [*a]\n", 1, "too many values"),
        ("a: 2026-13-13\n", 1, "cannot be read"),
        ("source: x\n", 1, "unknown key 'source'"),
    ],
)
def test_one_clear_error_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    error = str(_refused(tmp_path, text))
    assert words in error
    if "\x00" not in text:
        assert error.startswith(f"{tmp_path / 'seaway.yaml'}:{line}: ")


def test_the_first_error_of_several_is_told(tmp_path: Path) -> None:
    text = f"{STREAM}    max_age: 7x\n    replicas: 9\nnonsense: 1\n"
    assert "7x" in str(_refused(tmp_path, text))


def test_a_file_that_unfolds_without_end(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "too many values" in str(_refused(tmp_path, "\n".join(lines)))


def test_files_that_are_none(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"contexts: [\xff]")
    for path, words in (
        (tmp_path / "missing.yaml", "no such file"),
        (tmp_path, "is a directory"),
        (binary, "not UTF-8"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_settings(path, environ={})


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="seaway init"):
        load_settings(environ={})
    assert load_settings(environ={}, required=False).streams == ()
    (tmp_path / "seaway.yaml").write_text("contexts: [here]")
    (tmp_path / "named.yaml").write_text("contexts: [named]")
    (tmp_path / "given.yaml").write_text("contexts: [given]")
    named = {"SEAWAY_CONFIG": "named.yaml"}
    assert load_settings(environ={}).contexts == ("here",)
    assert load_settings(environ=named).contexts == ("named",)
    assert load_settings(Path("given.yaml"), environ=named).contexts == ("given",)
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load_settings(Path("empty.yaml"), environ={}).streams == ()


def _everywhere(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    context = {"url": "nats://c:1", "user": "c", "creds": "", "ca": "/c.pem", "token": "c"}
    (folder / "prod.json").write_text(json.dumps(context))
    return {
        "XDG_CONFIG_HOME": str(tmp_path),
        "NATS_CONTEXT": "prod",
        "NATS_USER": "e",
        "NATS_TOKEN": "e",
        "NATS_CERT": "",
        "SEAWAY_DATABASE_URL": "sqlite:///e.db",
        "SEAWAY_PROFILE": "e",
    }


FLAGS = {"nats": {"inbox_prefix": "g", "url": None}, "database": None, "profile": "g"}


def test_flags_win_over_the_environment_over_the_file_over_the_nats_context(
    tmp_path: Path,
) -> None:
    environ = _everywhere(tmp_path)
    text = (
        "nats: {token: f, inbox_prefix: f, tls_key: /f.key}\n"
        "database: 'sqlite:///f.db'\nprofile: f\nprofiles: {e: {}, f: {}, g: {}}\n"
    )
    settings = _load(tmp_path, text, environ=environ, flags=FLAGS)
    nats = settings.nats
    assert (nats.url, nats.user, nats.inbox_prefix) == ("nats://c:1", "e", "g")
    assert nats.token is not None
    assert nats.token.get_secret_value() == "e"
    assert (nats.tls_ca, nats.creds, nats.tls_cert) == (Path("/c.pem"), None, None)
    assert nats.tls_key == Path("/f.key")
    assert (settings.database, settings.profile) == ("sqlite:///e.db", "g")


def test_a_mapping_is_code_and_wins_over_the_environment(tmp_path: Path) -> None:
    environ = _everywhere(tmp_path)
    mapping = {"nats": {"token": "f", "inbox_prefix": "f"}, "profiles": {"e": {}, "g": {}}}
    settings = settings_from_mapping(mapping, environ=environ, flags=FLAGS)
    nats = settings.nats
    assert (nats.url, nats.user, nats.inbox_prefix) == ("nats://c:1", "e", "g")
    assert nats.token is not None
    assert nats.token.get_secret_value() == "f"
    assert (settings.database, settings.profile) == ("sqlite:///e.db", "g")


def test_a_context_of_the_nats_cli_counts_as_a_whole(tmp_path: Path) -> None:
    environ = _everywhere(tmp_path) | {"SEAWAY_PROFILE": ""}
    path = tmp_path / "nats" / "context" / "prod.json"
    content: dict[str, object] = {"url": "nats://c:1", "description": "ours", "nsc": "", "key": ""}
    path.write_text(json.dumps(content | {"jetstream_domain": "hub", "tls_first": True}))
    nats = _load(tmp_path, "{}", environ=environ).nats
    assert (nats.jetstream_domain, nats.api, nats.tls_first) == ("hub", "$JS.hub.API", True)
    path.write_text(json.dumps(content | {"jetstream_api_prefix": "from.hub."}))
    assert _load(tmp_path, "{}", environ=environ).nats.api == "from.hub"
    for more, said in (
        ({"socks_proxy": "p:1"}, "has socks_proxy, which Seaway cannot do"),
        ({"user_jwt": "x"}, "has user_jwt"),
        ({"jetstream_domain": "a.b"}, "is one word of a subject"),
        ({"jetstream_api_prefix": "a.>"}, "no blanks or wildcards"),
        ({"jetstream_domain": "a", "jetstream_api_prefix": "b"}, "not both"),
    ):
        path.write_text(json.dumps(content | more))
        with pytest.raises(ConfigError, match=said):
            _load(tmp_path, "{}", environ=environ)


@pytest.mark.parametrize(
    ("text", "environ", "flags", "where"),
    [
        ("nats: {url: 'x://'}", {}, {}, "seaway.yaml:1"),
        ("nats: {url: 'x://'}", {"NATS_URL": "y://"}, {}, "NATS_URL"),
        ("nats: {url: 'x://'}", {"NATS_URL": "y://"}, {"nats": {"url": "z://"}}, "--server"),
        ("database: x", {}, {"database": "y"}, "--database"),
        ("database: x", {"SEAWAY_DATABASE_URL": "y"}, {}, "SEAWAY_DATABASE_URL"),
        ("profile: x", {}, {}, "seaway.yaml:1"),
        ("profile: x", {"SEAWAY_PROFILE": "y"}, {}, "SEAWAY_PROFILE"),
        ("profile: x", {"SEAWAY_PROFILE": "y"}, {"profile": "z"}, "--profile"),
        ("{}", {}, {"nats": {"context": "nowhere"}}, "--context"),
        ("{}", {"NATS_CONTEXT": "nowhere"}, {}, "NATS_CONTEXT"),
        ("database_schema: a", {"SEAWAY_DATABASE_SCHEMA": "b"}, {}, "SEAWAY_DATABASE_SCHEMA"),
    ],
)
def test_an_error_names_where_the_value_came_from(
    tmp_path: Path, text: str, environ: dict[str, str], flags: dict[str, Any], where: str
) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path), **environ}
    error = _refused(tmp_path, text, environ=environ, flags=flags)
    assert str(error.where).endswith(where)


def test_variables_are_replaced_in_values(tmp_path: Path) -> None:
    text = (
        "database: postgresql://${USER_NAME}:${SECRET}@${HOST:-localhost}/${EMPTY}\n"
        'contexts: ["${CONTEXT:-sea}"]\n'
        'nats: {user: "$${HOST} ${NUMBER}"}\n'
        "outbox:\n  batch: ${NUMBER:-5}\n  notify: ${FLAG:-true}\n"
    )
    environ = {"USER_NAME": "me", "SECRET": "p", "EMPTY": "", "NUMBER": "12"}
    settings = _load(tmp_path, text, environ=environ)
    assert settings.database == "postgresql://me:p@localhost/"
    assert settings.contexts == ("sea",)
    assert settings.nats.user == "${HOST} 12"
    assert (settings.outbox.batch, settings.outbox.notify) == (12, True)


def test_a_variable_that_is_not_set_is_named_with_its_line(tmp_path: Path) -> None:
    error = _refused(tmp_path, "contexts: [sea]\ndatabase: ${NOWHERE}\n", environ={})
    assert str(error.where).endswith("seaway.yaml:2")
    assert "NOWHERE is not set" in str(error)
    assert "${NOWHERE:-default}" in str(error)


def test_merge_keys_bring_what_is_not_there(tmp_path: Path) -> None:
    text = (
        "streams:\n"
        "  - &small\n    name: SEA_EVENTS\n    max_age: 1d\n    replicas: 1\n"
        "  - name: CASE_EVENTS\n    <<: *small\n    max_age: 2d\n"
        "  - name: TOWN_EVENTS\n    <<: [{max_age: 3d}, *small]\n"
    )
    streams = _load(tmp_path, text).streams
    assert [(one.name, one.max_age.days, one.replicas) for one in streams] == [
        ("SEA_EVENTS", 1, 1),
        ("CASE_EVENTS", 2, 1),
        ("TOWN_EVENTS", 3, 1),
    ]
    assert "takes a mapping" in str(_refused(tmp_path, "outbox: {<<: 5}\n"))


def test_a_nats_context_that_is_not_there(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    error = _refused(tmp_path, "nats: {context: prod}\n", environ=environ)
    assert error.where == f"{tmp_path / 'seaway.yaml'}:1"
    assert "nats context add" in str(error)
    assert "not the name" in str(_refused(tmp_path, "nats: {context: ../prod}\n", environ=environ))


def test_an_error_of_the_environment_names_the_variable() -> None:
    with pytest.raises(ConfigError, match="NATS_URL: url: is not a server's URL"):
        settings_from_mapping({}, environ={"NATS_URL": "http://a"})


def test_no_secret_is_printed() -> None:
    nats = {
        "url": "nats://me:hidden1@a:4222,nats://hidden2@b",
        "password": "hidden3",
        "token": "hidden4",
    }
    settings = settings_from_mapping(
        {"nats": nats, "database": "postgresql://me:hidden5@db/x"}, environ={}
    )
    shown = f"{settings!r} {settings} {settings.nats!r} {settings.nats.redacted_url}"
    assert "hidden" not in shown + settings.redacted_database
    assert settings.nats.redacted_url == "nats://me:***@a:4222,nats://***@b"
    assert settings.redacted_database == "postgresql://me:***@db/x"
    for wrong in ({"nats": {"password": ["hidden"]}}, {"nats": {"url": "http://hidden@a"}}):
        with pytest.raises(ConfigError) as caught:
            settings_from_mapping(wrong, environ={})
        assert "hidden" not in str(caught.value)


def test_a_mapping_names_the_path_of_the_key() -> None:
    with pytest.raises(ConfigError) as caught:
        settings_from_mapping({"streams": [{"name": "SEA_EVENTS", "max_age": "x"}]}, environ={})
    assert caught.value.where == "streams[0].max_age"


def test_several_subjects_become_the_filters() -> None:
    mapping = {
        "streams": [{"name": "SEA_EVENTS", "subjects": ["sea.event.a.*", "sea.event.b.*"]}],
        "consumers": [{"stream": "SEA_EVENTS", "durable": "a__b"}],
    }
    (consumer,) = settings_from_mapping(mapping, environ={}).consumers
    assert consumer.filters == ("sea.event.a.*", "sea.event.b.*")


def test_the_outbox_on_postgres(tmp_path: Path) -> None:
    bare = _load(tmp_path, POSTGRES)
    assert bare.database_schema is None
    assert (bare.outbox.shards, bare.outbox.notify, bare.outbox.on_parked) == (None, False, "wait")
    assert bare.outbox.poll == timedelta(milliseconds=100)
    text = f"{POSTGRES}outbox: {{retention: 0, notify: true, poll: 1s, shards: 8, on_parked: pass}}"
    full = _load(tmp_path, text + "\n", environ={"SEAWAY_DATABASE_SCHEMA": "events"})
    assert full.database_schema == "events"
    assert full.outbox.retention == timedelta(0)
    assert (full.outbox.shards, full.outbox.notify, full.outbox.on_parked) == (8, True, "pass")
    assert full.outbox.poll == timedelta(seconds=1)
    assert _load(tmp_path, "outbox: {shards: 1, notify: false}\n").outbox.shards == 1


def test_a_variable_that_does_not_fit_the_file_is_named(tmp_path: Path) -> None:
    for value, words in (("events", "an SQLite file has no schemas"), ("My Own", "not a schema's")):
        error = _refused(tmp_path, "contexts: [sea]\n", environ={"SEAWAY_DATABASE_SCHEMA": value})
        assert error.where == "SEAWAY_DATABASE_SCHEMA"
        assert words in str(error)


def test_what_to_do_about_a_durable_that_nobody_uses() -> None:
    known = settings_from_mapping(
        {"contexts": ["shop"], "consumers": [{"stream": "SHOP_EVENTS", "durable": "a__from_shop"}]}
    )
    assert known.implied == ("shop__default",)
    implied = known.way_without("SHOP_EVENTS", "shop__default")
    assert 'app.consumer("shop", purpose="default")' in implied
    assert "list SHOP_EVENTS under streams: in place of shop under contexts:" in implied
    written = known.way_without("SHOP_EVENTS", "a__from_shop")
    assert written.startswith("start its consumer, or take it out of the configuration")
    foreign = known.way_without("SHOP_EVENTS", "b__from_shop")
    assert foreign.startswith("it is not in the configuration")
    for durable, said in (("shop__default", implied), ("b__from_shop", foreign)):
        assert said.endswith(f"nats consumer rm SHOP_EVENTS {durable}")


def test_a_default_durable_that_is_written_is_not_implied_and_without_contexts_there_is_none(
    tmp_path: Path,
) -> None:
    item = "consumers: [{stream: SHOP_EVENTS, durable: shop__default}]\n"
    assert _load(tmp_path, f"contexts: [shop]\n{item}").implied == ()
    assert _load(tmp_path, "streams: [{name: SHOP_EVENTS}]\n").consumers == ()
    with pytest.raises(ConfigError, match="unknown key 'implied'"):
        _load(tmp_path, "implied: [shop__default]\n")


def test_what_to_do_about_a_missing_stream() -> None:
    known = settings_from_mapping({"contexts": ["shop", "sea"]})
    assert "seaway topology apply" in known.way_to("SHOP_EVENTS")
    assert "is not in" not in known.way_to("SHOP_EVENTS")
    assert "is not in the configuration (did you mean shop?)" in known.way_to("SHP_EVENTS")
    assert "discard" in known.way_to("BANKING_EVENTS")
    assert "did you mean" not in known.way_to("BANKING_EVENTS")
    assert "is not in" not in Settings().way_to("SHP_EVENTS"), "which there are is not known"
