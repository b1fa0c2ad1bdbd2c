"""The exceptions that callers catch. Every message says what was got, what was wanted and what to do."""


class DataError(ValueError):
    """A file of the data set is missing, cut short, corrupted or of another convention; the message names the file."""


class ConfigError(ValueError):
    """A config or an override is wrong; the message names the key."""


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded safely or does not fit; the message names the file and the key."""
