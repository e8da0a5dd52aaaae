"""Standard output and error of commands that work for long: whoever reads them may go away.

A ``head`` that has seen enough, a ``tee`` whose disk is full, the terminal of a connection that broke: nothing of
that may end a training of days. Characters that an output's encoding does not have are shown as question marks.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO


def show_any_text() -> None:
    """Nothing that is printed is refused for the encoding of the output, as by LANG=C or latin-1."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict":
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]


class LastingOutput:
    """A text stream around ``stream`` that takes whatever is written to it, also once that has gone. What is
    written then is lost; a line on standard error, where there is one still, says so once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.gone = stream, False

    def __getattr__(self, name: str) -> Any:  # encoding, isatty, fileno: as they are
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if not self.gone:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding or "ascii"
                self.write(text.encode(encoding, "replace").decode(encoding))
            except BlockingIOError:  # a reader that is slow, and an output that does not wait for it
                pass
            except (OSError, ValueError) as error:  # ValueError: it is closed
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if self.gone:
            return
        try:
            self._stream.flush()
        except BlockingIOError:
            pass
        except (OSError, ValueError) as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        self.gone = True
        with contextlib.suppress(OSError, ValueError):  # Python flushes it when it ends
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)
        if self._stream is sys.stderr:
            return
        with contextlib.suppress(OSError, ValueError):
            print(
                f"calm: nobody reads the output any more ({error}); the work goes on", file=sys.stderr, flush=True
            )
