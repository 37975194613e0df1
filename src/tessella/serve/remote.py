"""Fetch a picture from a host that is allowed, without being led anywhere else.

Names are resolved here and every address must be public; the connection goes to the address that was checked, and a
redirect is a new URL with all of the rules.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from ..core.errors import InputError

MAX_REDIRECTS = 3
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Fetcher:
    """Fetches at most `max_bytes` within `seconds`, from hosts of `allowed` ("host" or "host:port") alone."""

    def __init__(self, allowed: Collection[str], max_bytes: int, seconds: float) -> None:
        self._allowed = frozenset(host.lower() for host in allowed)
        self._max_bytes, self._seconds = max_bytes, seconds

    async def fetch(self, url: str, name: str) -> bytes:
        """The bytes behind a URL. Raises InputError beginning with `name` for what is not allowed, or does not come."""
        try:
            return await asyncio.wait_for(self._follow(url), self._seconds)
        except asyncio.TimeoutError:
            raise InputError(f"{name} did not arrive within {self._seconds:g} s.") from None
        except InputError as error:
            raise InputError(f"{name}: {error}") from None

    async def _follow(self, url: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            found = await self._load(self._check(url))
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise InputError(f"its URL was redirected more than {MAX_REDIRECTS} times.")

    def _check(self, url: str) -> SplitResult:
        """The parts of a URL whose scheme and host are allowed."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise InputError("its URL cannot be read.") from None
        if parts.scheme not in _PORTS:
            raise InputError(
                f"a URL with the scheme {parts.scheme[:20]!r} is not fetched; allowed: data, and http or https from "
                "hosts that the server allows."
            )
        if parts.username is not None or parts.password is not None:
            raise InputError("its URL holds a user name or a password; leave them out.")
        usual = port in (None, _PORTS[parts.scheme])
        if (host if usual else f"{host}:{port}") not in self._allowed:
            raise InputError(
                f"the host {host[:80]!r} is not one that this server fetches from; send the picture as a data URL, or "
                "have the server started with --allow-host."
            )
        return parts

    async def _load(self, parts: SplitResult) -> bytes | str:
        """The content behind checked parts of a URL, or where it redirects to."""
        import httpx

        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        address = await resolve(host, port)
        literal = f"[{address}]" if address.version == 6 else str(address)
        request: dict[str, Any] = {
            "url": f"{parts.scheme}://{literal}:{port}{parts.path or '/'}{'?' + parts.query if parts.query else ''}",
            "headers": {"Host": parts.netloc, "Accept": "image/*", "Accept-Encoding": "identity"},
            "extensions": {"sni_hostname": host},
        }
        try:
            async with (
                httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=self._seconds) as client,
                client.stream("GET", **request) as response,
            ):
                if response.status_code in _REDIRECTS:
                    return response.headers.get("location", "")
                if response.status_code != 200:
                    raise InputError(f"its host answered {response.status_code}.")
                return await self._read(response)
        except (httpx.HTTPError, httpx.InvalidURL):
            raise InputError("its host could not be reached, or broke off.") from None

    async def _read(self, response: Any) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise InputError("its host sent it compressed, which was not asked for.")
        data = bytearray()
        async for piece in response.aiter_raw():
            data += piece
            if len(data) > self._max_bytes:
                raise InputError(f"it is longer than the {self._max_bytes / 1e6:g} MB that are allowed.")
        return bytes(data)


async def resolve(host: str, port: int) -> Address:
    """An address of a host. Raises InputError where it has none, or one that is not public."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise InputError(f"the host {host!r} has no address.") from None
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not addresses or not all(map(is_public, addresses)):
        raise InputError(f"the host {host!r} has an address that is not public.")
    return addresses[0]


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet, also where it stands for another inside it.

    >>> [is_public(ipaddress.ip_address(text)) for text in ("1.1.1.1", "127.0.0.1", "::ffff:10.0.0.1")]
    [True, False, False]
    """
    inner = _inner(address)
    if inner is not None:
        return is_public(inner)
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local
    return address.is_global and not special


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address to which an IPv6 one leads."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
