"""A gateway before a scripted engine, and the table of what came of each agent's runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent_scripts import PROMPT, Ask, conversation
from coding_agents import AGENTS, RUN_LIMIT, Agent, Gateway, Run
from harness import ENDED_WITHIN, STARTED_WITHIN, serving
from scripted_engine import Script, ScriptedEngine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The limit of a test holds the start of the gateway and its engine, too."""
    for item in items:
        item.add_marker(pytest.mark.timeout(2 * RUN_LIMIT + STARTED_WITHIN + ENDED_WITHIN))


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Agent], str]:
    """What each agent says itself that it is."""
    home = tmp_path_factory.mktemp("versions")
    known: dict[str, str] = {}

    def version(agent: Agent) -> str:
        if agent.name not in known:
            known[agent.name] = agent.version(home)
        return known[agent.name]

    return version


@pytest.fixture
def as_agent(
    request: pytest.FixtureRequest, versions: Callable[[Agent], str]
) -> Callable[[Agent], Agent]:
    """`as_agent(agent)`: the agent that the table names for this test."""

    def note(agent: Agent) -> Agent:
        known = [("agent", agent.name), ("version", versions(agent))]
        request.node.user_properties += known
        return agent

    return note


@pytest.fixture(params=AGENTS, ids=lambda agent: agent.name)
def agent(request: pytest.FixtureRequest, as_agent: Callable[[Agent], Agent]) -> Agent:
    """Each agent, one after the other."""
    return as_agent(request.param)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder in which the agent works."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def ask(
    agent: Agent, home: Path, work: Path, record_property: Callable[[str, object], None]
) -> Ask:
    """Runs the agent through a gateway, for which an engine with the script is the model `m`."""

    def run(script: Script, more: str = "", model: str = "m") -> tuple[Run, ScriptedEngine]:
        with ScriptedEngine(conversation(agent, script)) as engine:
            with serving(CONFIG.format(address=engine.address) + more) as server:
                gateway = Gateway(server.address, server.key, model)
                found = agent.run(PROMPT, gateway, home, work, RUN_LIMIT)
        record_property("requests", len(engine.received))
        assert {asked.path for asked, _ in engine.received} == {agent.path}, found
        return found, engine

    return run


CONFIG = """
[[models]]
name = "m"
backend = "external"
engine = "openai"
urls = ["{address}"]
categories = ["llm"]
"""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table: each agent, its version, what it was put through, and what came of it."""
    rows = []
    for outcome in ("passed", "failed", "error", "xfailed"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = dict(report.user_properties)
            if "agent" in properties:
                scenario = report.nodeid.partition("::test_")[2].partition("[")[0]
                words = scenario.replace("_", " ")
                requests = str(properties.get("requests", ""))
                rows.append((properties["agent"], properties["version"], words, outcome, requests))
    if not rows:
        return
    rows.sort()
    rows.insert(0, ("agent", "version", "scenario", "result", "requests"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    terminalreporter.section("agents")
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line("  ".join(cells).rstrip())
