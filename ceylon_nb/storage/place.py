"""Where the store is: beside the notebook, unless said otherwise."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TypeAlias

from ..errors import ConfigurationError, StoreUnwritable, detail

FOLDER = ".ceylon_nb"
FILE = "answers.sqlite"
VARIABLE = "CEYLON_NB_STORE"

StoreLike: TypeAlias = "str | os.PathLike[str] | None"
"""``"auto"``: the one beside the notebook; a path: another file; None: no store."""


def _working_directory() -> Path | None:
    with contextlib.suppress(OSError):  # it was removed
        return Path.cwd()
    return None


_home = _working_directory()
"""A kernel starts in its notebook's folder; a later `os.chdir` does not move the store."""


def locate(store: StoreLike = "auto") -> Path | None:
    """The file that is meant; None where there is to be none.

    ``"auto"`` is what CEYLON_NB_STORE says (a path, or ``off``), else ``.ceylon_nb/answers.sqlite`` in the folder in
    which this Python was when it first imported the library: the notebook's.

    Raises
    ------
    ConfigurationError
        It is no path.
    """
    if store is None:
        return None
    if store == "" or not isinstance(store, (str, os.PathLike)):
        raise ConfigurationError(f'store is "auto", a path or None, not {store!r}.')
    if store != "auto":
        return _file(store)
    said = os.environ.get(VARIABLE, "").strip()
    if said.lower() == "off":
        return None
    if _home is None and not said:
        raise ConfigurationError(f"The folder in which this Python started is gone: name a file in {VARIABLE}.")
    return _file(said, _home) if said else _home / FOLDER / FILE if _home is not None else None


def _file(said: str | os.PathLike[str], folder: Path | None = None) -> Path:
    """The file that is meant; a relative path counts from `folder`, or from where this Python is now."""
    try:
        path = ((folder or Path()) / Path(said).expanduser()).absolute()
    except (OSError, RuntimeError) as error:  # the folder is gone; nobody of that name
        raise ConfigurationError(f"{said!s} leads nowhere: {detail(error)}.") from error
    return path / FILE if os.path.isdir(path) else path  # noqa: PTH112 - the method raises where it may not look


def exists(path: Path) -> bool:
    """Whether there is a file; one that may not be looked at is there."""
    try:
        return path.exists()
    except OSError:
        return True


def make(path: Path) -> None:
    """Create the file, for its owner alone, and the folder of ours that it lies in; others have to be there.

    Raises
    ------
    StoreUnwritable
        The folder is not there, or not ours to write to.
    """
    folder = path.parent
    try:
        if folder.name == FOLDER and not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
        ignore = folder / ".gitignore"
        if folder.name == FOLDER and not (ignore.exists() and ignore.stat().st_size):
            ignore.write_text("# Answers of models, kept by ceylon_nb.\n*\n", encoding="utf-8")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # SQLite's other files take its mode
    except OSError as error:
        raise StoreUnwritable(f"The store {path} cannot be made: {detail(error)}. {elsewhere()}") from error


def elsewhere() -> str:
    """How to do without this store."""
    return f"Another path in store= or {VARIABLE} moves it; store=None goes without."


NETWORK = frozenset(
    "nfs nfs4 cifs smb2 smb3 smbfs ncpfs afs afpfs 9p webdav davfs ceph glusterfs lustre beegfs gpfs".split()
)
"""File systems that other machines may share; besides these, those of FUSE that are."""
NETWORK_FUSE = frozenset("sshfs s3fs gcsfuse rclone goofys davfs2 glusterfs blobfuse blobfuse2".split())


def filesystem(path: Path) -> str:
    """The kind of the file system that a path lies on, as the operating system names it; empty where it does not say.

    Source: psutil's ``disk_partitions``, longest mount point first.
    """
    import psutil

    real = os.path.realpath(path)
    try:
        mounts = [(each.mountpoint, each.fstype) for each in psutil.disk_partitions(all=True)]
    except OSError:
        return ""
    inside = [
        (len(mount), at, kind)
        for at, (mount, kind) in enumerate(mounts)
        if real == mount or real.startswith(mount.rstrip(os.sep) + os.sep)
    ]
    return max(inside)[2] if inside else ""  # of two on one mount point, the later one lies on top


def is_network(kind: str) -> bool:
    """Whether a file system of this kind is shared between machines."""
    kind, _, helper = kind.lower().partition(".")
    return kind in NETWORK or (kind == "fuse" and helper in NETWORK_FUSE)
