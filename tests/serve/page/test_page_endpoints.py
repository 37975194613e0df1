"""What the page asks of its server, and what it is told."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re

import pytest
from page_stream import compare
from real_server import data_url

import tessella
from tessella.app.answering import ask
from tessella.core.registry import methods

METHODS = ["visionzip", "hiprune", "divprune:0.5 | fastv@1:9"]
GUARDED = {"Authorization": "Bearer a-key-of-the-page"}


@pytest.fixture(scope="module")
def compared(server, examples):
    with server.http() as http:
        return compare(http, data_url(examples[1].image), f" {examples[1].question} ", METHODS)


def test_the_page_is_complete_in_itself_and_runs_no_script_but_its_own(server):
    with server.http() as http:
        response = http.get("/")
    page = response.text
    assert re.findall("https?:", re.sub(r"base64,[^\"]+", "", page)) == []
    [script] = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'; connect-src 'self'\"" in page
    assert "default-src 'none'" in page
    assert response.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert "{{" not in page


def test_every_method_is_offered_and_a_few_are_chosen(server):
    with server.http() as http:
        told = http.get("/page/methods").json()
    offered = [choice["pipeline"] for choice in told["methods"]]
    assert len(offered) == len(methods()) - 1
    assert "none" not in offered
    assert told["chosen"] == ["visionzip", "hiprune", "divprune", "pyramiddrop"]
    assert (told["model"], told["limits"]) == ("mini", {"bytes": 20_000_000, "methods": 4})
    assert all(str(tessella.parse(pipeline)) == pipeline for pipeline in offered)


def test_a_picture_is_opened_beforehand(server, examples):
    with server.http() as http:
        told = http.post("/page/picture", json={"picture": data_url(examples[0].image)})
        broken = http.post("/page/picture", json={"picture": "data:image/png;base64,aGVsbG8="})
    assert told.json() == {"width": 112, "height": 112, "visual_tokens": 196}
    assert broken.status_code == 400
    assert broken.json()["error"]["message"] == "'picture 1' is not a picture that can be read."


def test_answers_are_the_librarys_and_are_compared_with_the_full_models(compared, mini, examples):
    names = ["none", "visionzip:1/9", "hiprune:1/9", "divprune:0.5 | fastv@1:9"]
    assert [column["name"] for column in compared["columns"]] == ["full model", *names[1:]]
    example, full = examples[1], None
    for name, column in zip(names, compared["columns"], strict=True):
        answer = ask(*mini, example.image, example.question, name)
        full = full or answer.answer
        assert column["text"].strip() == answer.answer
        assert f"<b>{answer.report['tokens_kept']}</b> of 196 visual tokens" in column["facts"]
        same = "the reference" if name == "none" else "✓ same answer" if answer.answer == full else "✗ other answer"
        assert same in column["verdict"]
        assert column["done"] is True


def test_each_column_shows_its_patches_and_a_method_in_steps_each_step(compared):
    views = [column["view"] for column in compared["columns"]]
    counts = [re.findall(r"</i>(\w+ \d+)</li>", view) for view in views]
    assert counts[0] == ["kept 196"]
    assert counts[1] == ["kept 22", "merged 174"]
    assert counts[2] == ["kept 22", "dropped 174"]
    assert [view.count("<img ") for view in views] == [1, 1, 1, 3]
    steps = re.findall(r"<span>(layer \d)</span> <span>(\d+ kept)</span>", views[3])
    assert steps == [("layer 0", "98 kept"), ("layer 1", "9 kept")]


def test_milliseconds_are_said_of_each_part(compared):
    for column in compared["columns"]:
        assert re.findall(r"<dt>(\w+)</dt>", column["facts"])[:5] == ["encode", "score", "select", "prefill", "decode"]


def test_a_method_that_cannot_be_carried_leaves_the_others_their_answers(server, examples):
    with server.http() as http:
        told = compare(http, data_url(examples[0].image), "what is it?", ["fastv@99:9", "uniform"])
    full, wrong, fine = told["columns"]
    assert "99" in wrong["error"]
    assert "\n" not in wrong["error"]
    assert (wrong["text"], wrong.get("verdict")) == ("", None)
    assert full["done"] is fine["done"] is True
    assert "answer" in fine["verdict"]


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"question": " "}, 400, "the question is empty"),
        ({"methods": ["hi_prune"]}, 404, "Closest: 'hiprune'"),
        ({"methods": []}, 400, "methods must"),
        ({"methods": ["uniform"] * 5}, 400, "methods must"),
        ({"methods": ["uniform", "uniform:1/9"]}, 400, "'uniform:1/9' is there twice"),
        ({"methods": ["recipe.json"]}, 400, "names a recipe's file"),
        ({"keep": "25%"}, 400, "For a quarter write 0.25 or 1/4"),
        ({"picture": "http://127.0.0.1/secret.png"}, 400, "is not one that this server fetches from"),
        ({"picture": "data:image/png;base64,AAAA"}, 400, "is not a picture"),
        ({"more": 1}, 400, "more"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(server, examples, change, status, message):
    body = {"picture": data_url(examples[0].image), "question": "what?", "methods": ["uniform"], "keep": "1/9"} | change
    with server.http() as http:
        response = http.post("/page/compare", json=body)
    assert response.status_code == status, response.text
    told = response.json()["error"]["message"]
    assert message in told
    assert "\n" not in told


def test_only_json_is_taken_which_no_page_of_elsewhere_can_send(server, examples):
    body = json.dumps({"picture": data_url(examples[0].image)})
    with server.http() as http:
        assert http.post("/page/picture", content=body, headers={"Content-Type": "text/plain"}).status_code == 400


def test_a_result_is_shared_as_a_page_on_which_nothing_runs(server, compared):
    with server.http() as http:
        told = http.post("/page/share", json={"result": compared["result"]}).json()
        again = http.post("/page/share", json={"result": compared["result"]}).json()
        shared = http.get(told["path"])
    assert told == again
    assert re.fullmatch(r"/s/[\w-]{22}", told["path"])
    assert told["until"] == "It is kept until 200 newer ones are shared or until the server ends."
    assert "<script" not in shared.text
    assert "script-src 'none'" in shared.text
    for column in compared["columns"]:
        assert f'<p class="answer">{html.escape(column["text"].strip())}</p>' in shared.text
        assert column["view"] in shared.text
        assert column["facts"] in shared.text
        assert column["verdict"] in shared.text


def test_links_to_nothing_say_so(server):
    with server.http() as http:
        gone = http.get("/s/aaaaaaaaaaaaaaaaaaaaaa")
        refused = http.post("/page/share", json={"result": "aaaaaaaaaaaaaaaaaaaaaa"})
    assert gone.status_code == 404
    assert "This result is gone" in gone.text
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "gone")


def test_words_from_outside_are_escaped_on_a_shared_page(server, examples):
    with server.http() as http:
        told = compare(http, data_url(examples[0].image), "<img src=x onerror=alert(1)>", ["uniform"])
        path = http.post("/page/share", json={"result": told["result"]}).json()["path"]
        assert "<h1>&lt;img src=x onerror=alert(1)&gt;</h1>" in http.get(path).text


def test_who_leaves_takes_every_question_along(server, examples):
    body = {"picture": data_url(examples[0].image), "question": "what?", "methods": ["uniform"], "keep": "1/9"}
    before = server.counter("tessella_cancelled_total")
    with server.http() as http, http.stream("POST", "/page/compare", json=body) as response:
        next(response.iter_lines())
    server.wait_until(lambda: server.counter("tessella_questions_running") == 0)
    assert server.counter("tessella_cancelled_total") >= before


def test_a_server_with_keys_shows_the_page_and_shared_results_and_nothing_else(guarded):
    with guarded.http() as http:
        assert http.get("/").status_code == 200
        assert http.get("/s/aaaaaaaaaaaaaaaaaaaaaa").status_code == 404
        assert http.get("/page/methods").status_code == 401
        assert http.get("/page/methods", headers=GUARDED).status_code == 200
        assert http.post("/page/compare", json={}).status_code == 401


def test_a_ceiling_holds_for_the_full_model_too_and_results_are_kept_in_a_folder(guarded, share_dir, examples):
    with guarded.http() as http:
        http.headers.update(GUARDED)
        told = compare(http, data_url(examples[0].image), "what is it?", ["uniform"])
        full, fine = told["columns"]
        assert full["error"].startswith("this server lets a request keep at most 0.25")
        assert fine["done"] is True
        path = http.post("/page/share", json={"result": told["result"]}).json()["path"]
        assert http.get(path).content == (share_dir / f"{path[3:]}.html").read_bytes()
