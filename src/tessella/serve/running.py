"""Run a server: the address first, then the model; at the end what runs is finished."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from ..core.errors import InputError
from .application import build_application
from .budgets import check_budgets
from .door import OwnHost
from .settings import FrontSettings
from .waiting import Switch

FLUSH_S = 5  # to send what is written when all answers are complete
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Server(uvicorn.Server):
    """Asks `stop` to end things at the first signal, and ends them itself at the second."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], object]) -> None:
        super().__init__(config)
        self._stop, self._is_stopping = stop, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._is_stopping:
            self.should_exit = self.force_exit = True
        self._is_stopping = True
        self._stop()


def run_server(answerer: Any, front: FrontSettings, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `say` is given the address once questions are taken.

    `answerer` is an `Answerer` that is not started yet and has a `processor` once it is. Raises InputError for settings
    that cannot be served, before anything is loaded: an address that is taken, a method that is unknown.
    """
    front.check()
    check_budgets(front)
    listening = bind(front.host, front.port)
    _log_to(sys.stderr)
    with listening:
        asyncio.run(_serve(answerer, front, listening, say))


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address. Raises InputError where it is taken, or is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot listen at {host}, port {port}: {reason}. Give another --port (0: any free)."
        ) from None
    return listening


async def _serve(answerer: Any, front: FrontSettings, listening: socket.socket, say: Callable[[str], None]) -> None:
    """Serve at a socket. Of the three tasks, whichever ends first decides what is next."""
    signalled, switch = asyncio.Event(), Switch()
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(
        switch if front.keys else OwnHost(switch, (*_LOOPBACK, front.host)),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=FLUSH_S,
    )
    server = Server(config, lambda: loop.call_soon_threadsafe(signalled.set))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    stopping = asyncio.create_task(signalled.wait())
    loading = asyncio.create_task(answerer.start())
    try:
        await asyncio.wait({serving, stopping, loading}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            switch.app = build_application(answerer, answerer.processor, front)
            say(f"tessella serves {answerer.facts()['model']} at {_url(front.host, listening)}")
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            ending = asyncio.create_task(answerer.stop(front.grace_s))
            await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.should_exit = True
        loading.cancel()
        stopping.cancel()
        await serving


def _url(host: str, listening: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def _log_to(stream: Any) -> None:
    """A line for each request, and the errors of the server below."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("tessella.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.addHandler(handler)
        logger.propagate = False
