"""300 requests made up from the server's own schema, fitting it and not: none is answered with a 5xx."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from real_server import RealServer, asking

QUIET = settings(
    database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck), deadline=None
)
MODES = {"fitting": schemathesis.GenerationMode.POSITIVE, "not fitting": schemathesis.GenerationMode.NEGATIVE}


@pytest.fixture(scope="module")
def schema(server: RealServer) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def send(server: RealServer, operation: Any, mode: str, count: int, seen: Counter[int], **fixed: Any) -> None:
    """Send made-up requests, with some fields of the body as they are given here where it has any."""

    @settings(QUIET, max_examples=count)
    @given(st.data())
    def each(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=MODES[mode]))
        if isinstance(case.body, dict):
            case.body |= fixed
        response = case.call(base_url=server.url, timeout=60)
        seen[response.status_code] += 1
        assert response.status_code < 500, (case.as_curl_command(), response.text)
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    each()


@pytest.mark.slow  # half a minute on two cores
def test_no_made_up_request_is_answered_with_a_5xx(server: RealServer, schema: Any) -> None:
    seen: Counter[int] = Counter()
    chat = schema["/v1/chat/completions"]["POST"]
    short = {"model": "mini", "max_tokens": 2, "max_completion_tokens": None}
    send(server, chat, "fitting", 80, seen)
    send(server, chat, "not fitting", 80, seen)
    send(server, chat, "fitting", 70, seen, **short)
    send(server, chat, "fitting", 50, seen, **short, messages=asking("what?"), n=1)
    send(server, chat, "not fitting", 30, seen, **short, messages=asking("what?"))
    for path in ("/v1/models", "/v1/models/{name}", "/healthz", "/readyz", "/metrics"):
        send(server, schema[path]["GET"], "fitting", 10, seen)
    assert sum(seen.values()) >= 300
    assert seen[200] >= 50
    assert seen[400] >= 50
    with server.http() as http:
        assert http.get("/readyz").json()["ready"]
