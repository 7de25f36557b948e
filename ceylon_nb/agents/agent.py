"""Agent: a name, what it answers to a message, and what it can do."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from ..errors import NoHandler, NoSuchAction
from ..interrupts import explained
from ..loop import awake, run_sync
from . import threads
from .actions import Action, Decorating, Methods, Shape, methods

F = TypeVar("F", bound=Callable[..., Any])


class Agent:
    """Somebody who answers messages and can do things; make a class of it, or give an instance actions.

    Parameters
    ----------
    name : str, optional
        Its name; without it the class's, in lower case.

    Notes
    -----
    What is not ``async`` runs in a thread, each call in its own, never on the loop. A subclass need not call
    ``super().__init__()``.

    Examples
    --------
    >>> from ceylon_nb import Agent
    >>> PRICES = {"Kettle": 24.5, "Toaster": 31.0}
    >>> class Clerk(Agent):
    ...     async def on_message(self, message, context=None):
    ...         return await self.act("price", {"item": message})
    ...
    ...     @Agent.action
    ...     def price(self, item: str) -> float:
    ...         "What an item costs, in euros."
    ...         return PRICES[item]
    >>> clerk = Clerk()
    >>> await clerk.send_message("Kettle")
    24.5
    >>> clerk.name(), list(clerk.actions)
    ('clerk', ['price'])
    """

    # Defaults on the class, replaced on the instance, never changed in place: so copies share nothing that grows.
    _name: str | None = None
    _last_answer: Any = None
    _own_actions: Mapping[str, Action] = {}
    _methods: Methods = MappingProxyType({})
    _hears_context = True

    action = Decorating()

    def __init__(self, name: str | None = None) -> None:
        self._name = name

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._methods = methods(cls)
        cls._hears_context = _hears_context(cls)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name()!r})"

    def name(self) -> str:
        """Its name."""
        return type(self).__name__.lower() if self._name is None else self._name

    # -- messages -----------------------------------------------------------------------------------------------

    def on_message(self, message: Any, context: Any = None) -> Any:
        """Answer a message: yours to write, as a ``def`` or an ``async def``, with ``context`` or without.

        Parameters
        ----------
        message : object
            What was sent.
        context : Context or None
            In a mesh: the sender, the mesh, and a way to ask others.

        Returns
        -------
        object
            The answer; None where there is none to give.

        Raises
        ------
        NoHandler
            Nobody has written it.
        """
        kind = type(self).__name__
        raise NoHandler(f"{self.name()!r} cannot answer messages: write on_message(self, message, context) in {kind}.")

    def last_response(self) -> Any:
        """What it last answered; None before that."""
        return self._last_answer

    async def handle(self, message: Any, context: Any = None) -> Any:
        """Have `on_message` answer, and remember the answer for `last_response`.

        Parameters
        ----------
        message : object
            What is sent.
        context : Context or None
            What a mesh tells of it; `on_message` gets it if it has room for it.

        Returns
        -------
        object
            The answer.

        Raises
        ------
        Exception
            Whatever `on_message` raises; of an ExceptionGroup the first.
        """
        told = (message, context) if self._hears_context else (message,)
        answer = await threads.call(self.on_message, *told)
        self._last_answer = answer
        return answer

    async def send_message(self, message: Any) -> Any:
        """Have it answer a message, from outside a mesh.

        Parameters
        ----------
        message : object
            What is sent.

        Returns
        -------
        object
            The answer.

        Raises
        ------
        NoHandler
            It has no `on_message`.
        Exception
            Whatever `on_message` raises.
        """
        with explained(self._interrupted), awake():
            return await self.handle(message)

    def send_message_sync(self, message: Any) -> Any:
        """As `send_message`, and wait for it: in a script, a thread, or a cell, where a loop already runs."""
        with explained(self._interrupted):
            return run_sync(self.send_message(message))

    # -- actions ------------------------------------------------------------------------------------------------

    @property
    def actions(self) -> Mapping[str, Action]:
        """What it can do, by name: methods of its class, those of its bases first; then what it was given itself."""
        if not self._methods:
            return MappingProxyType(self._own_actions)
        kind = type(self)
        bound = {name: Action(shape, method.__get__(self, kind)) for name, (method, shape) in self._methods.items()}
        return MappingProxyType({**bound, **self._own_actions})

    def register_action(
        self, function: F, name: str | None = None, description: str | None = None, *, timeout: float | None = None
    ) -> F:
        """Give it a function to call; returns the function. One of the same name is replaced.

        Parameters
        ----------
        function : callable
            Async or not. Its type hints say what it takes; a parameter ``context`` is not an argument, see `act`.
        name : str, optional
            Letters, digits, ``_`` and ``-``, 64 at the most. Without it the function's.
        description : str, optional
            What a model is told of it. Without it what the docstring says.
        timeout : float, optional
            Seconds that a call may take.

        Returns
        -------
        callable
            The function, as it was.

        Raises
        ------
        ConfigurationError
            This cannot be an action.

        Examples
        --------
        >>> from ceylon_nb import Agent
        >>> clerk = Agent("clerk")
        >>> def double(number: int) -> int:
        ...     return 2 * number
        >>> function = clerk.register_action(double, description="Twice a number.")
        >>> await clerk.act("double", {"number": "21"})
        42
        """
        shape = Shape(function, name, description, timeout)
        _ = shape.schema  # so that what is wrong with it is said here
        self._own_actions = {**self._own_actions, shape.name: Action(shape, function)}
        return function

    async def act(self, name: str, arguments: Mapping[str, Any] | None = None, *, context: Any = None) -> Any:
        """Do something: ``await agent.act("price", {"item": "Kettle"})``.

        Parameters
        ----------
        name : str
            Of the action.
        arguments : mapping, optional
            By name. They are checked, and turned into what the type hints say: ``"3"`` into 3, a dict into a dataclass.
        context : object, optional
            For the function's parameter ``context``, if it has one; None unless told.

        Returns
        -------
        object
            What the function returned.

        Raises
        ------
        NoSuchAction
            It has none of that name.
        InvalidArguments
            The action cannot take them; it was not run.
        ActionTimeout
            It took longer than its ``timeout``.
        Exception
            Whatever the action raises.
        """
        actions = self.actions
        if name not in actions:
            those = f"It has {', '.join(actions)}." if actions else "It has none."
            raise NoSuchAction(f"{self.name()!r} has no action {name!r}. {those}")
        with explained(lambda: f"Interrupted before the action {name!r} was done."), awake():
            return await actions[name].run(arguments, context)

    def act_sync(self, name: str, arguments: Mapping[str, Any] | None = None, *, context: Any = None) -> Any:
        """As `act`, and wait for it."""
        with explained(lambda: f"Interrupted before the action {name!r} was done."):
            return run_sync(self.act(name, arguments, context=context))

    def _interrupted(self) -> str:
        return f"Interrupted before {self.name()!r} had answered."


def _hears_context(owner: type) -> bool:
    """Whether a class's `on_message` has room for more than a message; it takes 20 µs to find out."""
    handler = inspect.getattr_static(owner, "on_message")
    bound = handler.__get__(object(), owner) if hasattr(handler, "__get__") else handler
    try:
        inspect.signature(bound).bind("message", "context")
    except TypeError:
        return False
    return True
