"""What a stream of the page says, put together as the page does."""

from __future__ import annotations

import json
from typing import Any

import httpx


def compare(http: httpx.Client, picture: str, question: str, methods: list[str], keep: str = "1/9") -> dict[str, Any]:
    """The columns as dictionaries, each with what was sent last of it and its whole text, and the result's number."""
    body = {"picture": picture, "question": question, "methods": methods, "keep": keep}
    response = http.post("/page/compare", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    columns: list[dict[str, Any]] = []
    result = None
    for event in response.text.split("\n\n")[:-1]:
        message = json.loads(event.removeprefix("data: "))
        if "columns" in message:
            columns = [{"name": name, "text": ""} for name in message["columns"]]
        elif "result" in message:
            result = message["result"]
        else:
            column = columns[message.pop("column")]
            column["text"] += message.pop("text", "")
            column.update(message)
    return {"columns": columns, "result": result}
