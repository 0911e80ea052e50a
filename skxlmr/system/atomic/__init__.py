"""Writing files so that a crash or a full disk leaves the old content or the new one, never a part of it.

All files that this package writes go through here. New content is written under a temporary name on the same file
system, with the mode that the umask asks for, flushed to the disk, and renamed:

- `write_bytes`, `write_chunks` and `replacing`: one file.
- `replacing_version`: a manifest, written last, and files that it names, whose names come from their content.
- `replacing_whole`: files whose names are fixed since other programs read them.

Every function removes what dead writers have left; errors are OSError, with the errno of the system.
"""

from skxlmr.system.atomic.disk import check_space, format_bytes, overwrite, remove, write_file
from skxlmr.system.atomic.leftovers import is_temporary, remove_left_over
from skxlmr.system.atomic.pending import is_pending, recover
from skxlmr.system.atomic.single import replacing, write_bytes, write_chunks
from skxlmr.system.atomic.staging import NewFiles
from skxlmr.system.atomic.versions import replacing_version
from skxlmr.system.atomic.whole import replacing_whole

__all__ = [
    "NewFiles",
    "check_space",
    "format_bytes",
    "is_pending",
    "is_temporary",
    "overwrite",
    "recover",
    "remove",
    "remove_left_over",
    "replacing",
    "replacing_version",
    "replacing_whole",
    "write_bytes",
    "write_chunks",
    "write_file",
]
