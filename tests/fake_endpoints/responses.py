"""/v1/responses and what lies below it, with its memory, as of vLLM.

vLLM stores them with `VLLM_ENABLE_RESPONSES_API_STORE`. DELETE and input_items are OpenAI's; vLLM
0.32 has neither.
"""

from __future__ import annotations

import secrets
from typing import Any

from fake_endpoints.asked import CREATED, PROMPT_TOKENS, Asked, Said, events, nonce_of, said
from fake_endpoints.utterance import Call, Utterance, utter

Document = dict[str, Any]


def create(asked: Asked) -> Said:
    """A new response, kept under its id; one that continues an unknown one is 404."""
    previous = asked.fields.get("previous_response_id")
    if previous is not None and previous not in asked.memory:
        return not_found(previous)
    utterance = utter(asked)
    response = resource(asked, utterance)
    asked.memory[response["id"]] = {"response": response, "input": asked.fields.get("input")}
    if not asked.stream:
        return said(response)
    documents = stream(response, utterance)
    return events(
        asked,
        [{**document, "sequence_number": n} for n, document in enumerate(documents)],
        named=True,
    )


def input_tokens(_: Asked) -> Said:
    """OpenAI's count of a response's input."""
    return said({"object": "response.input_tokens", "input_tokens": PROMPT_TOKENS})


def compact(asked: Asked) -> Said:
    """OpenAI's compacted conversation, which no engine keeps."""
    item = {"id": "cmp_1", "type": "compaction", "encrypted_content": nonce_of(asked)}
    return said({"id": "resp_compact", "object": "response.compaction", "output": [item]})


def about_one(asked: Asked, path: str) -> Said:
    """GET, DELETE, cancel and input_items of one response."""
    id_, _, rest = path.removeprefix("/v1/responses/").partition("/")
    kept = asked.memory.get(id_)
    if kept is None:
        return not_found(id_)
    match asked.method, rest:
        case "GET", "":
            return said(kept["response"])
        case "DELETE", "":
            del asked.memory[id_]
            return said({"id": id_, "object": "response", "deleted": True})
        case "POST", "cancel":
            kept["response"]["status"] = "cancelled"
            return said(kept["response"])
        case "GET", "input_items":
            content = [{"type": "input_text", "text": str(kept["input"])}]
            item = {
                "id": f"msg_in_{id_}",
                "type": "message",
                "role": "user",
                "status": "completed",
                "content": content,
            }
            listed = {
                "object": "list",
                "data": [item],
                "first_id": item["id"],
                "last_id": item["id"],
            }
            return said({**listed, "has_more": False})
        case _:
            return said({"detail": "Method Not Allowed"}, 405)


def not_found(id_: str) -> Said:
    """vLLM's words."""
    message = f"Response with id '{id_}' not found."
    return said(
        {
            "error": {
                "message": message,
                "type": "invalid_request_error",
                "param": None,
                "code": 404,
            }
        },
        404,
    )


# --- the resource ---


def resource(asked: Asked, utterance: Utterance) -> Document:
    """The whole response. Nulls are kept, as vLLM keeps them: Open Responses asks for the keys."""
    output = [item for item, _ in items(utterance)]
    details = {"input_tokens_details": {"cached_tokens": asked.orders.get("cached_tokens", 0)}}
    counts = {
        "input_tokens": PROMPT_TOKENS,
        **details,
        "output_tokens": utterance.tokens,
        "output_tokens_details": {"reasoning_tokens": len(utterance.reasoning)},
        "total_tokens": PROMPT_TOKENS + utterance.tokens,
    }
    return {
        "id": f"resp_{secrets.token_hex(8)}",
        "created_at": CREATED,
        "incomplete_details": None,
        "instructions": asked.fields.get("instructions"),
        "metadata": {"nonce": nonce_of(asked), "engine": asked.engine},
        "model": asked.fields.get("model"),
        "object": "response",
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 0.0,
        "tool_choice": "auto" if asked.fields.get("tools") else "none",
        "tools": asked.fields.get("tools") or [],
        "top_p": 1.0,
        "background": False,
        "max_output_tokens": asked.fields.get("max_output_tokens"),
        "max_tool_calls": None,
        "previous_response_id": asked.fields.get("previous_response_id"),
        "prompt": None,
        "reasoning": None,
        "service_tier": "auto",
        "status": "completed",
        "text": None,
        "top_logprobs": None,
        "truncation": "disabled",
        "usage": counts,
        "user": None,
        "error": None,
    }


Steps = list[tuple[str, Document]]
"""The events of an item between its `added` and its `done`: their types and special fields."""


def items(utterance: Utterance) -> list[tuple[Document, Steps]]:
    """Every output item with its events."""
    found = []
    if utterance.reasoning:
        found.append(reasoning_item(utterance))
    if utterance.words or not utterance.calls:
        found.append(message_item(utterance))
    return found + [call_item(call) for call in utterance.calls]


def message_item(utterance: Utterance) -> tuple[Document, Steps]:
    text = "".join(utterance.words)
    part: Document = {"annotations": [], "text": text, "type": "output_text", "logprobs": None}
    steps: Steps = [
        (
            "response.content_part.added",
            {"content_index": 0, "part": {**part, "text": "", "logprobs": []}},
        )
    ]
    for word in utterance.words:
        steps.append(
            ("response.output_text.delta", {"content_index": 0, "delta": word, "logprobs": []})
        )
    steps.append(("response.output_text.done", {"content_index": 0, "text": text, "logprobs": []}))
    steps.append(("response.content_part.done", {"content_index": 0, "part": part}))
    item = {
        "id": "msg_0",
        "content": [part],
        "role": "assistant",
        "status": "completed",
        "type": "message",
    }
    return item, steps


def reasoning_item(utterance: Utterance) -> tuple[Document, Steps]:
    text = "".join(utterance.reasoning)
    steps: Steps = [
        ("response.reasoning_text.delta", {"content_index": 0, "delta": p})
        for p in utterance.reasoning
    ]
    steps.append(("response.reasoning_text.done", {"content_index": 0, "text": text}))
    content = [{"type": "reasoning_text", "text": text}]
    return {
        "id": "rs_0",
        "type": "reasoning",
        "summary": [],
        "content": content,
        "status": "completed",
    }, steps


def call_item(call: Call) -> tuple[Document, Steps]:
    arguments = "".join(call.arguments)
    steps: Steps = [
        ("response.function_call_arguments.delta", {"delta": piece}) for piece in call.arguments
    ]
    steps.append(
        ("response.function_call_arguments.done", {"arguments": arguments, "name": call.name})
    )
    item = {"id": f"fc_{call.id}", "type": "function_call", "call_id": call.id, "name": call.name}
    return {**item, "arguments": arguments, "status": "completed"}, steps


# --- the stream ---


def stream(response: Document, utterance: Utterance) -> list[Document]:
    """The typed events, still without their numbers."""
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    documents: list[Document] = [
        {"response": begun, "type": "response.created"},
        {"response": begun, "type": "response.in_progress"},
    ]
    for index, (item, steps) in enumerate(items(utterance)):
        empty: Document = {"content": []} if "content" in item else {"arguments": ""}
        added = {**item, **empty, "status": "in_progress"}
        documents.append(
            {"item": added, "output_index": index, "type": "response.output_item.added"}
        )
        for type_, special in steps:
            documents.append(
                {**special, "item_id": item["id"], "output_index": index, "type": type_}
            )
        documents.append({"item": item, "output_index": index, "type": "response.output_item.done"})
    return [*documents, {"response": response, "type": "response.completed"}]
