"""Answers written side by side: each step one token more in every row."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...engine.joining import Held, Writer, join, take
from ..contract import Closing, Finish, Piece, TokenLogprob
from .reader import Read
from .sampling import Chosen, Defaults, Draw, choose
from .ticket import Ticket
from .writing import Text

_DEAD = 0.25  # share of rows that have ended and are still carried along, since taking rows out copies the rest


@dataclass(eq=False)
class Answer:
    """A question whose answers are being written."""

    ticket: Ticket
    open: int
    begun: float = field(default_factory=time.monotonic)
    written: int = 0


@dataclass(eq=False)
class Row:
    """One choice of an answer."""

    answer: Answer
    choice: int
    draw: Draw
    text: Text
    count: int = 0
    next: int = 0  # the token that was chosen last and is to be read
    is_open: bool = True
    pending: list[tuple[str, tuple[TokenLogprob, ...]]] = field(default_factory=list)


class Flight:
    """Rows in one cache. `tokenizer` makes text of their tokens."""

    def __init__(self, writer: Writer, tokenizer: Any, defaults: Defaults) -> None:
        self._writer, self._tokenizer, self._defaults = writer, tokenizer, defaults
        self._held: Held | None = None
        self._rows: list[Row] = []

    @property
    def num_open(self) -> int:
        return sum(row.is_open for row in self._rows)

    @property
    def tickets(self) -> set[Ticket]:
        """Questions that are being answered."""
        return {row.answer.ticket for row in self._rows if row.is_open}

    def takes(self, read: Read) -> bool:
        """Whether prompts can join in."""
        return self._held is None or (self._held.is_joinable and read.held.is_joinable)

    def board(self, read: Read, tickets: Sequence[Ticket]) -> None:
        """Take prompts on, and write the first token of each choice."""
        rows: list[Row] = []
        index: list[int] = []
        for number, ticket in enumerate(tickets):
            sampling = ticket.question.sampling
            answer = Answer(ticket, sampling.n)
            prompt = ticket.prepared.inputs["input_ids"][0].tolist()
            for choice in range(sampling.n):
                draw = Draw.of(sampling, choice, prompt)
                rows.append(Row(answer, choice, draw, Text(self._tokenizer, sampling.stop)))
                index.append(number)
        self._accept(rows, choose(read.logits[index], [row.draw for row in rows], self._defaults))
        if not any(row.is_open for row in rows):
            return
        held = read.held
        if held.is_joinable:
            open_ = [n for n, row in enumerate(rows) if row.is_open]
            held, rows = take(held, [index[n] for n in open_]), [rows[n] for n in open_]
        elif len(rows) > 1:
            held.cache.batch_repeat_interleave(len(rows))
            held.mask = held.mask.repeat_interleave(len(rows), dim=0)
        self._drop_dead(0)
        self._held = held if self._held is None else join([self._held, held])
        self._rows += rows

    def step(self) -> None:
        """One token more in each row."""
        self._drop_dead(_DEAD)
        if self._held is None:
            return
        tokens = torch.tensor([[row.next] for row in self._rows], device=self._held.mask.device)
        logits = self._writer.write(self._held, tokens).float()
        self._accept(self._rows, choose(logits, [row.draw for row in self._rows], self._defaults))

    def leave(self, ticket: Ticket) -> None:
        """Write on no answer to a question."""
        for row in self._rows:
            if row.answer.ticket is ticket:
                row.is_open = False

    def _drop_dead(self, share: float) -> None:
        alive = [n for n, row in enumerate(self._rows) if row.is_open]
        if len(self._rows) - len(alive) <= share * len(self._rows) and alive:
            return
        if not alive:
            self._held, self._rows = None, []
        elif self._held is not None and self._held.is_joinable:
            self._held, self._rows = take(self._held, alive), [self._rows[n] for n in alive]

    def _accept(self, rows: Sequence[Row], chosen: Sequence[Chosen]) -> None:
        for row, one in zip(rows, chosen, strict=True):
            if row.is_open:
                self._add(row, one)

    def _add(self, row: Row, chosen: Chosen) -> None:
        """Take a token on, and tell what text became certain by it."""
        sampling = row.draw.sampling
        ends = chosen.token in self._defaults.ends
        text = ""
        if not ends:
            row.count += 1
            row.next = chosen.token
            row.draw.written.append(chosen.token)
            text = row.text.add(chosen.token)
        logprobs = () if ends or sampling.logprobs is None else (self._describe(chosen),)
        finish: Finish | None = "stop" if ends or row.text.is_stopped else None
        if finish is None and row.count >= sampling.max_tokens:
            finish = "length"
        if finish is not None:
            text += row.text.end()
            if row.text.is_stopped:
                finish = "stop"
        row.pending.append((text, logprobs))
        self._tell(row, finish)

    def _tell(self, row: Row, finish: Finish | None) -> None:
        answer, ticket = row.answer, row.answer.ticket
        if finish is None and not (ticket.question.streamed and any(text for text, _ in row.pending)):
            return
        text = "".join(text for text, _ in row.pending)
        logprobs = tuple(one for _, some in row.pending for one in some)
        row.pending.clear()
        ticket.tell(Piece(row.choice, text, logprobs, finish))
        if finish is None:
            return
        row.is_open = False
        answer.open -= 1
        answer.written += row.count
        if answer.open == 0:
            ticket.tell(Closing(answer.written, (time.monotonic() - answer.begun) * 1000))

    def _describe(self, chosen: Chosen) -> TokenLogprob:
        top = tuple(self._named(token, logprob) for token, logprob in chosen.top)
        return self._named(chosen.token, chosen.logprob, top)

    def _named(self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        text = str(self._tokenizer.decode([token]))
        return TokenLogprob(text, logprob, tuple(text.encode("utf-8")), top)
