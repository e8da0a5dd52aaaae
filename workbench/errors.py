"""The exceptions a user can cause. The command line turns them into one message and exit code 2.

Everything else (``AssertionError``, a bare ``ValueError`` from torch) is our own mistake and keeps
its traceback.
"""


class UserError(Exception):
    """Base of all errors that the user can mend. The message says what was wanted, what was given
    and what to do."""


class ConfigError(UserError):
    """A configuration field is unknown, of the wrong type or out of range."""


class HeadError(ConfigError):
    """A head from outside the package is not here, cannot be loaded, fails or returns something else than a head
    must."""


class DataError(UserError):
    """A corpus is missing, unreadable, empty or too small, or a scored function returns something else than was
    asked."""


class StudyError(UserError):
    """An unknown study or preset, or a study resumed with another specification."""


class TrackingError(UserError):
    """The tracking server does not answer or refuses the request."""


class RunError(UserError):
    """A run folder is missing, incomplete or of another kind than needed."""


class UnreadableError(RunError):
    """A file is there and may well be sound, but the system does not give it out: no permission, a faulty disk, a
    file server that is away. Nothing may be replaced, set aside or made anew because of it."""


class NotFiniteError(RunError):
    """The loss, a gradient, the weights or what the model makes of them are not numbers any more."""


class OutputError(UserError):
    """A folder or file cannot be written."""


class SamplingError(UserError):
    """A sampler's budget is spent."""
