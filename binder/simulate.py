"""What Binder does with this repository, without Docker: ``python binder/simulate.py [notebook …]``.

As repo2docker does: the files that git tracks go into a folder that is the home of an ordinary user, an environment
there gets what the image has anyhow, then ``requirements.txt``; then ``postBuild`` runs. Up to here with a network.

From ``postBuild`` on there is none but the loopback, and 2 GB of memory for everything together: JupyterLab's server,
begun as BinderHub begins it, what a visitor's browser asks of it (``session.py``), and each notebook, run as a test
while that server runs. Before that, both bounds are tried: whoever asks for more memory, or for another machine, has to
fail.

It needs Linux, root, util-linux and iproute2, and the Python that ``runtime.txt`` names; where one is missing it says
so and ends with 2. The memory is bounded by a control group where one can be made (of version 1, for now), else, or
with ``--watch``, by killing what is seen above it. It is looked at ten times a second: the figures are everybody's
shares of it (PSS), added up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
PYTHON = (HERE / "runtime.txt").read_text().strip().removeprefix("python-")
BADGE = re.compile(r"https://mybinder\.org/v2/gh/[\w/.-]+\?urlpath=lab/tree/([\w/.-]+)")
"""What the README's badge leads to, with the notebook that it opens."""

GIGABYTE = 1 << 30
MEMORY = 2 * GIGABYTE
USER = 65534
"""An ordinary user's number; called nobody on most systems, and owning nothing there."""

IMAGE = """
    ipykernel==7.0.1 ipywidgets==8.1.7 jupyter_client==8.6.3 jupyter_server==2.17.0 jupyterhub==5.4.0 jupyterlab==4.4.9
    jupyter-offlinenotebook==0.3.2 jupyter-resource-usage==1.2.0 nbconvert==7.16.6 notebook==7.4.7
""".split()
"""Of what an image has before our requirements (repo2docker 2026.4.0, environment.py-3.11-linux-64.lock)."""


OPEN = """
set -e
PATH="$PATH:/usr/sbin:/sbin"
if [ "$2" != None ]; then
    mount --bind "$1" "$3"
    mount -t tmpfs -o mode=755 tmpfs "$2"
    mkdir -p "$1"
    mount --move "$3" "$1"
fi
ip link set lo up
echo ready
exec cat
"""
"""In namespaces of one's own: the loopback; and if Python ($1) lies below a folder that is closed to the user, /root
($2), that folder shows Python alone."""


class CannotRun(Exception):
    """Something is missing on this machine."""


class Failed(Exception):
    """A step went wrong."""


class Memory:
    """The memory of all processes in one network namespace: watched, and bounded."""

    def __init__(self, namespace: str, but: int, watch: bool) -> None:
        self._namespace = namespace
        self._but = but
        self._peak = 0
        self._one_look = threading.Lock()
        self.group = None if watch else _control_group()
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def processes(self) -> Iterator[int]:
        """All in that namespace, whoever began them."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self._but:
                with contextlib.suppress(OSError):  # it ended meanwhile
                    if str((entry / "ns" / "net").readlink()) == self._namespace:
                        yield int(entry.name)

    def peak(self) -> int:
        """The most bytes of memory that were seen since this was asked last."""
        with self._one_look:
            highest, self._peak = self._peak, 0
        return highest

    def killed(self) -> int:
        """How many processes the control group has killed."""
        if self.group is None:
            return 0
        counted = re.search(r"^oom_kill (\d+)", (self.group / "memory.oom_control").read_text(), re.MULTILINE)
        return int(counted[1]) if counted else 0

    def close(self) -> None:
        """End what is left, and give the control group back."""
        self._over.set()
        while left := list(self.processes()):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        if self.group is not None:
            self.group.rmdir()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            with self._one_look:
                sizes = {pid: _size(pid) for pid in self.processes()}
                self._peak = max(self._peak, sum(sizes.values()))
            if self.group is None and sum(sizes.values()) > MEMORY:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(max(sizes, key=lambda pid: sizes[pid]), signal.SIGKILL)


def _size(pid: int) -> int:
    """Bytes of memory, what it shares with others divided among them."""
    try:
        found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:  # it ended meanwhile
        return 0
    return int(found[1]) * 1024 if found else 0


def _control_group() -> Path | None:
    """A new one of version 1 below our own, with the bound set; None where there is no such thing."""
    ours = re.search(r"^\d+:(?:.*,)?memory(?:,.*)?:(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    root = Path("/sys/fs/cgroup/memory")
    if ours is None or not (root / "memory.limit_in_bytes").exists():
        return None
    above = root / ours[1].lstrip("/")
    group = (above if above.exists() else root) / f"ceylon-nb-binder-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(MEMORY))
        with contextlib.suppress(OSError):  # without an account of the swap
            (group / "memory.memsw.limit_in_bytes").write_text(str(MEMORY))
    except OSError:
        return None
    return group


class Session:
    """A place for an ordinary user: a folder, a network namespace with the loopback alone, a bound for memory."""

    def __init__(self, folder: Path, watch: bool) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.python = folder / "venv" / "bin" / "python"
        self._tools = {name: _tool(name) for name in ("nsenter", "setpriv", "unshare")}
        (folder / "python").mkdir()
        shown = [sys.base_prefix, str(_closed(Path(sys.base_prefix))), str(folder / "python")]
        self._holder = subprocess.Popen(
            [self._tools["unshare"], "--net", "--mount", "sh", "-c", OPEN, "sh", *shown],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline()
        if said != "ready\n":
            raise CannotRun(f"no namespaces of one's own here: {said.strip()}")
        self.memory = Memory(str(Path(f"/proc/{self._holder.pid}/ns/net").readlink()), self._holder.pid, watch)

    def begin(self, *command: str | Path, network: bool = False, **options: Any) -> subprocess.Popen[str]:
        """Start a command as the user, in the user's home: within the bounds, or with the network and no bound."""
        spaces = Path(f"/proc/{self._holder.pid}/ns")
        enter: list[str] = [self._tools["nsenter"], f"--mount={spaces / 'mnt'}"]
        if not network:
            enter.append(f"--net={spaces / 'net'}")
            if self.memory.group is not None:
                join = 'echo $$ > "$0" && exec "$@"'
                enter = ["sh", "-c", join, str(self.memory.group / "cgroup.procs"), *enter]
        rights = f"--reuid={USER} --regid={USER} --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all"
        return subprocess.Popen(
            [*enter, self._tools["setpriv"], *rights.split(), "env", f"--chdir={self.home}", *map(str, command)],
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def run(self, *command: str | Path, network: bool = False) -> str:
        """Run a command to its end, and what it says."""
        process = self.begin(*command, network=network)
        said, _ = process.communicate()
        if process.returncode:
            raise Failed(f"{' '.join(map(str, command))} ended with {process.returncode}\n{said}")
        return said

    def _environment(self) -> dict[str, str]:
        """As in the image; and what pip and the way to the network want here."""
        kept = re.compile(r"PIP_.*|.*_proxy|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE", re.IGNORECASE)
        return {
            **{name: value for name, value in os.environ.items() if kept.fullmatch(name)},
            "HOME": str(self.home),
            "USER": "jovyan",
            "LANG": "C.UTF-8",
            "PATH": f"{self.folder / 'venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def close(self) -> None:
        """End everything that was begun here."""
        self.memory.close()
        self._holder.kill()
        self._holder.communicate()


def _closed(path: Path) -> Path | None:
    """The first folder on the way to it that not everybody may enter."""
    return next((each for each in reversed(path.parents) if not each.stat().st_mode & 0o001), None)


def _tool(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        raise CannotRun(f"no command {name} here")
    return found


def copy(session: Session) -> None:
    """Of the working tree, what git tracks: the repository that Binder would clone, were this committed."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (session.home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, session.home / name)
    for path in [session.folder, session.home, *session.home.rglob("*")]:
        os.chown(path, USER, USER)


def install(session: Session) -> None:
    """The image's environment, and over it our requirements; together they have to fit."""
    base = Path(sys.base_prefix) / "bin" / f"python{PYTHON}"
    session.run(base, "-m", "venv", session.folder / "venv", network=True)
    pip: list[str | Path] = [session.python, "-m", "pip"]
    session.run(*pip, "install", "-q", "--no-cache-dir", *IMAGE, network=True)
    session.run(*pip, "install", "-q", "--no-cache-dir", "-r", "binder/requirements.txt", network=True)
    session.run(*pip, "check", network=True)


def post_build(session: Session) -> None:
    """Run it, as repo2docker does, but without a network."""
    (session.home / "binder" / "postBuild").chmod(0o755)
    session.run("./binder/postBuild")


def try_the_bounds(session: Session) -> None:
    """See each of them hold, and that it is not something else that fails."""
    assert session.run("id", "-u").strip() == str(USER)
    take = "print(len(b'x' * ({} << 30)))"
    assert session.run(session.python, "-c", take.format(1)).strip() == str(GIGABYTE)
    greedy = session.begin(session.python, "-c", take.format(3))
    said, _ = greedy.communicate()
    if greedy.returncode != -signal.SIGKILL:
        raise Failed(f"3 GB of memory: ended with {greedy.returncode}, and was not killed {said}")
    with socket.create_server(("127.0.0.1", 0)) as outside:
        host, port = outside.getsockname()
        reach = f"import socket; socket.create_connection(({host!r}, {port}), timeout=5)"
        session.run(session.python, "-c", reach, network=True)  # it is there,
        for address, error in ((host, "ConnectionRefusedError"), ("192.0.2.1", "Network is unreachable")):
            stranger = session.begin(session.python, "-c", reach.replace(host, address))
            said, _ = stranger.communicate()
            if error not in said:  # and cannot be reached from here; nor can another machine
                raise Failed(f"{address} from within: {said or 'was reached'}")


@contextlib.contextmanager
def server(session: Session) -> Iterator[tuple[str, str]]:
    """JupyterLab, with the command line of BinderHub: its URL and its token."""
    token = secrets.token_hex(16)
    base = f"/user/{secrets.token_hex(4)}/"
    own = {"base_url": base, "token": token, "trust_xheaders": True}
    arguments = [f"--{app}.{name}={value}" for app in ("NotebookApp", "ServerApp") for name, value in own.items()]
    with (session.folder / "server.log").open("w+") as log:
        process = session.begin(session.python.with_name("jupyter-lab"), "--ip=127.0.0.1", "--port=8888", *arguments)
        threading.Thread(target=lambda: log.writelines(process.stdout or ()), daemon=True).start()
        try:
            yield f"http://127.0.0.1:8888{base}", token
            if process.poll() is not None:
                raise Failed(f"the server ended with {process.returncode}")
        except Failed as failure:
            log.flush()
            raise Failed(f"{failure}\n{(session.folder / 'server.log').read_text()}") from failure
        finally:
            process.terminate()
            process.wait(30)


def run_notebook(session: Session, notebook: Path) -> None:
    """As a test: every output is compared with the one that was saved."""
    cells = json.loads((session.home / notebook).read_text())["cells"]
    if any(cell["cell_type"] == "code" for cell in cells):  # pytest fails where there is nothing to run
        session.run(session.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", notebook)


class Steps:
    """Each with its time and the memory it took, printed as they go."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.failed: list[str] = []
        self.highest = 0
        print(f"{'step':44}{'seconds':>9}{'peak, MB':>10}")

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One of them; if it fails, the rest goes on."""
        memory = self.session.memory
        began, killed, _ = time.perf_counter(), memory.killed(), memory.peak()
        try:
            yield
            if memory.killed() > killed:
                raise Failed("more than 2 GB of memory was asked for")
        except (Failed, AssertionError) as failure:
            self.failed.append(name)
            print(f"{name} FAILED: {failure}")
        took, peak = time.perf_counter() - began, memory.peak()
        self.highest = max(self.highest, peak)
        print(f"{name:44}{took:9.1f}{f'{peak / 1e6:.0f}' if peak else '':>10}", flush=True)


def simulate(folder: Path, notebooks: Sequence[str], watch: bool) -> int:
    """All of it; 0, or 1 if something failed."""
    session = Session(folder, watch)
    try:
        how = "a control group" if session.memory.group else "looking"
        print(f"As user {USER}, in {folder}; 2 GB, held by {how}.")
        steps = Steps(session)
        session.home.mkdir()
        copy(session)
        with steps.step("requirements"):
            install(session)
        if steps.failed:
            return 1
        try_the_bounds(session)
        print("3 GB are refused, and so is every other machine.")
        with steps.step("postBuild"):
            post_build(session)
        opens = BADGE.search((session.home / "README.md").read_text())
        if opens is None:
            raise Failed("no badge in the README")
        with server(session) as (url, token):
            with steps.step("JupyterLab, and a first answer"):
                session.run(session.python, "binder/session.py", url, token, opens[1])
            chosen = notebooks or sorted(str(each.relative_to(ROOT)) for each in (ROOT / "notebooks").glob("*.ipynb"))
            for name in chosen:
                with steps.step(name):
                    run_notebook(session, Path(name))
        print(f"At most {steps.highest / 1e6:.0f} MB. {len(steps.failed)} failed.")
        return bool(steps.failed)
    finally:
        session.close()


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "notebooks", nargs="*", help="like notebooks/01-first-answers.ipynb; all, unless some are named"
    )
    parser.add_argument("--watch", action="store_true", help="bound the memory by looking, without a control group")
    chosen = parser.parse_args()
    try:
        if sys.platform != "linux" or os.getuid() != 0:
            raise CannotRun("it takes Linux, and root, to bound an ordinary user")
        if f"{sys.version_info[0]}.{sys.version_info[1]}" != PYTHON:
            raise CannotRun(f"runtime.txt names Python {PYTHON}; this is {sys.version.split()[0]}")
        with tempfile.TemporaryDirectory(prefix="binder-") as name:
            return simulate(Path(name), chosen.notebooks, chosen.watch)
    except CannotRun as reason:
        print(f"binder/simulate.py cannot run: {reason}", file=sys.stderr)
        return 2
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
