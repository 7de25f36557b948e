"""What a function takes, from its type hints and its docstring: a JSON schema, and arguments that fit it.

By pydantic, and the docstrings (Google, NumPy, reST) by docstring_parser: nothing imports this before it needs it.

A model's field cannot have every name that a parameter can (``schema``, ``_x``, ``model_config``): the fields are p0,
p1 and so on, the parameters' names are their aliases.
"""

from __future__ import annotations

import functools
import inspect
import reprlib
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Optional, Union

import docstring_parser
import pydantic
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails, from_json

from ..errors import ConfigurationError, InvalidArguments, describe
from ..messages import sendable
from .context import Context

MOST = 3
"""Of the complaints about one argument, so many are said: a list of a thousand wrong things makes thousands."""

Parameter = inspect.Parameter

Fields = dict[str, tuple[Parameter, Any, str | None]]
"""Of each field the parameter, what its type hint means, and what the docstring says of it."""


class Schema:
    """What a function takes.

    Parameters
    ----------
    function : callable
        As it is called: of a method, a bound one.
    signature : inspect.Signature
        Its own; none of its parameters is positional only.
    name : str
        The action's, for what is said of it.
    doc : str or None
        The docstring, its indentation removed.

    Attributes
    ----------
    about : str
        What the docstring says before its sections.
    parameters : dict
        A JSON schema of type *object*, without titles.

    Raises
    ------
    ConfigurationError
        A type hint names what is not there, or pydantic cannot make a schema of it.
    """

    def __init__(self, function: Callable[..., Any], signature: inspect.Signature, name: str, doc: str | None) -> None:
        self._name = name
        self._context: str | None = None
        self._fields: dict[str, tuple[str, bool]] = {}  # the parameter; whether its default is the model's
        self._reserved = _bound_names(function)
        self.about, described = _read_docstring(doc or "")

        fields: Fields = {}
        extra: Any = None
        for parameter, hint in self._hinted(function, signature):
            if parameter.kind is Parameter.VAR_KEYWORD:
                extra = hint
                continue
            key = f"p{len(fields)}"
            fields[key] = parameter, hint, described.get(parameter.name)
            by_model = parameter.default is Parameter.empty or isinstance(parameter.default, FieldInfo)
            self._fields[key] = parameter.name, by_model
        self._model, self.parameters = self._built(fields, extra)
        self._takes = [
            f"{field.alias}" if field.is_required() else f"{field.alias} (optional)"
            for field in self._model.model_fields.values()
        ]

    def _hinted(self, function: Callable[..., Any], signature: inspect.Signature) -> Iterable[tuple[Parameter, Any]]:
        """The parameters that are arguments, each with what its type hint means."""
        names = _names_seen(function)
        for parameter in signature.parameters.values():
            try:
                hint = _evaluated(parameter.annotation, names)
            except Exception as error:
                if parameter.name == "context" and isinstance(error, NameError):  # imported for type checkers alone
                    self._inject(parameter)
                    continue
                raise ConfigurationError(
                    f"Action {self._name!r}: the type hint of {parameter.name} cannot be read "
                    f"({describe(error)}). What it names has to stand at the top of its module, or in a cell."
                ) from error
            if _is_context(hint) or (parameter.name == "context" and hint in (Any, object, NoneType)):
                self._inject(parameter)
            elif parameter.kind is Parameter.VAR_KEYWORD and typing.get_origin(hint) is typing.Unpack:
                yield from _unpacked(*typing.get_args(hint))
            else:
                yield (parameter, hint)

    def _inject(self, parameter: Parameter) -> None:
        self._context = parameter.name
        self._reserved = {*self._reserved, parameter.name}

    def _built(self, fields: Fields, extra: Any) -> tuple[type[pydantic.BaseModel], dict[str, Any]]:
        try:
            return _build(fields, extra)
        except Exception as error:  # noqa: BLE001 - a type hint's own code runs there; whatever it raises is said
            where, fault = next(self._faults(fields), ("", error))
            raise ConfigurationError(
                f"Action {self._name!r}{where} has a type hint that no JSON schema can say: {describe(fault)}"
            ) from fault

    def _faults(self, fields: Fields) -> Iterator[tuple[str, Exception]]:
        for key, field in fields.items():
            try:
                _build({key: field}, None)
            except Exception as fault:  # noqa: BLE001 - as above
                yield f": {self._fields[key][0]}", fault

    # -- arguments ----------------------------------------------------------------------------------------------

    def values(self, arguments: Mapping[str, Any] | str | None, context: object | None) -> dict[str, Any]:
        """Check arguments and turn them into what the type hints say, each by its parameter's name.

        Parameters
        ----------
        arguments : mapping, str or None
            By name; as JSON text; or none.
        context : object or None
            The value of the parameter that takes it, if there is one.

        Raises
        ------
        InvalidArguments
            It says of each argument that is wrong what is wrong with it, and which there are.
        """
        given = self._read(arguments)
        try:
            model = self._model.model_validate(given)
        except pydantic.ValidationError as error:
            raise self._refusal(_complaints(error.errors(include_url=False, include_context=False))) from None
        extra = model.__pydantic_extra__ or {}
        if wrong := [name for name in extra if name in self._reserved]:
            raise self._refusal(f"{name} is no argument of it" for name in wrong)
        values = {
            parameter: getattr(model, key)
            for key, (parameter, always) in self._fields.items()
            if always or key in model.model_fields_set  # the function has its own defaults
        }
        if self._context is not None:
            values[self._context] = context
        return values | extra

    def _read(self, arguments: Mapping[str, Any] | str | None) -> dict[str, Any]:
        given: Any = arguments or {}
        if isinstance(given, str):
            try:
                given = from_json(sendable(given)) if given.strip() else {}
            except ValueError as error:
                raise self._refusal([f"they are no JSON ({error})"]) from None
        if not isinstance(given, Mapping):
            raise self._refusal([f"they are an object, by name, and not {_shown(given)}"])
        return {sendable(name) if isinstance(name, str) else name: value for name, value in given.items()}

    def _refusal(self, complaints: Iterable[str]) -> InvalidArguments:
        there_are = f"It takes {', '.join(self._takes)}." if self._takes else "It takes none."
        said = f"The arguments of {self._name!r} do not fit: {'; '.join(complaints)}. {there_are}"
        return InvalidArguments(sendable(" ".join(said.split())))


def _complaints(errors: list[ErrorDetails]) -> list[str]:
    of: dict[Any, list[str]] = {}
    for error in errors:
        path = ".".join(map(str, error["loc"]))
        match error["type"]:
            case "missing":
                text = f"{path} is missing"
            case "extra_forbidden":
                text = f"{path} is no argument of it" if len(error["loc"]) == 1 else f"{path} is too much"
            case _:
                text = f"{path}: {error['msg']}, not {_shown(error['input'])}"
        of.setdefault(error["loc"][:1], []).append(text)
    return [
        text
        for texts in of.values()
        for text in (texts if len(texts) <= MOST else [*texts[:MOST], f"and {len(texts) - MOST} more of this kind"])
    ]


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


def _shown(value: object) -> str:
    return _short.repr(value)


# -- type hints ------------------------------------------------------------------------------------------------------


def _innermost(function: Any) -> Any:
    """The function in it, without what is wrapped around it."""
    while True:
        if isinstance(function, (functools.partial, functools.partialmethod)):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif isinstance(partial := _partial_method(function), functools.partialmethod):
            function = partial
        elif not inspect.isroutine(function):
            function = type(function).__call__
        else:
            return function


def _partial_method(function: Any) -> Any:
    return getattr(function, "__partialmethod__", None) or getattr(function, "_partialmethod", None)


def _names_seen(function: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a type hint of the function may name: its globals, and what it has from functions around it."""
    inner = _innermost(function)
    around: dict[str, Any] = {kind.__name__: kind for kind in getattr(inner, "__type_params__", ())}
    code = getattr(inner, "__code__", None)
    for name, cell in zip(code.co_freevars if code else (), getattr(inner, "__closure__", None) or (), strict=True):
        try:
            around[name] = cell.cell_contents
        except ValueError:  # not there yet
            continue
    return getattr(inner, "__globals__", {}), around


def _evaluated(annotation: Any, names: tuple[dict[str, Any], dict[str, Any]]) -> Any:
    if annotation is Parameter.empty:
        return Any

    def holder() -> None: ...

    holder.__annotations__ = {"hint": annotation}
    return typing.get_type_hints(holder, *names, include_extras=True)["hint"]


def _is_context(hint: Any) -> bool:
    """Whether this is the mesh's Context, also as one of several, or with None."""
    if typing.get_origin(hint) in (Union, UnionType, Annotated):
        return any(map(_is_context, typing.get_args(hint)))
    return inspect.isclass(hint) and issubclass(hint, Context)


def _takes_none(hint: Any) -> bool:
    if hint in (Any, object, NoneType):
        return True
    return typing.get_origin(hint) in (Union, UnionType, Annotated) and any(map(_takes_none, typing.get_args(hint)))


_LEFT_OUT = object()
"""The default of what may be left out and has none; no schema can say it, so none does."""


def _unpacked(options: Any) -> Iterable[tuple[Parameter, Any]]:
    """The parameters that ``**options: Unpack[Options]`` stands for."""
    for name, hint in typing.get_type_hints(options, include_extras=True).items():
        needed = name in options.__required_keys__
        bare = typing.get_args(hint)[0] if typing.get_origin(hint) in (typing.Required, typing.NotRequired) else hint
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=Parameter.empty if needed else _LEFT_OUT), bare


def _bound_names(function: Any) -> set[str]:
    """What the function calls the object that it is bound to: a further argument cannot be called that."""
    while isinstance(function, functools.partial):
        function = function.func
    method = function if inspect.isroutine(function) else function.__call__
    if not inspect.ismethod(method):
        return set()
    return set(list(inspect.signature(method.__func__).parameters)[:1])


# -- pydantic --------------------------------------------------------------------------------------------------------


class _Generator(GenerateJsonSchema):
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as the base class has it


def _field(parameter: Parameter, hint: Any, described: str | None) -> tuple[Any, Any]:
    bare, *notes = (hint.__origin__, *hint.__metadata__) if typing.get_origin(hint) is Annotated else (hint,)
    if parameter.default is None and not _takes_none(bare):
        bare = Optional[bare]  # noqa: UP045 - of any hint, not only of a class
    default = ... if parameter.default is Parameter.empty else parameter.default
    ours = pydantic.Field(alias=parameter.name, description=described)
    return Annotated[(bare, ours, *notes)], default


def _build(fields: Fields, extra: Any) -> tuple[type[pydantic.BaseModel], dict[str, Any]]:
    config = pydantic.ConfigDict(extra="forbid" if extra is None else "allow", coerce_numbers_to_str=True)
    annotations = {} if extra is None else {"__pydantic_extra__": dict[str, extra]}
    names = {"model_config": config, "__annotations__": annotations, "__module__": __name__}
    base = type("Arguments", (pydantic.BaseModel,), names)
    kinds: dict[str, Any] = {key: _field(*field) for key, field in fields.items()}
    model: type[pydantic.BaseModel] = pydantic.create_model("Arguments", __base__=base, **kinds)
    schema = model.model_json_schema(schema_generator=_Generator)
    order = ("type", "properties", "required", "additionalProperties", "$defs")
    return model, _untitled({key: schema[key] for key in order if key in schema})


def _untitled(schema: Any) -> Any:
    """The same schema without its titles, which say each name once more; an argument may well be called *title*."""
    if isinstance(schema, list):
        return [_untitled(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _untitled(each) for name, each in value.items()}
        if key in ("properties", "$defs", "patternProperties")
        else value
        if key in ("default", "const", "enum", "examples")
        else _untitled(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }


# -- docstrings ------------------------------------------------------------------------------------------------------


def _read_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """What it says before its sections, and what it says of each parameter."""
    try:
        parsed = docstring_parser.parse(doc)
    except docstring_parser.ParseError:
        return doc.strip(), {}
    of = {
        name.strip().lstrip("*"): " ".join(each.description.split())
        for each in parsed.params
        for name in each.arg_name.split(",")
        if each.description
    }
    return (parsed.description or "").strip(), of
