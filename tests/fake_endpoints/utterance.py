"""The model's words before an API gives them a shape: the same in every dialect."""

from __future__ import annotations

from dataclasses import dataclass

from fake_endpoints.asked import Asked, nonce_of


@dataclass(slots=True)
class Call:
    """A tool call; its arguments' JSON text in the fragments in which a stream carries it."""

    id: str
    name: str
    arguments: list[str]


@dataclass(slots=True)
class Utterance:
    """Reasoning, then text, then tool calls, each in the pieces in which a stream carries them."""

    reasoning: list[str]
    words: list[str]
    calls: list[Call]
    reason: str
    """OpenAI's finish_reason."""
    stop: str | None
    """The stop string that matched."""

    @property
    def tokens(self) -> int:
        """A token for each piece, so that every dialect counts the same."""
        return (
            len(self.reasoning) + len(self.words) + sum(len(call.arguments) for call in self.calls)
        )


def utter(asked: Asked) -> Utterance:
    """The model's words by the orders; by default the nonce, in each of the stream's frames."""
    orders = asked.orders
    calls = [
        Call(call.get("id", f"call_{number}"), call["name"], in_pieces(call.get("arguments", "{}")))
        for number, call in enumerate(orders.get("calls", []))
    ]
    if "words" in orders:
        words = [str(word) for word in orders["words"]]
    elif calls:
        words = []
    else:
        text = nonce_of(asked) + "x" * orders.get("frame_bytes", 0)
        words = [text] * (orders.get("frames", 3) if asked.stream else 1)
    reason = orders.get("reason", "tool_calls" if calls else "stop")
    return Utterance(
        [str(word) for word in orders.get("reasoning", [])],
        words,
        calls,
        reason,
        orders.get("stop"),
    )


def in_pieces(text: str, length: int = 7) -> list[str]:
    """Fragments of that many characters; of an empty text there is one."""
    return [text[at : at + length] for at in range(0, len(text), length)] or [""]
