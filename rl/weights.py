"""What the parameters of tuned policies have in common: they are numbers above 0, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Self

from ironcliw.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameters of a policy; subclasses have a field for each, and `policy`, its name in errors.

    Raises:
        SettingsError: a value is no number above 0.
    """

    policy: ClassVar[str]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (isinstance(value, float) and 0 < value < math.inf):
                raise SettingsError(
                    f"parameter {field.name} of the {self.policy} policy is {value!r}; it must be "
                    "a number above 0; tune it again or delete it for its default"
                )

    @classmethod
    def of(cls, values: Mapping[str, float]) -> Self:
        """From a table, such as a file's.

        Raises:
            SettingsError: an unknown name, or a value that is no number above 0.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise SettingsError(
                f"the {cls.policy} policy has no parameter {unknown[0]!r}; it has "
                f"{', '.join(sorted(known))}"
            )
        return cls(**values)
