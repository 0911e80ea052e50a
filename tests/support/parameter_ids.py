"""Names of parametrised tests that are the same in every process."""

import re


def id_without_address(value: object) -> str:
    """Return the repr of a value without addresses in memory."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))
