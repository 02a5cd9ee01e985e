"""Types of command-line options that several sub-commands share."""

import argparse


def natural_number(text: str) -> int:
    """A whole number, 1 or more; anything else is told in argparse's one line, with the option's name."""
    number = int(text) if text.strip().isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


def whole_number(text: str) -> int:
    """A whole number, 0 or more."""
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)
