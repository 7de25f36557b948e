"""Conversation: turns with one model that see the ones before."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING

from ..interrupts import explained
from ..loop import run_sync
from ..messages import Message, Reply

if TYPE_CHECKING:
    from .llm import LlmAgent


class Conversation:
    """Turns that see the ones before; made by `LlmAgent.conversation`.

    A turn that fails leaves no trace. Turns wait for one another, in the order in which they were begun. What was said
    is remembered, not which actions were called on the way.

    Examples
    --------
    >>> from ceylon_nb import LlmAgent
    >>> chat = LlmAgent("friend", "demo::tutor").conversation()
    >>> reply = await chat.send("What is Python?")
    >>> reply = await chat.send("And Rust?")
    >>> [message.role for message in chat.messages]
    ['user', 'assistant', 'user', 'assistant']
    >>> chat.messages[2].content
    'And Rust?'
    """

    def __init__(self, agent: LlmAgent) -> None:
        self._agent = agent
        self._turns: list[Message] = []
        self._last: Future[None] = Future()
        self._last.set_result(None)

    @property
    def messages(self) -> tuple[Message, ...]:
        """What was said so far, in order, without the system prompt."""
        return tuple(self._turns)

    async def send(self, message: str) -> Reply:
        """Say something, and return the answer; both are remembered if it comes.

        Parameters
        ----------
        message : str
            The next turn.

        Returns
        -------
        Reply
            The whole answer.

        Raises
        ------
        RequestError, TooManyRounds, InvalidItem, ConfigurationError, NotRecorded
            As `LlmAgent.send_message`; the conversation is then as if nothing had been said.
        """
        before, self._last = self._last, Future()
        mine = self._last
        try:
            await asyncio.shield(asyncio.wrap_future(before))
            said = Message("user", message)
            reply = await self._agent.send_message([*self._turns, said])
            self._turns += [said, Message("assistant", str(reply))]
            return reply
        finally:
            before.add_done_callback(lambda _: mine.set_result(None))

    def send_sync(self, message: str) -> Reply:
        """As `send`, and wait for it: in a script, a thread, or a cell, where a loop already runs."""
        with explained(self._agent._interrupted):
            return run_sync(self.send(message))
