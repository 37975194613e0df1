"""What cannot be answered is refused in OpenAI's shape, with one sentence that names the field; the server lives on."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from real_server import RealServer, asking, data_url

PICTURE = data_url(Image.new("RGB", (112, 112), "red"))
MANY = [{"role": "user", "content": "a"}] * 1001


def claimed_png(width: int, height: int) -> str:
    """A data URL of a PNG of one black pixel whose header claims another size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0\0\0\0")) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def post(server: RealServer, **fields: Any) -> httpx.Response:
    body = {"model": "mini", "messages": asking("what color?", PICTURE), "max_tokens": 2, **fields}
    with server.http() as http:
        return http.post("/v1/chat/completions", json={k: v for k, v in body.items() if v != "absent"})


def refused(response: httpx.Response, status: int) -> dict[str, Any]:
    assert (response.status_code, list(response.json())) == (status, ["error"]), response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert "Traceback" not in error["message"]
    assert response.headers["x-request-id"].startswith("req-")
    return error


@pytest.mark.parametrize(
    "fields, param, message",
    [
        ({"temperature": 5}, "temperature", "temperature must be less than or equal to 2; got 5."),
        ({"temperature": "hot"}, "temperature", "temperature must be a valid number; got 'hot'."),
        ({"top_p": 0}, "top_p", "top_p must be greater than 0; got 0."),
        ({"n": 99}, "n", "n may be at most 8 on this server; got 99."),
        ({"max_tokens": 5000}, "max_tokens", "max_tokens may be at most 1,024 on this server; got 5,000."),
        ({"max_tokens": True}, "max_tokens", "max_tokens must be a valid integer; got True."),
        ({"max_completion_tokens": 3}, "max_tokens", "max_tokens is another number than max_completion_tokens;"),
        ({"top_logprobs": 3}, "top_logprobs", "top_logprobs was given without logprobs; set logprobs to true."),
        ({"stream_options": {}}, "stream_options", "stream_options was given without stream; set stream to true."),
        ({"stop": ["a"] * 5}, "stop", "stop must be a valid string, or have at most 4 items, not 5; got a list of 5."),
        ({"temprature": 1}, "temprature", "there is no parameter 'temprature'. Closest: 'temperature'."),
        ({"tools": [{}]}, "tools", "the parameter 'tools' is not supported by this server; leave it out."),
        ({"response_format": {"type": "json_object"}}, "response_format", "the parameter 'response_format' is not"),
        ({"presence_penalty": 0.5}, "presence_penalty", "the parameter 'presence_penalty' is not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "the parameter 'logit_bias' is not supported"),
        ({"audio": {"voice": "a"}}, "audio", "the parameter 'audio' is not supported"),
        ({"model": "absent"}, "model", "model is missing."),
        ({"messages": []}, "messages", "messages must have at least 1 item, not 0; got a list of 0."),
        ({"messages": MANY}, "messages", "messages must have at most 1000 items, not 1001; got a list of 1001."),
        (
            {"messages": [{"role": "tool", "content": "a"}]},
            "messages[0]",
            "messages[0].role must be one of 'system', 'developer', 'user', 'assistant'; got 'tool'.",
        ),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "messages[0].content is missing."),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
            "messages[0].content[0]",
            "messages[0].content[0].type must be one of 'text', 'image_url'; got 'audio'.",
        ),
        ({"messages": asking("a <image>")}, None, "a prompt's text holds the placeholder '<image>'"),
        ({"messages": asking(" ")}, None, "the conversation holds no text; write what is to be answered."),
        ({"messages": asking("a " * 9000)}, None, "tokens; this server reads at most 8,192."),
        ({"messages": asking("a" * 200_000)}, None, "200,000 characters; at most 131,072 are read."),
        (
            {"messages": [*asking("a"), {"role": "assistant", "content": "b"}]},
            None,
            "the last message is the assistant's own; end with the user's.",
        ),
        ({"messages": asking("a", *[PICTURE] * 9)}, None, "a request may hold 8 pictures; got 9."),
        ({"messages": asking("a b " * 1200)}, None, "this model reads at most 2,048"),
        ({"tessella": {"keep": "25%"}}, "tessella.keep", "got '25%'. For a quarter write 0.25 or 1/4."),
        ({"tessella": {"keep": "1e9999999"}}, "tessella.keep", "or 'a/b'; got '1e9999999'."),
        ({"tessella": {"keep": 197}}, "tessella.keep", "but only 196 are there"),
        ({"tessella": {"scope": "image"}}, "tessella.keep", "scope='image' was given without a keep"),
        ({"tessella": {"method": "hiprune"}}, "tessella.keep", "hiprune needs a keep"),
        ({"tessella": {"method": "none", "keep": 3}}, "tessella.keep", "none takes no keep; got 3."),
        ({"tessella": {"method": "hiprune(", "keep": 3}}, "tessella.method", "unbalanced brackets or quotes"),
        ({"tessella": {"method": "random(", "kep": 3}}, "tessella.kep", "there is no parameter 'tessella.kep'."),
        (
            {"tessella": {"method": "zoo_prune(num_directions=100000)", "keep": 3}},
            "tessella.method",
            "zoo_prune: num_directions may be at most 10,000 in a request; got 100000.",
        ),
        ({"tessella": {"method": "fastv@99", "keep": 3}}, "tessella.method", "99"),
    ],
)
def test_a_bad_request_is_told_in_one_sentence(
    server: RealServer, fields: dict[str, Any], param: str | None, message: str
) -> None:
    error = refused(post(server, **fields), 400)
    assert message in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


def test_an_unknown_method_and_model_name_what_there_is(server: RealServer) -> None:
    error = refused(post(server, tessella={"method": "fast_v", "keep": 3}), 404)
    assert (error["code"], error["param"]) == ("unknown_method", "tessella.method")
    assert error["message"].startswith("no method 'fast_v'. Closest: 'fastv'")
    error = refused(post(server, model="gpt"), 404)
    assert (error["code"], error["message"]) == (
        "model_not_found", "there is no model 'gpt' here; this server has 'mini'.",
    )  # fmt: skip


def test_a_method_the_model_cannot_carry_says_why(server: RealServer) -> None:
    error = refused(post(server, tessella={"method": "evs", "keep": 0.5}), 400)
    assert error["code"] == "unsupported_method"
    assert "evs needs" in error["message"]


@pytest.mark.parametrize("method", ["{}", "'{}'", 'random:0.5 | "{}":4', " {}:9"])
def test_no_request_opens_a_file(server: RealServer, tmp_path: Path, method: str) -> None:
    recipe = tmp_path / "secret.json"
    recipe.write_text("{}")
    for name in (recipe, tmp_path / "none.json"):
        error = refused(post(server, tessella={"method": method.format(name), "keep": 3}), 400)
        assert "names a recipe's file, which is not read here; name its method" in error["message"]
        assert (error["code"], error["param"]) == ("invalid_method", "tessella.method")


@pytest.mark.parametrize(
    "url, message",
    [
        ("file:///etc/passwd", "picture 1: a URL with the scheme 'file' is not fetched; allowed: data, and http"),
        ("/etc/passwd", "picture 1: a URL with the scheme '' is not fetched"),
        ("http://127.0.0.1/a.png", "picture 1: the host '127.0.0.1' is not one that this server fetches from"),
        ("data:text/html;base64,AAAA", "picture 1: a data URL must begin with 'data:image/TYPE;base64,'"),
        ("data:image/svg+xml;base64,AAAA", "picture 1: a data URL must begin with"),
        ("data:image/png,AAAA", "picture 1: a data URL must begin with"),
        ("data:image/png;base64,AA\nAA", "picture 1: what follows 'base64,' is not base64."),
        ("data:image/png;base64,é", "picture 1: what follows 'base64,' is not base64."),
        ("data:image/png;base64,", "'picture 1' is not a picture that can be read."),
        (PICTURE[:122], "'picture 1' is"),
        ("data:image/png;base64,JSFQUy1BZG9iZS0zLjAgRVBTRi0zLjA=", "'picture 1' is not a picture that can be read."),
        (claimed_png(100_000, 100_000), "'picture 1' claims 100,000 x 100,000 pixels; allowed are 25 million in all"),
        (claimed_png(6_000, 5_000), "'picture 1' claims 6,000 x 5,000 pixels; allowed are 25 million in all"),
    ],
)
def test_a_picture_that_is_not_read(server: RealServer, url: str, message: str) -> None:
    assert message in refused(post(server, messages=asking("what?", url)), 400)["message"]


@pytest.mark.parametrize(
    "content, status, message",
    [
        (b"{", 400, "the body is not JSON: Expecting property name enclosed in double quotes."),
        (b"[1]", 400, "the body must be a JSON object, sent with 'Content-Type: application/json'."),
        (b"", 400, "the body must be a JSON object"),
        (b"[" * 100_000, 400, "the body is no JSON that can be read"),
        (b'{"model": "\xff"}', 400, "the body is no JSON that can be read"),
        (b'{"model":"mini","messages":[{"role":"user","content":"\\ud800"}]}', 400, "characters that are not UTF-8"),
        (b'{"model":"mini","\\ud800":1}', 400, "the body has a field whose name is not UTF-8 text."),
        (
            b'{"model":"mini","messages":[{"role":"user","content":"a"}],"temperature":NaN}',
            400,
            "must be a finite number; got nan.",
        ),
    ],
)
def test_bodies_that_are_no_requests(server: RealServer, content: bytes, status: int, message: str) -> None:
    with server.http() as http:
        response = http.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert message in refused(response, status)["message"]


def test_bodies_that_are_too_long(server: RealServer) -> None:
    """With a length in front, and in pieces without one."""
    piece = b'{"model": "' + b"a" * 1_000_000
    head = {"content-type": "application/json"}
    with server.http() as http:
        for content in (piece * 21, iter([piece] * 21)):
            response = http.post("/v1/chat/completions", content=content, headers=head)
            error = refused(response, 413)
            assert error["code"] == "request_too_large"
            assert "longer than the 20 MB that are allowed" in error["message"]


def test_paths_and_hosts_that_are_not_there(server: RealServer) -> None:
    with server.http() as http:
        assert refused(http.get("/nothing"), 404)["message"] == "there is nothing at '/nothing'."
        assert refused(http.get("/v1/chat/completions"), 405)["message"].endswith("does not take GET.")
        assert refused(http.get("/v1/models/a/b"), 404)["code"] == "model_not_found"
        rebound = http.get("/v1/models", headers={"host": "elsewhere.example"})
        assert (rebound.status_code, rebound.json()["error"]["code"]) == (403, "unknown_host")
        assert rebound.json()["error"]["message"].startswith("the host 'elsewhere.example' is not this server's")


def test_errors_and_prompts_stay_where_they_belong(server: RealServer) -> None:
    assert post(server, messages=asking("a zebra", PICTURE)).status_code == 200
    server.wait_until(lambda: "POST /v1/chat/completions 200" in server.log())
    log = server.log()
    assert "zebra" not in log
    assert "base64" not in log
