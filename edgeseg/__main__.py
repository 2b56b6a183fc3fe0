"""``python -m edgeseg``: the command ``edgeseg``."""

from __future__ import annotations

from edgeseg.cli.main import entry

if __name__ == "__main__":
    entry()
