"""Answers from replicas on a Ray cluster: each holds a model of its own, and Ray Serve keeps as many as are needed.

`scale` says how many there may be, `replica` is what runs on them, `deployment` starts and ends them, `answerer` hands
questions out.
"""

from .answerer import RayAnswerer
from .scale import Scale

__all__ = ["RayAnswerer", "Scale"]
