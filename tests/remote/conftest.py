"""One sshd on this machine for each file of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from loopback import Loopback, start


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    found, process = start(tmp_path_factory.mktemp("sshd"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESEG_SSH", found.client)
        yield found
    process.terminate()
    process.wait()
