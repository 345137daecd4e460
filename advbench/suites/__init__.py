"""Suites: from one file to all of its runs, on this machine or a cluster.

What only decides what runs where is apart from ``bench``, so that changing it leaves stored results valid.
"""

from advbench.suites.cluster import run_on_ray
from advbench.suites.journal import Journal
from advbench.suites.local import run_locally
from advbench.suites.plan import PlannedCell, State, plan
from advbench.suites.suite import Suite, SuiteCell, fits, load_suite
from advbench.suites.work import Done, Event, Executor

__all__ = [
    "Done",
    "Event",
    "Executor",
    "Journal",
    "PlannedCell",
    "State",
    "Suite",
    "SuiteCell",
    "fits",
    "load_suite",
    "plan",
    "run_locally",
    "run_on_ray",
]
