"""What every test shares: a cache of its own, and a summary that says what did not run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

# Set before any test imports a runtime, which reads it once: the machine may run several suites side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A suite that a script started in the background is born deaf to Ctrl-C, and so would the commands be that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_DESELECTED = pytest.StashKey[int]()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests run only where ``-m`` or their own name asks for them."""
    if config.option.markexpr or any("::" in argument for argument in config.args):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.stash[_DESELECTED] = len(slow)
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    count = terminalreporter.config.stash.get(_DESELECTED, 0)
    if count:
        terminalreporter.write_line(f"{count} slow tests were not run; run them with: pytest -m slow")
