"""What a server gives to the process that takes over, and takes back where nothing comes of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gpustack_fast import succession
from gpustack_fast.config import Config, ServerConfig
from gpustack_fast.engines.restraint import Restraint
from gpustack_fast.errors import ControlError
from gpustack_fast.handover.messages import Go, Offer
from gpustack_fast.handover.predecessor import Postponed
from gpustack_fast.succession import Giving, become_ready


class Rooms:
    """Those of a server, as far as they are given; all that they are asked for is written down."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.waiting = 0
        self.models = [SimpleNamespace(name="m", waiting=0), SimpleNamespace(name="n", waiting=0)]
        self.plane = SimpleNamespace(stats=lambda: SimpleNamespace(models=self.models))
        self.config = Config(server=ServerConfig(host="h", port=80))
        self.reloader = SimpleNamespace(
            freeze=self.coming("reloads are held"),
            thaw=lambda **given: self.said.append(f"reloads go on {given}"),
            soon=lambda: self.said.append("a reload"),
        )
        self.supervisor = SimpleNamespace(
            restraint=SimpleNamespace(freeze=self.coming("engines are frozen")),
            thaw=lambda: self.said.append("engines go on"),
            history=SimpleNamespace(give=lambda: self.said.append("the history is given")),
            orders=SimpleNamespace(drained=[("m", "unix:/a")]),
        )
        self.tokens = SimpleNamespace(
            freeze=self.coming("tokens are held"), thaw=lambda: self.said.append("tokens go on")
        )
        self.keys = SimpleNamespace(
            give=self.coming("keys are given", ["revoked"]),
            take_back=lambda: self.said.append("keys are taken back"),
        )

    def coming(self, said: str, result: object = None) -> Any:
        async def come() -> object:
            self.said.append(said)
            return result

        return come

    def giving(self, *, serving: bool = True) -> Giving:
        rooms: Any = self
        return Giving(
            rooms,
            is_serving=lambda: serving,
            tell_wanted=lambda model: self.said.append(f"{model} is wanted"),
            leave=lambda: self.said.append("it leaves"),
            hurry=lambda _: None,
            bereft=lambda: None,
        )


HELD = ["reloads are held", "engines are frozen", "tokens are held"]
TAKEN_BACK = ["tokens go on", "keys are taken back", "engines go on"]


def test_a_server_that_starts_gives_nothing_and_has_nothing_to_take_back() -> None:
    async def main() -> None:
        rooms = Rooms()
        giving = rooms.giving(serving=False)
        with pytest.raises(ControlError, match="still starting itself"):
            await giving.freeze()
        assert rooms.said == []
        giving.thaw()
        assert rooms.said == TAKEN_BACK, "no reload was held"

    asyncio.run(main())


def test_all_of_it_is_held_and_taken_back_with_the_reload_that_was_asked_for_meanwhile() -> None:
    async def main() -> None:
        rooms = Rooms()
        giving = rooms.giving()
        await giving.freeze()
        assert rooms.said == HELD
        assert await giving.last_changes() == Go(revoked=["revoked"], drained=[("m", "unix:/a")])
        giving.thaw()
        assert rooms.said[3:] == ["keys are given", *TAKEN_BACK, "reloads go on {}"]
        giving.reload_later()  # it has begun, and holds nothing yet
        await giving.freeze()
        assert (await giving.last_changes()).reload
        giving.thaw()
        assert rooms.said[-2:] == ["reloads go on {}", "a reload"]
        giving.thaw()
        assert rooms.said.count("reloads go on {}") == 2, "what is not held is not let go"
        assert rooms.said.count("a reload") == 1
        await giving.freeze()
        assert not (await giving.last_changes()).reload

    asyncio.run(main())


def test_no_request_that_waits_for_a_model_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(succession, "LOOK_EVERY", 0.01)

    async def main() -> None:
        rooms = Rooms()
        giving = rooms.giving()
        rooms.models[1].waiting = 1
        freezing = asyncio.ensure_future(giving.freeze())
        await asyncio.sleep(0.1)
        assert not freezing.done() and rooms.said == []
        rooms.models[1].waiting = 0
        await freezing
        rooms.models[1].waiting = 2
        with pytest.raises(Postponed, match=r"a model to wake up: n\. Repeat"):
            await giving.last_changes()
        assert rooms.said == HELD, "keys are changed here as before"

    asyncio.run(main())


def test_a_server_that_has_given_leaves_and_writes_nothing_more() -> None:
    async def main() -> None:
        rooms = Rooms()
        giving = rooms.giving()
        await giving.freeze()
        giving.given()
        given = ["the history is given", "reloads go on {'given': True}", "it leaves"]
        assert rooms.said == [*HELD, *given]

    asyncio.run(main())


def test_a_successor_gets_ready_without_a_start_or_an_end_of_an_engine() -> None:
    """The other process has the same engines, and requests at them."""

    async def main() -> None:
        rooms = Rooms()
        restraint = rooms.supervisor.restraint = Restraint()

        def want(adoptable: object) -> None:
            assert restraint.is_frozen and not restraint.alone.is_set()
            rooms.said.append(f"it goes on with {adoptable}")

        async def adoptable(given: object) -> object:
            return given

        rooms.supervisor.replicas = []
        parts: Any = rooms
        parts.want = want
        parts.publisher = SimpleNamespace(pace=SimpleNamespace(now=lambda: None))
        earlier: Any = SimpleNamespace(adoptable=adoptable)
        offer = Offer(version="1", host="h", port=80, instances=["m-1"])
        inherited: Any = SimpleNamespace(offer=offer)
        await become_ready(parts, earlier, inherited)
        assert rooms.said == ["it goes on with ['m-1']"]
        assert restraint.is_frozen and not restraint.alone.is_set()

    asyncio.run(main())
