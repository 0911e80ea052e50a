"""Objects of settings, which scikit-learn can read and change by name."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


class Settings:
    """A dataclass with the methods that scikit-learn calls on parameters that have parameters."""

    def get_params(self, deep: bool = True) -> dict[str, object]:
        """Return the settings by name, as scikit-learn does for parameters."""
        return self._by_name()

    def set_params(self, **params: object) -> Self:
        """Change settings by name."""
        known = self._by_name()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(known)}.")
            setattr(self, name, value)
        return self

    def _by_name(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]  # subclasses are dataclasses
