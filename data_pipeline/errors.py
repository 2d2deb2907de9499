"""The one error that bad data raises."""


class DataError(Exception):
    """Text, a tokenizer or a dataset is missing, damaged or does not fit; the message names the file and what to do."""
