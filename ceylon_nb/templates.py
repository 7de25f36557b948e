"""Templates: from an item to a prompt.

A field is a column's name, verbatim; a cell is data: it is put in as text and never formatted again.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from numbers import Number
from typing import Any, TypeAlias

from .errors import InvalidItem, TemplateError
from .frames import Source, listed
from .messages import Prompt

TemplateLike: TypeAlias = str | Callable[[Any], Prompt] | None


class Template:
    """Turns an item into a prompt.

    Parameters
    ----------
    template : str, callable or None
        Text with ``{column}`` fields (format specs and ``!r`` allowed) or ``{}`` for the item itself; or a function
        from item to text or messages; or None, for the item itself.
    items : Source
        What it must fit.

    Raises
    ------
    TemplateError
        A field that the items do not have, or a text that is no template. Nothing has been sent.
    """

    def __init__(self, template: TemplateLike, items: Source) -> None:
        self._call = template if callable(template) else None
        self._fields: list[tuple[str, str | None, str, str | None]] = []
        if template is None:
            if items.columns is not None:
                raise TemplateError(
                    "A table needs a template that says which columns to ask about, for example "
                    f'"{{{next(iter(items.columns), "text")}}}". Its columns are {listed(items.columns)}.'
                )
            self._fields = [("", "", "", None)]
        elif isinstance(template, str):
            self._fields = list(_parsed(template))
            self._check(template, items)
        elif self._call is None:
            raise TemplateError(f"A template is a str or a function of the item, not {type(template).__name__}.")

    def _check(self, template: str, items: Source) -> None:
        names = [name for _, name, _, _ in self._fields if name is not None]
        if items.columns is not None:
            known: Collection[str] | None = items.columns
        elif items.total:
            known = _keys(items.item(position) for position in range(items.total))
        else:
            return  # nothing to hold it against yet: a stream's items are checked as they come
        if known is None:
            unknown = [name for name in names if name]
            if unknown:
                raise TemplateError(
                    f"The items have no columns, so {{{unknown[0]}}} stands for nothing: {{}} is the item. "
                    + _braces(template)
                )
            return
        for name in names:
            if name == "" and items.columns is not None:
                raise TemplateError(f"{{}} stands for a whole row: name a column. {_there(known)}.")
            if name in items.doubled:
                raise TemplateError(f"Several columns are called {name!r}: rename them, so that one can be named.")
            if name and name not in known:
                raise TemplateError(f"There is no column {name!r}. {_there(known)}. " + _braces(template))

    def __call__(self, item: Any) -> Prompt:
        """The prompt for one item.

        Raises
        ------
        InvalidItem
            The item has no such field, or a cell cannot be shown in the format asked for.
        """
        if self._call is not None:
            return self._call(item)
        if self._is_whole:
            return _whole(item)
        return "".join(before + self._cell(item, name, spec, how) for before, name, spec, how in self._fields)

    @property
    def names(self) -> frozenset[str] | None:
        """The columns that it names; None of a function, which may look at any."""
        return None if self._call else frozenset(name for _, name, _, _ in self._fields if name)

    @property
    def _is_whole(self) -> bool:
        """Whether it is the item itself, text or messages."""
        return len(self._fields) == 1 and self._fields[0] == ("", "", "", None)

    def gist(self, item: Any) -> Prompt:
        """What tells this item's prompt from the others: the cells alone. A function is not called for it.

        Raises
        ------
        InvalidItem
            As `__call__`.
        """
        if self._call is not None:
            return _whole(item)
        cells = [self._cell(item, name, spec, how) for _, name, spec, how in self._fields if name is not None]
        return " · ".join(cells) if cells and not self._is_whole else self(item)

    def _cell(self, item: Any, name: str | None, spec: str, conversion: str | None) -> str:
        if name is None:
            return ""
        value = item
        if name:
            if not isinstance(item, Mapping) or name not in item:
                has = f"it has {listed(item)}" if isinstance(item, Mapping) else f"it is a {type(item).__name__}"
                raise InvalidItem(f"The item has no field {name!r}; {has}.")
            value = item[name]
        if missing(value):
            return ""
        try:
            return format(_CONVERSIONS[conversion](value) if conversion else value, spec)
        except (TypeError, ValueError) as error:
            raise InvalidItem(
                f"The value of {{{name}}}, a {type(value).__name__}, does not fit ':{spec}': {error}."
            ) from error


_CONVERSIONS: dict[str, Callable[[Any], str]] = {"r": repr, "s": str, "a": ascii}


def _parsed(template: str) -> Iterator[tuple[str, str | None, str, str | None]]:
    """(text before, field or None, format spec, conversion) as `string.Formatter` reads a template."""
    try:
        for before, name, spec, conversion in string.Formatter().parse(template):
            if spec and ("{" in spec or "}" in spec):
                raise TemplateError(
                    f"A format spec cannot hold a field of its own: {{{name}:{spec}}}. " + _braces(template)
                )
            if conversion and conversion not in _CONVERSIONS:
                raise TemplateError(f"There is no conversion !{conversion}: use !r, !s or !a. " + _braces(template))
            yield before, name, spec or "", conversion
    except TemplateError:
        raise
    except ValueError as error:
        raise TemplateError(f"The template cannot be read: {error}. " + _braces(template)) from error


def _there(columns: Collection[str]) -> str:
    return f"There {'is only' if len(columns) == 1 else 'are'} {listed(columns)}"


def _braces(template: str) -> str:
    jsonish = any(mark in template for mark in ('{"', "{'", "{\n", "{ ", '":'))
    return (
        "To send braces as they are, as in JSON, double the braces: {{ and }}."
        if jsonish
        else ("A field is a column's name, as it is; to send a brace, double it: {{ or }}.")
    )


def _whole(item: Any) -> Prompt:
    """The item itself as a prompt: text and messages as they are, anything else as text."""
    if isinstance(item, str):
        return item
    if missing(item):
        return ""
    if (
        isinstance(item, (list, tuple))
        and item
        and all(isinstance(turn, Mapping) or hasattr(turn, "role") for turn in item)
    ):
        return item
    return str(item)


def _keys(items: Iterable[Any]) -> Collection[str] | None:
    """The names of all fields of items that are mappings; None if the first is none."""
    keys: dict[str, None] = {}
    for position, item in enumerate(items):
        if isinstance(item, Mapping):
            keys.update(dict.fromkeys(item))
        elif position == 0:
            return None
    return keys


def missing(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, NaT or NA, Python's, numpy's or pandas'."""
    kind = type(value).__name__
    if value is None or kind in ("NAType", "NaTType"):
        return True
    return (isinstance(value, Number) or kind == "datetime64") and bool(value != value)
