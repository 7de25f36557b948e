"""What every test can rely on."""

import os
import signal
from collections.abc import Generator, Iterator

import pytest

PERSONAL = ("CEYLON_NB_", "OLLAMA_", "OPENAI_")


def pytest_configure() -> None:
    """Hear SIGINT, also where this was begun in the background of a shell that shuts it out; children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _nobodys_environment() -> Iterator[None]:
    """No test meets the model server, the key or the options of whoever runs it, and none leaves answers behind."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(PERSONAL)]:
            patch.delenv(name)
        patch.setenv("CEYLON_NB_STORE", "off")
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI=true nothing that needs Chromium, or a machine that can hold a Binder session, is skipped unseen."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        for marker in ("browser", "binder"):
            if item.get_closest_marker(marker):
                report.outcome = "failed"
                report.longrepr = f"CI has to run {marker} tests; this one was skipped: {report.longrepr}"
    return report
