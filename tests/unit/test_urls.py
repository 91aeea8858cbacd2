"""What of a URL may be shown, and what a server's URL says."""

from __future__ import annotations

import pytest

from seaway.config.values import ServerUrl, redact_url, server_urls


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("nats://ann:secret@h:1", "nats://ann:***@h:1"),
        ("nats://secret@h:1", "nats://***@h:1"),
        ("ann:secret@h:1", "ann:***@h:1"),
        # A password that was not encoded looks like a host, a path, another server.
        ("nats://ann:se@cret/word@h:1", "nats://ann:***@h:1"),
        ("nats://ann:se,cret@h:1", "nats://ann:***@h:1"),
        ("nats://ann:se?cret#x@h:1", "nats://ann:***@h:1"),
        ("nats://ann:secret", "nats://***"),
        ("nats://a:s1@h:1,tls://b:s2@h:2", "nats://a:***@h:1,tls://b:***@h:2"),
        ("postgresql://ann:secret@h:5/db?x=1", "postgresql://ann:***@h:5/db?x=1"),
        ("postgresql://ann@h/db", "postgresql://ann@h/db"),
        ("postgresql://ann:se/cret@h/db", "postgresql://ann:***@h/db"),
        ("postgresql://ann:se?cret@h/db", "postgresql://***"),
        ("postgresql://ann:secret@h:1,i:2/db", "postgresql://ann:***@h:1,i:2/db"),
        ("postgresql://h:1,i:2/db", "postgresql://h:1,i:2/db"),
        (
            "postgresql:///db?host=/tmp&password=secret&user=a@b",
            "postgresql:///db?host=/tmp&password=***&user=a@b",
        ),
        ("postgresql://h/db?sslpassword=secret", "postgresql://h/db?sslpassword=***"),
        ("sqlite:///a@b.db", "sqlite:///a@b.db"),
        ("sqlite:////var/lib/seaway.db", "sqlite:////var/lib/seaway.db"),
    ],
)
def test_no_part_of_a_password_is_shown(url: str, shown: str) -> None:
    assert redact_url(url) == shown


def test_a_servers_url_is_decoded() -> None:
    [plain, login, token] = server_urls("h:1, nats://a%40b:p%3A%2F%40@h , tls://t%20k@h:2/")
    assert plain == ServerUrl("nats://h:1", "h", 1)
    assert login == ServerUrl("nats://h", "h", None, user="a@b", password="p:/@")
    assert token == ServerUrl("tls://h:2/", "h", 2, token="t k")


@pytest.mark.parametrize(
    "url",
    [
        "http://h:1",
        "nats://",
        "nats://h:0",
        "nats://h:x",
        "nats://h:1/path",
        "nats://ann:se@cret/word@h:1",
        "nats://ann:se/cret@h",
        "nats://ann:se?cret@h",
        "nats://ann:se#cret@h",
        "nats://ann:se,cret@h",
        "nats://[::1",
    ],
)
def test_what_is_no_servers_url_is_refused_without_a_word_of_it(url: str) -> None:
    with pytest.raises(ValueError) as refused:
        server_urls(url)
    assert "cret" not in str(refused.value)
    assert ("%40" in str(refused.value)) == ("@" in url)
