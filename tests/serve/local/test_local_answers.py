"""Questions with different pipelines, budgets and settings, asked at once, are answered as each alone."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image

import tessella
from tessella.app.answering import ask
from tessella.app.demo import Example
from tessella.app.prompting import write_parts, write_prompt
from tessella.app.source import Source
from tessella.core.errors import InputError, UnsupportedError
from tessella.engine.joining import Writer
from tessella.mini import path as mini_weights
from tessella.serve.contract import Busy, Closing, Event, Late, Piece, Question, Reading, Sampling, Stopping
from tessella.serve.local import LocalAnswerer
from tessella.serve.local.prompts import Prepared, prepare
from tessella.serve.local.reader import Reader
from tessella.serve.settings import WorkerSettings
from tessella.testing.families import tiny_family

PIPELINES = ("none", "hiprune:1/9", "divprune:0.25", "fastv@2:0.5", "downsample:0.25", "divprune:0.5 | fastv@2:0.5")
T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main)


@asynccontextmanager
async def started(**settings: Any) -> AsyncIterator[LocalAnswerer]:
    answerer = LocalAnswerer(WorkerSettings(**{"source": Source("mini", device="cpu"), **settings}))
    await answerer.start()
    try:
        yield answerer
    finally:
        await answerer.stop(0.5)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The embedded model without a token that ends its answers."""
    folder = tmp_path_factory.mktemp("endless") / "model"
    shutil.copytree(mini_weights(), folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": None}))
    return Source(str(folder), device="cpu")


def question(answerer: LocalAnswerer, example: Example, pipeline: str = "none", **sampling: Any) -> Question:
    more = {name: sampling.pop(name) for name in ("show", "streamed") if name in sampling}
    text = write_prompt(answerer.processor, example.question, 1)
    return Question("q", text, (example.image,), pipeline, sampling=Sampling(**sampling), **more)


async def events(answerer: LocalAnswerer, asked: Question) -> list[Event]:
    return [event async for event in answerer.answer(asked)]


def text_of(found: list[Event], choice: int = 0) -> str:
    return "".join(e.text for e in found if isinstance(e, Piece) and e.choice == choice)


def test_answers_of_many_pipelines_at_once_are_those_of_ask(mini: tuple[Any, Any], examples: list[Example]) -> None:
    async def main() -> None:
        async with started() as answerer:
            asked = [(e, p) for e in examples for p in PIPELINES]
            found = await asyncio.gather(*(events(answerer, question(answerer, *one)) for one in asked))
            for (example, pipeline), mine in zip(asked, found, strict=True):
                alone = ask(*mini, example.image, example.question, pipeline)
                reading, closing = mine[0], mine[-1]
                assert isinstance(reading, Reading)
                assert isinstance(closing, Closing)
                assert text_of(mine).strip() == alone.answer
                assert (reading.visual_tokens, reading.visual_tokens_kept) == (
                    alone.report["tokens_in"],
                    alone.report["tokens_kept"],
                )
                assert reading.mean_keep_ratio == pytest.approx(alone.report["mean_keep_ratio"])
                assert [e.finish for e in mine if isinstance(e, Piece) and e.finish] == ["stop"]

    run(main())


def test_a_second_question_takes_over_what_it_can(examples: list[Example]) -> None:
    async def main() -> None:
        one, other = examples[0], Example("", examples[0].image, "what shape is there?", "", "")
        async with started() as fresh:
            wanted = [text_of(await events(fresh, question(fresh, other, p))) for p in PIPELINES]
        async with started() as answerer:
            cached = []
            for pipeline, text in zip(PIPELINES, wanted, strict=True):
                first = await events(answerer, question(answerer, one, pipeline))
                second = await events(answerer, question(answerer, other, pipeline))
                cached.append([e.cached for e in (first[0], second[0]) if isinstance(e, Reading)])
                assert text_of(second) == text
                assert second[0].visual_tokens_kept == first[0].visual_tokens_kept  # type: ignore[union-attr]
            # hiprune reads what divprune does not: the first encodes anew; fastv asks the question; downsample has
            # its own pictures
            assert cached == [
                [None, "prompt"],
                [None, "prompt"],
                ["features", "prompt"],
                ["features", "features"],
                [None, None],
                ["features", "features"],
            ]

    run(main())


def test_without_caches_nothing_is_taken_over(examples: list[Example]) -> None:
    async def main() -> None:
        async with started(feature_cache_bytes=0, prompt_cache_bytes=0) as answerer:
            for _ in range(2):
                found = await events(answerer, question(answerer, examples[0], "hiprune:1/9"))
                assert isinstance(found[0], Reading)
                assert found[0].cached is None
                assert found[0].ms["encode"] > 0

    run(main())


def test_what_becomes_of_patches_is_shown_when_asked(mini: tuple[Any, Any], examples: list[Example]) -> None:
    async def main() -> None:
        async with started() as answerer:
            await events(answerer, question(answerer, examples[0], "hiprune:1/9"))
            found = await events(answerer, question(answerer, examples[0], "hiprune:1/9", show=True))
            alone = ask(*mini, examples[0].image, examples[0].question, "hiprune:1/9")
            assert isinstance(found[0], Reading)
            assert found[0].shown is not None
            assert found[0].shown.cuts[-1].kept == alone.kept
            assert found[0].cached == "features"

    run(main())


def test_choices_stops_and_limits(examples: list[Example]) -> None:
    reading = next(e for e in examples if e.kind == "reading")  # answered by four letters

    async def main() -> None:
        async with started() as answerer:

            async def told(**sampling: Any) -> tuple[list[str], list[str | None], int]:
                found = await events(answerer, question(answerer, reading, **sampling))
                choices = range(sampling.get("n", 1))
                ends = {e.choice: e.finish for e in found if isinstance(e, Piece) and e.finish}
                assert isinstance(found[-1], Closing)
                return [text_of(found, c) for c in choices], [ends[c] for c in choices], found[-1].completion_tokens

            (full,), _, count = await told()
            assert await told(n=3) == ([full] * 3, ["stop"] * 3, 3 * count)
            assert await told(max_tokens=2) == ([full[:2]], ["length"], 2)
            assert (await told(stop=(full[2],)))[:2] == ([full[:2]], ["stop"])
            assert (await told(stop=(full[1:3],)))[:2] == ([full[:1]], ["stop"])
            assert await told(streamed=False) == ([full], ["stop"], count)
            warm = {"temperature": 1.9, "n": 4, "max_tokens": 6}
            assert await told(seed=5, **warm) == await told(seed=5, **warm)
            assert (await told(seed=5, **warm))[0] != (await told(seed=6, **warm))[0]

    run(main())


def test_a_question_held_back_comes_in_one_piece(examples: list[Example]) -> None:
    async def main() -> None:
        async with started() as answerer:
            reading = next(e for e in examples if e.kind == "reading")
            pieces = [
                [e for e in await events(answerer, question(answerer, reading, streamed=s)) if isinstance(e, Piece)]
                for s in (True, False)
            ]
            assert len(pieces[0]) > 2
            assert len(pieces[1]) == 1
            assert pieces[1][0].text == "".join(p.text for p in pieces[0])

    run(main())


def test_logprobs_are_those_of_the_model(mini: tuple[Any, Any], examples: list[Example]) -> None:
    model, processor = mini
    example = examples[0]
    inputs = processor(
        text=[write_prompt(processor, example.question, 1)], images=[[example.image]], return_tensors="pt"
    )
    with tessella.reduce(model, "hiprune:1/4"), torch.inference_mode():
        out = model.generate(
            **inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    wanted = torch.cat(out.logits).float().log_softmax(dim=-1)

    async def main() -> None:
        async with started() as answerer:
            found = await events(answerer, question(answerer, example, "hiprune:1/4", max_tokens=3, logprobs=2))
            told = [one for e in found if isinstance(e, Piece) for one in e.logprobs]
            assert [t.logprob for t in told] == pytest.approx(wanted.max(dim=-1).values[: len(told)].tolist(), abs=1e-3)
            assert len(told) >= 1
            values = wanted.topk(2).values
            for place, one in enumerate(told):
                assert [t.logprob for t in one.top] == pytest.approx(values[place].tolist(), abs=1e-3)
                assert one.top[0].token == one.token
                assert bytes(one.bytes).decode() == one.token

    run(main())


def test_text_alone_and_several_pictures(mini: tuple[Any, Any], examples: list[Example]) -> None:
    model, processor = mini
    texts = [
        (write_prompt(processor, "what color is the star?", 0), ()),
        (write_parts(processor, [examples[0].image, "and ", examples[1].image, "which?"]),
         (examples[0].image, examples[1].image)),
    ]  # fmt: skip

    async def main() -> None:
        async with started() as answerer:
            asked = [Question("q", text, pictures, "divprune:0.25") for text, pictures in texts]
            found = await asyncio.gather(*(events(answerer, one) for one in asked))
            assert [e[0].visual_tokens for e in found] == [0, 392]  # type: ignore[union-attr]
            assert [e[0].visual_tokens_kept for e in found] == [0, 98]  # type: ignore[union-attr]
            for one, mine in zip(asked, found, strict=True):
                images = {"images": [list(one.pictures)]} if one.pictures else {}
                inputs = processor(text=[one.text], return_tensors="pt", **images)
                with tessella.reduce(model, one.pipeline), torch.inference_mode():
                    out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
                new = out[0, inputs["input_ids"].shape[1] :]
                assert text_of(mine)[:8] == processor.tokenizer.decode(new, skip_special_tokens=True).lstrip()[:8]

    run(main())


async def _raised(wait: Awaitable[Any]) -> BaseException | None:
    try:
        await wait
    except Exception as error:
        return error
    return None


def test_a_bad_question_fails_alone(examples: list[Example]) -> None:
    async def main() -> None:
        async with started(gather_ms=50) as answerer:
            good, bad = question(answerer, examples[0]), question(answerer, examples[1], "evs:0.5")
            long = question(answerer, examples[1], max_tokens=10**6)
            results = await asyncio.gather(*(_raised(events(answerer, q)) for q in (good, bad, long)))
            assert results[0] is None
            assert isinstance(results[1], UnsupportedError)
            assert isinstance(results[2], InputError)
            assert text_of(await events(answerer, good)) == "YLBF"
            assert isinstance(await _raised(events(answerer, question(answerer, examples[0], n=99))), InputError)

    run(main())


async def _until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        await asyncio.sleep(0.01)
    return condition()


def test_whoever_leaves_frees_the_worker(endless: Source, examples: list[Example]) -> None:
    async def main() -> None:
        async with started(source=endless) as answerer:
            answers = answerer.answer(question(answerer, examples[0], max_tokens=1500))
            assert isinstance(await anext(answers), Reading)
            assert answerer.facts()["running"] == 1
            await answers.aclose()
            assert await _until(lambda: answerer.facts()["running"] == 0)

    run(main())


def test_a_full_queue_a_late_answer_and_the_end(endless: Source, examples: list[Example]) -> None:
    async def main() -> None:
        async with started(source=endless, max_batch=1, max_waiting=1, timeout_s=0.5) as answerer:
            asked = question(answerer, examples[0], max_tokens=1500)
            first = answerer.answer(asked)
            assert isinstance(await anext(first), Reading)
            second = asyncio.create_task(_raised(events(answerer, asked)))
            assert await _until(lambda: answerer.facts()["waiting"] == 1)
            refused = await _raised(events(answerer, asked))
            assert isinstance(refused, Busy)
            assert refused.retry_after >= 1
            assert isinstance(await second, Late)
            await first.aclose()
        assert isinstance(await _raised(events(answerer, asked)), Stopping)

    run(main())


def test_a_stop_finishes_what_runs_and_cancels_what_takes_too_long(endless: Source, examples: list[Example]) -> None:
    async def main() -> None:
        for most, wanted in ((3, type(None)), (1500, Stopping)):
            async with started(source=endless) as answerer:
                asked = question(answerer, examples[0], max_tokens=most)
                waiting = asyncio.create_task(_raised(events(answerer, asked)))
                await _until(lambda: answerer.facts()["running"] == 1)
                await answerer.stop(5.0 if most == 3 else 0.0)
                assert isinstance(await waiting, wanted)

    run(main())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # PaliGemma's processor asks NumPy so
@pytest.mark.parametrize("name", ["gemma3", "qwen3_vl", "paligemma"])
def test_families_whose_caches_forget_count_otherwise_or_see_on(name: str, tmp_path: Path) -> None:
    family = tiny_family(name)
    family.save(tmp_path)
    model, processor = tessella.load(str(tmp_path), device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)

    async def main() -> None:
        async with started(source=Source(str(tmp_path), device="cpu"), gather_ms=30) as answerer:
            texts = [write_prompt(answerer.processor, words, 1) for words in ("red cat", "blue dog on a hill")]
            asked = [
                Question("q", text, (picture,), pipeline, sampling=Sampling(max_tokens=5))
                for text in texts
                for pipeline in ("none", "uniform:0.5")
            ]
            found = await asyncio.gather(*(events(answerer, one) for one in asked))
            again = await asyncio.gather(*(events(answerer, one) for one in asked))
            for one, mine, second in zip(asked, found, again, strict=True):
                inputs = processor(text=[one.text], images=[[picture]], return_tensors="pt")
                with tessella.reduce(model, one.pipeline), torch.inference_mode():
                    out = model.generate(**inputs, max_new_tokens=5, do_sample=False)
                new = out[0, inputs["input_ids"].shape[1] :]
                wanted = processor.tokenizer.decode(new, skip_special_tokens=True).lstrip()
                assert text_of(mine) == text_of(second) == wanted

    run(main())


def test_whoever_asks_from_a_loop_that_is_gone_does_no_harm(endless: Source, examples: list[Example]) -> None:
    answerer = LocalAnswerer(WorkerSettings(source=endless))

    async def begin() -> None:
        await answerer.start()
        answers = answerer.answer(question(answerer, examples[0], max_tokens=1500))
        assert isinstance(await anext(answers), Reading)
        left.append(answers)

    async def again() -> None:
        assert text_of(await events(answerer, question(answerer, examples[0], max_tokens=4))) == "YLBF"
        await answerer.stop(0.0)

    left: list[Any] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    run(again())


def test_a_picture_that_leaves_the_cache_while_others_are_read_is_read_anew(
    mini: tuple[Any, Any], examples: list[Example]
) -> None:
    model, processor = mini

    def asked(example: Example, pipeline: str) -> Prepared:
        text = write_prompt(processor, "what color is the star?", 1)
        return prepare(model, processor, Question("q", text, (example.image,), pipeline))

    with Writer(model) as writer, torch.inference_mode():
        reader = Reader(model, processor, writer, WorkerSettings())
        a, b = (asked(example, "divprune:0.25") for example in examples[:2])
        first = reader.read([b, a])
        reader._pictures.limit = reader._pictures.num_bytes
        again = reader.read([asked(examples[2], "divprune:0.2"), b, a, b])
    wanted = torch.stack([first[0][1].logits[0], first[1][1].logits[1], first[0][1].logits[0]])  # type: ignore[union-attr]
    torch.testing.assert_close(again[1][1].logits, wanted, rtol=1e-3, atol=1e-3)  # type: ignore[union-attr]
