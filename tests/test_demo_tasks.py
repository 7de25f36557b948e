import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ceylon_nb.providers.demo_tasks import STAND_IN, answer

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)  # lone surrogates and NULs too


def ask(prompt: str, system: str | None = None) -> str:
    before = [{"role": "system", "content": system}] if system is not None else []
    return answer([*before, {"role": "user", "content": prompt}])


def converse(*prompts: str, system: str | None = None) -> list[str]:
    messages = [{"role": "system", "content": system}] if system is not None else []
    replies = []
    for prompt in prompts:
        messages.append({"role": "user", "content": prompt})
        replies.append(answer(messages))
        messages.append({"role": "assistant", "content": replies[-1]})
    return replies


REVIEWS = [
    ("I love this phone!", "positive"),
    ("Not good.", "negative"),
    ("Not bad at all, I would buy it again.", "positive"),
    ("It never works", "negative"),
    ("I couldn't be happier with the service 😊", "positive"),
    ("It's ok, nothing special.", "neutral"),
    ("The screen is nice, but the battery is terrible.", "negative"),
    ("The box was damaged, but the lamp itself is gorgeous and works perfectly.", "positive"),
    ("Although the delivery was late, the food was delicious", "positive"),
    ("WORST PURCHASE EVER!!! DO NOT BUY", "negative"),
    ("Great screen, terrible battery.", "neutral"),
    ("I can’t recommend it enough", "positive"),
    ("No complaints, no problems: just a solid little radio.", "positive"),
    ("First line is fine.\r\nThen it broke.\u2028Useless.", "negative"),
    ('“Absolutely <b>brilliant</b> {value} for money” - "my wife"', "positive"),
    ("<script>alert('perfect')</script> {0} The app crashes all the time, awful", "negative"),
    ("It arrived on Tuesday. " * 200, "neutral"),
    ("The room was clean. " + "We walked to the harbour and back. " * 300 + "We enjoyed every day.", "positive"),
    ("2 out of 5 stars 👎", "negative"),
    (" … ", "neutral"),
]
INSTRUCTIONS = [
    "Classify the review: {}",
    "Is this review positive or negative? {}",
    "Sentiment of: {}",
    "Please classify the following review as positive, negative or neutral.\n\n{}",
    "You are a critic. What is the sentiment of this review (positive/negative/neutral)?\nReview: {}\nSentiment:",
    "{}\n\nIs this review positive or negative?",
]


@pytest.mark.parametrize(("review", "label"), REVIEWS)
def test_sentiment(review: str, label: str) -> None:
    assert ask(INSTRUCTIONS[0].format(review)) == label


@pytest.mark.parametrize(("review", "label"), REVIEWS)
def test_a_system_message_may_set_the_task(review: str, label: str) -> None:
    assert ask(review, system="Classify the sentiment of the review") == label


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_words_of_the_instruction_do_not_count(instruction: str) -> None:
    labels = {
        label: [ask(instruction.format(text)) for text, want in REVIEWS[:19] if want == label] for _, label in REVIEWS
    }
    assert {label: set(answers) for label, answers in labels.items()} == {label: {label} for label in labels}


def test_a_quoted_review_is_the_text() -> None:
    assert ask('What is the sentiment of "I hate it. Really!"?') == "negative"
    assert ask("Is 'I don't like it' positive or negative?") == "negative"


FIELDS = [
    ("Extract the email address from: Hi, write to ann.lee@example.org, or call.", "ann.lee@example.org"),
    ("Extract the email from: Contact: Jo (jo@x-y.co.uk), tel. 01 23 45 67 89.", "jo@x-y.co.uk"),
    ("What is the date in this text? The meeting is on 3 May 2024 at noon.", "3 May 2024"),
    ("Extract the due date: Invoice date: 2024-11-01, due date: 2024-11-21, total: 55 EUR", "2024-11-21"),
    ("Extract the order number: Hello, my order A-4711 of 12 March 2024 has not come!", "A-4711"),
    ("Give the phone number: Order 20240117. You can reach us at +47 22 33 44 55 (Mon-Fri).", "+47 22 33 44 55"),
    ("EXTRACT THE PHONE NUMBER: CALL (555) 123-4567 BEFORE 12/05/2024", "(555) 123-4567"),
    ("Extract the price: The new laptop 💻 costs $1,299.00 incl. VAT.", "$1,299.00"),
    ("What is the total? Net 10.00 EUR, VAT 2.50 EUR, total 12.50 EUR", "12.50 EUR"),
    ("Extract the url from: See <a href='https://example.org/a?b=1'>here</a>.", "https://example.org/a?b=1"),
    ("Extract the year: The company was founded in 1998 in Turku.", "1998"),
    ("Extract the name: Hello, my name is Jürgen Lee and I have a question.", "Jürgen Lee"),
    (
        "Extract the name of the sender: Dear team,\r\n\r\nplease cancel.\r\n\r\nKind regards,\r\nMaria García",
        "Maria García",
    ),
    ("Extract the name: Dear Dr. Chen,\u2028thank you", "Chen"),
    ("Extract the city from: name: Ann; city: Oslo", "Oslo"),
    ('Extract the "city" from {"name": "Ann", "city": "São Paulo", "age": 42}', "São Paulo"),
    ('Extract the msg from: time=10:30 level=warn msg="disk {0} full" <script>', "disk {0} full"),
    ("Extract the address: " + "Nothing here. " * 500 + "\naddress: 5 Main St, Oslo, phone: 3", "5 Main St, Oslo"),
    ("Extract the email address from: please call me @ home", "not found"),
    ("Extract the date: ", "not found"),
]


@pytest.mark.parametrize(("prompt", "value"), FIELDS)
def test_a_field_of_a_text(prompt: str, value: str) -> None:
    assert ask(prompt) == value


@pytest.mark.parametrize(
    ("prompt", "value"), [row for row in FIELDS if row[0].startswith("Extract") and ": " in row[0]]
)
def test_a_system_message_may_name_the_field(prompt: str, value: str) -> None:
    instruction, _, text = prompt.partition(": ")
    if '"' not in instruction:
        assert ask(text, system=f"{instruction.removesuffix(' from')} from each message.") == value


DOCSTRING = '''"""Compute the moving average of a series.

The window slides over the series one value at a time; where fewer values
than the window are known, the average of those is returned.

Parameters
----------
series
    The values.

>>> average([1, 2], 2)
"""'''
LONG = (
    "Every answer is committed before it is shown, so that an answer which was seen is never lost, whatever happens to "
    "the kernel, the network or the laptop. Views listen."
)
COFFEE = (
    "Some people prefer tea. Coffee was first grown in Ethiopia. Traders brought coffee to Yemen, and coffee then came "
    "to Europe. The weather was fine."
)
SUMMARIES = [
    (f"Summarise this docstring in one line:\n{DOCSTRING}", "Compute the moving average of a series."),
    ("Summarise in one line: Return the sum of a and b.", "Return the sum of a and b."),
    ("Summarise this function's docstring. Load a file.\n\nArgs:\n    path: where it is", "Load a file."),
    ("Summarise: load(path, mode='r')\n\nLoad a file.\n\nThe file is any file. A file is returned.", "Load a file."),
    (f"TL;DR: {COFFEE}", "Traders brought coffee to Yemen, and coffee then came to Europe."),
    (f"{COFFEE}\n\nTL;DR", "Traders brought coffee to Yemen, and coffee then came to Europe."),
    (f"Summarize this text.\n\n{LONG}", LONG[:117] + "…"),
    ("Text: cats sleep a lot. Cats sleep for about 15 hours a day.\n\nSummary:", "cats sleep a lot."),
    ("Put this in one sentence: The train\r\nwas late\u2028again.", "The train was late again."),
    (
        "Summarise in one line: <script>alert(1)</script> {braces} \"quotes\" 'too'",
        "<script>alert(1)</script> {braces} \"quotes\" 'too'",
    ),
    ('Summarise "The cat sat on the mat. It was happy."', "The cat sat on the mat."),
    (
        "Write a one-line summary of: Dr. Smith met Mr. Jones, e.g. in Paris. Bye.",
        "Dr. Smith met Mr. Jones, e.g. in Paris.",
    ),
    (
        "Summarise in one line: # Release notes\n\n- Batches resume after an interrupt.\n- Batches pause.",
        "Batches resume after an interrupt.",
    ),
    (
        "Summarise in one line: Is it fast? It is fast on every machine that we own. It was slow.",
        "It is fast on every machine that we own.",
    ),
    ("SUMMARISE IN ONE LINE: THE SERVER IS DOWN!!! PLEASE RESTART THE SERVER.", "THE SERVER IS DOWN!!!"),
    (
        "Sum up the following in one sentence.\n\n😀 Thanks for the wonderful evening!",
        "😀 Thanks for the wonderful evening!",
    ),
    ("Summarise in one line: " + "x" * 500, "x" * 119 + "…"),
    ("Summarise in one line: " + "word " * 500, "word " * 23 + "word…"),
    ("Summarise in one line: a", "a"),
    ("Summarise in one line: \n\n", "nothing to summarise"),
]


@pytest.mark.parametrize(("prompt", "summary"), SUMMARIES)
def test_a_summary_in_one_line(prompt: str, summary: str) -> None:
    assert ask(prompt) == summary
    assert len(summary) <= 120


def test_a_system_message_may_ask_for_summaries() -> None:
    assert ask(COFFEE, system="You summarise texts in one line.") == SUMMARIES[4][1]


TERMS = [
    ("What is Python?", "Python is a general-purpose programming language"),
    ("What is Rust?", "Rust is a compiled programming language"),
    ("What is AI?", "AI is the field"),
    ("Explain Python", "Python is a general-purpose"),
    ("Explain decorators", "A decorator is a function that takes a function"),
    ("Explain ownership", "Ownership is Rust's rule"),
    ("Explain closures", "A closure is a function that remembers"),
    ("Hello", "Hello! I am demo::tutor"),
    ("what is the event loop in asyncio", "An event loop runs coroutines in turns"),
    ("What is a task in asyncio?", "A task is a coroutine that the event loop runs"),
    ("How does asyncio.gather work?", "`asyncio.gather` runs several awaitables"),
    ("What's “as_completed” used for?", "`as_completed` gives tasks in the order in which they finish"),
    ("EXPLAIN SEMAPHORES!!!", "A semaphore lets at most a fixed number"),
    ("Please explain rate limits to a beginner in one sentence.", "A rate limit is the number of requests"),
    ("What is the difference between a coroutine and a future?", "A coroutine is a function made with `async def`"),
    ("Explain async/await", "Asynchronous programming does other work"),
    ("What is a DataFrame\nin pandas? 🐼", "A DataFrame is a table in memory"),
    ("Q: What are tokens in an LLM?", "A token is the piece of text"),
    ("Explain exponential backoff briefly", "Backoff means waiting longer"),
    ("kernel?", "A kernel is the process that runs a notebook's code"),
]


@pytest.mark.parametrize(("question", "beginning"), TERMS)
def test_the_glossary(question: str, beginning: str) -> None:
    assert ask(question).startswith(beginning)
    assert ask(question, system="You are a helpful and positive expert. Answer in one sentence.").startswith(beginning)


TERMS_OF_THE_FIELD = (
    "asyncio, event loop, coroutine, await, task, future, semaphore, gather, as_completed, Jupyter, notebook, kernel, "
    "DataFrame, pandas, JSON, HTTP, API, rate limit, concurrency, LLM, token, prompt, system prompt, embedding, agent, "
    "JavaScript, Ollama, latency, backoff, retry, timeout, queue, streaming, temperature"
)


@pytest.mark.parametrize("term", TERMS_OF_THE_FIELD.split(", "))
def test_every_term_has_a_definition_and_something_more(term: str) -> None:
    definition, more, end = converse(f"What is {term}?", "Tell me more", "Tell me more")
    assert len({definition, more, end, STAND_IN}) == 4
    assert end == "That is all a stand-in knows about this."
    for reply in (definition, more):
        assert re.fullmatch(r"[A-Za-z`].{20,200}[.]", reply), reply


def test_a_difference_is_both_definitions() -> None:
    assert ask("What is the difference between a coroutine and a future?").endswith(ask("What is a future?"))


def test_an_example_belongs_to_what_was_spoken_of_last() -> None:
    *_, example = converse("What is Rust?", "Explain closures", "Give an example")
    assert "adder" in example
    assert ask("Give an example") == STAND_IN


def test_what_was_asked_is_remembered() -> None:
    *_, last, first = converse("What is Rust?", "Hello", "What did I just ask?", "What was my first question?")
    assert (last, first) == ('You asked: "Hello"', 'You asked: "What is Rust?"')
    assert ask("What did I just ask?") == "This is your first message."


def test_a_name_is_remembered() -> None:
    assert converse("Hi! My name is Ann Lee.", "What is my name?")[-1] == "Your name is Ann Lee."
    assert ask("What is my name?") == "You have not told me your name."


@pytest.mark.parametrize(
    "prompt",
    [
        "What is the capital of France?",
        "Write a Python program that sorts a list",
        "How do I install pandas on Windows?",
        "Classify the ticket as bug or feature: it crashes",
        "Translate to French: good morning",
        "What is the weather like today?",
        "Who are you?",
        "",
    ],
)
def test_anything_else_is_declined(prompt: str) -> None:
    assert ask(prompt) == STAND_IN


@pytest.mark.parametrize("prompt", ["Process item 5", "Process 3", "Message 4", "Q1", "msg0", "test"])
def test_a_placeholder_is_acknowledged(prompt: str) -> None:
    assert f'"{prompt}"' in ask(prompt)
    assert "stand-in" in ask(prompt)


def test_the_only_story_is_long_enough_to_stream() -> None:
    assert len(ask("Tell me a story").split()) > 40
    assert "stand-in" in ask("Tell me a story")


def test_the_last_user_message_is_answered() -> None:
    messages = [
        {"role": "user", "content": "Classify the review: awful"},
        {"role": "assistant", "content": "negative"},
        {"role": "user", "content": "Classify the review: lovely"},
    ]
    assert answer(messages) == "positive"
    assert answer([*messages, {"role": "assistant", "content": "posi"}]) == "positive"
    assert answer([]) == STAND_IN


def test_a_command_outranks_the_system_message() -> None:
    assert ask("Extract the year: founded in 1998", system="Classify the sentiment of the review") == "1998"


TASKS = st.sampled_from(
    [
        *INSTRUCTIONS,
        *(f"Extract the {field} from: {{}}" for field in ("name", "date", "price", "city")),
        *("Summarise in one line: {}", "What is {}?", "Tell me more {}", "{}"),
    ]
)


@given(ANY_TEXT, TASKS, st.none() | ANY_TEXT | TASKS)
@settings(deadline=None)
def test_no_text_raises(text: str, task: str, system: str | None) -> None:
    prompt = task.replace("{}", text)
    reply = ask(prompt, system)
    assert isinstance(reply, str)
    assert reply
    assert reply == ask(prompt, system)


@given(ANY_TEXT)
def test_the_forms_hold_for_any_text(text: str) -> None:
    assert ask(f"Classify the review: {text}") in ("positive", "negative", "neutral")
    summary = ask(f"Summarise in one line: {text}")
    assert len(summary) <= 120
    assert len(summary.splitlines()) == 1


@given(ANY_TEXT, st.text("abcdefghijkl.", max_size=9).filter(lambda s: s[:1].isalpha() and s[-1:].isalpha()))
def test_a_value_comes_out_of_any_text(noise: str, user: str) -> None:
    noise = noise.replace("@", "")
    user = user.replace("..", ".")
    assert ask(f"Extract the email address from: {noise} <{user}@example.org>") == f"{user}@example.org"


@pytest.mark.parametrize(
    "unit", ["a", "(", " ", '"', "a.", "a@", "5 ", "1/", "Ab ", "not ", "city: ", "www.", "\u2028", "- "]
)
@pytest.mark.parametrize(
    "task",
    ["", "Classify the review: ", "Summarise in one line: "]
    + [
        f"Extract the {f} from: "
        for f in ("email", "phone", "url", "date", "price", "time", "name", "order number", "city")
    ],
)
def test_a_megabyte_takes_no_second(task: str, unit: str) -> None:
    began = time.process_time()
    assert ask(task + unit * (1_000_000 // len(unit)))
    assert time.process_time() - began < 1.0
