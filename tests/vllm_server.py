"""The product with real vLLMs of its own, one for each tiny model: installed, started, watched."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from gpustack_fast.control.client import ControlClient, NoServer
from gpustack_fast.control.documents import InstanceStatus
from gpustack_fast.storage.data_directory import DataDirectory
from handovers import Succeeding
from sound_form import FORM, form
from vllm_engine import HOME, START, VllmEngine, ask, openai_client

__all__ = ["VllmServer"]

MODEL = """
[[models]]
name = "{model}-served"
backend = "vllm"
source = "local_path"
local_path = "{models}/{model}"
ready_timeout = {start}
{more}
[models.env]
VLLM_CACHE_ROOT = "{cache}"
VLLM_CPU_KVCACHE_SPACE = "1"
# Else all engines are bound to the same core, from the imports of their workers on.
VLLM_CPU_OMP_THREADS_BIND = "nobind"
OMP_NUM_THREADS = "1"
VLLM_ENABLE_RESPONSES_API_STORE = "1"
# Its own default, which is what a router expects in front of a vLLM that somebody else has started.
VLLM_HTTP_TIMEOUT_KEEP_ALIVE = "5"
# Else the first request with log probabilities compiles a kernel for 20 seconds.
TORCH_COMPILE_DISABLE = "1"
"""

MORE = {
    # Chats, completes, looks at images, calls tools, and has an adapter that it calls `tuned`.
    "chat": """
categories = ["llm"]
backend_parameters = [
    "--enforce-eager", "--dtype=bfloat16", "--max-model-len=16384",
    "--enable-auto-tool-choice", "--tool-call-parser=hermes",
]
lora_list = [{{ lora_name = "tuned", local_path = "{models}/adapter" }}]
""",
    # Makes embeddings, of the text model's last hidden state.
    "text": """
categories = ["embedding"]
backend_parameters = ["--enforce-eager", "--dtype=bfloat16"]
""",
    # Scores pairs of texts.
    "reranker": """
categories = ["reranker"]
backend_parameters = ["--enforce-eager", "--dtype=bfloat16"]
""",
    # Writes some twenty tokens a second, so that its streams are open for long.
    "slow": """
categories = ["llm"]
backend_parameters = ["--enforce-eager", "--dtype=bfloat16", "--max-model-len=4096"]
""",
    # Transcribes speech.
    "speech": """
categories = ["speech_to_text"]
hang_timeout = 30
backend_parameters = ["--enforce-eager", "--dtype=bfloat16"]
""",
}


class VllmServer:
    """A server with the engines of these models, each of which it calls MODEL-served.

    Their environment, which `make test-vllm` had `engines install` build, is in its data directory.
    They start side by side.
    """

    def __init__(self, models: Iterable[str]) -> None:
        assert (HOME / "data" / "engines" / "vllm").is_dir(), (
            f"There is no vLLM in {HOME}. `make test-vllm` sets it up and runs these tests."
        )
        self.folder = Path(tempfile.mkdtemp(prefix="gpf-", dir="/tmp"))
        environments = self.folder / "data" / "engines"
        environments.mkdir(parents=True)
        for each in (self.folder / "data", environments):
            each.chmod(0o700)
        (environments / "vllm").symlink_to(HOME / "data" / "engines" / "vllm")
        places = {"models": HOME / "models", "cache": HOME / "cache", "start": START}
        config = [
            MODEL.replace("{more}", MORE[model]).format(model=model, **places) for model in models
        ]
        self.router = Succeeding(self.folder, "".join(config))

    def edit(self, before: str, after: str) -> None:
        """Writes the configuration's file anew, with other words in it."""
        text = self.router.config.read_text()
        assert before in text
        self.router.config.write_text(text.replace(before, after))

    def instances(self, model: str) -> list[InstanceStatus]:
        """The engines of a model. Raises NoServer."""
        with ControlClient(DataDirectory(self.router.data_dir).control_socket) as control:
            found = {one.name: one.instances for one in control.status().models}
        return found[f"{model}-served"]

    def instance(self, model: str) -> InstanceStatus:
        """The engine of a model. Raises NoServer or IndexError when there is none yet."""
        return self.instances(model)[0]

    def wait(
        self, model: str, happened: Callable[[InstanceStatus], bool], what: str
    ) -> InstanceStatus:
        """The engine of a model, when it is so."""
        end, now = time.monotonic() + START, None
        while True:
            with contextlib.suppress(NoServer, IndexError):
                if happened(now := self.instance(model)):
                    return now
            assert time.monotonic() < end, f"{what} did not happen: {now}"
            time.sleep(0.5)

    def running(self, model: str, unlike: str = "") -> VllmEngine:
        """The engine of a model as soon as it runs, of another name."""
        now = self.wait(
            model, lambda now: now.state == "running" and now.name != unlike, f"a start of {model}"
        )
        [log] = (self.router.data_dir / "logs").rglob(f"{now.name}.log")
        return VllmEngine(f"{model}-served", now, log)

    def answers(self, model: str) -> bool:
        """Whether a client gets from the engine of a model what that is there for."""
        name = f"{model}-served"
        with openai_client(self.router) as client:
            if model in ("chat", "slow"):
                found = client.chat.completions.create(
                    model=name, messages=[{"role": "user", "content": "Hi"}], max_tokens=4
                )
                return found.usage is not None and found.usage.completion_tokens > 0
            if model == "text":
                return len(client.embeddings.create(model=name, input=["a", "b"]).data) == 2
        if model == "reranker":
            body = {"model": name, "query": "a", "documents": ["a", "b"]}
            response = ask(self.router, "POST", "/v1/rerank", body)
            return response.status == 200 and len(response.json()["results"]) == 2
        fields = {"model": name, "language": "en", "max_completion_tokens": "8"}
        path = "/v1/audio/transcriptions"
        response = ask(self.router, "POST", path, form(fields), headers=FORM)
        return response.status == 200 and response.json()["text"] != ""

    def close(self) -> None:
        self.router.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
