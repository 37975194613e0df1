"""The recipe for VLMEvalKit against a real server: bodies as its API model posts them, from the recipe itself."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from real_server import RealServer

from tessella.app.answering import ask

CONFIG = Path(__file__).resolve().parents[2] / "integrations" / "vlmevalkit" / "config.json"
ENTRIES: dict[str, dict[str, Any]] = json.loads(CONFIG.read_text())["model"]
# what it reads itself, or makes something else of; every other argument goes into the body
OWN = {"class", "api_base", "key", "img_size", "img_detail", "retry", "timeout", "wait", "verbose", "system_prompt"}


def jpeg_of(image: Image.Image) -> bytes:
    """Every picture is encoded anew, with Pillow's default quality."""
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG")
    return out.getvalue()


def body_of(entry: dict[str, Any], parts: list[str | bytes]) -> dict[str, Any]:
    """What is posted for a message of texts and pictures."""
    content: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        else:
            url = "data:image/jpeg;base64," + base64.b64encode(part).decode()
            content.append({"type": "image_url", "image_url": {"url": url, "detail": entry["img_detail"]}})
    given = {name: value for name, value in entry.items() if name not in OWN}
    return {**given, "model": "mini", "messages": [{"role": "user", "content": content}], "n": 1}


def post(server: RealServer, entry: dict[str, Any], body: dict[str, Any]) -> httpx.Response:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {entry['key']}"}
    address = entry["api_base"].replace("http://127.0.0.1:8000", server.url)
    return httpx.post(address, headers=headers, content=json.dumps(body), timeout=entry["timeout"], trust_env=False)


@pytest.mark.parametrize("name", ENTRIES)
def test_each_entry_gets_the_librarys_answers(name, server, mini, examples):
    entry = ENTRIES[name]
    pipeline, keep = entry["tessella"]["method"], entry["tessella"].get("keep")
    for example in examples[:4]:
        jpeg = jpeg_of(example.image)
        right = ask(*mini, Image.open(io.BytesIO(jpeg)), example.question, pipeline, keep)
        reply = post(server, entry, body_of(entry, [jpeg, example.question]))
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"].strip() == right.answer
        assert reply.json()["usage"]["tessella"]["visual_tokens_kept"] == right.report["tokens_kept"]


def test_a_question_without_pictures_is_one_text(server):
    entry = next(iter(ENTRIES.values()))
    reply = post(server, entry, body_of(entry, ["what color is the star?\nanswer in one word."]))
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["tessella"]["visual_tokens"] == 0


def test_a_budget_that_is_refused_is_told_with_its_status(server, examples):
    """VLMEvalKit takes what is no 2xx for a failure, tries again, and then writes its own sentence as the answer."""
    entry = next(iter(ENTRIES.values()))
    body = body_of(entry, [jpeg_of(examples[0].image), "?"]) | {"tessella": {"method": "hiprune", "keep": 197}}
    reply = post(server, entry, body)
    assert reply.status_code == 400
    assert "197" in reply.json()["error"]["message"]


def test_the_entries_are_the_full_model_and_a_budget():
    assert [entry["tessella"] for entry in ENTRIES.values()] == [
        {"method": "none"},
        {"method": "hiprune", "keep": "1/9"},
    ]
    assert {entry["api_base"] for entry in ENTRIES.values()} == {"http://127.0.0.1:8000/v1/chat/completions"}
