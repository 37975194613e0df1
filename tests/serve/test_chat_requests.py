"""OpenAI's client against a real server: every parameter, and the library's own answers and counts."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from PIL import Image
from real_server import RealServer, asking, data_url

import tessella
from tessella.app.answering import ask
from tessella.app.demo import Example

HIPRUNE = {"tessella": {"method": "hiprune", "keep": "1/9"}}


@pytest.mark.parametrize(
    "method, keep", [(None, None), ("hiprune", "1/9"), ("divprune:0.5 | fastv@2:0.5", None), ("random", 20)]
)
def test_answers_and_counts_are_the_librarys(
    client: openai.OpenAI, mini: Any, examples: list[Example], method: str | None, keep: Any
) -> None:
    example = examples[2]
    expected = ask(*mini, example.image, example.question, method, keep, max_new_tokens=8)
    wish = {name: value for name, value in (("method", method), ("keep", keep)) if value is not None}
    raw = client.chat.completions.with_raw_response.create(
        model="mini",
        messages=asking(example.question, data_url(example.image)),
        max_completion_tokens=8,
        extra_body={"tessella": wish} if wish else {},
    )
    reply = raw.parse()
    report = expected.report
    assert reply.choices[0].message.content.strip() == expected.answer
    assert reply.choices[0].finish_reason == "stop"
    usage = reply.usage.tessella  # type: ignore[attr-defined]
    assert usage["visual_tokens"] == report["tokens_in"] == 196
    assert usage["visual_tokens_kept"] == report["tokens_kept"]
    assert usage["mean_keep_ratio"] == pytest.approx(report["mean_keep_ratio"])
    assert set(usage["ms"]) >= {"encode", "score", "select", "prefill", "decode"}
    assert raw.headers["x-tessella-visual-tokens"] == "196"
    assert raw.headers["x-tessella-visual-tokens-kept"] == str(report["tokens_kept"])
    assert all(float(raw.headers[f"x-tessella-ms-{part}"]) >= 0 for part in ("queue", "encode", "score", "select"))
    assert float(raw.headers["x-tessella-ms-prefill"]) > 0
    assert raw.headers["x-request-id"].startswith("req-")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_what_a_completion_says_of_itself(client: openai.OpenAI, examples: list[Example]) -> None:
    reply = client.chat.completions.create(
        model="mini", messages=asking("what color?", data_url(examples[0].image, "jpeg")), max_tokens=1,
        user="someone", metadata={"a": "b"}, store=False, n=1, presence_penalty=0, tools=[], temperature=0,
    )  # fmt: skip
    assert reply.id.startswith("chatcmpl-")
    assert (reply.object, reply.model) == ("chat.completion", "mini")
    assert reply.system_fingerprint == f"tessella-{tessella.__version__}"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 1


def test_texts_without_pictures_and_turns_with_several(client: openai.OpenAI, examples: list[Example]) -> None:
    first, second = (data_url(e.image) for e in examples[:2])
    turns = [
        {"role": "developer", "content": "be short"},
        *asking(examples[0].question, first),
        {"role": "assistant", "content": examples[0].answer, "refusal": None},
        *asking(examples[1].question, second, first),
    ]
    reply = client.chat.completions.create(model="mini", messages=turns, max_tokens=4, extra_body=HIPRUNE)
    assert reply.usage.tessella["visual_tokens"] == 3 * 196  # type: ignore[attr-defined]
    assert reply.usage.tessella["visual_tokens_kept"] == 3 * 22  # type: ignore[attr-defined]
    alone = client.chat.completions.create(
        model="mini", messages=[{"role": "user", "content": "what color?"}], max_tokens=4
    )
    assert alone.usage.tessella["visual_tokens"] == 0  # type: ignore[attr-defined]


def test_sampling_repeats_with_its_seed(client: openai.OpenAI) -> None:
    def write(**options: Any) -> list[str]:
        reply = client.chat.completions.create(
            model="mini", messages=asking("where is the red star?"), max_tokens=8, **options
        )
        assert [choice.index for choice in reply.choices] == list(range(len(reply.choices)))
        return [choice.message.content for choice in reply.choices]

    hot = {"temperature": 2.0, "n": 4}
    assert write(**hot, seed=7) == write(**hot, seed=7)
    assert len(set(write(**hot, seed=7))) > 1
    assert write(**hot, seed=7) != write(**hot, seed=8)
    assert set(write(**hot, seed=7, top_p=1e-6)) == set(write())  # nothing but the likeliest is left


def test_an_answer_ends_in_front_of_a_stop(client: openai.OpenAI, examples: list[Example]) -> None:
    example = examples[0]
    messages = asking(example.question, data_url(example.image))
    whole = client.chat.completions.create(model="mini", messages=messages, max_tokens=8).choices[0].message.content
    middle = whole[2:4]
    for stop in (middle, ["never", middle]):
        cut = client.chat.completions.create(model="mini", messages=messages, max_tokens=8, stop=stop).choices[0]
        assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(middle)], "stop")


def test_log_probabilities_are_those_of_the_tokens_written(client: openai.OpenAI, examples: list[Example]) -> None:
    example = examples[0]
    choice = client.chat.completions.create(
        model="mini", messages=asking(example.question, data_url(example.image)), max_tokens=8, logprobs=True,
        top_logprobs=3,
    ).choices[0]  # fmt: skip
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode().strip().startswith(choice.message.content.strip())
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob)  # greedy writes the likeliest
        assert [t.logprob for t in token.top_logprobs] == sorted((t.logprob for t in token.top_logprobs), reverse=True)
        assert token.logprob <= 0


def test_models_health_and_counters(client: openai.OpenAI, server: RealServer) -> None:
    assert [model.id for model in client.models.list()] == ["mini"]
    assert client.models.retrieve("mini").owned_by == "tessella"
    with server.http() as http:
        assert http.get("/healthz").json() == {"status": "alive"}
        ready = http.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        before = server.counter("tessella_visual_tokens_kept_total")
        client.chat.completions.create(
            model="mini", messages=asking("what?", data_url(Image.new("RGB", (112, 112)))), max_tokens=2,
            extra_body=HIPRUNE,
        )  # fmt: skip
        assert server.counter("tessella_visual_tokens_kept_total") == before + 22
        assert http.get("/metrics").headers["content-type"].startswith("text/plain")
    for name in ("requests_total", "time_to_first_token_seconds_count", "decode_seconds_per_token_count"):
        assert server.counter(f"tessella_{name}") >= 1
    assert server.counter("tessella_cache_misses_total") + server.counter("tessella_cache_hits_total") >= 2
    assert "tessella serves mini at http://127.0.0.1:" in server.line
