"""What an agent can do: functions with a name, a description and a schema, for models, other agents and people to call.

A function becomes an action by ``@Agent.action`` in the body of a class, ``@agent.action`` on an instance, or
`Agent.register_action`. Its parameters are read from its type hints and its docstring (see `schemas`), which is done
when somebody first asks: importing this imports no pydantic.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, overload

from ..errors import ActionTimeout, ConfigurationError
from ..loop import load
from ..messages import Tool, sendable
from ..policy import check_options
from ..timeouts import patient_timeout
from . import threads

F = TypeVar("F", bound=Callable[..., Any])

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What OpenAI takes for a function's name, and Ollama too."""

_MARK = "_ceylon_nb_action"


class Shape:
    """What is known of a function, once for all agents of a class.

    Parameters
    ----------
    function : callable
        The function as it is called: of a method, a bound one.
    name : str, optional
        The action's name: letters, digits, ``_`` and ``-``, 64 at the most. Without it the function's own.
    description : str, optional
        What a model is told of it. Without it what the docstring says before its sections.
    timeout : float, optional
        Seconds that a call may take.

    Raises
    ------
    ConfigurationError
        This cannot be an action, or the name cannot be one's name.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str | None = None,
        description: str | None = None,
        timeout: float | None = None,
        *,
        doc: str | None = None,
    ) -> None:
        self.name = _checked_name(function, name)
        check_options(timeout=timeout)
        self.timeout = timeout
        self._function = function
        self._signature = _checked_signature(function, self.name)
        self._description = description
        self._doc = doc if doc is not None else inspect.getdoc(function) if inspect.isroutine(function) else None

    @functools.cached_property
    def schema(self) -> Any:
        """A `schemas.Schema`."""
        from .schemas import Schema

        return Schema(self._function, self._signature, self.name, self._doc)

    @functools.cached_property
    def tool(self) -> Tool:
        """What a model is told of it."""
        about = self.schema.about if self._description is None else self._description
        return Tool(self.name, about, self.schema.parameters)


class Action:
    """Something that an agent can do; `Agent.actions` has them."""

    __slots__ = ("_function", "_shape")

    def __init__(self, shape: Shape, function: Callable[..., Any]) -> None:
        self._shape = shape
        self._function = function

    def __repr__(self) -> str:
        return f"Action({self.name!r})"

    @property
    def name(self) -> str:
        """What it is called by."""
        return self._shape.name

    @property
    def timeout(self) -> float | None:
        """Seconds that a call may take; None leaves it to the caller."""
        return self._shape.timeout

    @property
    def description(self) -> str:
        """What a model is told of it."""
        return self._shape.tool.description

    @property
    def parameters(self) -> dict[str, Any]:
        """Its arguments, as a JSON schema of type *object* (https://json-schema.org)."""
        return dict(self._shape.tool.parameters)

    def tool(self) -> Tool:
        """What a model is told of it.

        Returns
        -------
        Tool
            Name, description and parameters.

        Raises
        ------
        ConfigurationError
            Its type hints cannot be said in a JSON schema.
        """
        return self._shape.tool

    async def run(
        self,
        arguments: Mapping[str, Any] | str | None = None,
        context: object | None = None,
        *,
        timeout: float | None = None,
    ) -> Any:
        """Check the arguments, turn them into what the type hints say, and call the function.

        Parameters
        ----------
        arguments : mapping, str or None
            By name; as JSON text; or none.
        context : object, optional
            For the function's parameter ``context``, if it has one.
        timeout : float, optional
            Seconds, if the action has no ``timeout`` of its own.

        Returns
        -------
        object
            What the function returned.

        Raises
        ------
        InvalidArguments
            The function cannot take them; it was not called.
        ActionTimeout
            It took too long.
        Exception
            Whatever the function raises.
        """
        if "schema" not in self._shape.__dict__:
            await load(f"{__package__}.schemas")  # pydantic takes 0.2 s
        named = self._shape.schema.values(arguments, context)
        seconds = self.timeout if self.timeout is not None else timeout
        own: TimeoutError
        try:
            async with patient_timeout(seconds):
                try:
                    return await threads.call(self._function, named=named)
                except TimeoutError as error:  # the function's, not ours
                    own = error
        except TimeoutError:
            raise ActionTimeout(f"The action {self.name!r} was not done within {seconds:g} s.") from None
        try:
            raise own
        finally:
            del own  # its traceback holds this frame: a circle


def as_text(result: Any) -> str:
    """What a model is told of a result: text as it is, the rest as JSON, or as ``str`` says it; None is *done*."""
    if result is None:
        return "done"
    if isinstance(result, str):
        return sendable(str.__str__(result))
    from pydantic_core import from_json, to_json

    try:
        written = to_json(result, fallback=str)
    except (ValueError, RecursionError):  # bytes that are no text; what holds itself
        return sendable(str(result))
    said = from_json(written) if written.startswith(b'"') else written.decode()
    return str(said)


# -- checks ----------------------------------------------------------------------------------------------------------


def _checked_name(function: object, name: str | None) -> str:
    if not callable(function) or inspect.isclass(function):
        raise ConfigurationError(f"An action is a function, not {function!r}: write @agent.action(name=…) above a def.")
    name = getattr(function, "__name__", None) if name is None else name
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise ConfigurationError(
            f"An action's name is 1 to 64 letters (a-z, A-Z), digits, _ and -, not {name!r}: say another with name=."
        )
    return name


def _checked_signature(function: Callable[..., Any], name: str) -> inspect.Signature:
    called = function if inspect.isroutine(function) else getattr(function, "func", function.__call__)  # type: ignore[operator]
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise ConfigurationError(f"Action {name!r} yields, and an action answers once: return a list.")
    try:
        signature = inspect.signature(function)
    except ValueError as error:
        raise ConfigurationError(f"Action {name!r}: Python does not know its parameters; wrap it in a def.") from error
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise ConfigurationError(
                f"Action {name!r}: arguments come by name, and {str(parameter)!r} can have none: "
                "take a list in place of *args, and no parameters before a /."
            )
    return signature


# -- in the body of a class, and on an instance ----------------------------------------------------------------------


class Decorator(Protocol):
    """``@action`` and ``@action(name=…, description=…, timeout=…)``: both give the function back as it was."""

    @overload
    def __call__(self, function: F, /) -> F: ...
    @overload
    def __call__(
        self, /, *, name: str | None = None, description: str | None = None, timeout: float | None = None
    ) -> Callable[[F], F]: ...


class Decorating:
    """What `Agent.action` is: on a class it marks a method, on an instance it registers a function."""

    def __get__(self, agent: Any, owner: type | None = None) -> Decorator:
        register = _mark if agent is None else agent.register_action

        def action(
            function: Any = None,
            /,
            *,
            name: str | None = None,
            description: str | None = None,
            timeout: float | None = None,
        ) -> Any:
            """Make a function an action: ``@Agent.action`` in the body of a class, ``@agent.action`` on an instance.

            Both also with options: ``@Agent.action(name="price")``.

            Parameters
            ----------
            function : callable
                Async or not. Its type hints say what it takes, its docstring what a model is told of it and of each
                argument; a parameter ``context`` is not an argument, see `Agent.act`.
            name : str, optional
                Letters, digits, ``_`` and ``-``, 64 at the most. Without it the function's.
            description : str, optional
                What a model is told of it. Without it what the docstring says.
            timeout : float, optional
                Seconds that a call may take.

            Returns
            -------
            callable
                The function, as it was; with options alone, the decorator.

            Raises
            ------
            ConfigurationError
                This cannot be an action; of a method, when its class is made.

            Examples
            --------
            >>> from ceylon_nb import Agent
            >>> clerk = Agent("clerk")
            >>> @clerk.action(timeout=5)
            ... def price(item: str, pieces: int = 1) -> float:
            ...     "The price of an item, in euros."
            ...     return pieces * 24.5
            >>> clerk.actions["price"].description
            'The price of an item, in euros.'
            >>> list(clerk.actions["price"].parameters["properties"])
            ['item', 'pieces']
            >>> await clerk.act("price", {"item": "Kettle", "pieces": 2})
            49.0
            """
            options = {"name": name, "description": description, "timeout": timeout}
            if function is None:
                return lambda function: register(function, **options)
            return register(function, **options)

        return action


def _mark(function: Any, **options: Any) -> Any:
    """Note on a method what its action is to be; `shapes` finds it when the class is made."""
    inner = _inner(function)
    try:
        setattr(inner, _MARK, options)
    except AttributeError:
        raise ConfigurationError(
            f"@Agent.action stands above a def in a class, not on {function!r}: use agent.register_action(…)."
        ) from None
    return function


def _inner(method: Any) -> Any:
    return method.__func__ if isinstance(method, (staticmethod, classmethod)) else method


Methods = Mapping[str, tuple[Any, Shape]]
"""Of a class, by the action's name: what is in its namespace, and what is known of it."""


def methods(owner: type) -> Methods:
    """The actions that a class has by its methods: those of its bases first, each in its newest form.

    Raises
    ------
    ConfigurationError
        One cannot be an action, or two have one name.
    """
    marked = dict.fromkeys(
        attribute
        for base in reversed(owner.__mro__)
        for attribute, method in vars(base).items()
        if hasattr(_inner(method), _MARK)
    )
    found: dict[str, tuple[Any, Shape]] = {}
    names: dict[str, str] = {}
    for attribute in marked:
        forms = [vars(base)[attribute] for base in owner.__mro__ if attribute in vars(base)]
        if forms[0] is None:  # as with __hash__: a subclass does not have it
            continue
        if any(attribute in vars(base) and base.__module__.startswith(f"{__package__}.") for base in owner.__mro__):
            raise ConfigurationError(
                f"{owner.__name__}.{attribute} would take the place of what every agent has: call the method something "
                f"else, and say @Agent.action(name={attribute!r})."
            )
        shape = _shape(owner, attribute, forms)
        if shape.name in found:
            raise ConfigurationError(
                f"{owner.__name__} has two actions {shape.name!r}: {names[shape.name]} and {attribute}."
            )
        found[shape.name], names[shape.name] = (forms[0], shape), attribute
    return found


def _shape(owner: type, attribute: str, forms: list[Any]) -> Shape:
    if not hasattr(forms[0], "__get__") or isinstance(forms[0], property):
        raise ConfigurationError(f"{owner.__name__}.{attribute} is an action, and here it is {forms[0]!r}.")
    options = next(getattr(_inner(form), _MARK) for form in forms if hasattr(_inner(form), _MARK))
    doc = next((form.__doc__ for form in forms if form.__doc__), "")
    function = forms[0].__get__(object(), owner)  # bound, so that its signature has no self; never called
    name = attribute if options["name"] is None else options["name"]
    return Shape(function, name, options["description"], options["timeout"], doc=inspect.cleandoc(doc))
