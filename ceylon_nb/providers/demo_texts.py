"""What ``demo::tutor`` does with a text: tell its sentiment, pick a field out of it, summarise it in one line."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

_WIDTH = 120  # characters of a one-line summary
OPINION = r"(?:positive|negative|neutral|mixed|good|bad)"
_OPTIONS = re.compile(rf"\b{OPINION}(?:\W{{1,6}}(?:(?:or|and)\W{{1,3}})?{OPINION}\b)+", re.I)
_ASK = re.compile(
    r"\b(?:(extract|pick out|pull out)|give|get|find|return|identify|which|what(?:['’]s| is| was| are))\b(.*)", re.I
)

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


def word_set(words: str) -> frozenset[str]:
    """Words of a table; an underscore is a space."""
    return frozenset(word.replace("_", " ") for word in words.split())


_LEXICON = _table("""
2: game_changer love excellent amazing awesome fantastic wonderful perfect brilliant superb outstanding best great
incredible exceptional flawless fabulous terrific thrilled delighted stunning gorgeous delicious adore five_stars
must_have top_notch ask_for_more 😍 🤩 ❤ 💯
1: gem be_back without_a_hitch like_a_glove hard_to_fault lasts_forever lasts_all better good nice happy happier
pleased satisfied enjoy enjoyable fun easy easier fast faster quick reliable comfortable comfy friendly helpful clean
fresh tasty impress impressive recommend worth favourite favorite smooth solid sturdy durable elegant charming glad
pleasant pleasure bargain affordable generous polite beautiful lovely cosy cozy works work working positive praise
proud useful kind fan buy_again come_back four_stars as_expected well_made never_fails can't_complain cannot_complain
can't_wait exceed intuitive accurate bright quiet cute cool thank thanks spotless attentive crisp treat joy superior
wow yummy special 👍 😀 😊 🙂 😁 🎉 🥰 :) :-) ;) :d
0.5: help decent fine well solved improve improvement safe fair reasonable warm nicer
0: can't_believe cannot_believe no_doubt not_only not_just nothing_but as_well kind_of no_matter well_known fast_food
thanks_to nothing_special good_luck best_before best_regards kind_regards no_idea without_a_doubt lately goods
-0.5: at_best wish average pricey meh could_be_better could_have_been_better
-1: smelly returned sent_it_back send_it_back not_what smell outrageous shrank fade torn tear rip stuck freeze froze
lag makes_no_sense made_no_sense doesn't_last didn't_last ☹ bad poor slow slower sad problem issue bug buggy error
fail disappoint disappointment dirty rude late delay damage scratch flimsy leak noisy overpriced expensive boring
bland dull confusing annoy frustrate frustrating angry upset unhappy uncomfortable unreliable unhelpful difficult
hard_to missing lost refund complain complaint regret mediocre unfortunately sadly wrong worse negative dislike ugly
tasteless stale stop stopped stink two_stars expected_better expected_more money_back burnt crack waste lack painful
weak cheaply fell_apart falls_apart gave_up let_down overrated ignored unpleasant wobbly sticky tired_of hurt died
dead clumsy messy soggy greasy blurry loose not_delivered not_arrived never_arrived never_came no_reply
😞 😢 😕 🙁 😒 💔 :( :-(
-1.5: broke break broken faulty defective crash impossible snap a_joke save_your skip_this skip_it
-2: don't_waste terrible awful horrible worst hate useless garbage rubbish junk trash crap sucks disgusting avoid
unacceptable unusable scam ripoff rip_off fake pathetic nightmare dreadful atrocious disaster appalling worthless
inedible one_star zero_stars don't_buy not_buy never_again never_buy waste_of stay_away steer_clear stopped_working
stops_working fraud lousy abysmal hideous 👎 😡 😠 🤬 🤮 💩
""")
_DEGREE = _table(
    "1.5: very really so extremely absolutely totally incredibly super truly highly 1.2: pretty quite"
) | _table("0.5: slightly somewhat a_bit a_little")
_NEGATORS = word_set("""
not no never nothing nobody none neither nor without hardly barely rarely cannot cant dont doesnt didnt isnt wasnt wont
wouldnt couldnt arent far_from failed_to fails_to anything_but no_longer less_than
""")
_UNABLE = word_set("can't cannot couldn't cant couldnt won't never")
_COMPARATIVES = word_set("better worse happier easier faster nicer ask_for_more")
_EXCESS = word_set("big small loud short long heavy tight thin thick hot cold dark salty sweet spicy much many high")
_CONTRAST = word_set("but however yet nevertheless except")
_CONCESSION = word_set("although though despite while even_though")
_LIKERS = word_set("i we they you really also still actually do not don't didn't doesn't dont didnt will")
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
_SCRIPT = re.compile(r"<(?:script|style)\b[^<]{0,2000}", re.I)
_STOPS = frozenset(".;!?\n\r\x0b\x0c\x85\u2028\u2029")
_LABEL = re.compile(r"(?:^|[\n.)])\s{0,5}(?:review|text|comment|feedback|tweet|message|article|docstring)\s?:\s", re.I)


def sentiment(text: str) -> str:
    """Sum the weights of a small lexicon; a negation turns a word, a contrast favours the clause after it."""
    text = _SCRIPT.sub(" ", _UNLIMITED.sub("great", _OPTIONS.sub(" ", text[:400]) + text[400:]))
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
        elif word in ("more", "so") and unable and reach:  # "couldn't be more pleased", "never been so angry"
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
    for ending in ("s", "ed", "ing", "ly") if found is None else ():
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
_PHONE = r"(?<![\w.#-])(?!\d{1,4}[-./]\d\d?[-./])(?:\+|\()?\d[\d ()./-]{5,18}\d(?!\w)"
_PERSON = (
    r"(?:(?:Mrs?|Ms|Dr|Prof)\.? )?([A-ZÀ-Þ][\w'’-]{1,30}(?: (?:[A-Z]\.|[A-ZÀ-Þ][\w'’-]{1,30}|van|von|de|der|la)){0,4})"
)
_KINDS: list[tuple[str, list[re.Pattern[str]]]] = [
    (words, [re.compile(pattern) for pattern in patterns])
    for words, *patterns in (
        ("email e-mail mail", r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"),
        ("phone telephone mobile fax", rf"(?=[+(]|\d{{2,5}}[ ./-])(?:{_PHONE})", _PHONE),
        (
            "url link website webpage",
            r"https?://[^\s<>\"'`)\]}]{1,2000}(?<![.,;:!?])",
            r"(?<![\w@.-])(?:[\w-]{1,63}\.){1,4}(?:com|org|net|io|dev|de|uk|eu|edu|gov|no)\b(?:/[^\s<>\"')]{0,999})?(?<![.,;:!?])",
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
_ARTICLES = word_set("the a an any only just all me its their his her full exact value field please")
_FIELD_END = word_set("from in of on is was are that this which for at and to with here below as mentioned given")
_VALUE_END = re.compile(
    r"[;\n|{}\[\]]|,\s*[\"'{]|,\s*[A-Za-z][\w -]{0,30}[:=]|\s[A-Za-z_][\w-]{0,30}\s?[:=](?!/)"
    r"|,\s*(?:the|and|but|its|his|her|my)\s|(?<=\w\w)[.!?](?:\s|$)|,\s*$"
)


def field_of(clause: str) -> tuple[str, ...]:
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


def pick(field: tuple[str, ...], text: str) -> str:
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
_SIGNATURE = re.compile(r"[\w.]{1,60}\([^()]{0,300}\)(?: -> .{1,60})?$")
_SECTIONS = word_set("parameters returns raises yields examples example args arguments notes attributes see also")
_SENTENCE_END = re.compile(
    r"(?<=[.!?…])(?<!\bDr\.)(?<!\bMr\.)(?<!\bMrs\.)(?<!\be\.g\.)(?<!\bi\.e\.)[\"”)]? (?=[\"“(]?[A-Z0-9À-Þ])"
)
_COMMON = word_set("""
about after all also and any are because been but can could did does each for from had has have her his how into its
just more most not now only other our out over own she should some such than that the their them then there these they
this those through too under use very was were what when where which while who will with would you your
""")


def summary(text: str) -> str:
    """The most central sentence: whose words are the text's most frequent, the first one favoured."""
    sentences, is_docstring = _sentences(text)
    if not sentences or is_docstring:
        return one_line(sentences[0]) if sentences else "nothing to summarise"
    words = [[w for w in re.findall(r"\w{3,}", s.lower()) if w not in _COMMON] for s in sentences]
    counts = Counter(word for sentence in words for word in sentence)

    def centrality(place: int) -> float:
        own = words[place]
        score: float = sum(counts[word] for word in set(own)) / math.sqrt(len(own) + 4)
        fit = 1.0 if len(sentences[place]) <= _WIDTH else 0.7
        return score * fit * (1.5 if place == 0 else 1.0) * (0.5 if sentences[place].endswith("?") else 1.0)

    return one_line(sentences[max(range(len(sentences)), key=centrality)])


def _sentences(text: str) -> tuple[list[str], bool]:
    """Sentences, and whether the first is the text's own summary: so it is in a docstring, above the sections."""
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
        if bare.strip("-=~*_`>.") and not _SIGNATURE.match(bare):
            paragraphs[-1] += f" {bare}"
    lead, *rest = [_SENTENCE_END.split(" ".join(p.split())) for p in paragraphs if p] or [[]]
    stands_alone = len(lead) == 1 and bool(rest) and lead[0].endswith(".")  # PEP 257: one line, then a blank one
    return [*lead, *(sentence for sentences in rest for sentence in sentences)], is_docstring or stands_alone


def one_line(text: str) -> str:
    """One line of at most 120 characters, cut after a word."""
    text = " ".join(text.split())
    if len(text) <= _WIDTH:
        return text
    cut = text[:_WIDTH]
    place = cut.rfind(" ")
    return (cut[:place] if place > _WIDTH // 2 else cut[:-1]).rstrip(" ,;:.-–—(") + "…"
