"""Chain: the settings of an agent, each set by a method that returns the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, Unpack

from .agent import Agent
from .caller import Confirm, Options, Settings

if TYPE_CHECKING:
    from ..http import Transport


class Chain(Agent):
    """The half of an `LlmAgent` that is set up: ``agent.with_temperature(0).with_max_tokens(5)``.

    Each method changes the agent itself. What is on its way goes on with the settings that it began with.
    """

    _settings: Settings

    def _with(self, **options: Unpack[Options]) -> Self:
        self._settings = self._settings.but(options)
        return self

    def with_system_prompt(self, system_prompt: str | None) -> Self:
        """Set what is said before every prompt.

        Parameters
        ----------
        system_prompt : str or None
            Said with role *system*; None says nothing.

        Returns
        -------
        LlmAgent
            The agent itself.

        Raises
        ------
        ConfigurationError
            It is no text.
        """
        return self._with(system_prompt=system_prompt)

    def with_temperature(self, temperature: float | None) -> Self:
        """Set how freely the model chooses its words.

        Parameters
        ----------
        temperature : float or None
            From 0, the least free; None leaves it to the server.

        Returns
        -------
        LlmAgent
            The agent itself.

        Raises
        ------
        ConfigurationError
            It is no number from 0.
        """
        return self._with(temperature=temperature)

    def with_max_tokens(self, max_tokens: int | None) -> Self:
        """Set how long a reply may be.

        Parameters
        ----------
        max_tokens : int or None
            Tokens, from 1; None leaves it to the server.

        Returns
        -------
        LlmAgent
            The agent itself.

        Raises
        ------
        ConfigurationError
            It is no whole number from 1.
        """
        return self._with(max_tokens=max_tokens)

    def with_api_key(self, api_key: str | None) -> Self:
        """Set the key.

        Parameters
        ----------
        api_key : str or None
            In place of the environment's, which None takes.

        Returns
        -------
        LlmAgent
            The agent itself.

        Raises
        ------
        ConfigurationError
            It is no text.
        """
        return self._with(api_key=api_key)

    def with_base_url(self, base_url: str | None) -> Self:
        """Set the server's address.

        Parameters
        ----------
        base_url : str or None
            With its path prefix, if it has one (``http://localhost:8000/v1``); None takes the environment's, or the
            provider's own.

        Returns
        -------
        LlmAgent
            The agent itself.

        Raises
        ------
        ConfigurationError
            It is no text, or an empty one. What cannot be a server's address (another scheme than http and https, no
            host, a space in it) is refused by `LlmAgent.build`, or at the first call.
        """
        return self._with(base_url=base_url)

    def with_timeout(self, timeout: float | None) -> Self:
        """Set how long one attempt may take.

        Parameters
        ----------
        timeout : float or None
            Seconds, from sending to the last byte; None waits for ever.

        Returns
        -------
        LlmAgent
            The agent itself.

        Raises
        ------
        ConfigurationError
            It is no number above 0.
        """
        return self._with(timeout=timeout)

    def with_attempts(self, attempts: int) -> Self:
        """Set how many requests one answer may take.

        Parameters
        ----------
        attempts : int
            In all, from 1.

        Returns
        -------
        LlmAgent
            The agent itself.

        Raises
        ------
        ConfigurationError
            It is no whole number from 1.
        """
        return self._with(attempts=attempts)

    def with_max_per_minute(self, max_per_minute: float | None) -> Self:
        """Set how many requests are sent a minute.

        Parameters
        ----------
        max_per_minute : float or None
            Requests a minute, evenly spaced, shared by all that state a number for the same base URL and key; None
            sets no limit.

        Returns
        -------
        LlmAgent
            The agent itself.

        Raises
        ------
        ConfigurationError
            It is no number above 0.
        """
        return self._with(max_per_minute=max_per_minute)

    def with_max_tokens_per_minute(self, max_tokens_per_minute: float | None) -> Self:
        """Set how many tokens are sent and received a minute.

        Parameters
        ----------
        max_tokens_per_minute : float or None
            Tokens a minute, of prompts and replies together, shared likewise; None sets no limit.

        Returns
        -------
        LlmAgent
            The agent itself.

        Raises
        ------
        ConfigurationError
            It is no number above 0.
        """
        return self._with(max_tokens_per_minute=max_tokens_per_minute)

    def with_transport(self, transport: Transport | None) -> Self:
        """Set what sends the requests.

        Parameters
        ----------
        transport : httpx.AsyncBaseTransport or None
            Yours to close; None takes the default one.

        Returns
        -------
        LlmAgent
            The agent itself.

        Raises
        ------
        ConfigurationError
            It is no transport, or a sync one.
        """
        return self._with(transport=transport)

    def with_max_rounds(self, max_rounds: int) -> Self:
        """Set in how many turns the model may call actions.

        Parameters
        ----------
        max_rounds : int
            Turns, from 1; after that it has to answer.

        Returns
        -------
        LlmAgent
            The agent itself.

        Raises
        ------
        ConfigurationError
            It is no whole number from 1.
        """
        return self._with(max_rounds=max_rounds)

    def with_action_timeout(self, action_timeout: float | None) -> Self:
        """Set how long an action may take that states no time itself.

        Parameters
        ----------
        action_timeout : float or None
            Seconds; None waits for ever.

        Returns
        -------
        LlmAgent
            The agent itself.

        Raises
        ------
        ConfigurationError
            It is no number above 0.
        """
        return self._with(action_timeout=action_timeout)

    def with_confirm(self, confirm: Confirm | None) -> Self:
        """Set who is asked before an action that the model calls is run.

        Parameters
        ----------
        confirm : callable or None
            ``confirm(agent_name, call)`` returns True, False, or as text why not; it may be async. None runs them all.

        Returns
        -------
        LlmAgent
            The agent itself.

        Raises
        ------
        ConfigurationError
            It cannot be called.
        """
        return self._with(confirm=confirm)
