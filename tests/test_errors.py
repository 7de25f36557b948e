"""The exception tree: as drawn, catchable by Python's own names, and able to travel."""

import copy
import inspect
import pickle
import re
import socket
import ssl
from collections.abc import Iterator
from errno import ECONNREFUSED, ECONNRESET, ENETUNREACH

import pytest

from ceylon_nb import errors
from ceylon_nb.errors import CeylonError, RequestError, causes, detail, ungrouped


def tree(root: type[BaseException]) -> Iterator[type[BaseException]]:
    yield root
    for kind in root.__subclasses__():
        yield from tree(kind)


ALL = [kind for kind in tree(CeylonError) if kind.__module__ == errors.__name__]
REQUEST_ERRORS = [kind for kind in ALL if issubclass(kind, RequestError)]


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """From the module's docstring: each class, the one above it, and Python's own class that it also is."""
    found: dict[str, tuple[str | None, str | None]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        node = re.match(r"    ([│├└─ ]*)([A-Z]\w+)(?: \((\w+)\))?(?:  |$)", line)
        if node:
            depth = len(node[1]) // 4
            above = [*above[:depth], node[2]]
            found[node[2]] = (above[depth - 1] if depth else None, node[3])
    return found


def test_the_tree_is_as_drawn() -> None:
    real = {}
    for kind in ALL:
        ours = [base.__name__ for base in kind.__bases__ if base in ALL]
        others = [base.__name__ for base in kind.__bases__ if base not in ALL and base is not Exception]
        assert len(ours) <= 1
        assert len(others) <= 1
        real[kind.__name__] = (ours[0] if ours else None, others[0] if others else None)
    assert drawn() == real


@pytest.mark.parametrize("kind", ALL)
def test_each_class_says_what_it_is_in_one_line(kind: type[CeylonError]) -> None:
    assert kind.__doc__
    assert inspect.cleandoc(kind.__doc__).splitlines()[0].endswith(".")


@pytest.mark.parametrize(
    ("kind", "python"),
    [
        (errors.InvalidModel, ValueError),
        (errors.EmptyPrompt, ValueError),
        (errors.WrongLoop, RuntimeError),
        (errors.ConnectionLost, ConnectionError),
        (errors.TLSFailed, OSError),
        (errors.ConnectionTimeout, TimeoutError),
        (errors.RequestTimeout, TimeoutError),
    ],
)
def test_pythons_own_names_catch_them(kind: type[CeylonError], python: type[Exception]) -> None:
    with pytest.raises(python, match="said"):
        raise kind("said")


@pytest.mark.parametrize("kind", REQUEST_ERRORS)
def test_an_error_carries_its_evidence_wherever_it_goes(kind: type[RequestError]) -> None:
    error = kind("said", status=429, body="first line", url="http://host/api", retry_after=2.5)
    error.attempts, error.latency, error.item = 3, 0.25, {"text": "hi"}
    for same in (error, pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(same) is kind
        assert str(same) == "said"
        assert same.args == ("said",)
        assert (same.status, same.body, same.url, same.retry_after) == (429, "first line", "http://host/api", 2.5)
        assert (same.attempts, same.latency, same.item) == (3, 0.25, {"text": "hi"})


@pytest.mark.parametrize("kind", REQUEST_ERRORS)
def test_what_is_not_known_is_said_so(kind: type[RequestError]) -> None:
    error = kind("said")
    assert (error.status, error.body, error.url, error.retry_after) == (None, "", "", None)
    assert (error.attempts, error.latency, error.item) == (1, None, None)
    assert repr(error) == f"{kind.__name__}('said')"


# -- what others' errors say -----------------------------------------------------------------------------------------


def raised_from(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def certificate_error(reason: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:1006)")
    error.verify_message = reason
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (ConnectionResetError(ECONNRESET, "x"), "Connection reset by peer"),
        (
            OSError(f"Multiple exceptions: [Errno {ECONNREFUSED}] x ('::1', 1), [Errno {ECONNREFUSED}] y"),
            "Connection refused",
        ),
        (
            OSError(f"Multiple exceptions: [Errno {ECONNREFUSED}] x, [Errno {ENETUNREACH}] y"),
            "Connection refused, Network is unreachable",
        ),
        (certificate_error("self-signed certificate"), "self-signed certificate"),
        (certificate_error("Hostname mismatch."), "Hostname mismatch"),
        (raised_from(RuntimeError("x"), OSError(ECONNREFUSED, "y")), "Connection refused"),
        (
            raised_from(
                OSError("All failed"), ExceptionGroup("x", [OSError(ECONNREFUSED, "y"), OSError(ENETUNREACH, "z")])
            ),
            "Connection refused",
        ),
        (ValueError("two\n  lines."), "two lines"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 1000), "x" * 200),
    ],
)
def test_what_an_error_says_in_human_words(error: BaseException, said: str) -> None:
    assert detail(error) == said


def test_what_a_tls_library_says() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(ssl.SSLError) as caught:
            ssl.create_default_context().wrap_socket(ours, server_hostname="host")
    assert detail(caught.value) == "wrong version number"


def test_a_cause_that_was_hidden_is_found_and_a_bystander_is_not() -> None:
    def hidden() -> None:
        try:
            raise OSError(ECONNREFUSED, "x")
        except OSError:
            raise RuntimeError("hidden") from None

    def bystander() -> None:
        try:
            raise OSError(ECONNREFUSED, "x")
        except OSError:
            raise RuntimeError("its own")  # noqa: B904 - as it happens while something else is handled

    with pytest.raises(RuntimeError) as caught:
        hidden()
    assert [type(each) for each in causes(caught.value)] == [RuntimeError, ConnectionRefusedError]
    with pytest.raises(RuntimeError) as caught:
        bystander()
    assert [type(each) for each in causes(caught.value)] == [RuntimeError]


def test_a_group_gives_its_first_exception_and_names_the_others():
    found = ungrouped(ExceptionGroup("out", [ExceptionGroup("in", [ValueError(1), TypeError(2)]), KeyError(3)]))
    assert repr(found) == "ValueError(1)"
    assert found.__notes__ == ["Raised together with KeyError(3).", "Raised together with TypeError(2)."]


def test_no_context_of_what_is_left_is_a_group():
    last, middle, inner = OSError("last"), ValueError("middle"), KeyError("inner")
    inner.__context__ = ExceptionGroup("group", [last])
    middle.__context__ = ExceptionGroup("group", [inner])
    last.__context__ = middle  # and round it goes
    found = ungrouped(middle)
    assert (found, found.__context__, found.__context__.__context__) == (middle, inner, last)
    assert last.__context__ is None
