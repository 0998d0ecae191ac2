"""The documents of the seam for `make count`, with every field written out."""

from __future__ import annotations

import hashlib
import tempfile
from typing import Any

__all__ = ["KEY", "ROUTE", "SERVED_NAME", "configuration", "keys", "table"]

KEY = "count-key-of-more-than-16-characters"
SALT = "ab"
ROUTE = "chat"
SERVED_NAME = "Qwen/Qwen3-8B"


def configuration() -> dict[str, Any]:
    """A `DataPlaneConfig` as the server makes it by default, every field written out."""
    return {
        "host": "127.0.0.1",
        "workers": 1,
        "control_socket": None,
        "spool_folder": tempfile.gettempdir(),
        "timeouts": {
            "head": 60,
            "keep_alive": 75,
            "body": 60,
            "send": 60,
            "connect": 3,
            "first_frame": 1800,
            "idle": 1800,
            "tcp_keepalive_idle": 5,
            "tcp_keepalive_interval": 2,
            "tcp_keepalive_probes": 3,
            "tcp_unacknowledged": 30,
        },
        "limits": {
            "max_body_bytes": 512 * 1024 * 1024,
            "body_rate": 1024,
            "replay_bytes": 1024 * 1024,
            "memory_bytes": 4 * 1024 * 1024,
            "total_memory_bytes": 1024**3,
            "spool_bytes": 4 * 1024**3,
            "decoded_ratio": 100,
            "max_nesting": 512,
            "connections": 1000,
            "connections_per_address": 0,
            "idle_connections": 128,
            "record_queue": 16_384,
        },
        "cors": {
            "origins": [],
            "methods": [],
            "headers": [],
            "expose": [],
            "credentials": False,
            "max_age": 600,
        },
        "response_extras": {
            "server_timing": True,
            "server_timing_in_streams": False,
            "usage_timings": True,
            "sse_keep_alive": 0,
        },
        "log_level": "info",
        "log_format": "text",
        "trusted_proxies": [],
        "allowed_hosts": [],
        "tls": None,
        "responses_kept": 65_536,
    }


def keys() -> dict[str, Any]:
    """A `KeyDelta` with the one key."""
    key = {
        "id": "0123456789abcdef",
        "digest": hashlib.sha256(bytes.fromhex(SALT) + KEY.encode()).hexdigest(),
        "name": "count",
        "allowed_models": None,
        "scopes": ["*"],
        "expires": None,
    }
    return {"salt": SALT, "replace": True, "upsert": [key], "remove": []}


def table(engine: str) -> dict[str, Any]:
    """A `Table` with one route to one vLLM, whose model has a name of its own and stream usage."""
    instance = {
        "id": "vllm-0",
        "address": engine,
        "state": "running",
        "api_key": "engine-key",
        "idle_timeout": 600,
        "requests_per_connection": 0,
        "closes_after_stream": False,
        "cancel_lag": 0.1,
        "context_length": None,
    }
    model = {
        "name": "qwen",
        "served_name": SERVED_NAME,
        "backend": "external",
        "dialects": ["openai", "anthropic"],
        "stream_usage": True,
        "system_messages": "first",
        "reasoning_names": "both",
        "redacted_names": [],
        "response_headers": [],
        "repair": [],
        "proxy_denied": ["/metrics", "/load", "/sleep", "/wake_up", "/v1/responses"],
        "proxy_allowed": None,
        "timeouts": {"connect": None, "first_frame": None, "idle": None},
        "max_in_flight": 0,
        "wake": None,
        "instances": [instance],
    }
    route = {
        "name": ROUTE,
        "created": 1_700_000_000,
        "targets": [{"model": "qwen", "weight": 100, "served_name": None, "fallback": []}],
        "categories": ["llm"],
        "generic_proxy": False,
        "number": 1,
        "access_policy": "authed",
        "allowed_keys": [],
        "meta": None,
    }
    return {
        "models": [model],
        "routes": [route],
        "default_route": None,
        "metrics": [],
        "settings": None,
    }
