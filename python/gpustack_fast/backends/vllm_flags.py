"""The flags and variables of `vllm serve`: the server's own, and which a user may set."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from gpustack_fast import plain_files
from gpustack_fast.backends import vllm_memory
from gpustack_fast.backends.base import BackendError, Model, Place
from gpustack_fast.backends.files import names_of
from gpustack_fast.backends.flags import FlagTable, Found, recorded
from gpustack_fast.backends.parallel import visible
from gpustack_fast.backends.vllm_parsers import family_of

__all__ = ["DEVELOPMENT", "DRAIN", "IDLE_KEPT", "KEEP_ALIVE", "OURS", "Serve"]

DEVELOPMENT = "VLLM_SERVER_DEV_MODE"
"""The environment variable with which vLLM opens its development paths.

One of them runs code by name, and each release has new ones.
"""
KEEP_ALIVE = "VLLM_HTTP_TIMEOUT_KEEP_ALIVE"
IDLE_KEPT = 3600
"""Seconds for which ours keeps an idle connection."""
DRAIN = 10
"""Seconds for --shutdown-timeout: enough for an end of its own. Requests end before, by our hand.
"""
_NO_TEXT = {"image", "speech_to_text", "text_to_speech"}
"""Categories whose requests are not counted in tokens of text: their lengths stay as they are."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What --max-lora-rank takes."""

OURS = {
    **dict.fromkeys(
        ("--host", "--port", "--uds", "--root-path"),
        "the server itself decides where it listens. Remove it",
    ),
    **dict.fromkeys(
        ("--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs", "--ssl-cert-reqs"),
        "this server speaks to it in plain HTTP on this machine, and does TLS itself. Remove it",
    ),
    "--api-key": "the server gives it a key of its own. Remove it",
    "--served-model-name": "the server calls it by the model's name. Remove it, and name a route "
    "under [[routes]] for another public name",
    "--model": "what it loads follows from the model's source. Remove it",
    "--config": "what stands in that file cannot be seen here. Write its flags into "
    "backend_parameters",
    "--device-ids": "the server chooses its GPUs. Write gpu_selector instead",
    "--prefill-context-parallel-size": "the GPUs of an instance are counted by tensor, pipeline "
    "and data parallelism alone. Remove it",
    "--grpc": "this server speaks HTTP with it. Remove it",
    **dict.fromkeys(
        (
            "--headless",
            "--nnodes",
            "--node-rank",
            "--master-addr",
            "--master-port",
            "--data-parallel-address",
            "--data-parallel-rank",
            "--data-parallel-start-rank",
            "--data-parallel-size-local",
            "--data-parallel-external-lb",
            "--data-parallel-hybrid-lb",
            "--data-parallel-multi-port-external-lb",
        ),
        "an instance runs on one machine, behind one address. Remove it",
    ),
}
"""Flags that the server's own knowledge of an instance depends on, and what to do instead."""


class Serve:
    """`vllm serve` for one model, with the flags that one version knows, or any recorded one."""

    def __init__(self, model: Model, version: str | None) -> None:
        """`version`: of the engine that will run; None: it is not known yet."""
        self.model = model
        self.known = recorded("vllm", version)
        recorded_ones = recorded("vllm", None)
        assert recorded_ones is not None, "the package carries what was recorded"
        self.table: FlagTable = self.known or recorded_ones.abbreviated()
        self.given = self.table.given(model.backend_parameters)

    def problems(self) -> Iterator[tuple[int, str]]:
        """As `Backend.check`."""
        wrong: dict[int, str] = {}
        if self.known is not None:
            wrong |= dict(self.known.problems(self.model.backend_parameters, "vLLM", OURS))
        for found in self.table.find(self.model.backend_parameters):
            problem = self._problem(found)
            if problem is not None:
                wrong[found.index] = problem
        for index, problem in sorted(wrong.items()):
            yield index, f"The model {self.model.name} has wrong backend_parameters. {problem}"

    def _problem(self, found: Found) -> str | None:
        """What is wrong with a flag whatever the version."""
        if found.name in OURS:
            return f"{found.written} is not to be set: {OURS[found.name]}."
        if found.name == "--lora-modules" and self.model.lora_list:
            return "--lora-modules and lora_list are there both. Move the adapters into lora_list."
        if found.name == "--enable-auto-tool-choice" and self._choice_without_parser():
            return (
                f"{found.written} needs a --tool-call-parser beside it. Add one, or remove the "
                "flag: for families that are known both are set without it."
            )
        if found.values and not vllm_memory.is_readable(found.name, found.value):
            return (
                f"What {found.written} has is no number above 0 that vLLM reads. Write one such as "
                "32768, 32k (thousands) or 32K (1,024 each)."
            )
        if found.name.endswith("-config") and found.value.startswith("{"):
            return _json_problem(found)
        return None

    def _choice_without_parser(self) -> bool:
        on = self.given.get("--enable-auto-tool-choice") == "true"
        return on and "--tool-call-parser" not in self.given

    def flags(self, place: Place) -> list[str]:
        """Ours, without those that the user sets, and the user's own behind them."""
        ours = {
            **self._server(),
            **self._sleep(place),
            **self._task(),
            **self._size(place),
            **self._adapters(place),
            **self._parsers(place),
        }
        found = []
        for flag, value in ours.items():
            if flag not in self.given:
                found += [flag, *value] if isinstance(value, list) else [_joined(flag, value)]
        return [*found, *self.model.backend_parameters]

    def _server(self) -> dict[str, str]:
        return {
            "--enable-request-id-headers": "",
            "--enable-prompt-tokens-details": "",
            "--disable-uvicorn-access-log": "",
            "--shutdown-timeout": str(DRAIN),
        }

    def _sleep(self, place: Place) -> dict[str, str]:
        """Sleep mode, which the build for CPUs refuses to start with."""
        return {"--enable-sleep-mode": ""} if self.model.sleep_level and place.devices else {}

    def _task(self) -> dict[str, str]:
        """Embedding and ranking, which a category asks for."""
        if "--convert" in self.given or "--runner" in self.given:
            return {}
        kind = next(
            (one for one in self.model.categories if one in ("llm", "embedding", "reranker")), ""
        )
        convert = {"embedding": "embed", "reranker": "classify"}.get(kind)
        return {} if convert is None else {"--runner": "pooling", "--convert": convert}

    def _size(self, place: Place) -> dict[str, str]:
        found = {}
        context = vllm_memory.context_of(self.given, place.facts)
        if context is not None and not _NO_TEXT & set(self.model.categories):
            found["--max-model-len"] = str(context)
        if not self.given.keys() & set(vllm_memory.PARALLEL.values()):
            for part, flag in vllm_memory.PARALLEL.items():
                size = getattr(place.shape, part)
                if size > 1:
                    found[flag] = str(size)
        if place.devices and place.share is not None:
            # Not rounded up: no byte of it may be another's.
            share = math.floor(place.share * 1e6) / 1e6
            found[vllm_memory.UTILIZATION] = f"{share:.6f}".rstrip("0")
        return found

    def _adapters(self, place: Place) -> dict[str, str | list[str]]:
        if not place.adapters:
            return {}
        modules = [
            json.dumps({"name": name, "path": str(path)}) for name, path in place.adapters.items()
        ]
        rank = max(_rank(path) for path in place.adapters.values())
        fitting = [one for one in LORA_RANKS if one >= rank]
        return {
            "--enable-lora": "",
            "--max-loras": str(len(modules)),
            "--max-lora-rank": str(fitting[0] if fitting else LORA_RANKS[-1]),
            "--lora-modules": modules,
        }

    def _parsers(self, place: Place) -> dict[str, str]:
        """Those of the model's family, where this version has them."""
        if place.facts is None or self.known is None or self._task():
            return {}
        family = family_of(place.facts.architecture, names_of(self.model))
        found: dict[str, str] = {}
        if family is None:
            return found
        tools, reasoning = (
            self.known.words.get(kind, frozenset())
            for kind in ("tool-call-parser", "reasoning-parser")
        )
        choice = {"--tool-call-parser", "--enable-auto-tool-choice"}
        if family.tool in tools and not choice & self.given.keys():
            found |= {"--enable-auto-tool-choice": "", "--tool-call-parser": family.tool}
        if family.reasoning in reasoning:
            found["--reasoning-parser"] = family.reasoning
        return found

    def environment(self, place: Place) -> dict[str, str]:
        """Variables; a model's own `env` goes over them."""
        found = {
            "VLLM_API_KEY": place.key,
            KEEP_ALIVE: str(IDLE_KEPT),
            # Whatever this server was started with: which paths are closed goes by the model's own.
            # The calls for sleep are among them; the socket is ours alone.
            DEVELOPMENT: "1" if self.model.sleep_level else "0",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_DISABLE_LOG_LOGO": "1",
            # What it loads is on the disk: it shall not ask anybody, nor wait for an answer.
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            # Not the folder that this server was started in.
            "PYTHONSAFEPATH": "1",
        }
        found |= visible(self.model, place)
        if not place.devices:
            space = vllm_memory.kv_space(place.facts, self.given)
            found["VLLM_CPU_KVCACHE_SPACE"] = str(space)
        return found


def _json_problem(found: Found) -> str | None:
    try:
        json.loads(found.value)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is too deep"
        return f"What {found.written} has is no JSON ({reason}). Correct it."
    return None


def _joined(flag: str, value: str) -> str:
    return f"{flag}={value}" if value else flag


def _rank(adapter: Path) -> int:
    """The rank of an adapter (LoRA), of which its own file tells. Raises BackendError."""
    file = adapter / "adapter_config.json"
    try:
        # A folder that somebody else has made: the file may be anything.
        content = json.loads(plain_files.read_bytes(file, pipes=False))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BackendError(
            f"The file {file} of an adapter cannot be read: {reason}. Check the adapter in "
            "lora_list: it must be a LoRA in the form of PEFT."
        ) from error
    rank = content.get("r") if isinstance(content, dict) else None
    patterns = content.get("rank_pattern") if isinstance(content, dict) else None
    ranks = [rank, *(patterns.values() if isinstance(patterns, dict) else ())]
    return max((one for one in ranks if type(one) is int), default=16)
