"""What is made once and used again, below ``ADVBENCH_HOME``: a folder, or a URL where machines share none.

::

    ADVBENCH_HOME/classifiers/<architecture>-<digest>/   trained targets and surrogates
                  shared/<digest>/                       parts that several fits have in common

Behind a URL they are found by every machine, each of which keeps a copy of what it used (``files.home``). Checkpoints
of what is not finished stay on the machine that made them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from advbench.files import home, scratch_folder, write_bytes
from advbench.remote import Remote, is_url

__all__ = ["kept_folder"]


@contextmanager
def kept_folder(name: str) -> Iterator[tuple[Path, Path]]:
    """Give a folder below the home to whoever makes or reads what it holds: one at a time, on whatever machine.

    Files that others finished are in it. Those that are new once the context ends without an error are kept for others.
    Beside it comes a folder for checkpoints of this machine, which outlives a kill.

    Args:
        name: Its path below the home. What it says decides all that the folder will ever hold.

    Raises:
        StorageError: The folder cannot be made, or the URL cannot be reached.
    """
    named = os.environ.get("ADVBENCH_HOME", "")
    folder = home() / name
    with scratch_folder(home() / "work" / folder.name) as scratch:
        work = scratch.path
        if not is_url(named):
            yield folder, work
            return
        remote = Remote(named)
        with remote.claim(name, wait=True):
            there = {Path(path).name: path for path in remote.files_in(name)}
            found = remote.read([path for file, path in there.items() if not (folder / file).exists()])
            for path, content in found.items():
                write_bytes(folder / Path(path).name, content)
            yield folder, work
            for made in sorted(folder.glob("*")):
                if made.name not in there and not made.name.startswith("."):
                    remote.write(f"{name}/{made.name}", made.read_bytes())
