"""Streams are what is answered at once; many clients, slow ones and those that leave."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from real_server import RealServer, asking, data_url

from tessella.app.demo import Example


@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "seed": 3, "n": 3}, {"stop": ["e"]}, {"logprobs": True}])
def test_a_stream_is_the_answer_in_pieces(
    client: openai.OpenAI, examples: list[Example], options: dict[str, Any]
) -> None:
    messages = asking(examples[4].question, data_url(examples[4].image))
    more: dict[str, Any] = {"model": "mini", "messages": messages, "max_tokens": 8, **options}
    whole = client.chat.completions.create(**more)
    raw = client.chat.completions.with_raw_response.create(**more, stream=True, stream_options={"include_usage": True})
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.headers["x-tessella-visual-tokens"] == "196"
    *chunks, last = list(raw.parse())
    assert (last.choices, last.usage.completion_tokens) == ([], whole.usage.completion_tokens)
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert len({chunk.id for chunk in (*chunks, last)}) == 1
    for choice in whole.choices:
        mine = [c.choices[0] for c in chunks if c.choices[0].index == choice.index]
        assert mine[0].delta.role == "assistant"
        assert "".join(c.delta.content or "" for c in mine) == choice.message.content
        assert [c.finish_reason for c in mine if c.finish_reason] == [choice.finish_reason]
        if options.get("logprobs"):
            streamed = [token.token for c in mine if c.logprobs for token in c.logprobs.content]
            assert streamed == [token.token for token in choice.logprobs.content]


def test_without_asking_there_is_no_usage(server: RealServer) -> None:
    body = {"model": "mini", "messages": asking("what color?"), "max_tokens": 3, "stream": True}
    with server.http() as http:
        text = http.post("/v1/chat/completions", json=body).text
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    assert all("usage" not in json.loads(event) for event in events[:-1])


def test_64_clients_at_once_get_what_one_gets(client: openai.OpenAI, examples: list[Example]) -> None:
    chosen = [examples[i % 6] for i in range(64)]
    keeps = ["1/9", 64, "1.0", "1/4"]

    def write(number: int) -> str:
        example = chosen[number]
        reply = client.chat.completions.create(
            model="mini", messages=asking(example.question, data_url(example.image)), max_tokens=6,
            extra_body={"tessella": {"method": ("hiprune", "divprune")[number % 2], "keep": keeps[number % 4]}},
        )  # fmt: skip
        return reply.choices[0].message.content

    alone = {number: write(number) for number in range(12)}  # every kind of request there is
    with ThreadPoolExecutor(64) as threads:
        together = list(threads.map(write, range(64)))
    assert together == [alone[number % 12] for number in range(64)]


def test_who_reads_nothing_holds_nobody_up(server: RealServer, client: openai.OpenAI, examples: list[Example]) -> None:
    lazy = [_open(server, examples[0], stream=True, max_tokens=400) for _ in range(4)]
    try:
        for _ in range(3):
            reply = client.chat.completions.create(
                model="mini", messages=asking(examples[0].question, data_url(examples[0].image)), max_tokens=6
            )
            assert reply.choices[0].message.content.strip() == examples[0].answer
    finally:
        for connection in lazy:
            connection.close()
    server.wait_until(lambda: server.counter("tessella_questions_running") == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_is_cancelled(server: RealServer, examples: list[Example], stream: bool) -> None:
    before = server.counter("tessella_cancelled_total")
    connection = _open(server, examples[0], stream=stream, max_tokens=1000)
    server.wait_until(lambda: server.counter("tessella_questions_running") == 1)
    connection.close()
    server.wait_until(lambda: server.counter("tessella_questions_running") == 0)
    assert server.counter("tessella_cancelled_total") == before + 1


def _open(server: RealServer, example: Example, **options: Any) -> socket.socket:
    """A connection on which a long answer was asked for, and of which nothing is read."""
    messages = asking(example.question, data_url(example.image))
    hot = {"temperature": 2.0, "seed": 1, "n": 8}  # so that it does not end by itself at once
    body = json.dumps({"model": "mini", "messages": messages, **hot, **options}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection
