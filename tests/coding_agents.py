"""The agents: where each is installed, how it is run without a person, and how it reads a file.

Each is run with a home of its own, without telemetry and updates as far as it can be told so, and
with a proxy for everything that is not on this machine; the proxy leads nowhere.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripted_engine import Call

FOLDER = Path(__file__).parents[1] / ".agents"
"""Where `scripts/setup-agents` installs them."""
MODULES = FOLDER / "npm/node_modules"
PYTHON_BIN = FOLDER / "venv/bin"
ARCH = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
TRIPLE = f"{platform.machine()}-unknown-linux-musl"

RUN_LIMIT = 240.0
"""Seconds that a run may take on a busy machine, until it counts as endless."""

Environment = dict[str, str]


@dataclass(frozen=True)
class Gateway:
    """What an agent is told of the gateway."""

    address: str
    key: str
    model: str
    most_tokens: int | None = None
    """How long an answer may be, where the agent can be told so."""


@dataclass(frozen=True)
class Run:
    """What came of a run. `status` is None when the agent had to be ended."""

    status: int | None
    output: str
    errors: str

    def __str__(self) -> str:
        return f"exit status {self.status}\n{self.output[-4000:]}\n{self.errors[-4000:]}"


class Agent(ABC):
    """One kind of agent."""

    name: str
    path = "/v1/chat/completions"
    """Where the engine is asked in the end, which is not always where the agent asks."""
    compacts = True
    """Whether it makes a conversation shorter that has become too long, and goes on; otherwise it
    says so, in the words `says_too_long`."""
    says_too_long = ""
    status_after_compacting = 0

    @abstractmethod
    def program(self) -> list[str]:
        """The command line without arguments."""

    @abstractmethod
    def prepare(self, home: Path, gateway: Gateway) -> Environment:
        """Writes its settings into its home, and returns its environment variables."""

    @abstractmethod
    def arguments(self, prompt: str, gateway: Gateway) -> list[str]:
        """Those of a run without a person."""

    def version(self, home: Path) -> str:
        """The version that it says itself."""
        found = subprocess.run(
            [*self.program(), "--version"],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(home, {}),
            check=True,
        )
        return next(word for word in found.stdout.split() if word[0].isdigit())

    def run(self, prompt: str, gateway: Gateway, home: Path, work: Path, limit: float) -> Run:
        """Runs it in the folder `work` until it ends, or `limit` seconds have passed."""
        variables = environment(home, self.prepare(home, gateway))
        out, err = home / "stdout", home / "stderr"
        with out.open("wb") as output, err.open("wb") as errors:
            process = subprocess.Popen(
                [*self.program(), *self.arguments(prompt, gateway)],
                cwd=work,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
            try:
                status: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                end_group(process)
        return Run(status, out.read_text(errors="replace"), err.read_text(errors="replace"))


class ToolUser(Agent):
    """An agent that offers tools to the model."""

    @abstractmethod
    def reading(self, path: Path, id: str) -> Call:
        """The call by which a model has this agent read a file."""


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and what it has left behind in its group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def environment(home: Path, more: Environment) -> Environment:
    """Nothing of the caller's but the search path: neither keys nor settings of other agents."""
    nowhere = "http://127.0.0.1:9"
    return {
        "PATH": f"{PYTHON_BIN}:{os.environ['PATH']}",
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "NO_COLOR": "1",
        "DO_NOT_TRACK": "1",
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), nowhere),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
        **more,
    }


class ClaudeCode(ToolUser):
    """`continues`: whether a run goes on with the conversation of the one before it."""

    name = "Claude Code"

    def __init__(self, continues: bool = False) -> None:
        self.continues = continues

    def program(self) -> list[str]:
        return [str(MODULES / f"@anthropic-ai/claude-code-linux-{ARCH}/claude")]

    def prepare(self, home: Path, gateway: Gateway) -> Environment:
        limit = {}
        if gateway.most_tokens is not None:
            limit = {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(gateway.most_tokens)}
        return limit | {
            "ANTHROPIC_BASE_URL": gateway.address,
            "ANTHROPIC_AUTH_TOKEN": gateway.key,
            "ANTHROPIC_MODEL": gateway.model,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_ERROR_REPORTING": "1",
        }

    def arguments(self, prompt: str, gateway: Gateway) -> list[str]:
        known = ["--continue"] if self.continues else []
        return [*known, "-p", prompt, "--allowedTools", "Read"]

    def reading(self, path: Path, id: str) -> Call:
        return Call(id, "Read", {"file_path": str(path)})


class Codex(ToolUser):
    """`compacts_beyond`: the tokens beyond which it makes a conversation shorter by itself."""

    name = "Codex"
    path = "/v1/responses"
    compacts = False
    says_too_long = "ran out of room"

    def __init__(self, compacts_beyond: int = 30_000) -> None:
        self.compacts_beyond = compacts_beyond

    def program(self) -> list[str]:
        return [str(MODULES / f"@openai/codex-linux-{ARCH}/vendor/{TRIPLE}/bin/codex")]

    def prepare(self, home: Path, gateway: Gateway) -> Environment:
        settings = home / ".codex"
        settings.mkdir()
        (settings / "config.toml").write_text(f"""
model = "{gateway.model}"
model_provider = "gateway"
model_context_window = 32768
model_auto_compact_token_limit = {self.compacts_beyond}
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.gateway]
name = "gateway"
base_url = "{gateway.address}/v1"
env_key = "GATEWAY_KEY"
wire_api = "responses"
""")
        return {"CODEX_HOME": str(settings), "GATEWAY_KEY": gateway.key}

    def arguments(self, prompt: str, gateway: Gateway) -> list[str]:
        quiet = ["--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
        return ["exec", "--strict-config", *quiet, prompt]

    def reading(self, path: Path, id: str) -> Call:
        return Call(id, "exec_command", {"cmd": f"cat {path}"})


class OpenCode(ToolUser):
    name = "opencode"
    status_after_compacting = 1  # the error that it went on after is still an error to it

    def program(self) -> list[str]:
        return [str(MODULES / f"opencode-linux-{ARCH}/bin/opencode")]

    def prepare(self, home: Path, gateway: Gateway) -> Environment:
        limit = {"context": 32768, "output": gateway.most_tokens or 4096}
        settings: dict[str, Any] = {
            "autoupdate": False,
            "share": "disabled",
            "provider": {
                "gateway": {
                    "npm": "@ai-sdk/openai-compatible",
                    "options": {"baseURL": f"{gateway.address}/v1", "apiKey": "{env:GATEWAY_KEY}"},
                    "models": {gateway.model: {"limit": limit}},
                }
            },
        }
        (home / "opencode.json").write_text(json.dumps(settings))
        return {
            "OPENCODE_CONFIG": str(home / "opencode.json"),
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
            "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
            "GATEWAY_KEY": gateway.key,
        }

    def arguments(self, prompt: str, gateway: Gateway) -> list[str]:
        return ["run", "--model", f"gateway/{gateway.model}", prompt]

    def reading(self, path: Path, id: str) -> Call:
        return Call(id, "read", {"filePath": str(path)})


class QwenCode(ToolUser):
    name = "qwen-code"

    def program(self) -> list[str]:
        return [str(PYTHON_BIN / "node"), str(MODULES / "@qwen-code/qwen-code/cli.js")]

    def prepare(self, home: Path, gateway: Gateway) -> Environment:
        settings = {
            "privacy": {"usageStatisticsEnabled": False},
            "telemetry": {"enabled": False},
            "general": {"enableAutoUpdate": False},
            "memory": {"enableManagedAutoMemory": False, "enableManagedAutoDream": False},
        }
        (home / ".qwen").mkdir()
        (home / ".qwen/settings.json").write_text(json.dumps(settings))
        return {
            "OPENAI_BASE_URL": f"{gateway.address}/v1",
            "OPENAI_API_KEY": gateway.key,
            "OPENAI_MODEL": gateway.model,
            # It asks for 32000 otherwise, and does not ask for less when it is refused.
            "QWEN_CODE_MAX_OUTPUT_TOKENS": str(gateway.most_tokens or 8192),
        }

    def arguments(self, prompt: str, gateway: Gateway) -> list[str]:
        return ["--auth-type", "openai", "-p", prompt]

    def reading(self, path: Path, id: str) -> Call:
        return Call(id, "read_file", {"file_path": str(path)})


class ContinueCli(ToolUser):
    name = "Continue CLI"
    compacts = False
    says_too_long = "Context length exceeded"

    def program(self) -> list[str]:
        return [str(PYTHON_BIN / "node"), str(MODULES / "@continuedev/cli/dist/cn.js")]

    def prepare(self, home: Path, gateway: Gateway) -> Environment:
        (home / "config.yaml").write_text(f"""
name: gateway
version: 0.0.1
schema: v1
models:
  - name: {gateway.model}
    provider: openai
    model: {gateway.model}
    apiBase: {gateway.address}/v1
    apiKey: {gateway.key}
    roles: [chat]
""")
        return {
            "CONTINUE_METRICS_ENABLED": "0",
            "CONTINUE_CLI_ENABLE_TELEMETRY": "0",
            "CONTINUE_CLI_AUTO_UPDATED": "true",  # as if it had done so already
        }

    def arguments(self, prompt: str, gateway: Gateway) -> list[str]:
        return ["--config", "../home/config.yaml", "--auto", "-p", prompt]

    def reading(self, path: Path, id: str) -> Call:
        return Call(id, "Read", {"filepath": str(path)})


class Aider(Agent):
    name = "aider"
    compacts = False
    says_too_long = "has hit a token limit"

    def program(self) -> list[str]:
        return [str(PYTHON_BIN / "aider")]

    def prepare(self, home: Path, gateway: Gateway) -> Environment:
        return {
            "OPENAI_API_BASE": f"{gateway.address}/v1",
            "OPENAI_API_KEY": gateway.key,
            "AIDER_ANALYTICS_DISABLE": "true",
            "AIDER_CHECK_UPDATE": "false",
        }

    def arguments(self, prompt: str, gateway: Gateway) -> list[str]:
        quiet = ["--no-git", "--no-pretty", "--no-show-model-warnings", "--no-show-release-notes"]
        return ["--model", f"openai/{gateway.model}", "--yes-always", *quiet, "--message", prompt]


class AiSdk(ToolUser):
    """No agent, but what many are made of; `dialect` is `openai` or `anthropic`."""

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        self.name = f"AI SDK ({dialect})"

    def program(self) -> list[str]:
        return [str(PYTHON_BIN / "node")]

    def version(self, home: Path) -> str:
        found: str = json.loads((MODULES / "ai/package.json").read_text())["version"]
        return found

    def prepare(self, home: Path, gateway: Gateway) -> Environment:
        # Modules are looked for from the place of the script.
        (home / "node_modules").symlink_to(MODULES)
        shutil.copy(Path(__file__).with_name("agents") / "ai_sdk.mjs", home)
        return {"KEY": gateway.key}

    def arguments(self, prompt: str, gateway: Gateway) -> list[str]:
        return ["../home/ai_sdk.mjs", self.dialect, gateway.address, gateway.model, prompt]

    def reading(self, path: Path, id: str) -> Call:
        return Call(id, "read", {"path": str(path)})


TOOL_USERS: list[ToolUser] = [ClaudeCode(), Codex(), OpenCode(), QwenCode(), ContinueCli()]
AGENTS: list[Agent] = [*TOOL_USERS, Aider()]
