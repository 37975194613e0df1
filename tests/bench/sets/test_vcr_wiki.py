"""VCR-wiki: prompts and sources by language and bar, scores of several hidden texts."""

from __future__ import annotations

import json

import pytest
from drawn_pictures import picture

from tessella.bench.sets import load_set
from tessella.bench.task import Answered
from tessella.core.errors import InputError


def test_what_is_asked_in_both_languages(write_set):
    data = write_set([{"crossed_text": ["the old stone bridge"], "caption": "", "stacked_image": picture("red")}])
    [english] = load_set("vcr_wiki", data).draw("all", [0])
    [chinese] = load_set("vcr_wiki", data, language="zh").draw("all", [0])
    assert english.parts[1].startswith("What is the covered texts in the image? Please restore")
    assert chinese.parts[1].startswith("图像中被覆盖的文本是什么")
    assert english.parts[0].getpixel((0, 0)) == (255, 0, 0)
    assert json.loads(english.truth) == ["the old stone bridge"]


def test_four_sources():
    names = {
        (language, hard): load_set("vcr_wiki", language=language, hard=hard).source.repository
        for language in ("en", "zh")
        for hard in (False, True)
    }
    assert names == {
        ("en", False): "vcr-org/VCR-wiki-en-easy-test",
        ("en", True): "vcr-org/VCR-wiki-en-hard-test",
        ("zh", False): "vcr-org/VCR-wiki-zh-easy-test",
        ("zh", True): "vcr-org/VCR-wiki-zh-hard-test",
    }
    with pytest.raises(InputError, match=r"^VCR-wiki: language must be en or zh; got 'de'\.$"):
        load_set("vcr_wiki", language="de")


def test_scores_and_metrics_over_hidden_texts():
    task = load_set("vcr_wiki")
    truth = json.dumps(["the old stone bridge", "over the river"])
    answer = "It is the old stone house over the river"
    assert task.score(answer, truth) == 0.5
    # pooled over three hidden texts: Jaccard 3/5 and 1 of this answer's, 1 of the next one's
    given = [
        Answered("all", 0, answer, truth, 0.5),
        Answered("all", 1, "a red door", json.dumps(["red door"]), 1.0),
    ]
    assert task.metrics(given) == {"exact match": pytest.approx(2 / 3), "Jaccard": pytest.approx((3 / 5 + 1 + 1) / 3)}
    assert task.metrics([]) == {}


def test_chinese_is_compared_by_characters():
    task = load_set("vcr_wiki", language="zh")
    truth = json.dumps(["古老的石桥"])
    assert [task.score(a, truth) for a in ("是古老的石桥。", "古老的木桥")] == [1, 0]
