"""The fields of a model's JSON, read without trust: anybody may have written them."""

from __future__ import annotations

from collections.abc import Mapping

from gpustack_fast.errors import printable
from gpustack_fast.sizing.errors import FactsError

__all__ = ["LARGEST", "Fields"]

LARGEST = 1 << 40
"""No count and no length of a model is more."""
LONGEST = 1 << 16
"""No list of numbers of a model has more."""


class Fields:
    """A JSON object whose members are asked for by type, under any of their usual names.

    `where` names it in errors: `config.json`. A member that is null counts as absent.
    """

    def __init__(self, content: Mapping[str, object], where: str) -> None:
        self.content = content
        self.where = where

    def has(self, *names: str) -> bool:
        return any(self.content.get(name) is not None for name in names)

    def number(self, *names: str, largest: int = LARGEST) -> int | None:
        """The whole number of the first name that is there; of a list, its greatest one.

        Raises FactsError for what is no such number, is negative or larger than `largest`.
        """
        for name in names:
            found = self.content.get(name)
            if isinstance(found, list) and found:
                self._check_length(name, found)
                found = max(self._whole(name, one, largest) for one in found)
            if found is not None:
                return self._whole(name, found, largest)
        return None

    def count(self, *names: str, default: int = 0, largest: int = LARGEST) -> int:
        """The same, with a value for its absence."""
        found = self.number(*names, largest=largest)
        return default if found is None else found

    def text(self, *names: str) -> str:
        """The text of the first name that has one; else empty."""
        for name in names:
            found = self.content.get(name)
            if isinstance(found, str):
                return found
        return ""

    def flag(self, name: str, default: bool) -> bool:
        found = self.content.get(name)
        return found if isinstance(found, bool) else default

    def texts(self, *names: str) -> list[str]:
        """The texts in the list of the first name that is there; else none."""
        for name in names:
            found = self.content.get(name)
            if isinstance(found, list):
                return [one for one in found if isinstance(one, str)]
        return []

    def numbers(self, name: str) -> list[int]:
        """The whole numbers in a list, without what else it holds; none when it is absent.

        Raises FactsError for a list that is longer than any.
        """
        found = self.content.get(name)
        if not isinstance(found, list):
            return []
        self._check_length(name, found)
        return [one for one in found if type(one) is int and 0 <= one <= LARGEST]

    def below(self, *names: str) -> Fields | None:
        """The object of the first name that has one."""
        for name in names:
            found = self.content.get(name)
            if isinstance(found, dict):
                return Fields(found, f"{self.where}, {name}")
        return None

    def with_defaults(self, defaults: Mapping[str, object]) -> Fields:
        """The same, with what is absent taken from `defaults`. Here null is a value: none."""
        return Fields({**defaults, **self.content}, self.where)

    def _check_length(self, name: str, found: list[object]) -> None:
        if len(found) > LONGEST:
            raise FactsError(
                f"{self.where}: {printable(name)} is a list of {len(found):,} numbers, which no "
                "model has. Compare the file with the one that the model's author published, or "
                "fetch it again."
            )

    def _whole(self, name: str, found: object, largest: int) -> int:
        if isinstance(found, float) and found.is_integer():  # 4096.0, as some writers have it
            found = int(found)
        if type(found) is not int or not 0 <= found <= largest:
            raise FactsError(
                f"{self.where}: {printable(name)} must be a whole number from 0 to {largest:,}. "
                "Compare the file with the one that the model's author published, or fetch it "
                "again."
            )
        return found
