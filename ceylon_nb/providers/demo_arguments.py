"""The arguments that a prompt has for a tool: how ``demo::tutor`` fills a JSON schema from a text, without a model.

Each value is given away once, in the order in which it stands there: numbers for numbers; names, codes and quoted texts
for strings, or all that follows where there are none; an enum's values and a flag where they are named. ``days=3`` says
it outright. What may be left out is, unless the text has a word of its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["SUM", "WORD", "fill", "stem", "stems"]

_MOST = 16  # calls of one tool in one turn

WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SMALL = frozenset(
    """
a about after again all also an and any are as at be by can could current do does for from get give given has have how
i if in into is it its let list look make me more my name new no not of on one or our out please return returns run say
set show so some tell text than that the their them then there these they this to tool two up us use used uses using
value values want was we what when where which who will with would you your today now
""".split()
)
SUM = re.compile(r"[\d(][\d\s.()]{0,40}[+*/×÷^%-][\d\s.()+*/×÷^%-]{0,200}[\d)]")


def stems(text: str) -> set[str]:
    """What its words, and those of its camelCase, are forms of; without those that say nothing."""
    words = WORD.findall(_CAMEL.sub(" ", text).lower())
    return {stem(word) for word in words if word not in _SMALL and not word.isdigit()}


def stem(word: str) -> str:
    """Multiplies, multiplied, multiplying: all are multiply; as far as that goes without a dictionary."""
    for ending, instead in (("ies", "y"), ("ied", "y"), ("ing", ""), ("ed", ""), ("es", "e"), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word.removesuffix(ending) + instead
    return word


def fill(
    schema: Mapping[str, Any], text: str, place: int, named: frozenset[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Fill a schema as often as there is something in the text that fills it.

    Parameters
    ----------
    schema
        Of an object: a tool's parameters.
    text
        What the arguments are taken from.
    place
        Where in it the word ends that asks for the tool.
    named
        Stems of the words that ask for it; these are no names of anything else.

    Returns
    -------
    tuple
        The arguments of each call; and, where there is none, the names of those that are required and lacking.
    """
    properties = schema.get("properties")
    parts = properties if isinstance(properties, Mapping) else {}
    parameters = {str(name): _resolved(part, schema) for name, part in parts.items()}
    listed = schema.get("required")
    required = [name for name in parameters if name in listed] if isinstance(listed, list) else []
    pool = _Pool(text, place, named, parameters)
    calls: list[dict[str, Any]] = []
    last: dict[str, Any] = {}
    while len(calls) < _MOST:
        fresh, given = pool.fill(parameters, required, last)
        lack = [name for name in required if name not in given]
        if lack or (calls and not fresh):
            return calls, [] if calls else lack
        calls.append(given)
        last = given
    return calls, []


def _resolved(part: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that stands for a part: where it points, and of alternatives the first that is something."""
    for _ in range(8):
        if not isinstance(part, Mapping):
            return {}
        pointed = part.get("$ref")
        either = part.get("anyOf") or part.get("oneOf") or part.get("allOf")
        if isinstance(pointed, str):
            place = root.get(pointed.split("/")[1] if pointed.count("/") == 2 else "") or {}
            part = place.get(pointed.rpartition("/")[2], {}) if isinstance(place, Mapping) else {}
        elif isinstance(either, list) and either:
            part = next((one for one in either if one != {"type": "null"}), {})
        else:
            return part
    return {}


def _kind(schema: Mapping[str, Any]) -> str:
    if isinstance(schema.get("enum"), list) or "const" in schema:
        return "enum"
    kind = schema.get("type", "string")
    kind = next((one for one in kind if one != "null"), "string") if isinstance(kind, list) else kind
    return "number" if kind == "integer" else str(kind)


_NUMBER = re.compile(r"(?<![\w.])-?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\w])|(?<![\w.])-?\d+(?:\.\d+)?(?![\w-]*[^\W\d_])")
_CAP = r"[^\W\d_a-zß-öø-ÿа-яα-ω][\w’'-]*"
_STRING = re.compile(
    r"[\"“«]([^\"”»]{1,500})[\"”»]|(?<!\w)'([^']{1,500})'(?!\w)|`([^`]{1,500})`"
    r"|((?<![\w.+-])[\w.+-]+@[\w-]+\.[\w.-]*\w|https?://\S*[\w/]|\d{4}-\d\d-\d\d(?:T[\d:.]+Z?)?)"
    rf"|(?<!\w)({_CAP}(?:[ ](?:(?:de|da|do|del|di|du|la|le|van|von)[ ])?{_CAP})*)"
    r"|(?<!\w)(#?\w*\d[\w-]*)"
)
_CALENDAR = frozenset(
    """
monday tuesday wednesday thursday friday saturday sunday january february march april may june july august september
october november december celsius fahrenheit kelvin utc am pm
""".split()
)
_STARTERS = (
    frozenset(
        """
hello hi hey thanks thank ok okay yes no first second next finally both compare check create find translate
send write read open book order call count sort plan explain
""".split()
    )
    | _CALENDAR
    | (_SMALL - {"new"})
)
_LEADING = re.compile(
    r"(?:\W|(?:for|of|in|at|on|about|to|the|a|an|is|are|me|up|with|from|by|please|it|like|number)\b)+", re.I
)


class _Pool:
    """The values that stand in a passage, each given away once."""

    def __init__(self, text: str, trigger: int, named: frozenset[str], parameters: Iterable[str]) -> None:
        self.explicit: dict[str, str] = {}
        for name in parameters:
            text = self._set_aside(name, text)
        self.text = text
        self.named = named
        strings = list(self._strings())
        self.left: dict[str, list[Any]] = {
            "number": [_number(found[0]) for found in _NUMBER.finditer(text)],
            "string": strings,
            "sum": [found[0].strip() for found in SUM.finditer(text)],
            "rest": [] if strings else self._rest(trigger),
        }
        self.enums: dict[str, list[Any]] = {}
        self.taken = 0

    def fill(
        self, parameters: Mapping[str, Mapping[str, Any]], required: Sequence[str], last: Mapping[str, Any]
    ) -> tuple[bool, dict[str, Any]]:
        """The arguments of the next call, and whether anything in them is not as in the last one.

        A kind of which nothing is left stays as it was in the last call: the unit of "Paris and Rome, in celsius".
        """
        given: dict[str, Any] = {}
        taken = self.taken
        spent = {"number"} if not self.left["number"] else set()
        if not any(self.left[kind] for kind in ("string", "sum", "rest")):
            spent.add("string")
        for name, schema in parameters.items():
            kind = _kind(schema)
            if last and (kind in spent or (kind == "enum" and not self.enums.get(name))):
                value = last.get(name)
            else:
                value = self._take(name, schema, kind, name in required)
            if value is not None:
                given[name] = value
        return self.taken > taken, given

    def _take(self, name: str, schema: Mapping[str, Any], kind: str, required: bool) -> Any:
        if name in self.explicit and kind not in ("array", "object", "enum"):
            return _read(self.explicit[name], schema, kind)
        match kind:
            case "enum":
                return self._enum(name, schema)
            case "boolean":
                return self._boolean(name, required)
            case "array":
                items = schema.get("items")
                return self._all(items if isinstance(items, Mapping) else {}) if required or self._names(name) else None
            case "object":
                return {} if required else None
            case "number":
                number = self._give(self.left["number"]) if required or self._names(name) else None
                return int(number) if number is not None and schema.get("type") == "integer" else number
        if not required:
            return None
        wanted = "sum" if stems(name) & {"expression", "formula", "equation", "calculation"} else "string"
        return self._give(self.left[wanted]) or self._give(self.left["rest"])

    def _give(self, values: list[Any]) -> Any:
        self.taken += bool(values)
        return values.pop(0) if values else None

    def _all(self, items: Mapping[str, Any]) -> list[Any] | None:
        if _kind(items) == "enum":
            return self._named(items) or None
        kind = "number" if _kind(items) == "number" else "string"
        values, self.left[kind] = self.left[kind], []
        return [int(value) for value in values] if items.get("type") == "integer" else values or None

    def _enum(self, name: str, schema: Mapping[str, Any]) -> Any:
        if "const" in schema:
            return schema["const"]
        if name not in self.enums:
            self.enums[name] = self._named(schema, self.explicit.get(name))
        return self._give(self.enums[name])

    def _named(self, schema: Mapping[str, Any], text: str | None = None) -> list[Any]:
        """An enum's values in the order in which the text names them."""
        text = (self.text if text is None else text).lower()
        places = [(re.search(rf"(?<!\w){re.escape(str(one).lower())}(?!\w)", text), one) for one in schema["enum"]]
        return [one for _, one in sorted(((at.start(), one) for at, one in places if at), key=lambda found: found[0])]

    def _boolean(self, name: str, required: bool) -> bool | None:
        if not self._names(name):
            return False if required else None
        words = "|".join(map(re.escape, name.lower().split("_")))
        return not re.search(rf"\b(?:no|not|without)\b[^.,;]{{0,20}}\b(?:{words})", self.text.lower())

    def _names(self, name: str) -> bool:
        return bool(stems(name) & stems(self.text))

    def _set_aside(self, name: str, text: str) -> str:
        """Take ``days=3``, ``days: 3`` or ``title="…"`` out of the text; blanks keep the places of all else."""
        found = re.search(rf"(?<!\w){re.escape(name)}\s?[=:]\s?(?:\"([^\"]*)\"|([^\s,;?!]+))", text, re.I)
        if not found:
            return text
        self.explicit[name] = found[1] if found[1] is not None else found[2].rstrip(".")
        return text[: found.start()] + " " * len(found[0]) + text[found.end() :]

    def _strings(self) -> Iterator[str]:
        for found in _STRING.finditer(self.text):
            text = next(group for group in found.groups() if group is not None)
            if found[5] is not None:
                text = self._name(text)
            if text and not _NUMBER.fullmatch(text):
                yield text

    def _name(self, text: str) -> str:
        """A name, without the words that are capital because a sentence begins with them."""
        words = text.split(" ")
        while words and not self._is_name(re.split("['’]", words[0].lower())[0]):
            del words[0]
        while words and words[-1].lower() in _CALENDAR:
            del words[-1]
        return re.sub(r"['’]s?$", "", " ".join(words))

    def _is_name(self, word: str) -> bool:
        return word not in _STARTERS and stem(word) not in self.named

    def _rest(self, trigger: int) -> list[str]:
        """What stands behind the tool's word, for want of names: "search for cats and dogs"."""
        text = self.text[trigger:]
        lead = _LEADING.match(text)
        text = text[lead.end() if lead else 0 :].strip().rstrip(".?!,;:").removesuffix(" and").strip()
        return [text[:200]] if text else []


def _read(said: str, schema: Mapping[str, Any], kind: str) -> Any:
    if kind == "boolean":
        return said.lower() not in ("false", "no", "off", "0")
    if kind != "number":
        return said
    if not _NUMBER.fullmatch(said):
        return None
    number = _number(said)
    return int(number) if schema.get("type") == "integer" else number


def _number(text: str) -> int | float:
    text = text.replace(",", "")
    return float(text) if "." in text else int(text)
