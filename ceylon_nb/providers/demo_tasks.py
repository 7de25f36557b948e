"""The brain of ``demo::tutor``: what the embedded stand-in answers, with no network and no chance in it.

Four tasks, each a small honest program: tell a sentiment, pick a field out of a text, summarise in one line, explain a
term. Asked anything else, it says that it is a stand-in. Every pattern takes time in proportion to the text, and of a
very long message only both ends are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from .demo_texts import OPINION, field_of, one_line, pick, sentiment, summary, word_set

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
        said.setdefault(message.get("role", ""), []).append(str(message.get("content") or ""))
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
_SENTIMENT = re.compile(
    rf"\bsentiments?\b|\bpolarity\b|\b{OPINION}\s?(?:,|/|or)\s?(?:or )?{OPINION}\b"
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
    return "field" if field_of(clause) else ""


def _do(instruction: str, text: str) -> str:
    kind = _kind(instruction)
    if kind == "sentiment":
        return sentiment(text)
    return summary(text) if kind == "summary" else pick(field_of(instruction), text)


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
_PLACES = word_set("""
python py rust javascript js asyncio jupyter pandas
""")  # "a task in asyncio"
_FILLERS = word_set("""
a an the what s is are does do mean means meaning of in to by and or with between from explain define describe tell me
us about again more how it work works used use useful for why when please hello hi hey can could you i we word term
concept idea difference compare versus vs one sentence line simple plain words simply shortly briefly short question q
answer beginner beginners programming exactly actually ok so now good give example an its another show
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
        return f'You asked: "{one_line(recalled)}"' if before else "This is your first message."
    if _MY_NAME.search(prompt):
        name = pick(("name",), "\n".join(text[:1000] for text in before))
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
