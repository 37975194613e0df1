"""A run spread over a Ray cluster: one model a worker, one writer of the ledger.

`reaching` finds or starts a cluster, `worker` is what runs there, `crew` keeps workers alive, `portions` hands work
out.
"""

from .crew import Crew
from .portions import run_on
from .reaching import Cluster, reach

__all__ = ["Cluster", "Crew", "reach", "run_on"]
