"""Columns side by side: what is offered, who agrees, and streams that go on beside one that fails."""

from __future__ import annotations

import asyncio
import json

from tessella.core.errors import InputError
from tessella.core.layout import Block
from tessella.pictures.shown import Cut, Shown
from tessella.serve.contract import Busy, Closing, Piece, Reading
from tessella.serve.page.choices import method_choices, starters
from tessella.serve.page.columns import Column, agreements
from tessella.serve.page.comparing import side_by_side, write_messages
from tessella.serve.page.markup import card_markup, facts_markup

READING = Reading(210, 196, 22, 0.4, {"queue": 1.0, "encode": 12.34, "score": 0.5, "select": 0.25, "prefill": 1234.5})


def test_methods_that_the_model_cannot_carry_come_last_with_the_reason():
    choices = method_choices({"hiprune": "hiprune needs eyes.", "adaptinfer": "adaptinfer needs time."})
    assert [choice["reason"] for choice in choices[-2:]] == ["adaptinfer needs time.", "hiprune needs eyes."]
    assert not any(choice["reason"] for choice in choices[:-2])
    assert starters(choices) == ["visionzip", "divprune", "pyramiddrop", choices[0]["pipeline"]]


def test_agreement_waits_for_both_answers():
    columns = [Column("full model"), Column("a", answer=" 4 "), Column("b", answer="5"), Column("c", error="no")]
    columns[1].closing = columns[2].closing = Closing(1, 2.0)
    assert agreements(columns) == {}
    columns[0].answer, columns[0].closing = "4", Closing(1, 2.0)
    assert agreements(columns) == {1: True, 2: False}


def test_facts_say_tokens_layers_and_times():
    column = Column("a", reading=READING, closing=Closing(3, 7.77))
    facts = facts_markup(column)
    assert "<b>22</b> of 196 visual tokens, 40% over all layers" in facts
    assert "width:40.0%" in facts
    for part in ("encode</dt><dd>12 ms", "select</dt><dd>0.2 ms", "prefill</dt><dd>1,234 ms", "decode</dt><dd>7.8 ms"):
        assert part in facts


def test_a_card_escapes_what_is_text():
    card = card_markup(Column("<b>", answer="<i>", error="<u>"))
    assert "<h3>&lt;b&gt;</h3>" in card
    assert "&lt;i&gt;" in card
    assert "&lt;u&gt;" in card


async def _events(*events, error=None):
    for event in events:
        await asyncio.sleep(0)
        yield event
    if error is not None:
        raise error


def _messages(*sources):
    columns = [Column(str(n)) for n in range(len(sources))]

    async def collect():
        return [json.loads(m[6:]) async for m in write_messages(columns, side_by_side(sources), "req-1")]

    return columns, asyncio.run(collect())


def test_one_that_fails_is_told_in_words_and_the_others_go_on(caplog):
    whole = (READING, Piece(0, "4"), Piece(0, "2"), Closing(2, 1.0))
    columns, messages = _messages(
        _events(*whole),
        _events(READING, error=Busy("the queue is full.")),
        _events(error=RuntimeError("a secret")),
        _events(error=InputError("two\nlines")),
        _events(*whole),
    )
    neutral = "the server failed on this request; its log has the reason under req-1."
    assert [column.error for column in columns] == ["", "the queue is full.", neutral, "two lines", ""]
    assert [column.answer for column in columns] == ["42", "", "", "", "42"]
    assert messages[0] == {"columns": ["0", "1", "2", "3", "4"]}
    assert {"column": 4, "verdict": '<span class="same">✓ same answer</span>'} in messages
    assert "a secret" in caplog.text
    assert "a secret" not in json.dumps(messages)


def test_patches_are_drawn_as_the_contract_hands_them_over(examples):
    cut = Cut(0, (tuple(range(22)),), (tuple(i if i < 22 else -1 for i in range(196)),))
    shown = Shown((examples[0].image,), ((Block(image=0, rows=14, columns=14),),), (cut,))
    reading = Reading(210, 196, 22, 0.112, {}, shown=shown)
    _, messages = _messages(_events(reading, Closing(0, 0.0)))
    view = next(message["view"] for message in messages if "view" in message)
    assert 'alt="Patches kept by 0: 22 kept, 0 merged, 174 dropped"' in view
    assert "data:image/webp;base64," in view


def test_sources_are_closed_when_nobody_reads_on():
    closed = []

    async def endless(number):
        try:
            while True:
                await asyncio.sleep(0)
                yield Piece(0, "x")
        finally:
            closed.append(number)

    async def leave():
        events = side_by_side([endless(0), endless(1)])
        async for _ in events:
            break
        await events.aclose()

    asyncio.run(leave())
    assert sorted(closed) == [0, 1]
