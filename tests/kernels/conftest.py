"""Each test here runs in the kernel of this environment; with ``-m "kernels or slice"`` over the whole matrix.

What is marked ``slice`` runs on the oldest kernel every time, and so is not marked ``kernels`` there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ceylon_nb.testing import ModelServer

from .environments import MATRIX, OLDEST, NoSuchPython, interpreter
from .held import WARM_UP, grown, held
from .kernel import Kernel

Start = Callable[..., Kernel]

SET_UP = """
import asyncio, time
import ceylon_nb
from ceylon_nb import LlmAgent, as_completed, batch
agent = LlmAgent("clerk", "ollama::mock")
def prompts(n): return [f"row {at}" for at in range(n)]
"""

LEFT_OVER = """[
    repr(task) for task in asyncio.all_tasks() if "ceylon_nb" in repr(task) or "aiohttp" in repr(task)
]"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "python" in metafunc.fixturenames:
        oldest = [OLDEST] if metafunc.definition.get_closest_marker("slice") else []
        matrix = [pytest.param(name, marks=pytest.mark.kernels) for name in MATRIX if name not in oldest]
        metafunc.parametrize("python", ["here", *oldest, *matrix], indirect=True, scope="module")


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest) -> Path:
    """The Python of an environment; see `environments`."""
    try:
        return interpreter(request.param, Path(request.config.cache.mkdir("kernels")))
    except NoSuchPython as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    """Say with a failure how its random moments can be had again."""
    seed = random.randrange(2**32)
    print(f"random.seed({seed})")
    random.seed(seed)


@pytest.fixture(scope="module")
def module_server() -> Iterator[ModelServer]:
    with ModelServer(reply="noted") as server:
        yield server


@pytest.fixture(scope="module")
def module_kernel(
    python: Path, module_server: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kernel]:
    """A kernel of the module's own. Over the module neither its open files nor its threads become more."""
    kernel = Kernel(python, OLLAMA_HOST=module_server.url, IPYTHONDIR=str(tmp_path_factory.mktemp("ipython")))
    try:
        assert kernel.run(SET_UP + WARM_UP).status == "ok"
        before = held(kernel)
        yield kernel
        kernel.run(SET_UP)
        assert not grown(kernel, before)
    finally:
        kernel.stop()


@pytest.fixture
def server(module_server: ModelServer) -> ModelServer:
    """What the kernel's agent asks: at rest, its counters at 0."""
    module_server.reply, module_server.latency, module_server.token_interval = "noted", 0.0, 0.0
    module_server.plan = None
    module_server.faults.clear()
    module_server.reset()
    return module_server


@pytest.fixture
def kernel(module_kernel: Kernel, server: ModelServer) -> Iterator[Kernel]:
    """A kernel with an ``agent`` that asks ``server``. After the test it is in good health, and nothing is left."""
    assert module_kernel.run(SET_UP).status == "ok"
    yield module_kernel
    try:
        server.wait_for(lambda seen: seen.active == 0)
    except TimeoutError:
        module_kernel.restart()  # so that the next test starts afresh
        raise
    assert module_kernel.run("await asyncio.sleep(0); 6 * 7").result == "42"
    assert module_kernel.value(LEFT_OVER) == []


@pytest.fixture
def start(python: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a kernel in some environment; without any, as nbclient, papermill and nbval do."""
    kernels: list[Kernel] = []

    def begin(**environment: str) -> Kernel:
        kernels.append(Kernel(python, IPYTHONDIR=str(tmp_path), **environment))
        return kernels[-1]

    yield begin
    for kernel in kernels:
        kernel.stop()
