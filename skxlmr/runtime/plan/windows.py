"""How texts are cut that are longer than the model reads at once."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from sklearn.utils._param_validation import Interval, StrOptions

from skxlmr.runtime.backbone import Backbone
from skxlmr.system.parameters import parameter, parameter_group


@parameter_group
class WindowParameters:
    """How texts are cut that are longer than the model reads at once.

    Parameters
    ----------
    max_length : int or None
        Maximum number of tokens that the model reads at once; a longer text is read in windows of this length. None is
        the length that a directory of sentence-transformers was trained with (its `max_seq_length`), and otherwise all
        that the model can, 512; the attribute `max_length_` shows it.
    stride : int or "auto"
        Number of tokens that neighbouring windows of a text longer than `max_length` share; "auto" is an eighth of
        `max_length`.
    """

    max_length: int | None = parameter(default=None, valid=[Interval(Integral, 4, None, closed="left"), None], order=20)
    stride: int | str = parameter(
        default="auto", valid=[Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})], order=20
    )


@parameter_group
class Truncation:
    """Whether texts are cut instead.

    Parameters
    ----------
    truncation : bool
        Read only the beginning of a long text, as sentence-transformers does, and not all of it in windows. A warning
        counts the texts that were cut.
    """

    truncation: bool = parameter(default=False, valid=["boolean"], order=20)


@dataclass(frozen=True)
class Windows:
    """The values of `WindowParameters` and `Truncation`; `limit` is the `max_length` that the checkpoint asks for."""

    max_length: int | None = None
    stride: int | str = "auto"
    truncation: bool = False
    limit: int | None = None

    def default(self, backbone: Backbone) -> int:
        """Return the number of tokens that `max_length=None` stands for."""
        longest = backbone.model.config.max_length
        return longest if self.limit is None else min(self.limit, longest)

    def resolve(self, backbone: Backbone) -> tuple[int, int]:
        """Return `max_length` and `stride` as numbers.

        Raises ValueError if the model reads less than `max_length`, or neighbouring windows would be the same.
        """
        longest, name = backbone.model.config.max_length, backbone.name
        if self.max_length is not None and self.max_length > longest:
            raise ValueError(f"max_length={self.max_length}, but {name!r} reads at most {longest} tokens at once.")
        max_length = self.max_length or self.default(backbone)
        stride, room = max_length // 8 if self.stride == "auto" else int(self.stride), max_length - 2
        if stride >= room and not self.truncation:
            raise ValueError(
                f"stride={stride} leaves no way to advance: a window holds {room} pieces beside its special tokens. "
                f"Use a stride below {room}, or raise max_length."
            )
        return max_length, stride
