"""Pictures by URL come from allowed hosts at public addresses alone; the attacker is a server on this machine."""

from __future__ import annotations

import asyncio
import io
import ipaddress
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from tessella.core.errors import InputError
from tessella.serve import remote
from tessella.serve.media import PictureReader
from tessella.serve.remote import Fetcher, is_public
from tessella.serve.room import Room
from tessella.serve.settings import FrontSettings


class Attacker(BaseHTTPRequestHandler):
    """Answers by the path: a picture, a redirect to what follows, too much, too slow, or packed."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.headers["host"] + self.path)
        kind, _, rest = self.path[1:].partition("/")
        status = {"to": 302, "missing": 404}.get(kind, 200)
        self.send_response(status)
        if kind == "to":
            self.send_header("Location", rest)
        if kind == "packed":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if kind == "slow":
            time.sleep(1.5)
        if kind == "endless":
            for _ in range(200):
                self.wfile.write(b"0" * 10_000)
        elif status == 200:
            Image.new("RGB", (3, 2), (9, 8, 7)).save(self.wfile, "PNG")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def attacker() -> Iterator[ThreadingHTTPServer]:
    Attacker.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Attacker) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who is cut off may complain
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def host(attacker: ThreadingHTTPServer) -> str:
    return f"localhost:{attacker.server_port}"


@pytest.fixture
def as_if_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own addresses count as public, so that what comes after that check can be seen."""
    monkeypatch.setattr(remote, "is_public", lambda address: True)


def fetch(url: str, *allowed: str, max_bytes: int = 100_000, seconds: float = 5) -> bytes:
    return asyncio.run(Fetcher(allowed, max_bytes, seconds).fetch(url, "picture 1"))


def test_nothing_is_fetched_from_this_machine(host: str) -> None:
    before = list(Attacker.asked)
    for named in (host, host.replace("localhost", "127.0.0.1")):
        with pytest.raises(InputError, match=r"^picture 1: the host '.*' has an address that is not public\.$"):
            fetch(f"http://{named}/picture", named)
    assert Attacker.asked == before


@pytest.mark.usefixtures("as_if_public")
def test_an_allowed_host_is_asked_by_its_name_at_the_address_that_was_checked(host: str) -> None:
    data = fetch(f"http://{host}/picture/a?b=c#d", host)
    assert Image.open(io.BytesIO(data)).getpixel((0, 0)) == (9, 8, 7)
    assert Attacker.asked[-1] == f"{host}/picture/a?b=c"
    front = FrontSettings(allow_hosts=(host,))
    [image] = asyncio.run(PictureReader(front, Room(1000)).read([f"http://{host}/to//picture"]))
    assert image.getpixel((2, 1)) == (9, 8, 7)


@pytest.mark.usefixtures("as_if_public")
@pytest.mark.parametrize(
    "path, message",
    [
        ("to/http://elsewhere.example/a", r"the host 'elsewhere\.example' is not one that this server fetches from"),
        ("to/http://127.0.0.1:1/a", r"the host '127\.0\.0\.1' is not one that this server fetches from"),
        ("to/file:///etc/passwd", r"a URL with the scheme 'file' is not fetched"),
        ("to//to//to//to//picture", r"its URL was redirected more than 3 times\."),
        ("missing", r"its host answered 404\."),
        ("packed", r"its host sent it compressed"),
        ("endless", r"it is longer than the 0\.1 MB that are allowed\."),
    ],
)
def test_where_an_allowed_host_leads_astray(host: str, path: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^picture 1: {message}"):
        fetch(f"http://{host}/{path}", host)


@pytest.mark.usefixtures("as_if_public")
def test_a_host_that_takes_its_time(host: str) -> None:
    with pytest.raises(InputError, match=r"^picture 1 did not arrive within 0\.3 s\.$"):
        fetch(f"http://{host}/slow", host, seconds=0.3)


@pytest.mark.parametrize(
    "url, message",
    [
        ("http://{0}/a", "the host 'localhost' is not one that this server fetches from; send the picture as a data"),
        ("https://b.example:8443/a", r"the host 'b\.example' is not one"),
        ("http://user:word@a.example/a", r"its URL holds a user name or a password"),
        ("ftp://a.example/a", "a URL with the scheme 'ftp' is not fetched"),
        ("gopher:a", "a URL with the scheme 'gopher' is not fetched"),
        ("http://[::1/a", r"its URL cannot be read\."),
        ("http://a.example:99999/a", r"its URL cannot be read\."),
        ("http://" + "a" * 300 + ".example/", "is not one that this server fetches from"),
    ],
)
def test_urls_that_are_not_followed(host: str, url: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^picture 1: .*{message}"):
        fetch(url.format(host), "a.example", "b.example")


def test_a_name_is_looked_up_once_and_any_private_address_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def look_up(self: object, name: str, port: int, **_: object) -> list[object]:
        asked.append(name)
        return [(None, None, None, None, (address, port)) for address in ("1.1.1.1", "10.0.0.1")]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", look_up)
    with pytest.raises(InputError, match=r"the host 'a\.example' has an address that is not public"):
        fetch("http://a.example/a", "a.example")
    assert asked == ["a.example"]


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
        *("224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
