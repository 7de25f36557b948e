"""Agent: what it answers to a message, what it can do, and how a class and an instance come to do it."""

import asyncio
import copy
import functools
import gc
import pickle
import threading
import weakref

import pytest

from ceylon_nb import Agent, errors, loop
from ceylon_nb.agents import threads
from ceylon_nb.loop import run_sync


class Clerk(Agent):
    """Has an action of each kind."""

    def __init__(self, prices):  # without super().__init__()
        self.prices = prices

    async def on_message(self, message, context=None):
        return await self.act("price", {"item": message})

    @Agent.action
    def price(self, item: str) -> float:
        """What an item costs.

        Args:
            item: Its name.
        """
        return self.prices[item]

    @Agent.action(name="find", description="Find an item.", timeout=5)
    async def look_for(self, item: str, context=None):
        await asyncio.sleep(0)
        return item in self.prices, context

    @Agent.action
    @staticmethod
    def above(a: int):
        return a + 1

    @staticmethod
    @Agent.action
    def below(a: int):
        return a - 1

    @Agent.action
    @classmethod
    def kind(cls, a: int):
        return cls.__name__, a

    @classmethod
    @Agent.action
    def kind_below(cls, a: int):
        return cls.__name__, a


@pytest.fixture
def clerk():
    return Clerk({"tea": 2.5})


# ---- names ----


def test_names():
    class Named(Agent):
        def __init__(self):
            super().__init__("sue")

    assert Agent().name() == "agent"
    assert Agent("bob").name() == "bob"
    assert Clerk({}).name() == "clerk"
    assert Named().name() == "sue"
    assert repr(Agent("bob")) == "Agent('bob')"
    assert repr(Clerk({})) == "Clerk('clerk')"


# ---- messages ----


def test_an_async_handler_answers_on_the_loop(clerk):
    assert clerk.last_response() is None
    assert asyncio.run(clerk.send_message("tea")) == 2.5
    assert clerk.last_response() == 2.5
    assert clerk.send_message_sync("tea") == 2.5


class Blocking(Agent):
    def on_message(self, message, context=None):
        return message.upper(), threading.current_thread() is threading.main_thread()


def test_a_sync_handler_answers_in_a_thread():
    assert asyncio.run(Blocking().send_message("a")) == ("A", False)
    assert Blocking().send_message_sync("a") == ("A", False)


def test_a_sync_handler_does_not_hold_the_loop():
    free = threading.Event()

    class Waits(Agent):
        def on_message(self, message, context=None):
            return free.wait(60)

    async def main():
        asking = asyncio.ensure_future(Waits().send_message("x"))
        await asyncio.sleep(0)
        free.set()  # by this loop, while the handler waits
        return await asking

    assert asyncio.run(main()) is True


def test_a_sync_call_inside_a_running_loop(clerk):
    async def main():
        return clerk.send_message_sync("tea"), clerk.act_sync("above", {"a": 1})

    assert asyncio.run(main()) == (2.5, 2)


def test_sync_handlers_that_ask_one_another():
    class Chain(Agent):
        def on_message(self, depth, context=None):
            return 0 if not depth else 1 + Chain().send_message_sync(depth - 1)

    async def main():
        return await asyncio.gather(*(Chain().send_message(10) for _ in range(10)))

    assert asyncio.run(main()) == [10] * 10


def test_a_sync_call_on_the_librarys_own_loop_is_refused(clerk):
    class Waits(Agent):
        async def on_message(self, message, context=None):
            return clerk.send_message_sync(message)

    with pytest.raises(errors.WrongLoop):
        run_sync(Waits().send_message("tea"))


def test_an_awaitable_from_a_sync_handler_is_awaited(clerk):
    class Passes(Agent):
        def on_message(self, message, context=None):
            return clerk.send_message(message)

    assert asyncio.run(Passes().send_message("tea")) == 2.5


def test_the_context_is_handed_over():
    class Shows(Agent):
        async def on_message(self, message, context=None):
            return message, context

    async def main():
        return await Shows().handle("m", "c"), await Shows().handle("m"), await Shows().send_message("m")

    assert asyncio.run(main()) == (("m", "c"), ("m", None), ("m", None))


def test_a_handler_need_not_take_a_context():
    class Async(Agent):
        async def on_message(self, message):
            return message

    class Static(Agent):
        @staticmethod
        def on_message(message):
            return message

    class Inherits(Async):
        pass

    class Any(Agent):
        def on_message(self, *everything):
            return everything

    async def main():
        return [await kind().handle("m", "c") for kind in (Async, Static, Inherits, Any)]

    assert asyncio.run(main()) == ["m", "m", "m", ("m", "c")]


def test_without_a_handler_it_says_what_to_write():
    class Mute(Agent):
        pass

    for ask in (lambda: asyncio.run(Mute().send_message("x")), lambda: Mute().send_message_sync("x")):
        with pytest.raises(errors.NoHandler) as raised:
            ask()
        assert str(raised.value) == "'mute' cannot answer messages: write on_message(self, message, context) in Mute."


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_a_handler_raises(asynchronous):
    mistake = KeyError("x")

    class Fails(Agent):
        def on_message(self, message, context=None):
            raise mistake

    class FailsOnTheLoop(Agent):
        async def on_message(self, message, context=None):
            raise ExceptionGroup("a kernel can hang by it", [mistake])

    agent = FailsOnTheLoop() if asynchronous else Fails()
    agent._last_answer = "before"
    with pytest.raises(KeyError) as raised:
        asyncio.run(agent.send_message("x"))
    assert raised.value is mistake
    assert agent.last_response() == "before"


class Hangs(Agent):
    began: asyncio.Event

    async def on_message(self, message, context=None):
        return await self.hang()

    @Agent.action
    async def hang(self):
        self.began.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda agent: agent.send_message("x"), "Interrupted before 'hangs' had answered."),
        (lambda agent: agent.act("hang"), "Interrupted before the action 'hang' was done."),
    ],
    ids=["send_message", "act"],
)
def test_an_interrupt_says_what_was_interrupted(ask, said):
    async def main():
        agent = Hangs()
        agent.began = asyncio.Event()
        task = asyncio.ensure_future(ask(agent))
        await agent.began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
        return str(raised.value)

    assert asyncio.run(main()) == said


@pytest.mark.parametrize("ask", [lambda agent: agent.send_message("x"), lambda agent: agent.act("hang")])
def test_the_loop_wakes_while_it_works(ask):
    """Or an interrupt of an idle kernel would not be noticed."""

    async def main():
        agent, here = Hangs(), asyncio.get_running_loop()
        agent.began = asyncio.Event()
        task = asyncio.ensure_future(ask(agent))
        await agent.began.wait()
        held = loop._tickers[here].count
        task.cancel()
        await asyncio.wait([task])
        return held > 0, loop._tickers[here].count

    assert asyncio.run(main()) == (True, 0)


def test_the_end_of_a_sync_handlers_thread_can_be_known():
    began, free = threading.Event(), threading.Event()

    class Waits(Agent):
        def on_message(self, message, context=None):
            began.set()
            free.wait(60)

    async def main():
        ends = []
        threads.running.set(ends)
        task = asyncio.ensure_future(Waits().handle("x"))
        await asyncio.to_thread(began.wait, 60)
        task.cancel()
        await asyncio.wait([task])
        [end] = ends
        assert task.cancelled()
        assert not end.done()
        free.set()
        await end

    asyncio.run(main())


# ---- actions of a class ----


def test_actions_on_methods_of_a_class_work(clerk):
    """Not a TypeError for want of self."""
    assert list(clerk.actions) == ["price", "find", "above", "below", "kind", "kind_below"]
    assert clerk.act_sync("price", {"item": "tea"}) == 2.5
    assert clerk.act_sync("above", {"a": "1"}) == 2
    assert clerk.act_sync("below", {"a": "1"}) == 0
    assert clerk.act_sync("kind", {"a": "1"}) == ("Clerk", 1)
    assert clerk.act_sync("kind_below", {"a": "1"}) == ("Clerk", 1)
    assert clerk.actions["price"].description == "What an item costs."
    assert clerk.actions["price"].parameters["properties"] == {"item": {"type": "string", "description": "Its name."}}
    find = clerk.actions["find"]
    assert (find.name, find.description, find.timeout) == ("find", "Find an item.", 5)


def test_an_async_action_inside_a_running_loop_works(clerk):
    """Not a RuntimeError, as a loop runs already."""

    async def main():
        return await clerk.act("find", {"item": "tea"}), await clerk.act("find", {"item": "x"}, context="c")

    assert asyncio.run(main()) == ((True, None), (False, "c"))


def test_the_methods_stay_what_they_were(clerk):
    assert clerk.price("tea") == 2.5
    assert Clerk.above(1) == 2
    assert asyncio.run(clerk.look_for("tea")) == (True, None)


def test_each_instance_has_its_own_self():
    one, two = Clerk({"tea": 1}), Clerk({"tea": 2})
    assert [each.act_sync("price", {"item": "tea"}) for each in (one, two)] == [1, 2]
    assert one.actions["price"].tool() is two.actions["price"].tool()  # and the schema is made once


def test_actions_are_inherited_overridden_and_taken_away():
    class Junior(Clerk):
        def price(self, item: str, discount: int):
            return self.prices[item] - discount

        @Agent.action(name="search")
        async def look_for(self, item: str):
            """Search."""

        @Agent.action
        def more(self): ...

        above = None

    junior = Junior({"tea": 5})
    assert list(junior.actions) == ["price", "search", "below", "kind", "kind_below", "more"]
    assert junior.act_sync("price", {"item": "tea", "discount": 2}) == 3
    assert junior.actions["price"].description == "What an item costs."  # nobody has said anything else
    assert junior.actions["search"].description == "Search."
    assert junior.act_sync("kind", {"a": 1}) == ("Junior", 1)
    assert "discount" not in Clerk({}).actions["price"].parameters["properties"]


def test_actions_of_a_mixin():
    class Adds:
        @Agent.action
        def add(self, a: int, b: int):
            return a + b

    class Both(Adds, Clerk):
        pass

    assert list(Both({}).actions)[-1] == "add"
    assert Both({}).act_sync("add", {"a": 1, "b": 2}) == 3


def test_a_decorator_above_an_action():
    def twice(method):
        @functools.wraps(method)
        def wrapper(self, *args, **named):
            return 2 * method(self, *args, **named)

        return wrapper

    class Doubles(Agent):
        @twice
        @Agent.action
        def one(self, a: int):
            return a

        half = Agent.action(name="half")(functools.partialmethod(lambda self, a, b: a / b, b=2))

    assert Doubles().act_sync("one", {"a": "1"}) == 2
    assert Doubles().act_sync("half", {"a": 1}) == 0.5


def test_two_actions_of_one_name_in_a_class():
    with pytest.raises(errors.ConfigurationError, match="Twins has two actions 'x': a and b"):

        class Twins(Agent):
            @Agent.action(name="x")
            def a(self): ...

            @Agent.action(name="x")
            def b(self): ...


def test_what_cannot_be_an_action_is_said_when_the_class_is_made():
    with pytest.raises(errors.ConfigurationError, match=r"Action 'many': arguments come by name, and '\*all' can have"):

        class Many(Agent):
            @Agent.action
            def many(self, *all): ...

    with pytest.raises(errors.ConfigurationError, match=r"Hidden\.a is an action, and here it is 5"):

        class Shown(Agent):
            @Agent.action
            def a(self): ...

        class Hidden(Shown):
            a = 5


@pytest.mark.parametrize("name", ["act", "name", "send_message", "actions", "handle"])
def test_an_action_does_not_take_the_place_of_what_every_agent_has(name):
    def method(self): ...

    with pytest.raises(errors.ConfigurationError, match=rf"Bad\.{name} would take the place .*name='{name}'"):
        type("Bad", (Agent,), {name: Agent.action(method)})
    good = type("Good", (Agent,), {"other": Agent.action(name=name)(method)})
    assert list(good().actions) == [name]


def test_what_cannot_be_marked():
    with pytest.raises(errors.ConfigurationError, match="stands above a def in a class, not on "):
        Agent.action(len)
    with pytest.raises(errors.ConfigurationError, match="stands above a def in a class, not on 'name'"):
        Agent.action("name")


def test_hints_of_a_class_may_name_what_comes_after_it():
    names = {"Agent": Agent}
    exec(
        "from __future__ import annotations\n"
        "import enum\n"
        "class Later(Agent):\n"
        "    @Agent.action\n"
        "    def paint(self, color: Color): return self, color\n"
        "class Color(enum.Enum):\n"
        "    RED = 'red'\n",
        names,
    )
    later = names["Later"]()
    assert later.act_sync("paint", {"color": "red"}) == (later, names["Color"].RED)


# ---- actions of an instance ----


def test_actions_on_an_instance():
    agent = Agent("calculator")

    @agent.action
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    @agent.action(name="times", description="Multiply.", timeout=3)
    async def multiply(a: int, b: int) -> int:
        return a * b

    assert list(agent.actions) == ["add", "times"]
    assert add(1, 2) == 3  # as it was
    assert agent.act_sync("add", {"a": "1", "b": 2}) == 3
    assert agent.act_sync("times", {"a": 2, "b": 3}) == 6
    assert agent.actions["times"].timeout == 3
    assert not Agent().actions


def test_register_action():
    agent = Agent()

    def add(a: int):
        return a

    assert agent.register_action(add, "plus", "Adds.", timeout=1) is add
    assert agent.actions["plus"].description == "Adds."
    assert agent.actions["plus"].timeout == 1
    assert agent.act_sync("plus", {"a": "1"}) == 1


def test_a_second_action_of_a_name_replaces_the_first(clerk):
    clerk.register_action(lambda item: "for you: nothing", "price")
    assert clerk.act_sync("price", {"item": "tea"}) == "for you: nothing"
    assert next(iter(clerk.actions)) == "price"
    assert Clerk({"tea": 1}).act_sync("price", {"item": "tea"}) == 1


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_the_actions_of_a_copy_are_its_own(clerk, copied):
    clerk.register_action(lambda: "ours", "ours")
    twin = copied(clerk)
    twin.prices = {"tea": 7}
    twin.register_action(lambda: "mine", "mine")
    assert twin.act_sync("price", {"item": "tea"}) == 7
    assert twin.act_sync("ours") == "ours"
    assert "mine" not in clerk.actions


def test_an_agent_survives_pickling(clerk):
    asyncio.run(clerk.send_message("tea"))
    twin = pickle.loads(pickle.dumps(clerk))
    assert twin.act_sync("price", {"item": "tea"}) == twin.last_response() == 2.5


def test_what_actions_shows_cannot_be_written_to(clerk):
    for agent in (clerk, Agent()):
        with pytest.raises(TypeError):
            agent.actions["x"] = None
    agent.register_action(lambda: 0, "x")
    with pytest.raises(TypeError):
        agent.actions["y"] = None


def test_no_such_action(clerk):
    with pytest.raises(
        errors.NoSuchAction,
        match=r"^'clerk' has no action 'prize'\. It has price, find, above, below, kind, kind_below\.$",
    ):
        clerk.act_sync("prize")
    with pytest.raises(errors.NoSuchAction, match=r"^'agent' has no action 'x'\. It has none\.$"):
        asyncio.run(Agent().act("x"))


def test_a_bad_call_names_the_argument(clerk):
    with pytest.raises(errors.InvalidArguments, match=r"The arguments of 'price' do not fit: item is missing"):
        clerk.act_sync("price")


def test_an_action_may_use_its_own_agent(clerk):
    @clerk.action
    def twice(item: str):
        return 2 * clerk.act_sync("price", {"item": item})

    @clerk.action
    async def four(item: str):
        return 2 * await clerk.act("twice", {"item": item})

    assert asyncio.run(clerk.act("four", {"item": "tea"})) == 10


def test_an_agent_is_not_kept_alive_by_its_actions():
    clerk = Clerk({})
    assert clerk.act_sync("above", {"a": 1}) == 2
    gone = weakref.ref(clerk)
    del clerk
    gc.collect()
    assert gone() is None


def test_many_actions_at_once(clerk):
    together = threading.Barrier(20)
    clerk.register_action(lambda: together.wait(60), "meet")

    async def main():
        return await asyncio.gather(*(clerk.act("meet") for _ in range(20)))

    assert sorted(asyncio.run(main())) == list(range(20))
