"""The command. Parses, calls and prints; everything else is elsewhere. Importing it costs no torch."""

from advbench.cli import comparing, drawing, probing, reporting, suites  # noqa: F401  # each adds its commands to ``main``
from advbench.cli.main import main

__all__ = ["main"]
