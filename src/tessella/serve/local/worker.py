"""The thread that owns the model: it reads prompts as they come and writes one token more in all answers, by turns."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ...core.errors import TessellaError
from ...engine.joining import Writer
from ..contract import Busy, Stopping
from ..settings import WorkerSettings
from .flight import Flight
from .reader import Read, Reader
from .sampling import Defaults
from .ticket import Ticket

LOG = logging.getLogger("tessella.serve")


class Worker(threading.Thread):
    """Takes tickets from any thread. Everything that touches the model happens in this one."""

    def __init__(self, model: Any, processor: Any, settings: WorkerSettings, defaults: Defaults) -> None:
        super().__init__(name="tessella-worker", daemon=True)
        self._model, self._processor, self._settings, self._defaults = model, processor, settings, defaults
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._flights: list[Flight] = []
        self._reading = 0
        self._is_closed = self._is_over = False

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Questions being read or answered."""
        return self._reading + sum(len(flight.tickets) for flight in list(self._flights))

    def submit(self, ticket: Ticket) -> None:
        """Raises Busy where too many wait, and Stopping at the end."""
        with self._changed:
            if self._is_closed:
                raise Stopping("the server is shutting down; ask again later.")
            if len(self._waiting) >= self._settings.max_waiting:
                raise Busy(f"{len(self._waiting)} questions wait already; ask again in a second.")
            self._waiting.append(ticket)
            self._changed.notify()

    def forget(self, ticket: Ticket) -> None:
        """Nobody waits for this one any more."""
        with self._changed:
            ticket.left = True
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            self._changed.notify()

    def close(self) -> None:
        """Take no more questions."""
        with self._changed:
            self._is_closed = True

    def end(self) -> None:
        """Stop after the step that runs."""
        with self._changed:
            self._is_closed = self._is_over = True
            self._changed.notify()

    # -- in the thread -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        with Writer(self._model) as writer, torch.inference_mode():
            reader = Reader(self._model, self._processor, writer, self._settings)
            while not self._is_over:
                tickets = self._take()
                if tickets:
                    self._read(reader, writer, tickets)
                    self._reading = 0
                self._step()
        for ticket in [*self._waiting, *(t for flight in self._flights for t in flight.tickets)]:
            ticket.tell(Stopping("the server was shut down before the answer was complete."))

    def _take(self) -> list[Ticket]:
        """Questions for which there is room. Waits for one where nothing runs, and then a moment for company."""
        with self._changed:
            room = self._settings.max_batch - sum(flight.num_open for flight in self._flights)
            if room == self._settings.max_batch:
                self._changed.wait_for(lambda: self._waiting or self._is_over)
                until = time.monotonic() + self._settings.gather_ms / 1000
                while self._num_rows() < room and (left := until - time.monotonic()) > 0 and not self._is_over:
                    self._changed.wait(left)
            out: list[Ticket] = []
            while self._waiting and self._waiting[0].question.sampling.n <= room:
                out.append(self._waiting.popleft())
                room -= out[-1].question.sampling.n
            self._reading = len(out)
            return out

    def _num_rows(self) -> int:
        return sum(ticket.question.sampling.n for ticket in self._waiting)

    def _read(self, reader: Reader, writer: Writer, tickets: Sequence[Ticket]) -> None:
        """Read prompts and begin their answers."""
        waited = {ticket: ticket.waited_ms for ticket in tickets}
        of = {id(ticket.prepared): ticket for ticket in tickets}
        try:
            results = reader.read([ticket.prepared for ticket in tickets])
        except Exception as error:  # a defect: these questions fail, and the worker goes on
            LOG.exception("reading %d prompts failed", len(tickets))
            for ticket in tickets:
                ticket.tell(error)
            return
        reads: list[Read] = []
        for prepared, result in results:
            ticket = of[id(prepared)]
            if isinstance(result, TessellaError):
                ticket.tell(result)
                continue
            if not any(result is read for read in reads):
                reads.append(result)
            reading = result.readings[result.prepared.index(prepared)]
            ticket.tell(replace(reading, ms={"queue": waited[ticket]} | reading.ms))
        for read in reads:
            self._board(writer, read, [of[id(prepared)] for prepared in read.prepared])

    def _board(self, writer: Writer, read: Read, tickets: Sequence[Ticket]) -> None:
        flight = next((f for f in self._flights if f.takes(read)), None)
        if flight is None:
            flight = Flight(writer, self._processor.tokenizer, self._defaults)
            self._flights.append(flight)
        self._guarded(flight, lambda: flight.board(read, tickets), tickets)

    def _step(self) -> None:
        for flight in self._flights:
            for ticket in flight.tickets:
                if ticket.left:
                    flight.leave(ticket)
            self._guarded(flight, flight.step, ())
        self._flights = [flight for flight in self._flights if flight.num_open]

    def _guarded(self, flight: Flight, act: Any, more: Sequence[Ticket]) -> None:
        """Act; after a defect the flight's questions fail, and the worker goes on without it."""
        try:
            act()
        except Exception as error:
            LOG.exception("writing answers failed")
            for ticket in flight.tickets.union(more):
                ticket.tell(error)
            self._flights = [f for f in self._flights if f is not flight]
