"""The brain of ``demo::tutor``: what the embedded stand-in answers, with no network and no chance in it.

Four tasks, each a small honest program: tell a sentiment, pick a field out of a text, summarise in one line, explain a
term. Asked anything else, it says that it is a stand-in. Every pattern takes time in proportion to the text, and of a
very long message only both ends are read.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

__all__ = ["STAND_IN", "answer"]

STAND_IN = (
    "I am demo::tutor, a small stand-in for a language model: I can tell a sentiment, pick a field out of a text, "
    "summarise in one line and explain a few terms. For anything else, use a real model, for example ollama::llama3.2."
)
_HELLO = "Hello! I am demo::tutor, a small stand-in for a language model. Ask me what asyncio is, or give me a text."
_STORY = (
    "Once upon a time a notebook asked a thousand questions, one after the other, and waited all night. The next "
    "evening it asked them all at once. The answers came home in whatever order they liked, and each one found its own "
    "row. By supper the table was full. (This is the only story that a stand-in knows.)"
)
_REACH = 50_000  # characters read at either end of a message
_WIDTH = 120  # characters of a one-line summary


def answer(messages: Sequence[Mapping[str, str]]) -> str:
    """Answer the last user message.

    Parameters
    ----------
    messages
        The conversation, oldest first: mappings with ``role`` (``system``, ``user`` or ``assistant``) and ``content``.
        A system message may set the task ("Classify the sentiment of the review"); the user message is then the
        text, unless it begins with a command of its own.

    Returns
    -------
    str
        Never empty. A sentiment is exactly ``positive``, ``negative`` or ``neutral``; a field is its value alone or
        ``not found``; a summary is one line of at most 120 characters or ``nothing to summarise``. Equal messages have
        equal answers, and no string raises.
    """
    said: dict[str, list[str]] = {"system": [], "user": [], "assistant": []}
    for message in messages:
        said.setdefault(message.get("role", ""), []).append(message.get("content") or "")
    asked = said["user"] or [""]
    prompt = asked[-1].strip()
    if len(prompt) > 2 * _REACH:
        prompt = prompt[:_REACH] + "\n" + prompt[-_REACH:]
    duty = _duty(" ".join(said["system"]).strip())
    if duty and not _COMMAND.match(prompt):
        return _do(duty, prompt) or STAND_IN
    if _COMMAND.match(prompt):
        return _perform(prompt) or STAND_IN
    known = _remember([*asked[:-1], prompt], said["assistant"]) or _explain(prompt)
    return known or _perform(prompt) or _small_talk(prompt[:200]) or STAND_IN


# ---- which task, and where its text begins ---------------------------------------------------------------------------

_CLAUSE_END = re.compile(r"[:：\n\r\x0b\x0c\x85\u2028\u2029]|[.?!](?=\s|$)")
_QUOTE = re.compile(r"[\"“”«»`]|(?<!\w)'(?=\w)|(?<=[\w.!?])'(?!\w)")
_OPINION = r"(?:positive|negative|neutral|mixed|good|bad)"
_OPTIONS = re.compile(rf"\b{_OPINION}(?:\W{{1,6}}(?:(?:or|and)\W{{1,3}})?{_OPINION}\b)+", re.I)
_SENTIMENT = re.compile(
    rf"\bsentiments?\b|\bpolarity\b|\b{_OPINION}\s?(?:,|/|or)\s?(?:or )?{_OPINION}\b"
    r"|\b(?:is|was|are) (?:it|this|that|the)\b.{0,60}\b(?:positive|negative)\b|\bdoes the \w+ (?:feel|like)\b"
    r"|\b(?:classify|label|rate|judge)\b.{0,40}\b(?:review|comment|feedback|tweet|opinion|text|message|this)"
    r"(?!.*\b(?:as|by|into)\b)",
    re.I,
)
_SUMMARY = re.compile(
    r"\bsummar(?:i[sz]e|y)\b|\btl;?dr\b|\bsum (?:it |this )?up\b|\bcondense\b"
    r"|\b(?:put|shorten|describe|rewrite)\b.{0,60}\bin (?:one|a single) (?:line|sentence)\b",
    re.I,
)
_ASK = re.compile(
    r"\b(?:(extract|pick out|pull out)|give|get|find|return|identify|which|what(?:['’]s| is| was| are))\b(.*)", re.I
)
_COMMAND = re.compile(
    r"(?:(?:please|now|can you|could you) )*(?:(?:what(?:['’]s| is) the )?sentiment(?: of\b|\s?:)"
    r"|(?:classify|extract|summari[sz]e|tl;?dr|(?:give|find|pick out|pull out)(?: me)? the)\b)",
    re.I,
)
_ABOUT_TEXT = re.compile(r"\b(?:this|the following|below|(?:in|from) (?:the|an?) (?:text|message|e?mail|note))\b", re.I)


def _duty(system: str) -> str:
    """The clause of the system message that sets a task; a tone ("answer in one line") sets none."""
    for start, end in _clauses(system):
        kind = _kind(clause := system[start:end])
        if kind and (kind != "field" or re.search("extract|pick|pull", clause, re.I) or _ABOUT_TEXT.search(clause)):
            return clause
    return ""


def _perform(prompt: str) -> str:
    """Do the task that the prompt itself sets, at its beginning or in its last line; empty if it sets none."""
    for start, end in _clauses(prompt):
        clause = prompt[start:end]
        if _kind(clause):
            text = _text(prompt, start, end)
            stands = prompt[end : end + 1] in (":", "：") or _COMMAND.match(clause) or _ABOUT_TEXT.search(clause)
            return _do(clause, text) if text or stands else ""
    *body, last = prompt.splitlines() or [""]
    return _do(last[:200], "\n".join(body)) if body and _kind(last[:200]) else ""


def _clauses(prompt: str) -> Iterator[tuple[int, int]]:
    """Start and end of the first four clauses: an instruction stands within them."""
    start = 0
    for _ in range(4):
        found = _CLAUSE_END.search(prompt, start, start + 400)
        end = found.start() if found else min(len(prompt), start + 400)
        if end > start:
            yield start, end
        if not found:
            return
        start = end + 1


def _text(prompt: str, start: int, end: int) -> str:
    """The text that the instruction ``prompt[start:end]`` speaks of: quoted in it, after it, or before it."""
    after = prompt[end + 1 :].strip()
    bare = not after.strip(" .?!\"'”»`")
    if bare or len(_QUOTE.findall(prompt, start, end)) % 2:
        marks = [mark.start() for mark in _QUOTE.finditer(prompt, start)]
        if len(marks) > 1:
            return prompt[marks[0] + 1 : marks[-1]]
    return prompt[:start].strip() if bare and prompt[end : end + 1] not in (":", "：") else after


def _kind(clause: str) -> str:
    if _SENTIMENT.search(clause):
        return "sentiment"
    if _SUMMARY.search(clause):
        return "summary"
    return "field" if _field(clause) else ""


def _do(instruction: str, text: str) -> str:
    kind = _kind(instruction)
    if kind == "sentiment":
        return _sentiment(text)
    return _summary(text) if kind == "summary" else _pick(_field(instruction), text)


# ---- sentiment -------------------------------------------------------------------------------------------------------


def _table(text: str) -> dict[str, float]:
    """Read "1: good well_made 0.5: fine" as weights; an underscore is a space."""
    table, weight = {}, 0.0
    for word in text.split():
        if re.fullmatch(r"-?[\d.]+:", word):
            weight = float(word[:-1])
        else:
            table[word.replace("_", " ")] = weight
    return table


def _set(words: str) -> frozenset[str]:
    return frozenset(word.replace("_", " ") for word in words.split())


_LEXICON = _table("""
2: love excellent amazing awesome fantastic wonderful perfect brilliant superb outstanding best great incredible
exceptional flawless fabulous terrific thrilled delighted stunning gorgeous delicious adore five_stars must_have
top_notch ask_for_more 😍 🤩 ❤ 💯
1: good nice happy happier pleased satisfied enjoy enjoyable fun easy easier fast faster quick reliable comfortable
comfy friendly helpful clean fresh tasty impress impressive recommend worth better favourite favorite smooth solid
sturdy durable elegant charming glad pleasant pleasure bargain affordable generous polite beautiful lovely cosy cozy
works work working positive praise proud useful kind fan buy_again come_back four_stars as_expected well_made
never_fails can't_complain cannot_complain can't_wait exceed intuitive accurate bright quiet cute cool thank thanks
spotless attentive crisp treat joy superior wow yummy special 👍 😀 😊 🙂 😁 🎉 🥰 :) :-) ;) :d
0.5: decent fine well solved improve improvement safe fair reasonable warm nicer
0: no_doubt not_only not_just nothing_but as_well kind_of no_matter well_known fast_food thanks_to nothing_special
good_luck best_before best_regards kind_regards no_idea without_a_doubt
-0.5: wish average pricey meh could_be_better could_have_been_better
-1: bad poor slow slower sad broke break broken problem issue bug buggy crash error fail disappoint disappointment
dirty rude late delay damage scratch faulty defective flimsy leak noisy overpriced expensive boring bland dull
confusing annoy frustrate frustrating angry upset unhappy uncomfortable unreliable unhelpful difficult hard_to missing
lost refund complain complaint regret mediocre unfortunately sadly wrong worse negative dislike ugly tasteless stale
stop stopped smelly stink two_stars expected_better expected_more money_back burnt crack waste lack painful weak
cheaply fell_apart falls_apart gave_up let_down overrated ignored unpleasant wobbly sticky tired_of hurt died dead
clumsy messy soggy greasy blurry loose not_delivered not_arrived never_arrived never_came no_reply 😞 😢 😕 🙁 😒 💔 :( :-(
-2: terrible awful horrible worst hate useless garbage rubbish junk trash crap sucks disgusting avoid unacceptable
unusable scam ripoff rip_off fake pathetic nightmare dreadful atrocious disaster appalling worthless inedible one_star
zero_stars don't_buy not_buy never_again never_buy waste_of stay_away steer_clear stopped_working stops_working fraud
lousy abysmal hideous 👎 😡 😠 🤬 🤮 💩
""")
_DEGREE = _table(
    "1.5: very really so extremely absolutely totally incredibly super truly highly 1.2: pretty quite"
) | _table("0.5: slightly somewhat a_bit a_little")
_NEGATORS = _set("""
not no never nothing nobody none neither nor without hardly barely rarely cannot cant dont doesnt didnt isnt wasnt wont
wouldnt couldnt arent far_from failed_to fails_to anything_but no_longer less_than
""")
_UNABLE = _set("can't cannot couldn't cant couldnt")
_COMPARATIVES = _set("better worse happier easier faster nicer ask_for_more")
_EXCESS = _set("big small loud short long heavy tight thin thick hot cold dark salty sweet spicy much many high")
_CONTRAST = _set("but however yet nevertheless except")
_CONCESSION = _set("although though despite while even_though")
_LIKERS = _set("i we they you really also still actually do not don't didn't doesn't dont didnt will")
_PHRASES = frozenset(phrase for phrase in (*_LEXICON, *_DEGREE, *_NEGATORS, *_CONCESSION) if " " in phrase)
_PHRASE_HEADS = frozenset(phrase.partition(" ")[0] for phrase in _PHRASES)
_FACES = "".join(word for word in _LEXICON if len(word) == 1)
_TOKEN = re.compile(
    r"[a-z]+(?:'[a-z]+)?|\d{1,3}(?:\.\d)? ?(?:/|out of) ?(?:100|10|5)\b(?!/)|\d(?:\.\d)?[ -]?stars?\b|[★☆⭐]+"
    rf"|(?<!\w)[:;]-?[()d](?!\w)|[.,;!?\n\r\x0b\x0c\x85\u2028\u2029]|[{_FACES}]"
)
_UNLIMITED = re.compile(
    r"\b(?:can(?:'t|’t|not| not)|could(?:n't|n’t| not)) (?:recommend|praise|thank)[^.!?;]{0,40} enough\b", re.I
)
_STOPS = frozenset(".;!?\n\r\x0b\x0c\x85\u2028\u2029")
_LABEL = re.compile(r"(?:^|[\n.)])\s{0,5}(?:review|text|comment|feedback|tweet|message|article|docstring)\s?:\s", re.I)


def _sentiment(text: str) -> str:
    """Sum the weights of a small lexicon; a negation turns a word, a contrast favours the clause after it."""
    text = _UNLIMITED.sub("great", _OPTIONS.sub(" ", text[:400]) + text[400:])
    label = _LABEL.search(text, 0, 400)
    words = _TOKEN.findall((text[label.end() :] if label else text).lower().replace("’", "'"))
    total = size = 0.0
    for weight, fade in _weights(words):
        total, size = total * fade + weight, size * fade + abs(weight)
    if abs(total) <= max(0.45, 0.15 * size):
        return "neutral"
    return "positive" if total > 0 else "negative"


def _weights(words: Sequence[str]) -> Iterator[tuple[float, float]]:
    """Each word's signed weight, and what it leaves of the sum before it (half after a "but")."""
    clause = degree = 1.0
    reach = 0  # how many words the last negation still governs
    unable = turned = False
    before = ""
    for word in _merge(words):
        if word in _STOPS or word == ",":
            clause = 1.0 if word != "," or clause < 1 else clause
            reach, degree, turned = 0, 1.0, False
        elif word in _CONTRAST:
            reach, clause = 0, 1.2
            yield 0.0, 0.5
        elif word in _CONCESSION:
            reach, clause = 0, 0.5
        elif word in _NEGATORS or word.endswith("n't"):
            reach, unable = 6, word in _UNABLE or before in ("can", "could")
        elif word == "more" and unable and reach:  # "couldn't be more pleased"
            reach = 0
        elif word in _DEGREE:
            degree = _DEGREE[word]
        elif word == "or" and turned:
            reach = 3
        elif weight := _weight(word, before):
            turned = reach > 0 and not (unable and word in _COMPARATIVES)  # "couldn't be better" praises
            yield clause * (_turn(weight) if turned else weight * degree), 1.0
            reach, degree = 0, 1.0
        else:
            reach, degree = max(0, reach - 1), 1.0
        before = word


def _merge(words: Sequence[str]) -> Iterator[str]:
    """The words, with each phrase of the tables as one."""
    skip = 0
    for place, word in enumerate(words):
        if skip:
            skip -= 1
            continue
        if word in _PHRASE_HEADS:
            for length in (4, 3, 2):
                phrase = " ".join(words[place : place + length])
                if phrase in _PHRASES:
                    word, skip = phrase, length - 1
                    break
        yield word


def _turn(weight: float) -> float:
    """What a word weighs when negated: "not great" is bad, "not bad" fairly good, "not terrible" says little."""
    return -0.8 if weight > 0 else 0.6 if weight > -2 else 0.3


def _weight(word: str, before: str) -> float:
    if word == "like":
        return 1.0 if before in _LIKERS else 0.0
    if word in _EXCESS:
        return -1.0 if before == "too" else 0.0
    if word[0] in "0123456789★☆⭐":
        return _rating(word)
    found = _LEXICON.get(word)
    for ending in ("s", "ed", "d", "ing", "ly") if found is None else ():
        if word.endswith(ending) and len(word) > len(ending) + 2:
            stem = word.removesuffix(ending)
            found = found or _LEXICON.get(stem) or _LEXICON.get(stem + "e")
    return found or 0.0


def _rating(word: str) -> float:
    """Weigh "4/5", "9 out of 10", "2 stars" or "★★☆☆☆"."""
    points, best = [*map(float, re.findall(r"\d+(?:\.\d)?", word)), 5.0, 5.0][:2]
    if word[0] in "★☆⭐":
        points = float(word.count("★") + word.count("⭐"))
    return 4 * (points / best - 0.5) if points <= best else 0.0


# ---- a field of a text -----------------------------------------------------------------------------------------------

_MONTH = r"(?i:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)(?i:uary|ruary|ch|il|ust|ember|ober)?\.?"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_CURRENCY = r"(?:[$€£¥₹]|\b(?i:USD|EUR|GBP|CHF|NOK|SEK|DKK|INR|JPY|euros?|dollars?|pounds?|cents?)\b)"
_AMOUNT = r"(?<![\d.,])(?:\d{1,3}(?: \d{3}){1,3}(?:[.,]\d\d?)?|\d[\d.,']{0,20}(?<![.,']))(?![\d])"
_PERSON = (
    r"(?:(?:Mrs?|Ms|Dr|Prof)\.? )?([A-ZÀ-Þ][\w'’-]{1,30}(?: (?:[A-Z]\.|[A-ZÀ-Þ][\w'’-]{1,30}|van|von|de|der|la)){0,4})"
)
_KINDS: list[tuple[str, list[re.Pattern[str]]]] = [
    (words, [re.compile(pattern) for pattern in patterns])
    for words, *patterns in (
        ("email e-mail mail", r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"),
        ("phone telephone mobile fax", r"(?<![\w.#-])(?!\d{1,4}[-./]\d\d?[-./])(?:\+|\()?\d[\d ()./-]{5,18}\d(?!\w)"),
        (
            "url link website webpage",
            r"https?://[^\s<>\"'`)\]}]{1,2000}(?<![.,;:!?])",
            r"(?<![\w@.-])(?:[\w-]{1,63}\.){1,4}(?:com|org|net|io|dev|de|uk|eu|edu|gov|no)\b(?:/[^\s<>\"')]{0,999})?(?<![.,])",
        ),
        (
            "date deadline day birthday",
            r"(?<!\d)\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?!\d)|(?<![\d.])\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d\d)(?!\d)"
            rf"|\b{_DAY}\.?(?: of)? {_MONTH}(?:,? \d{{4}})?(?!\w)|\b{_MONTH} {_DAY}(?:,? \d{{4}})?(?!\w)",
        ),
        ("price amount cost total sum fee", rf"{_CURRENCY} ?{_AMOUNT}|{_AMOUNT} ?{_CURRENCY}"),
        ("year", r"(?<![\d,$€£])(?:1[5-9]|2[01])\d\d(?!\d|[.,]\d)"),
        ("time hour", r"(?<![\d:])\d{1,2}:\d\d(?::\d\d)?(?: ?[aApP]\.?[mM]\b)?|\b\d{1,2} ?[aApP]\.?[mM]\b"),
        (
            "name sender author",
            rf"(?i:\bmy name is|\b(?:called|named|name's|signed(?: by)?,?)) {_PERSON}",
            rf"(?i:\b(?:regards|sincerely|faithfully|cheers|thanks|wishes|yours)[,.!]?\s{{0,3}}[\n,–—-]\s{{0,3}}){_PERSON}",
            rf"\b(?:I am|I'm|I’m|[Tt]his is|Dear|Hello|Hi),? {_PERSON}",
            r"\b(?:Mrs?|Ms|Dr|Prof)\.? ([A-ZÀ-Þ][\w'’-]{1,30}(?: [A-ZÀ-Þ][\w'’-]{1,30})?)",
            r"\bmy name is (\w{1,30})",
        ),
        ("number id code reference", r"(?<![\w/-])(?=[\w/-]{0,30}\d)(?=[\w/-]{3})\w[\w/-]{0,40}", r"(?<![\w.,])\d+"),
    )
]
_KIND_WORDS = frozenset(word for words, _ in _KINDS for word in words.split())
_ARTICLES = _set("the a an any only just all me its their his her full exact value field please")
_FIELD_END = _set("from in of on is was are that this which for at and to with here below as mentioned given")
_VALUE_END = re.compile(
    r"[;\n|{}\[\]]|,\s*[\"'{]|,\s*[A-Za-z][\w -]{0,30}[:=]|\s[A-Za-z_][\w-]{0,30}\s?[:=](?!/)"
    r"|(?<=\w\w)[.!?](?:\s|$)|,\s*$"
)


def _field(clause: str) -> tuple[str, ...]:
    """The words that name the field in "Extract the order number from"; none if the clause asks for no field."""
    found = _ASK.search(clause)
    words: list[str] = []
    for word in re.findall(r"[^\W_][\w'’-]*", found[2].lower().replace("_", " ")[:100]) if found else ():
        if word in _FIELD_END:
            break
        if word not in _ARTICLES:
            words.append(re.sub(r"['’]s?$", "", word))
    known = any(word in _KIND_WORDS or word.removesuffix("s") in _KIND_WORDS for word in words)
    return tuple(words) if found and (found[1] or known or re.search(r"\b(?:in|from) (?:this|the)\b", clause)) else ()


def _pick(field: tuple[str, ...], text: str) -> str:
    """The value after the field's label, else the first thing of its kind after its name, else anywhere."""
    text = "\n".join(text.splitlines())
    own = [word for word in field if word not in _KIND_WORDS and word.removesuffix("s") not in _KIND_WORDS]
    names = list(dict.fromkeys((" ".join(field), " ".join(own), *reversed(field))))
    patterns = next((p for kinds, p in _KINDS if any(w.removesuffix("s") in kinds.split() for w in field)), [])
    values = [value for name in names if name and (value := _labelled(name, text))]
    if not patterns:
        return values[0] if values else "not found"
    for value in values:
        if found := _first(patterns, value):
            return found
    if len(field) > len(own) and "name" not in field:
        for name in filter(None, names):
            place = re.search(rf"\b{re.escape(name)}\b", text, re.I)
            if place and (found := _first(patterns, text[place.end() : place.end() + 80])):
                return found
    label = values[0] if values and " ".join(field) == names[0] else ""
    return _first(patterns, text) or label or "not found"


def _first(patterns: Sequence[re.Pattern[str]], text: str) -> str:
    for pattern in patterns:
        if found := pattern.search(text):
            return found[found.lastindex or 0].strip()
    return ""


def _labelled(name: str, text: str) -> str:
    """The value in ``name: value``, ``name = value``, ``"name": "value"`` or "the name is value"."""
    key = r"[\s_-]".join(map(re.escape, name.split()))
    found = re.search(rf"(?<!\w){key}[\"'`*]{{0,3}}\s{{0,3}}(?:[:=]|is\b|was\b)[*\s]{{0,4}}", text, re.I)
    if not found:
        return ""
    rest = text[found.end() : found.end() + 400]
    quoted = re.match(r'"((?:[^"\\]|\\.)*)"|\'([^\']*)\'', rest)
    if quoted:
        return (quoted[1] or quoted[2] or "").strip()
    end = _VALUE_END.search(rest)
    return (rest[: end.start()] if end else rest).strip(" \t,\"'`*")


# ---- a summary in one line -------------------------------------------------------------------------------------------

_BULLET = re.compile(r"^(?:#{1,6}|[-*•>]|:\w{1,20}:?) ")
_SECTIONS = _set("parameters returns raises yields examples example args arguments notes attributes see also")
_SENTENCE_END = re.compile(
    r"(?<=[.!?…])(?<!\bDr\.)(?<!\bMr\.)(?<!\bMrs\.)(?<!\be\.g\.)(?<!\bi\.e\.)[\"”)]? (?=[\"“(]?[A-Z0-9À-Þ])"
)
_COMMON = _set("""
about after all also and any are because been but can could did does each for from had has have her his how into its
just more most not now only other our out over own she should some such than that the their them then there these they
this those through too under use very was were what when where which while who will with would you your
""")


def _summary(text: str) -> str:
    """The most central sentence: whose words are the text's most frequent, the first one favoured."""
    sentences, is_docstring = _sentences(text)
    if not sentences or is_docstring:
        return _line(sentences[0]) if sentences else "nothing to summarise"
    words = [[w for w in re.findall(r"\w{3,}", s.lower()) if w not in _COMMON] for s in sentences]
    counts = Counter(word for sentence in words for word in sentence)

    def centrality(place: int) -> float:
        own = words[place]
        score: float = sum(counts[word] for word in set(own)) / math.sqrt(len(own) + 4)
        fit = 1.0 if len(sentences[place]) <= _WIDTH else 0.7
        return score * fit * (1.5 if place == 0 else 1.0) * (0.5 if sentences[place].endswith("?") else 1.0)

    return _line(sentences[max(range(len(sentences)), key=centrality)])


def _sentences(text: str) -> tuple[list[str], bool]:
    """Sentences of prose, and whether it is a docstring: of that what stands above sections and doctests."""
    label = _LABEL.match(text)
    text = (text[label.end() :] if label else text).strip()
    is_docstring = text.startswith(('"""', "'''"))
    if text[:1] in ('"', "'", "`", "“"):
        text = text.strip("\"'`“”")
    paragraphs = [""]
    for line in map(str.strip, text.splitlines()):
        bare = _BULLET.sub("", line)
        if any(paragraphs) and (bare.rstrip(":").lower() in _SECTIONS or line.startswith(">>>")):
            is_docstring = True
            break
        if bare != line or not bare:
            paragraphs.append("")
        if bare.strip("-=~*_`>."):
            paragraphs[-1] += f" {bare}"
    return [s for p in paragraphs for s in _SENTENCE_END.split(" ".join(p.split())) if s], is_docstring


def _line(text: str) -> str:
    """One line of at most 120 characters, cut after a word."""
    text = " ".join(text.split())
    if len(text) <= _WIDTH:
        return text
    cut = text[:_WIDTH]
    place = cut.rfind(" ")
    return (cut[:place] if place > _WIDTH // 2 else cut[:-1]).rstrip(" ,;:.-–—(") + "…"


# ---- a glossary, and a memory of the conversation --------------------------------------------------------------------

_FACTS = """
Python, py = Python is a general-purpose programming language known for its readable syntax and its large ecosystem.
  For example, `print(sum(range(5)))` prints 10, and nobody had to declare a type.
Rust = Rust is a compiled programming language that guarantees memory safety without a garbage collector.
  For example, its compiler refuses a program in which two threads could write to the same value at once.
AI, artificial intelligence = AI is the field of making computers do what seems to need a mind.
  For example, a program that plays chess, one that reads handwriting and one that answers questions are all called AI.
JavaScript, js = JavaScript is the programming language that web browsers run; with Node.js it also runs on servers.
  For example, the buttons of a live panel in a notebook are JavaScript.
decorator = A decorator is a function that takes a function and returns a changed one; Python writes it as `@name`.
  For example, `@functools.cache` above a function makes it remember its results.
ownership = Ownership is Rust's rule that every value has one owner and is freed when its owner goes out of scope.
  For example, after `let b = a;` a `String` belongs to `b`, and the compiler refuses to use `a`.
closure = A closure is a function that remembers the variables of the place where it was made.
  For example, `def adder(n): return lambda x: x + n` makes functions that each remember their own `n`.
context manager = A context manager sets something up for a `with` block and takes it down again after it.
  For example, `with open(path) as file:` closes the file however the block ends.
asyncio = asyncio is Python's standard library for doing many waiting things at once in a single thread.
  For example, `await asyncio.gather(one(), two())` waits for both at once, not for one after the other.
async, async await, asynchronous programming = Asynchronous programming does other work while something waits.
  For example, `async def` makes a coroutine, and `await` marks the places where it may wait.
event loop, loop = An event loop runs coroutines in turns: while one waits, another goes on.
  For example, a Jupyter kernel has a running loop, which is why `await` works at the top of a cell there.
coroutine = A coroutine is a function made with `async def` that can pause at an `await` and go on later.
  For example, calling `fetch()` only makes the coroutine; `await fetch()` runs it.
await = The keyword `await` pauses a coroutine until what it awaits is done, and lets others run meanwhile.
  For example, `reply = await agent.send_message("Hello")` gives the reply once it has arrived.
task = A task is a coroutine that the event loop runs in the background.
  For example, `task = asyncio.create_task(fetch())` starts at the loop's next turn, and `await task` takes its result.
future = A future is a place for a result that does not exist yet; whoever awaits it waits until it is set.
  For example, every asyncio task is a future whose result is what its coroutine returns.
semaphore = A semaphore lets at most a fixed number of tasks into a block at the same time.
  For example, `async with asyncio.Semaphore(3):` around a request, with one shared semaphore, keeps three at once.
gather = `asyncio.gather` runs several awaitables at once and gives their results in the order of its arguments.
  For example, with `return_exceptions=True` a failure becomes one of the results and stops nothing else.
as_completed = `as_completed` gives tasks in the order in which they finish, the fastest first.
  For example, `async for task in as_completed(tasks)` lets you show each answer as soon as it is there.
queue = A queue hands items from those who produce them to those who work on them, first in, first out.
  For example, `await asyncio.Queue().get()` waits until there is an item.
timeout = A timeout is the longest that a caller will wait for an answer before it gives up.
  For example, `async with asyncio.timeout(10):` raises TimeoutError after ten seconds.
concurrency, concurrent = Concurrency means having several pieces of work under way at once, whoever runs at the moment.
  For example, a hundred requests that each wait a second are done in about one second when they wait together.
latency = Latency is the time from asking to having the answer.
  For example, ten answers with a latency of 2 s each take 20 s in turn, but about 2 s when asked at once.
rate limit, rate limiting = A rate limit is the number of requests that a server accepts in a given time.
  For example, a server that allows 60 requests a minute answers the 61st with the HTTP status 429.
backoff, exponential backoff, retry = Backoff means waiting longer after each failed attempt before trying again.
  For example, wait 1, 2, 4 and 8 seconds, each with some randomness so that not everybody returns at once.
Jupyter, JupyterLab = Jupyter is a family of tools for documents that mix text, running code and its results.
  For example, `jupyter lab` opens them in a browser, and each notebook is served by a kernel.
notebook = A notebook is a document of cells: text to read, and code that runs in place and shows its result below.
  For example, a cell that ends in a DataFrame shows it as a table.
kernel = A kernel is the process that runs a notebook's code and remembers its variables.
  For example, restarting the kernel forgets every variable but keeps the document.
DataFrame, data frame = A DataFrame is a table in memory, with named columns and an index of rows.
  For example, `df["price"].mean()` is the mean of the column named price.
pandas = pandas is the Python library for tables of data.
  For example, `pandas.read_csv("reviews.csv")` reads a file into a DataFrame.
JSON = JSON is a text format for data: objects, lists, strings, numbers, true, false and null.
  For example, `{"name": "Ann", "age": 42}` is an object with two keys.
HTTP = HTTP is the protocol by which clients ask servers for things on the web: a request goes out, a response returns.
  For example, status 200 means that it worked, 404 that there is no such thing, and 429 that you asked too often.
API = An API is the agreed way in which one program uses another.
  For example, a model server has an HTTP API: you post messages and get an answer as JSON.
streaming, stream = Streaming means sending an answer piece by piece while it is still being made.
  For example, `async for chunk in agent.stream("Tell me a story")` prints words as they arrive.
LLM, large language model, language model = An LLM, a large language model, continues text, one token after the other.
  For example, given a question it continues with an answer, which may be wrong and still sound right.
token = A token is the piece of text a language model reads and writes: a short word or a part of a longer one.
  For example, English has about four characters to a token, and providers count tokens to bill and to limit.
prompt = A prompt is the text a language model is given to answer.
  For example, "Classify the review: I love it" is a prompt with an instruction and a text.
system prompt, system message = A system prompt tells a language model, before the conversation, how it should behave.
  For example, "You are helpful. Answer in one sentence." holds for every question after it.
embedding = An embedding is a list of numbers that stands for a text, so that similar texts have similar numbers.
  For example, search by meaning compares the embedding of a question with those of the documents.
temperature = Temperature is how freely a language model picks its next token.
  For example, 0 nearly always picks the likeliest, so that equal questions tend to get equal answers.
machine learning, ml = Machine learning makes a program from examples instead of from written rules.
  For example, a spam filter learns from mail that people have marked as spam.
agent = An agent is a program with a name and a task that takes messages, acts on them and may send messages itself.
  For example, an agent can ask a language model what to do and call one of its own functions.
sentiment, sentiment analysis = Sentiment is the opinion a text expresses: positive, negative or neutral.
  For example, "not bad at all" is positive, although it has the word "bad" in it.
Ollama = Ollama is a program that runs language models on your own machine and serves them over HTTP.
  For example, `ollama pull llama3.2` fetches a model and `ollama serve` starts the server.
"""  # names = what it is; indented: more about it
_GLOSSARY: dict[str, list[str]] = {}
for _line_of_facts in _FACTS.strip().splitlines():
    if not _line_of_facts.startswith(" "):
        _names, _, _definition = _line_of_facts.partition(" = ")
        _entry = [_definition]
        _GLOSSARY |= {" ".join(re.findall(r"[^\W_]+", _name.lower())): _entry for _name in _names.split(", ")}
    else:
        _entry.append(_line_of_facts.strip())
_PLACES = _set("""
python py rust javascript js asyncio jupyter pandas
""")  # "a task in asyncio"
_FILLERS = _set("""
a an the what s is are does do mean means meaning of in to by and or with between from explain define describe tell me
us about again more how it work works used use useful for why when please hello hi hey can could you i we word term
concept idea difference compare versus vs one sentence line simple plain words simply shortly briefly short question q answer beginner
beginners programming exactly actually ok so now good give example an its another show
""")
_MORE = re.compile(
    r"(?:please |and |can you |could you )*(?:tell me more|more\b|go on|continue|(?:give|show)\b.*\bexample"
    r"|(?:an|another|for) example|explain (?:it|that|more)|elaborate|why\b.{0,30}$|how does (?:it|that) work)",
    re.I,
)
_RECALL = re.compile(
    r"\bwhat (?:did i|have i|i)\b.{0,20}\b(?:ask|say|said)|\bmy (?:first|last|previous) (?:question|message)", re.I
)
_MY_NAME = re.compile(r"\b(?:what(?:'s|’s| is) my name|who am i|do you (?:know|remember) my name)\b", re.I)
_SMALL_TALK = [
    (re.compile(pattern, re.I), reply)
    for pattern, reply in (
        (r"(?:hello|hi|hey|good (?:morning|day|evening))\b[\w ,]{0,12}\W*$", _HELLO),
        (r"(?:thanks|thank you)\b.{0,20}$", "You are welcome."),
        (r"(?:please )?(?:tell|write|give)\b.{0,30}\bstory\b", _STORY),
        (r"my name is \w", "Nice to meet you. Ask me for your name, and you see that a conversation remembers."),
    )
]
_LABELLED_ITEM = re.compile(
    r"(?:process |handle )?(?:item|message|msg|query|question|q|task|prompt|row|test|ping|\d)? ?#?\d*\W?$", re.I
)


def _explain(prompt: str) -> str:
    """What the glossary says, if the prompt asks for its terms and for nothing else."""
    terms, others = _terms(prompt)
    if others or not terms:
        return ""
    if len(terms) > 1 and re.search(r"\b(?:and|difference|compare|versus|vs)\b", prompt, re.I):
        return " ".join(_GLOSSARY[term][0] for term in terms[:2])
    return _GLOSSARY[terms[0]][0]


def _terms(prompt: str) -> tuple[list[str], bool]:
    """The glossary's terms in a short prompt, what they belong to last; and whether it speaks of other things too."""
    words = re.findall(r"[^\W_]+", prompt.lower()) if len(prompt) <= 160 else []
    terms: list[str] = []
    others, place = not words, 0
    while place < len(words):
        for length in (3, 2, 1):
            name = " ".join(words[place : place + length])
            term = name if name in _GLOSSARY else name.removesuffix("s")
            if term in _GLOSSARY:
                if not any(_GLOSSARY[term] is _GLOSSARY[known] for known in terms):
                    terms.append(term)
                place += length - 1
                break
        else:
            others = others or words[place] not in _FILLERS
        place += 1
    return sorted(terms, key=lambda term: term in _PLACES), others


def _remember(asked: Sequence[str], replies: Sequence[str]) -> str:
    """What only the conversation before the prompt can tell; empty if the prompt is not about it."""
    *before, prompt = asked
    if len(prompt) > 160:
        return ""
    if _RECALL.search(prompt):
        recalled = before[0 if "first" in prompt.lower() else -1] if before else ""
        return f'You asked: "{_line(recalled)}"' if before else "This is your first message."
    if _MY_NAME.search(prompt):
        name = _pick(("name",), "\n".join(text[:1000] for text in before))
        return "You have not told me your name." if name == "not found" else f"Your name is {name}."
    if not _MORE.match(prompt):
        return ""
    for earlier in reversed(asked):
        if terms := _terms(earlier)[0]:
            facts = _GLOSSARY[terms[0]]["example" in prompt.lower() :]
            fresh = [fact for fact in facts if not any(fact in reply for reply in replies)]
            return fresh[0] if fresh else "That is all a stand-in knows about this."
    return ""


def _small_talk(prompt: str) -> str:
    for pattern, reply in _SMALL_TALK:
        if pattern.match(prompt):
            return reply
    if prompt and _LABELLED_ITEM.match(prompt):
        return f'I have read "{prompt}". There is nothing in it for a stand-in to answer.'
    return ""
