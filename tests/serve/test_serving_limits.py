"""A server with keys, small limits and a ceiling; and the end of one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image
from real_server import RealServer, asking, data_url

KEY, OTHER = "a-key-of-the-file", "a-key-of-the-environment"
BEARER = {"authorization": f"Bearer {KEY}"}
MESSAGES = asking("what color?", data_url(Image.new("RGB", (112, 112), "red")))


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    file.write_text(f"{KEY}\n\n")
    options = ("--method", "hiprune", "--keep", "1/9", "--max-keep", "64", "--max-waiting", "1", "--max-batch", "1")
    with RealServer(
        "--api-key-file", str(file), *options, "--log-prompts", "--max-body-mb", "0.1", TESSELLA_API_KEYS=OTHER
    ) as running:
        yield running


def ask(server: RealServer, key: str = KEY, **options: Any) -> Any:
    with server.client(key) as client:
        return client.chat.completions.create(model="mini", messages=MESSAGES, **{"max_tokens": 2, **options})


def test_keys(strict: RealServer) -> None:
    assert ask(strict).usage.tessella["visual_tokens_kept"] == 22
    assert ask(strict, OTHER).usage.tessella["visual_tokens_kept"] == 22
    for wrong in ("a-key-of-the-fil", "é"):
        with strict.http() as http:
            answer = http.get("/v1/models", headers={"authorization": f"Bearer {wrong}".encode("latin-1")})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    with pytest.raises(openai.AuthenticationError, match="the API key is not one of this server's"):
        ask(strict, "wrong")
    with strict.http() as http:
        for path in ("/metrics", "/openapi.json", "/nothing"):
            assert http.get(path).status_code == 401
            assert "this server needs an API key" in http.get(path).text
        assert [http.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
        assert http.get("/v1/models", headers={**BEARER, "host": "behind.a.proxy"}).status_code == 200
    assert KEY not in strict.log()


def test_defaults_and_ceilings_of_the_command_line(strict: RealServer) -> None:
    for wish, kept in (({"keep": 64}, 64), ({"method": "divprune"}, 22), ({"method": "random", "keep": 0.25}, 49)):
        assert ask(strict, extra_body={"tessella": wish}).usage.tessella["visual_tokens_kept"] == kept
    for wish in ({"keep": 65}, {"keep": 0.5}, {"method": "none"}, {"method": "divprune:0.9 | fastv@2:0.5"}):
        with pytest.raises(openai.BadRequestError, match=r"at most 64 \(tokens a picture\)"):
            ask(strict, extra_body={"tessella": wish})


def test_a_small_body(strict: RealServer) -> None:
    with pytest.raises(openai.APIStatusError, match=r"longer than the 0\.1 MB") as error:
        ask(strict, extra_body={"user": "a" * 100_001})
    assert error.value.status_code == 413


def test_beyond_the_queue_there_is_429(strict: RealServer) -> None:
    def status(_: int) -> tuple[int, str]:
        body = {"model": "mini", "messages": MESSAGES, "max_tokens": 200, "n": 1, "temperature": 2.0, "seed": 1}
        answer = httpx.post(f"{strict.url}/v1/chat/completions", json=body, headers=BEARER, timeout=60, trust_env=False)
        return answer.status_code, answer.headers.get("retry-after", "")

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(status, range(16)))
    assert (200, "") in answers
    assert {code for code, _ in answers} == {200, 429}
    assert all(int(wait) >= 1 for code, wait in answers if code == 429)


def test_prompts_are_logged_where_asked(strict: RealServer) -> None:
    ask(strict)
    assert "what color?" in strict.log()
    assert "base64" not in strict.log()


def test_what_runs_is_finished_and_nothing_else_begins(tmp_path: Path) -> None:
    with RealServer() as running, running.client() as client, running.http() as http:
        stream = client.chat.completions.create(
            model="mini", messages=MESSAGES, max_tokens=400, temperature=2.0, seed=1, n=8, stream=True
        )
        pieces = iter(stream)
        next(pieces)
        ended: list[int] = []
        ending = threading.Thread(target=lambda: ended.append(running.end()))
        ending.start()
        seen = set()
        for chunk in pieces:
            finish = [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
            if len(seen) < 2:
                ready = http.get("/readyz")
                answer = http.post("/v1/chat/completions", json={"model": "mini", "messages": MESSAGES})
                if ready.status_code == 503:
                    seen |= {ready.status_code, answer.json()["error"]["code"]}
        assert finish == ["length"] or finish == ["stop"] or finish == []
        assert seen == {503, "stopping"}
        ending.join(60)
        assert ended == [0]
        assert "Traceback" not in running.log()


def test_an_idle_server_ends_at_once() -> None:
    with RealServer("--grace", "30") as running:
        start = time.monotonic()
        assert running.end() == 0
        assert time.monotonic() - start < 15
