"""Every way to say who we are, at a real server, right and wrong: what a user is told, and when.

``pytest -s`` shows the table: server, attempt, exit code, seconds, and the line on stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from certificates import Authority, Certificate
from operators import Operator, user
from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings
from seaway.embedded.nats_server import NatsServer
from seaway.embedded.process import free_port
from seaway.errors import BrokerUnavailable, ConfigError
from shell import DEADLINE_SECONDS, SEAWAY, Shell, busy

pytestmark = pytest.mark.server

SECRET = "p@ss/w,o:r%d"
ENCODED = "p%40ss%2Fw%2Co%3Ar%25d"
TOKEN = "t0k-of-the-shop"
LIMIT_SECONDS = 2.5
"""``connect_timeout``, and what a client needs to give up in order."""
STARTING_SECONDS = 4.0
"""Of a command on a busy machine."""
DONE, WRONG, AWAY = 0, 2, 3


@dataclass(frozen=True)
class Attempt:
    """``says``: what is in the one line; ``url``: with ``{at}`` for host and port."""

    what: str
    code: int
    says: str = ""
    url: str = "nats://{at}"
    flags: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)


class Desk(Shell):
    """Tries to connect, and looks at all that is said."""

    def attempt(self, kind: str, port: int, tried: Attempt, *, host: str = "127.0.0.1") -> None:
        url = tried.url.format(at=f"{host}:{port}")
        environment = self.environment | {"NATS_URL": url} | tried.env
        began = time.monotonic()
        done = subprocess.run(
            [*SEAWAY, *tried.flags, "stream", "ls"],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        seconds = time.monotonic() - began
        said = done.stderr.strip()
        print(f"| {kind} | {tried.what} | {done.returncode} | {seconds:.1f} | {said} |")
        assert done.returncode == tried.code, said
        assert seconds < LIMIT_SECONDS + STARTING_SECONDS * busy()
        assert tried.says in said
        if tried.code == DONE:
            assert said == ""
        else:
            assert said.startswith("seaway: ")
            assert len(said.splitlines()) == 1
            assert done.stdout == ""
        for secret in (SECRET, ENCODED, "ss/w", "o:r", TOKEN, "wr0ng", "SUA", "eyJ"):
            assert secret not in said


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path, "")
    (tmp_path / "seaway.yaml").write_text("contexts: []\n")
    return made


USERS = f'authorization {{ user: svc, password: "{SECRET}" }}\n'
WHO = ("--user", "svc", "--password")


async def test_user_and_password(desk: Desk) -> None:
    refused, unknown = "refuses these credentials", "wants to know who we are"
    rows = (
        Attempt("flags", DONE, flags=(*WHO, SECRET)),
        Attempt("environment", DONE, env={"NATS_USER": "svc", "NATS_PASSWORD": SECRET}),
        Attempt("URL, encoded", DONE, url=f"nats://svc:{ENCODED}@{{at}}"),
        Attempt("URL, flags win", DONE, url="nats://svc:wr0ng@{at}", flags=(*WHO, SECRET)),
        Attempt("URL, not encoded", WRONG, "written as %40", url=f"nats://svc:{SECRET}@{{at}}"),
        Attempt("wrong password", WRONG, refused, flags=(*WHO, "wr0ng")),
        Attempt("wrong password in the URL", WRONG, refused, url="nats://svc:wr0ng@{at}"),
        Attempt("a token instead", WRONG, refused, flags=("--token", TOKEN)),
        Attempt("nothing", WRONG, unknown),
        Attempt("no password", WRONG, "nats.user has no password", flags=("--user", "svc")),
        Attempt("no user", WRONG, "nats.password has no user", flags=("--password", "wr0ng")),
    )
    async with NatsServer(extra_config=USERS) as server:
        for row in rows:
            await asyncio.to_thread(desk.attempt, "password", server.port, row)


async def test_token(desk: Desk) -> None:
    rows = (
        Attempt("flag", DONE, flags=("--token", TOKEN)),
        Attempt("environment", DONE, env={"NATS_TOKEN": TOKEN}),
        Attempt("URL", DONE, url=f"nats://{TOKEN}@{{at}}"),
        Attempt("wrong", WRONG, "refuses these credentials", flags=("--token", "wr0ng")),
        Attempt("nothing", WRONG, "wants to know who we are"),
    )
    async with NatsServer(extra_config=f'authorization {{ token: "{TOKEN}" }}\n') as server:
        for row in rows:
            await asyncio.to_thread(desk.attempt, "token", server.port, row)


async def test_nkey(desk: Desk) -> None:
    known, stranger = user(), user()
    contents = {"right": known.seed + "\n", "unknown": stranger.seed, "garbage": "SUAgarbage"}
    for name, text in contents.items():
        (desk.folder / name).write_text(text)
    (desk.folder / "binary").write_bytes(b"\xff\xfe\0")
    rows = (
        Attempt("file", DONE, flags=("--nkey", "right")),
        Attempt("environment", DONE, env={"NATS_NKEY": "right"}),
        Attempt("unknown key", WRONG, "refuses these credentials", flags=("--nkey", "unknown")),
        Attempt("garbage", WRONG, "holds no nkey seed", flags=("--nkey", "garbage")),
        Attempt("bytes", WRONG, "binary cannot be read", flags=("--nkey", "binary")),
        Attempt("no file", WRONG, "nowhere is not a file", flags=("--nkey", "nowhere")),
        Attempt("the seed itself", WRONG, "nats.nkey names a file", env={"NATS_NKEY": known.seed}),
        Attempt("nothing", WRONG, "wants to know who we are"),
    )
    config = f"authorization {{ users: [{{ nkey: {known.public} }}] }}\n"
    async with NatsServer(extra_config=config) as server:
        for row in rows:
            await asyncio.to_thread(desk.attempt, "nkey", server.port, row)


async def test_creds(desk: Desk) -> None:
    operator = Operator()
    contents = {
        "right": operator.creds(),
        "windows": operator.creds().replace("\n", "\r\n"),
        "foreign": Operator().creds(),
        "unsigned": operator.creds(other=user()),
        "expired": operator.creds(lasts=-10),
        "garbage": "not credentials\n" * 10,
        "empty": "",
        "half": operator.creds().partition("\n\n")[0],
    }
    for name, text in contents.items():
        (desk.folder / name).write_bytes(text.encode())
    refused, bad = "refuses these credentials", "is not a credentials file"
    rows = (
        Attempt("file", DONE, flags=("--creds", "right")),
        Attempt("with CR LF", DONE, flags=("--creds", "windows")),
        Attempt("of another operator", WRONG, refused, flags=("--creds", "foreign")),
        Attempt("seed of another user", WRONG, refused, flags=("--creds", "unsigned")),
        Attempt("expired", WRONG, refused, flags=("--creds", "expired")),
        Attempt("garbage", WRONG, bad, flags=("--creds", "garbage")),
        Attempt("empty", WRONG, bad, flags=("--creds", "empty")),
        Attempt("without the seed", WRONG, bad, flags=("--creds", "half")),
        Attempt("no file", WRONG, "nowhere is not a file", flags=("--creds", "nowhere")),
        Attempt("its text", WRONG, "names a file", env={"NATS_CREDS": contents["right"]}),
        Attempt("nothing", WRONG, "wants to know who we are"),
    )
    async with NatsServer(extra_config=operator.config) as server:
        for row in rows:
            await asyncio.to_thread(desk.attempt, "creds", server.port, row)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def tls(made: Certificate, more: str = "") -> str:
    return f'tls {{ cert_file: "{made.cert}", key_file: "{made.key}", {more} }}\n'


async def test_tls(desk: Desk, authority: Authority) -> None:
    rows: tuple[Attempt, ...]
    ca, other = str(authority.cert), str(Authority(desk.folder, "other").cert)
    (desk.folder / "garbage").write_text("not a certificate")
    untrusted = "its certificate is not accepted: unable to get local issuer certificate"
    rows = (
        Attempt("authority", DONE, flags=("--tlsca", ca)),
        Attempt("tls://", DONE, url="tls://{at}", env={"NATS_CA": ca}),
        Attempt("not trusted", WRONG, untrusted),
        Attempt("not trusted, tls://", WRONG, untrusted, url="tls://{at}"),
        Attempt("another authority", WRONG, untrusted, flags=("--tlsca", other)),
        Attempt("garbage", WRONG, "garbage holds no certificate", flags=("--tlsca", "garbage")),
        Attempt("TLS first", WRONG, "does not begin with TLS", flags=("--tlsca", ca, "--tlsfirst")),
    )
    async with NatsServer(extra_config=tls(authority.issue("server"))) as server:
        for row in rows:
            await asyncio.to_thread(desk.attempt, "TLS", server.port, row)
    strange = authority.issue("elsewhere", hosts=["nats.example.org"])
    row = Attempt("another host's", WRONG, "IP address mismatch", flags=("--tlsca", ca))
    async with NatsServer(extra_config=tls(strange)) as server:
        await asyncio.to_thread(desk.attempt, "TLS", server.port, row)
        row = Attempt("another name's", WRONG, "Hostname mismatch", flags=("--tlsca", ca))
        await asyncio.to_thread(desk.attempt, "TLS", server.port, row, host="localhost")
    old = authority.issue("old", lasts=-timedelta(days=1))
    row = Attempt("expired", WRONG, "certificate has expired", flags=("--tlsca", ca))
    async with NatsServer(extra_config=tls(old)) as server:
        await asyncio.to_thread(desk.attempt, "TLS", server.port, row)
    rows = (
        Attempt("TLS first", DONE, flags=("--tlsca", ca, "--tlsfirst")),
        Attempt("greeting awaited", AWAY, "says nothing", flags=("--tlsca", ca)),
    )
    first = tls(authority.issue("first"), "handshake_first: true")
    async with NatsServer(extra_config=first) as server:
        for row in rows:
            await asyncio.to_thread(desk.attempt, "TLS first", server.port, row)
    row = Attempt("TLS wanted", WRONG, "offers no TLS", url="tls://svc:wr0ng@{at}")
    async with NatsServer() as server:
        await asyncio.to_thread(desk.attempt, "plain", server.port, row)
        row = Attempt("authority", WRONG, "offers no TLS", flags=("--tlsca", ca))
        await asyncio.to_thread(desk.attempt, "plain", server.port, row)
    both = tls(authority.issue("both")) + "allow_non_tls: true\n"
    row = Attempt("authority", DONE, flags=("--tlsca", ca))
    async with NatsServer(extra_config=both) as server:
        await asyncio.to_thread(desk.attempt, "TLS or plain", server.port, row)


async def test_mutual_tls(desk: Desk, authority: Authority) -> None:
    ours = authority.issue("client")
    theirs = Authority(desk.folder, "other").issue("stranger")
    old = authority.issue("old", lasts=-timedelta(days=1))
    ca, refused = ("--tlsca", str(authority.cert)), "does not accept our certificate"

    def files(cert: Certificate, key: Certificate | None = None) -> tuple[str, ...]:
        return (*ca, "--tlscert", str(cert.cert), "--tlskey", str((key or cert).key))

    rows = (
        Attempt("certificate", DONE, flags=files(ours)),
        Attempt("none", WRONG, "asks for a client's certificate", flags=ca),
        Attempt("of another authority", WRONG, refused, flags=files(theirs)),
        Attempt("expired", WRONG, refused, flags=files(old)),
        Attempt("another's key", WRONG, "client.pem cannot be used", flags=files(ours, theirs)),
        Attempt("no key", WRONG, "cannot be used", flags=(*ca, "--tlscert", str(ours.cert))),
        Attempt("key alone", WRONG, "has no certificate", flags=(*ca, "--tlskey", str(ours.key))),
    )
    config = tls(authority.issue("server"), f'ca_file: "{authority.cert}", verify: true')
    async with NatsServer(extra_config=config) as server:
        for row in rows:
            await asyncio.to_thread(desk.attempt, "mutual TLS", server.port, row)


@contextlib.asynccontextmanager
async def listening(greeting: bytes | None) -> AsyncIterator[int]:
    """A port that says ``greeting`` and closes; ``None``: it says nothing and stays."""
    ends, serving = asyncio.Event(), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        if greeting is None:
            await ends.wait()
        else:
            writer.write(greeting)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        ends.set()
        server.close()
        await asyncio.gather(*serving)


HTTP = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"
INFO = b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576}\r\n'


@pytest.mark.parametrize(
    ("kind", "greeting", "says"),
    [
        ("HTTP", HTTP, "it says b'HTTP/1.1 400 Bad Request\\r\\n', and that is not NATS"),
        ("endless line", b"x" * 100_000, "it sends no lines, and that is not NATS"),
        ("silence", None, "it takes the connection and says nothing"),
        ("end", b"", "it takes the connection and says nothing"),
        ("broken INFO", b"INFO {\r\n", "json parse error"),
        ("INFO, end", INFO, "no NATS server answers"),
        ("full", INFO + b"-ERR 'maximum connections exceeded'\r\n", "maximum connections exceeded"),
    ],
)
async def test_what_is_no_server(desk: Desk, kind: str, greeting: bytes | None, says: str) -> None:
    async with listening(greeting) as port:
        await asyncio.to_thread(desk.attempt, kind, port, Attempt("any", AWAY, says))


async def test_nobody_listens(desk: Desk) -> None:
    says = "no NATS server answers at"
    await asyncio.to_thread(desk.attempt, "nobody", free_port(), Attempt("any", AWAY, says))
    row = Attempt("unknown host", AWAY, says, url="nats://nowhere.invalid:4222")
    await asyncio.to_thread(desk.attempt, "nobody", 0, row)


async def test_a_wrong_password_is_never_an_absent_server() -> None:
    async with NatsServer(extra_config=USERS) as server:
        settings = NatsSettings(url=f"nats://svc:wr0ng@127.0.0.1:{server.port}")
        for _ in range(50):
            with pytest.raises(ConfigError, match="refuses these credentials"):
                await connect(settings, wait=True)


async def test_each_of_several_servers_is_tried() -> None:
    """Whatever is wrong with the others; each is told the login of its own URL."""
    async with NatsServer(extra_config=USERS) as server, listening(HTTP) as other:
        good = f"nats://svc:{ENCODED}@127.0.0.1:{server.port}"
        urls = f"nats://127.0.0.1:{other},{good},nats://127.0.0.1:{free_port()}"
        for _ in range(8):
            broker = await connect(NatsSettings(url=urls))
            assert broker.connected
            await broker.close()
        bad = urls.replace(ENCODED, "wr0ng")
        for _ in range(8):
            with pytest.raises(ConfigError, match="refuses these credentials"):
                await connect(NatsSettings(url=bad))
        with pytest.raises(BrokerUnavailable) as away:
            await connect(NatsSettings(url=urls.replace(f"{good},", "")))
        assert "that is not NATS" in str(away.value)
        assert "nobody listens there" in str(away.value)


@pytest.fixture
def service(desk: Desk) -> Desk:
    code = "from seaway import Seaway\napp = Seaway.from_config('seaway.yaml')\n"
    (desk.folder / "service.py").write_text(code)
    config = {"contexts": ["sea"], "database": "sqlite:///cases.db"}
    (desk.folder / "seaway.yaml").write_text(json.dumps(config))
    desk.seaway("db", "upgrade")
    return desk


@pytest.mark.parametrize(
    ("command", "code"), [(("run", "service:app"), WRONG), (("relay",), WRONG), (("check",), 3)]
)
async def test_what_waits_for_a_server_does_not_wait_for_a_password(
    service: Desk, command: tuple[str, ...], code: int
) -> None:
    async with NatsServer(extra_config=USERS) as server:
        service.environment["NATS_URL"] = f"nats://svc:wr0ng@127.0.0.1:{server.port}"
        done = await asyncio.to_thread(
            subprocess.run,
            [*SEAWAY, *command],
            cwd=service.folder,
            env=service.environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    said = done.stdout + done.stderr
    assert done.returncode == code  # Of `check`: unknown.
    assert "refuses these credentials" in said
    assert "wr0ng" not in said


async def test_nothing_that_is_said_before_tls_is_read_as_under_it(authority: Authority) -> None:
    """Somebody on the way may add to the greeting, which is in the open."""
    async with NatsServer(extra_config=tls(authority.issue("server"))) as server:
        over = asyncio.Event()

        async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            theirs, ours = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(await theirs.readline() + b"-ERR 'injected'\r\n")
            with contextlib.suppress(OSError):
                await reader.read(1)
            for one in (writer, ours):
                one.transport.abort()
                with contextlib.suppress(OSError):
                    await one.wait_closed()
            over.set()

        way = await asyncio.start_server(between, "127.0.0.1", 0)
        url = f"nats://127.0.0.1:{way.sockets[0].getsockname()[1]}"
        with pytest.raises(ConfigError, match="no TLS with it: it speaks in the open first"):
            await connect(NatsSettings(url=url, tls_ca=authority.cert))
        async with asyncio.timeout(10):
            await over.wait()
        way.close()
