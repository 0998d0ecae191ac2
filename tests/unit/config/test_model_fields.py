"""What each field of a model comes to, when it changes."""

from __future__ import annotations

from gpustack_fast.config import ModelConfig
from gpustack_fast.config.model_fields import (
    OF_THE_PROCESS,
    OF_THE_ROUTE,
    differing,
    makes_same_process,
    spec_digest,
)

NAME = {"name"}
FOR_RUNNING_ENGINES = {
    "timeouts",
    "max_in_flight",
    "response_headers",
    "system_messages",
    "repair",
    "replicas",
    "max_surge",
    "target_in_flight",
    "sleep_after",
    "wake_queue",
    "wake_timeout",
    "swap_group",
    "pinned",
    "restart_on_error",
    "ready_timeout",
    "hang_timeout",
    "health_path",
}
OF_SOMEBODY_ELSE_S = {
    "urls",
    "engine",
    "api_key_env",
    "api_key_file",
    "served_name",
    "dialects",
    "stream_usage",
}


def test_of_every_field_is_decided_whether_it_makes_another_engine() -> None:
    """Who adds a field says here and in `model_fields` what a change of it comes to."""
    decided = NAME | FOR_RUNNING_ENGINES | OF_SOMEBODY_ELSE_S | {*OF_THE_PROCESS, *OF_THE_ROUTE}
    assert set(ModelConfig.__struct_fields__) == decided
    assert not set(OF_THE_PROCESS) & (FOR_RUNNING_ENGINES | OF_SOMEBODY_ELSE_S)


def test_the_digest_is_of_what_makes_the_engine_and_of_nothing_else() -> None:
    one = ModelConfig(name="m", backend="custom", env={"A": "1", "B": "2"})
    same = ModelConfig(
        name="m", backend="custom", env={"B": "2", "A": "1"}, replicas=3, allowed_keys=["a"]
    )
    other = ModelConfig(name="m", backend="custom", env={"A": "1", "B": "3"})
    assert spec_digest(one) == spec_digest(same) != spec_digest(other)
    assert makes_same_process(one, same) and not makes_same_process(one, other)
    assert (differing(one, same), differing(one, other)) == (["replicas"], ["env"])


def test_no_secret_of_a_model_can_be_read_from_its_digest() -> None:
    digest = spec_digest(ModelConfig(name="m", backend="custom", env={"TOKEN": "a-secret"}))
    assert len(digest) == 64 and "a-secret" not in digest
