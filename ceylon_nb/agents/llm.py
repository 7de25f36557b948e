"""LlmAgent: one model, some settings, and every way to ask it."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Unpack, cast

from .. import engine, parquet, recording
from ..errors import MissingAPIKey
from ..handle import Batch
from ..interrupts import explained, listen
from ..loop import load, run_sync
from ..messages import Prompt, Reply, as_text, sendable
from ..policy import AtOnce, check_options
from ..providers.base import Provider
from ..storage.place import StoreLike
from ..templates import Template, TemplateLike
from ..urls import whereabouts
from ..work import Storing, Work, file_for
from . import models
from .caller import Caller, Options, Settings
from .chain import Chain
from .conversation import Conversation
from .stream import Stream
from .toolloop import ActingCaller, Toolbox


class LlmAgent(Chain):
    """A model to ask, under a name.

    What can be said by keyword can be said by the chain as well: ``LlmAgent("a", "demo::tutor").with_temperature(0)``.

    Parameters
    ----------
    name : str
        Its name.
    model : str or async callable
        ``"ollama::llama3.2:latest"``, ``"openai::gpt-4o-mini"``, ``"demo::tutor"``; or an
        ``async def (messages) -> str`` of your own, which is not told of actions.
    system_prompt : str, optional
        Said before every prompt, with role *system*.
    temperature : float, optional
        From 0; without it the server's default.
    max_tokens : int, optional
        Tokens of a reply, at the most; without it the server's default.
    api_key : str, optional
        In place of the provider's environment variable, see `ceylon_nb.providers`. It is in no repr, error or store.
    base_url : str, optional
        The server's address, likewise. A path prefix is kept.
    timeout : float or None
        Seconds for one attempt, from sending to the last byte; waiting for limits does not count. 600 unless told.
    attempts : int
        Requests for one answer, in all: 3 unless told. What cannot end better is not tried again.
    max_per_minute : float, optional
        Requests a minute, evenly spaced, shared by all that state one for the same base URL and key.
    max_tokens_per_minute : float, optional
        Tokens a minute, of prompts and replies together, shared likewise. A request is reckoned with what it is
        expected to take (its characters / 4, and as much as replies had so far, `max_tokens` at the most) until the
        server says what it took. One that is larger than the limit is sent when nothing else was for a minute.
    transport : httpx.AsyncBaseTransport, optional
        In place of the default one. It stays yours to close.
    max_rounds : int
        Turns in which the model may call actions before it has to answer: 10 unless told.
    action_timeout : float or None
        Seconds for an action that states none itself: 60 unless told.
    confirm : callable, optional
        ``confirm(agent_name, call)`` is asked before an action that the model calls is run: True, False, or as text
        why not. May be async; else it runs in a thread, where it may ask by ``input()``. After ■ such a question is
        still open, and takes the next answer.

    Raises
    ------
    ConfigurationError
        The model is not ``provider::model-name``, or an option makes no sense.

    Notes
    -----
    Every call stands alone: no history, unless through `conversation`. Keys and addresses from the environment are read
    once, by `build` or at the first call; `build` again reads them anew. An agent may be shared by threads and loops,
    and need not be closed.

    ``async with agent:`` builds it, and closes its idle connections in the end.

    Further attempts wait for what the server asks for (Retry-After, RFC 9110, 10.2.3, clamped to 600 s), else 0.5 s and
    twice as long each time, 30 s at the most, with full jitter
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). A 429 holds all off who ask the same
    endpoint.

    Examples
    --------
    >>> from ceylon_nb import LlmAgent
    >>> agent = LlmAgent("clerk", "demo::tutor", system_prompt="Classify the review.", temperature=0).build()
    >>> reply = await agent.send_message("Works like a charm.")
    >>> reply
    'positive'
    >>> reply.usage.output_tokens, reply.finish_reason, reply.model
    (1, 'stop', 'tutor')
    >>> agent.send_message_sync("Stopped working after a week.")
    'negative'
    >>> agent
    LlmAgent('clerk', 'demo::tutor')

    Any async function of yours may be the model:

    >>> async def shout(messages):
    ...     return messages[-1].content.upper()
    >>> await LlmAgent("loud", shout).send_message("hello")
    'HELLO'
    """

    def __init__(self, name: str, model: models.Model, **options: Unpack[Options]) -> None:
        listen()
        super().__init__(name)
        self._model = model
        self._provider_name, self._model_name = models.parse(model)
        self._settings = Settings().but(options)
        self._providers: dict[tuple[object, ...], Provider] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name()!r}, {self.model!r})"

    @property
    def model(self) -> str:
        """``provider::model-name``."""
        return f"{self._provider_name}::{self._model_name}"

    @property
    def is_built(self) -> bool:
        """Whether `build` has checked the settings as they now are."""
        return self._settings.connection in self._providers

    def build(self) -> LlmAgent:
        """Check the settings now instead of at the first call, by the environment as it now is; returns the agent.

        What else a first call would wait for is done now, too: the first agent that a process builds imports what asks
        over HTTP, and in a notebook the panel, for some tenths of a second. An interrupt ends the waiting. Where a loop
        runs that is not a notebook's, it only begins to.

        Returns
        -------
        LlmAgent
            The agent itself.

        Raises
        ------
        ConfigurationError
            The address or the key cannot be right. Nothing is sent to find out.
        """
        self._providers.pop(self._settings.connection, None)
        provider = self._provider(self._settings)
        if not _replaying():
            provider.prepare()
        engine.prepare_views()
        return self

    # -- asking -------------------------------------------------------------------------------------------------

    async def send_message(self, message: Prompt, *, store: StoreLike = None) -> Reply:
        """Ask, and return the whole answer; of an agent that has actions, when those that the model calls are done.

        Parameters
        ----------
        message : str, or messages
            A question; or a list of `Message` or ``{"role": …, "content": …}``.
        store : "auto", path or None
            Where the answer is kept, and found if it is there, as in `batch`. Nowhere unless told.

        Returns
        -------
        Reply
            The answer: a ``str`` that knows how it came about.

        Raises
        ------
        RequestError
            No answer, after all attempts; it knows status, body, url, retry_after, attempts and item.
        TooManyRounds
            The model goes on calling actions.
        InvalidItem
            There is nothing to send.
        ConfigurationError
            The model, the address or the key cannot be right, as of `build`.
        StoreError
            The store cannot be used; nothing was sent.
        NotRecorded
            A recording is replayed, and does not hold the answer; see `replay`.
        """
        with explained(self._interrupted):
            reply = await (self._asked(message) if store is None else self._stored(message, store))
            self._last_answer = reply
            return reply

    send_message_async = send_message
    query = send_message

    async def on_message(self, message: Prompt, context: object | None = None) -> Reply:
        """Ask the model; one of your own asks it by `send_message`.

        Parameters
        ----------
        message : str, or messages
            A question, as of `send_message`.
        context : Context or None
            Actions that have a parameter ``context`` get it.

        Returns
        -------
        Reply
            The answer.

        Raises
        ------
        RequestError, TooManyRounds, InvalidItem, ConfigurationError, NotRecorded
            As `send_message`.
        """
        return await self._asked(message, context)

    async def _asked(self, message: Prompt, context: object | None = None) -> Reply:
        caller = self._caller(self._settings, context)
        return await caller.ask(caller.request(message))

    async def _stored(self, message: Prompt, store: StoreLike) -> Reply:
        run = self.map([message], store=store, view=None)
        async for answer in run:
            if answer.error is not None:
                raise answer.error
        return cast(Reply, answer.reply)

    def send_message_sync(self, message: Prompt, *, store: StoreLike = None) -> Reply:
        """As `send_message`, and wait for the answer: in a script, a thread, or a cell, where a loop already runs."""
        with explained(self._interrupted):
            return run_sync(self.send_message(message, store=store))

    def stream(self, message: Prompt) -> Stream:
        """Ask, and get the answer in pieces: ``async for text in agent.stream("…")``; `Stream.reply` afterwards.

        As a cell's last line it grows below the cell; ``agent.stream("…").show()`` is shown there while you read it.

        Parameters
        ----------
        message : str, or messages
            A question, as of `send_message`.

        Returns
        -------
        Stream
            Nothing is sent before it is read; what goes wrong is raised where it is read.

        Raises
        ------
        InvalidItem, ConfigurationError
            As `send_message`.
        """
        caller = self._caller(self._settings)
        return Stream(caller.stream(caller.request(message)), self._interrupted, caller.hide)

    def conversation(self) -> Conversation:
        """Begin a conversation: its turns see the ones before.

        Returns
        -------
        Conversation
            An empty one.
        """
        return Conversation(self)

    def map(
        self,
        items: parquet.Items,
        template: TemplateLike = None,
        *,
        max_at_once: AtOnce = "auto",
        deadline: float | None = None,
        store: StoreLike = "auto",
        fresh: bool = False,
        dedupe: bool = False,
        keep: bool = True,
        out: str | os.PathLike[str] | None = None,
        view: engine.View = "auto",
        name: str | None = None,
        stream: bool = False,
        **options: Unpack[Options],
    ) -> Batch:
        """Ask about every item, many at once, in the background; returns at once.

        Parameters
        ----------
        items : DataFrame, Series, list, mapping, iterable, async iterable or path
            What to ask about. A .parquet file is read as its rows are asked for.
        template : str or callable, optional
            ``"Classify the review: {text}"``: a field is a column's name, as it is; ``{}``, or no template, is the
            item itself. Or a function from item to text or messages.
        max_at_once, deadline, store, fresh, dedupe, keep, out, view, name : as in `batch`
            Two questions are the same if provider, address, model, messages, temperature and max_tokens
            are. An agent that has actions, or is made of a function of yours, is stored only if `store` is a path: what
            they do may change. Its actions' schemas are part of the question, and what they did is not kept.
        stream : bool
            Ask for each reply in pieces, so that the panel shows it grow; the rows are the same.
        **options
            Any of the agent's, for this batch alone.

        Returns
        -------
        Batch
            It has begun; ``await`` it for a DataFrame, iterate over it for answers as they complete.

        Raises
        ------
        ConfigurationError
            An option, the template or the items make no sense. Nothing was sent.
        StoreError
            The store cannot be used. Nothing was sent.

        Examples
        --------
        >>> import pandas as pd
        >>> from ceylon_nb import LlmAgent
        >>> reviews = pd.DataFrame({"text": ["Works like a charm.", "It boils water."]}, index=["kettle", "pot"])
        >>> agent = LlmAgent("clerk", "demo::tutor", system_prompt="Classify the review.")
        >>> run = agent.map(reviews, "{text}", max_at_once=20)
        >>> frame = await run
        >>> frame[["reply", "status", "attempts"]]
                   reply status  attempts
        kettle  positive     ok         1
        pot      neutral     ok         1
        """
        check_options(auto=True, max_at_once=max_at_once, deadline=deadline, view=view)
        source = parquet.source(items)
        prompt_of = Template(template, source)
        if prompt_of.names is not None and (out is not None or not keep):  # nobody can ask for the others
            source.only(prompt_of.names)
        caller = self._caller(self._settings.but(options))

        title = name or (template if isinstance(template, str) else self.name())
        where = whereabouts(caller.provider.base_url)
        family = models.family(self._model, caller)
        said_before = sendable(caller.settings.system_prompt or "")
        work = Work(
            caller.ask_streaming if stream else caller.ask,
            title=title,
            subtitle=" · ".join(part for part in (self.name(), self.model, where) if part not in ("", title)),
            model=self.model,
            prepare=lambda item: caller.request(prompt_of(item)),
            family=family if store != "auto" or (isinstance(self._model, str) and not caller.tools) else None,
            identify=lambda request: family.asks_messages(request.messages, said_before),
            describe=lambda item: as_text(prompt_of(item)),
            gist=lambda item: as_text(prompt_of.gist(item)),
            hide=caller.hide,
            endpoint=caller.endpoint,
            estimate=caller.endpoint.estimate,
            advice=caller.provider.more_at_once,
        )
        storing = Storing(store, fresh=fresh, dedupe=dedupe, keep=keep, out=file_for(out))
        return engine.start(work, source, storing, max_at_once=max_at_once, deadline=deadline, view=view)

    def _caller(self, settings: Settings, context: object | None = None) -> Caller:
        provider = self._provider(settings)
        actions = self.actions
        if not actions:
            return Caller(self.model, provider, settings)
        toolbox = Toolbox(
            self.name(),
            actions,
            max_rounds=settings.max_rounds,
            timeout=settings.action_timeout,
            confirm=settings.confirm,
            context=context,
            hide=Caller(self.model, provider, settings).hide,
        )
        return ActingCaller(self.model, provider, settings, toolbox)

    def _provider(self, settings: Settings) -> Provider:
        provider = self._providers.get(settings.connection)
        if provider is None:
            try:
                provider = models.connect(self._model, settings.base_url, settings.api_key, settings.transport)
            except MissingAPIKey:
                if not _replaying():
                    raise
                # not kept: after the replay there is a key, or an error
                return models.connect(self._model, settings.base_url, "nothing is sent", settings.transport)
            self._providers[settings.connection] = provider
        return provider

    def _interrupted(self) -> str:
        closed = "the request is closed" if not self.actions else "its request and its actions are cancelled"
        return f"Interrupted before {self.model} had answered: {closed}."

    # -- life ---------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> LlmAgent:
        if not (_replaying() or callable(self._model)):
            await load("ceylon_nb.http")  # which `build` does not wait for, then
        return self.build()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        http = await load("ceylon_nb.http")
        await http.close_idle()


def _replaying() -> bool:
    """Whether nothing is sent: everything is in a recording."""
    recorded = recording.current()
    return recorded is not None and recorded.record is None
