"""``python -m advbench`` is ``advbench``."""

from advbench.cli import main

if __name__ == "__main__":
    main()
