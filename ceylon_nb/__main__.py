"""The main job from a terminal: ``python -m ceylon_nb demo | map | serve``."""

from __future__ import annotations

import argparse
import contextlib
import pkgutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __version__, tables
from .agents import LlmAgent
from .engine import VIEWS
from .errors import CeylonError
from .handle import Batch
from .loop import FAREWELL
from .policy import check_options

DEMO_REVIEWS = [
    "Arrived a day early and works like a charm.",
    "Stopped working after a week.",
    "It is a kettle. It boils water.",
    "The hinge broke and nobody answers my mails.",
    "I could not be happier with it!",
    "Not good, not even for the price.",
    "My mother loves the large keys.",
    "Packaging was fine, the smell was awful.",
    "Five stars for the battery alone.",
    "Does what it says, nothing more.",
]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 1 if rows failed, 2 if something said makes no sense, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except BrokenPipeError:  # whoever read along has left
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except (CeylonError, OSError) as error:
        print(f"ceylon-nb: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ceylon-nb", description="Ask a model about every row of a table.")
    parser.add_argument("--version", action="version", version=f"ceylon-nb {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser("demo", help="label a few reviews with the embedded model: no network, no key")
    demo.set_defaults(run=_demo)

    ask = commands.add_parser("map", help="ask about every row of a .csv, .jsonl or .parquet file")
    ask.add_argument("table", type=Path, help="the file; its columns are the template's fields")
    ask.add_argument("template", help='for example "Classify the review: {text}"')
    ask.add_argument("--model", required=True, metavar="PROVIDER::MODEL", help="for example ollama::llama3.2")
    ask.add_argument("--out", type=Path, help="a .csv, .jsonl or .parquet file; without it, CSV on standard output")
    ask.add_argument("--system-prompt", metavar="TEXT")
    ask.add_argument("--base-url", metavar="URL")
    ask.add_argument("--temperature", type=float)
    ask.add_argument("--max-tokens", type=int)
    ask.add_argument("--timeout", type=float, metavar="SECONDS", help="for one attempt")
    ask.add_argument("--attempts", type=int)
    ask.add_argument("--max-at-once", type=_at_once, default="auto", metavar="N", help="or auto, which finds out")
    ask.add_argument("--max-per-minute", type=float)
    ask.add_argument("--max-tokens-per-minute", type=float)
    ask.add_argument("--store", metavar="FILE", default="auto", help="of answers; `off` for none (.ceylon_nb/ here)")
    ask.add_argument("--fresh", action="store_true", help="ask for everything, whatever the store has")
    ask.add_argument("--name", help="what to call the batch in the store")
    ask.add_argument("--deadline", type=float, metavar="SECONDS", help="for the whole; ends with what there is")
    ask.set_defaults(run=_map)

    serve = commands.add_parser("serve", help="serve the embedded model on the loopback, as Ollama and as OpenAI")
    serve.add_argument("--port", type=int, default=11435)
    serve.add_argument("--latency", type=float, default=0.05, metavar="SECONDS")
    serve.set_defaults(run=_serve)
    return parser


def _at_once(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _demo(_: argparse.Namespace) -> int:
    agent = LlmAgent("demo", "demo::tutor", system_prompt="Classify the review.")
    reviews = DEMO_REVIEWS * 10
    run = agent.map(reviews, max_at_once=16, store=None, view=None, name="Classify the review")
    frame, status = _wait(run)
    frame.insert(0, "review", reviews)
    print(frame[["review", "reply", "status", "latency"]].head(len(DEMO_REVIEWS)).round(2).to_string())
    print(f"… {len(frame) - len(DEMO_REVIEWS)} more rows")
    print(run.summary())
    print('These are the answers of an embedded stand-in. For a real model: LlmAgent("assistant", "ollama::llama3.2").')
    return status


def _map(arguments: argparse.Namespace) -> int:
    if arguments.out is not None:
        tables.check_path(arguments.out)
    names = "system_prompt base_url temperature max_tokens timeout attempts".split()
    names += ["max_per_minute", "max_tokens_per_minute"]
    options: dict[str, Any] = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    check_options(auto=True, max_at_once=arguments.max_at_once)
    agent = LlmAgent("map", arguments.model, **options).build()
    table = tables.read(arguments.table)
    run = agent.map(
        table,
        arguments.template,
        max_at_once=arguments.max_at_once,
        deadline=arguments.deadline,
        store=None if arguments.store == "off" else arguments.store,
        fresh=arguments.fresh,
        view=None,
        name=arguments.name,
    )
    frame, status = _wait(run)
    labelled = tables.joined(table, frame)
    if arguments.out is None:
        _print_csv(labelled)
    else:
        try:
            tables.write(labelled, arguments.out)
        except OSError as error:  # what was paid for is not lost for want of a file
            print(f"ceylon-nb: {arguments.out} cannot be written: {error}. Here it is as CSV.", file=sys.stderr)
            _print_csv(labelled)
            status = 2
    print(run.summary(), file=sys.stderr)
    return status


def _print_csv(table: Any) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(tables.as_csv(table).encode())


def _wait(run: Batch) -> tuple[Any, int]:
    """The frame, whole or as far as Ctrl-C, a deadline or a common failure let it come; and the exit status."""
    try:  # the bar, too: Ctrl-C in the first moments finds the batch
        run.show(lambda begun: pkgutil.resolve_name(VIEWS)(begun, "terminal"))
        frame = run.result()
    except KeyboardInterrupt:
        run.cancel()
        with contextlib.suppress(CeylonError, TimeoutError):  # the frame says what became of it
            run.result(FAREWELL)
        goes_on = "; the same command goes on with the rest" if run.store else ""
        print(f"Interrupted: the answers so far are kept{goes_on}.", file=sys.stderr)
        return run.frame, 130
    except CeylonError as error:
        print(f"ceylon-nb: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return run.frame, 1
    return frame, int(bool((frame["status"] != "ok").any()))


def _serve(arguments: argparse.Namespace) -> int:
    from .testing import ModelServer

    with ModelServer(port=arguments.port, latency=arguments.latency) as server:
        print(f"Ollama's API:  OLLAMA_HOST={server.ollama_url}")
        print(f"OpenAI's API:  OPENAI_BASE_URL={server.openai_url}")
        print(f"Models:        {', '.join(server.models)}")
        print("Ctrl-C ends it.", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(f"\nserved {server.served:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
