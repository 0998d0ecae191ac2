"""The exceptions that reach a user."""

from __future__ import annotations

from gpustack_fast.errors import GpustackFastError, StoreError, UsageError


def test_every_error_of_the_tree_ends_with_status_1_or_2() -> None:
    assert (
        StoreError("x").exit_status,
        UsageError("x").exit_status,
        GpustackFastError("x").exit_status,
    ) == (1, 2, 1)
