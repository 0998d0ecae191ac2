"""An engine that answers agents by a script: chat completions and the Responses API, no more.

A script is asked for each request, and decides by what the request holds, not by its number: agents
ask beside the conversation (for a title, for a summary), and ask again when a request has failed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Text:
    """A whole answer."""

    text: str


@dataclass(frozen=True)
class Call:
    """One call of a tool."""

    id: str
    name: str
    arguments: Json


@dataclass(frozen=True)
class Calls:
    """An answer that calls tools, all at once."""

    calls: list[Call]


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error."""

    status: int
    document: Json
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Cut:
    """A stream that breaks off behind this text, as when the engine's process dies."""

    text: str


@dataclass(frozen=True)
class CutCall:
    """A stream that breaks off within the arguments of this call."""

    call: Call


Answer: TypeAlias = Text | Calls | Refusal | Cut | CutCall


@dataclass(frozen=True)
class Usage:
    """The tokens of a request and of its answer."""

    prompt: int
    completion: int


@dataclass(frozen=True)
class Asked:
    """One request for an answer, and what the scripts read in it."""

    path: str
    body: Json

    @property
    def streams(self) -> bool:
        return self.body.get("stream") is True

    @property
    def is_responses(self) -> bool:
        return self.path == "/v1/responses"

    @property
    def tools(self) -> dict[str, Json]:
        """The schemas of the functions that may be called, by name."""
        offered = (tool.get("function", tool) for tool in self.body.get("tools") or [])
        return {tool["name"]: tool.get("parameters", {}) for tool in offered if "name" in tool}

    @property
    def items(self) -> list[Json]:
        """The conversation: the messages, or the items of the Responses API."""
        found = self.body.get("input" if self.is_responses else "messages")
        return found if isinstance(found, list) else []

    @property
    def results(self) -> list[tuple[str, str]]:
        """The id and the text of each tool's result, in their order."""
        if self.is_responses:
            return [
                (item["call_id"], text_of(item.get("output")))
                for item in self.items
                if item.get("type") == "function_call_output"
            ]
        return [
            (message.get("tool_call_id", ""), text_of(message.get("content")))
            for message in self.items
            if message.get("role") == "tool"
        ]

    @property
    def call_ids(self) -> list[str]:
        """The ids of all calls in the conversation, in their order."""
        if self.is_responses:
            return [item["call_id"] for item in self.items if item.get("type") == "function_call"]
        return [call["id"] for message in self.items for call in message.get("tool_calls") or []]

    @property
    def most_tokens(self) -> int:
        """How long the answer may be; 0 where the request does not say."""
        names = ("max_tokens", "max_completion_tokens", "max_output_tokens")
        return next((int(self.body[name]) for name in names if self.body.get(name)), 0)

    @property
    def last_words(self) -> str:
        """The text of the last item."""
        return text_of(self.items[-1].get("content")) if self.items else ""

    def says(self, words: str) -> bool:
        """Whether the conversation holds these words anywhere; they need no escapes in JSON."""
        return any(words in json.dumps(item) for item in self.items)

    @property
    def usage(self) -> Usage:
        """What an answer costs, at four characters a token."""
        return Usage(len(json.dumps(self.body)) // 4, 20)


def calls_of(answer: Calls | CutCall) -> list[Call]:
    """The calls of an answer, of which the stream may not have all."""
    return answer.calls if isinstance(answer, Calls) else [answer.call]


Script: TypeAlias = Callable[[Asked], Answer]


def text_of(content: Any) -> str:
    """The text of a content, which is a text or a list of parts."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content if isinstance(content, str) else ""


class ScriptedEngine:
    """The engine at `address` while the block runs; `received` is what came, with its answers."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.received: list[tuple[Asked, Answer]] = []
        self.lock = threading.Lock()
        engine = self

        class Handler(EngineHandler):
            answer = staticmethod(engine.answer)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> ScriptedEngine:
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, asked: Asked) -> Answer:
        with self.lock:  # a script may count
            answer = self.script(asked)
            self.received.append((asked, answer))
        return answer


class EngineHandler(BaseHTTPRequestHandler):
    """One connection of the gateway's."""

    protocol_version = "HTTP/1.1"
    answer: Callable[[Asked], Answer]

    def log_message(self, format: str, *arguments: Any) -> None:
        """Tests ask what was received instead."""

    def do_GET(self) -> None:
        self.send_json(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = self.path.partition("?")[0]
        if path not in ("/v1/chat/completions", "/v1/responses"):
            self.send_json(404, {"error": {"message": "Not Found", "code": 404}})
            return
        asked = Asked(path, body)
        answer = self.answer(asked)
        if isinstance(answer, Refusal):
            self.send_json(answer.status, answer.document, answer.headers)
        elif asked.streams:
            self.send_stream(asked, answer)
        elif isinstance(answer, Cut | CutCall):
            self.close_connection = True
        elif asked.is_responses:
            self.send_json(200, response("completed", response_items(answer), asked.usage))
        else:
            self.send_json(200, chat_completion(answer, asked.usage))

    def send_json(
        self, status: int, document: Json, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), *headers):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_stream(self, asked: Asked, answer: Text | Calls | Cut | CutCall) -> None:
        """In chunks, of which the last one is missing where the stream is cut."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        frames = response_frames if asked.is_responses else chat_frames
        for frame in frames(answer, asked.usage):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(frame), frame))
        if isinstance(answer, Cut | CutCall):
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")


# --- chat completions ---

HEAD = {"id": "chatcmpl-1", "created": 1, "model": "m"}


def chat_usage(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
    }


def chat_calls(calls: list[Call]) -> list[Json]:
    return [
        {
            "index": number,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
        }
        for number, call in enumerate(calls)
    ]


def chat_completion(answer: Text | Calls, usage: Usage) -> Json:
    if isinstance(answer, Calls):
        message: Json = {"content": None, "tool_calls": chat_calls(answer.calls)}
    else:
        message = {"content": answer.text}
    reason = "tool_calls" if isinstance(answer, Calls) else "stop"
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    document = {**HEAD, "object": "chat.completion", "choices": [choice]}
    return {**document, "usage": chat_usage(usage)}


def chat_frames(answer: Text | Calls | Cut | CutCall, usage: Usage) -> Iterator[bytes]:
    """With its usage at the end, whether or not it was asked for: vLLM can be set to do so."""

    def frame(choices: list[Json], **more: Any) -> bytes:
        document = {**HEAD, "object": "chat.completion.chunk", "choices": choices, **more}
        return b"data: %s\n\n" % json.dumps(document).encode()

    def choice(delta: Json, reason: str | None = None) -> list[Json]:
        return [{"index": 0, "delta": delta, "finish_reason": reason}]

    yield frame(choice({"role": "assistant", "content": ""}))
    if isinstance(answer, Calls | CutCall):
        for call in chat_calls(calls_of(answer)):
            arguments = call["function"]["arguments"]
            begun = {**call, "function": {**call["function"], "arguments": ""}}
            yield frame(choice({"tool_calls": [begun]}))
            for piece in (arguments[:5], arguments[5:]):
                rest = {"index": call["index"], "function": {"arguments": piece}}
                yield frame(choice({"tool_calls": [rest]}))
                if isinstance(answer, CutCall):
                    return
    else:
        for piece in answer.text.split(" "):
            yield frame(choice({"content": piece + " "}))
    if isinstance(answer, Cut):
        return
    yield frame(choice({}, "tool_calls" if isinstance(answer, Calls) else "stop"))
    yield frame([], usage=chat_usage(usage))
    yield b"data: [DONE]\n\n"


# --- the Responses API ---


def response_items(answer: Text | Calls | Cut | CutCall) -> list[Json]:
    if isinstance(answer, Calls | CutCall):
        return [
            {
                "type": "function_call",
                "id": f"fc_{number}",
                "call_id": call.id,
                "name": call.name,
                "arguments": json.dumps(call.arguments),
                "status": "completed",
            }
            for number, call in enumerate(calls_of(answer))
        ]
    content = [{"type": "output_text", "text": answer.text, "annotations": []}]
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    return [{**message, "content": content}]


def response(status: str, items: list[Json], usage: Usage | None = None) -> Json:
    spent = None
    if usage is not None:
        spent = {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt + usage.completion,
        }
    head = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m"}
    return {**head, "status": status, "output": items, "usage": spent}


def response_frames(answer: Text | Calls | Cut | CutCall, usage: Usage) -> Iterator[bytes]:
    number = 0

    def frame(kind: str, **fields: Any) -> bytes:
        nonlocal number
        document = {"type": kind, "sequence_number": number, **fields}
        number += 1
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), json.dumps(document).encode())

    yield frame("response.created", response=response("in_progress", []))
    items = response_items(answer)
    for index, item in enumerate(items):
        empty: Json = {"content": []} if item["type"] == "message" else {"arguments": ""}
        begun = {**item, "status": "in_progress", **empty}
        yield frame("response.output_item.added", output_index=index, item=begun)
        place = {"item_id": item["id"], "output_index": index}
        if item["type"] == "function_call":
            arguments = item["arguments"]
            if isinstance(answer, CutCall):
                yield frame("response.function_call_arguments.delta", **place, delta=arguments[:5])
                return
            yield frame("response.function_call_arguments.delta", **place, delta=arguments)
            yield frame("response.function_call_arguments.done", **place, arguments=arguments)
        else:
            part = item["content"][0]
            place["content_index"] = 0
            yield frame("response.content_part.added", **place, part={**part, "text": ""})
            for piece in part["text"].split(" "):
                yield frame("response.output_text.delta", **place, delta=piece + " ")
            if isinstance(answer, Cut):
                return
            yield frame("response.output_text.done", **place, text=part["text"])
            yield frame("response.content_part.done", **place, part=part)
        yield frame("response.output_item.done", output_index=index, item=item)
    yield frame("response.completed", response=response("completed", items, usage))
