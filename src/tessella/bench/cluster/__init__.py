"""A run spread over a Ray cluster: one model a worker, one writer of the ledger.

`worker` is what runs there, `crew` keeps workers alive, `portions` hands work out; `app.reaching` finds or starts the
cluster.
"""

from ...app.reaching import Cluster, reach
from .crew import Crew
from .portions import run_on

__all__ = ["Cluster", "Crew", "reach", "run_on"]
