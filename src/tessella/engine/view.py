"""The view of a running model: what a method may look at, computed only when asked."""

from __future__ import annotations

from .decoder_view import DecoderView
from .encoder_view import EncoderView
from .text_view import TextView


class EngineView(EncoderView, DecoderView, TextView):
    """All that a method may see of a running model in front of a cut."""
