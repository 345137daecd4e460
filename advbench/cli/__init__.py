"""The command ``advbench``: parse, call, print. Heavy imports wait until a command needs them."""

from advbench.cli.main import main

__all__ = ["main"]
