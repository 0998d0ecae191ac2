"""/v1/chat/completions and /v1/completions, as of vLLM."""

from __future__ import annotations

import itertools
from typing import Any

from fake_endpoints.asked import CREATED, Asked, Said, events, nonce_of, said, usage
from fake_endpoints.utterance import Call, Utterance, utter

Document = dict[str, Any]


def respond(asked: Asked) -> Said:
    """A stream or a whole response."""
    utterance = utter(asked)
    chat = "chat" in asked.path
    if not asked.stream:
        return said(whole(asked, utterance, chat))
    return events(asked, stream(asked, utterance, chat), named=False, done=True)


def common(asked: Asked, chat: bool, streamed: bool) -> Document:
    kind = (
        ("chat.completion.chunk" if streamed else "chat.completion") if chat else "text_completion"
    )
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{nonce_of(asked)}",
        "object": kind,
        "created": CREATED,
        "model": asked.fields.get("model"),
    }


def choices(asked: Asked) -> range:
    """The indexes of the choices: `n` for each prompt."""
    prompt = asked.fields.get("prompt")
    prompts = (
        len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    )
    wanted = asked.fields.get("n")
    return range((wanted if isinstance(wanted, int) and wanted > 0 else 1) * prompts)


# --- whole responses ---


def whole(asked: Asked, utterance: Utterance, chat: bool) -> Document:
    end: Document = {
        "logprobs": None,
        "finish_reason": utterance.reason,
        "stop_reason": utterance.stop,
    }
    if chat and asked.fields.get("logprobs"):
        end["logprobs"] = logprobs("".join(utterance.words))
    content = {"message": message(asked, utterance)} if chat else {"text": "".join(utterance.words)}
    return {
        **common(asked, chat, streamed=False),
        "choices": [{"index": index, **content, **end} for index in choices(asked)],
        "usage": usage(asked, utterance.tokens),
        "kv_transfer_params": None,
    }


def message(asked: Asked, utterance: Utterance) -> Document:
    """The assistant's message; vLLM leaves `tool_calls` out when there are none."""
    text = "".join(utterance.words)
    found: Document = {
        "role": "assistant",
        "content": text if text or not utterance.calls else None,
        "refusal": None,
    }
    found[reasoning_field(asked)] = "".join(utterance.reasoning) or None
    if utterance.calls:
        found["tool_calls"] = [whole_call(call) for call in utterance.calls]
    return found


def whole_call(call: Call) -> Document:
    function = {"name": call.name, "arguments": "".join(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def reasoning_field(asked: Asked) -> str:
    """`reasoning` in vLLM 0.32, `reasoning_content` in llama.cpp and SGLang."""
    return str(asked.orders.get("reasoning_field", "reasoning"))


def logprobs(text: str) -> Document:
    token = {"token": text, "logprob": -0.25, "bytes": list(text.encode())}
    return {"content": [{**token, "top_logprobs": [token]}]}


# --- streams ---


def stream(asked: Asked, utterance: Utterance, chat: bool) -> list[Document]:
    """The role, the pieces, the reason, and the usage if it was asked for."""
    head = common(asked, chat, streamed=True)
    options = asked.fields.get("stream_options")
    options = options if isinstance(options, dict) else {}
    continuous = bool(options.get("continuous_usage_stats"))
    documents: list[Document] = []

    def add(choice: Document, tokens: int, **more: Any) -> None:
        counts = {"usage": usage(asked, tokens)} if continuous else {}
        documents.append({**head, "choices": [choice], **more, **counts})

    for index in choices(asked) if chat else []:
        first = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        add(first, 0, prompt_token_ids=None)
    pieces = deltas(asked, utterance) if chat else [{"text": word} for word in utterance.words]
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        for index in choices(asked):
            add(piece_choice(asked, piece, index, utterance if last else None, chat), number + 1)
    if options.get("include_usage"):
        documents.append({**head, "choices": [], "usage": usage(asked, utterance.tokens)})
    return documents


def piece_choice(
    asked: Asked, piece: Document, index: int, end: Utterance | None, chat: bool
) -> Document:
    """One choice of one chunk; `end`: it is the last one, and says why."""
    probabilities = (
        logprobs(piece["content"])
        if chat and asked.fields.get("logprobs") and "content" in piece
        else None
    )
    content = {"delta": piece} if chat else piece
    choice = {
        "index": index,
        **content,
        "logprobs": probabilities,
        "finish_reason": end.reason if end else None,
    }
    if end is not None and end.stop is not None:
        choice["stop_reason"] = end.stop
    return choice


def deltas(asked: Asked, utterance: Utterance) -> list[Document]:
    """The deltas in their order. Behind tool calls an empty one has the reason, as in vLLM."""
    field = reasoning_field(asked)
    found: list[Document] = [{field: piece} for piece in utterance.reasoning]
    found += [{"content": word} for word in utterance.words]
    if utterance.calls:
        found += call_deltas(asked, utterance.calls)
        found.append({"content": ""})
    return found


def call_deltas(asked: Asked, calls: list[Call]) -> list[Document]:
    """Tool calls one after the other.

    With the order `interleave` a fragment of each in turn; with `whole_calls` each in one fragment.
    """
    if asked.orders.get("whole_calls"):
        return [
            {"tool_calls": [{"index": index, **whole_call(call)}]}
            for index, call in enumerate(calls)
        ]
    each = [list(fragments(index, call)) for index, call in enumerate(calls)]
    if not asked.orders.get("interleave"):
        return [{"tool_calls": [fragment]} for fragment in itertools.chain(*each)]
    rounds = itertools.zip_longest(*each)
    return [
        {"tool_calls": [fragment]} for row in rounds for fragment in row if fragment is not None
    ]


def fragments(index: int, call: Call) -> list[Document]:
    """The name and the id come first and once."""
    head = {
        "index": index,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": ""},
    }
    return [head, *({"index": index, "function": {"arguments": piece}} for piece in call.arguments)]
