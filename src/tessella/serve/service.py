"""What the endpoints of one server share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .contract import Answerer
from .conversation import ConversationReader
from .metrics import Metrics
from .room import Room
from .settings import FrontSettings


@dataclass(frozen=True)
class Service:
    """Whatever answers, and how requests become its questions."""

    answerer: Answerer
    front: FrontSettings
    reader: ConversationReader
    room: Room
    metrics: Metrics = field(repr=False)

    @property
    def model(self) -> str:
        """The name under which the model is served."""
        return str(self.answerer.facts()["model"])

    @classmethod
    def of(cls, answerer: Answerer, processor: Any, front: FrontSettings) -> Service:
        room = Room(front.max_held_bytes)
        return cls(answerer, front, ConversationReader(processor, front, room), room, Metrics(answerer.facts))
