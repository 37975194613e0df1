"""Video-MME and MLVU: frames of real files, what is asked, how answers are read, and errors of one line."""

from __future__ import annotations

import sys

import av
import numpy as np
import pytest

from tessella.bench.sets import load_set
from tessella.bench.sets.clips import read_clip
from tessella.bench.sets.scoring.first_letter import first_letter
from tessella.bench.task import Answered, Clip
from tessella.core.errors import InputError

NUM, STEP = 40, 6  # frames of a video, and how much lighter each is than the one before


def film(place, codec="mpeg4", num=NUM):
    """A video whose frames are grey, each lighter than the one before."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(place), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        stream.gop_size, stream.codec_context.max_b_frames = 12, 2  # several starts, and frames stored out of order
        stream.options = {"qmin": "1", "qmax": "2"}
        for i in range(num):
            grey = np.full((16, 32, 3), 8 + i * STEP, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return place


def shades(clip: Clip) -> list[int]:
    """Which frame of the film each one of a clip is."""
    return [round((frame.getpixel((5, 5))[0] - 8) / STEP) for frame in clip.frames]


class TestFrames:
    @pytest.mark.parametrize("name, codec", [("a.mp4", "mpeg4"), ("a.mkv", "libx264"), ("a.mp4", "libx264")])
    def test_they_are_spread_evenly(self, tmp_path, name, codec):
        place = film(tmp_path / name, codec)
        assert shades(read_clip(place, 4)) == [0, 13, 26, 39]
        assert shades(read_clip(place, 1)) == [0]
        assert shades(read_clip(place, NUM)) == list(range(NUM))
        assert read_clip(place, 2).frames[0].size == (32, 16)

    def test_a_short_video_gives_frames_more_than_once(self, tmp_path):
        assert shades(read_clip(film(tmp_path / "a.mp4", num=2), 4)) == [0, 0, 0, 1]

    def test_a_broken_file_gives_none(self, tmp_path):
        whole = film(tmp_path / "a.mp4").read_bytes()
        for content in (b"", b"no video", whole[:200]):
            (tmp_path / "b.mp4").write_bytes(content)
            assert read_clip(tmp_path / "b.mp4", 4) is None


@pytest.fixture
def mme(write_set, tmp_path):
    """Three questions on two videos, one of which is missing."""
    film(tmp_path / "videos" / "data" / "abc.mp4")
    rows = [
        {
            "videoID": video,
            "duration": duration,
            "question": "What happens?",
            "options": ["A. It rains.", "B. It snows.", "C. Nothing.", "D. It gets lighter."],
            "answer": "D",
            "task_type": "Action Recognition",
        }
        for video, duration in (("abc", "medium"), ("gone", "short"), ("abc", "short"))
    ]
    return write_set(rows)


class TestVideoMME:
    def test_what_is_asked(self, mme):
        task = load_set("videomme", mme, num_frames=3)
        assert task.kinds == ("short", "medium")
        [asked] = task.draw("short", [0, 1])  # the video of 0 is missing
        assert (asked.number, asked.truth) == (1, "D")
        clip, text = asked.parts
        assert shades(clip) == [0, 19, 39]
        assert text.split("\n") == [
            "Select the best answer to the following multiple-choice question based on the video. Respond with only "
            "the letter (A, B, C, or D) of the correct option.",
            "What happens?",
            "A. It rains.",
            "B. It snows.",
            "C. Nothing.",
            "D. It gets lighter.",
            "The best answer is:",
        ]

    def test_videos_may_be_elsewhere_and_facts_do_not_say_where(self, mme, tmp_path):
        (tmp_path / "videos").rename(tmp_path / "moved")
        task = load_set("videomme", mme, videos=tmp_path / "moved")
        [asked] = task.draw("medium", [0])
        assert len(asked.parts[0].frames) == 32
        assert task.facts()["options"] == {"num_frames": 32}

    @pytest.mark.parametrize(
        "answer, letter",
        [
            ("D", "D"),
            ("(D) It gets lighter.", "D"),
            ("The best answer is D.", "D"),
            ("Best option: D", "D"),
            ("The Answer: it gets lighter", None),
            ("it rains", None),
        ],
    )
    def test_an_answer_is_its_first_letter(self, answer, letter):
        assert first_letter(answer, "ABCD") == letter
        assert load_set("videomme").score(answer, "D") == float(letter == "D")


class TestMLVU:
    def test_what_is_asked(self, write_set, tmp_path):
        film(tmp_path / "count_1.mp4")
        question = "How often?\n(A) 1\n(B) 2"
        row = {"video_name": "count_1.mp4", "question": question, "answer": "B", "task_type": "count", "duration": 1.6}
        task = load_set("mlvu", write_set([row, row | {"task_type": "ego"}]), num_frames=2)
        assert task.kinds == ("ego", "count")
        [asked] = task.draw("count", [0])
        assert asked.parts[1] == f"{question}\nOnly give the best option.\nBest option: ("
        assert shades(asked.parts[0]) == [0, 39]

    @pytest.mark.parametrize(
        "answer, score", [("B", 1), ("B) 2", 1), ("(B) 2", 1), ("B.", 1), ("A) 1 or B) 2", 0), ("B 2", 0), ("", 0)]
    )
    def test_the_letter_in_front_of_the_first_bracket(self, answer, score):
        assert load_set("mlvu").score(answer, "B") == score

    def test_the_mean_over_tasks(self):
        given = [Answered("ego", i, "", "", 1.0) for i in range(3)] + [Answered("count", 0, "", "", 0.0)]
        measured = load_set("mlvu").metrics(given)
        assert measured == {"M-Avg": 0.5, "accuracy": 0.75, "accuracy, ego": 1, "accuracy, count": 0}
        assert next(iter(measured)) == "M-Avg"
        assert load_set("mlvu").metrics([]) == {}


def test_one_line_says_what_is_missing(mme, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError) as caught:
        load_set("videomme", mme, videos=empty).draw("short", [0])
    assert str(caught.value) == (
        "Video-MME needs its video files: unpack the archives of lmms-lab/Video-MME and give videos: their folder. "
        f"There is none below '{empty}'."
    )
    with pytest.raises(InputError, match=r"^MLVU: num_frames must be at least 1; got 0\.$"):
        load_set("mlvu", num_frames=0)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"^videos are decoded with PyAV.*pip install 'tessella\[sets\]'$"):
        load_set("videomme", mme).draw("medium", [0])
