"""Errors of option values in the words of this command line instead of typer's and pydantic's."""

from typing import Any

import typer

EXPECTED_VALUES = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "float_parsing": "a number",
    "greater_than_equal": "a number from {ge} on",
    "less_than_equal": "a number up to {le}",
    "greater_than": "a number above {gt}",
    "less_than": "a number below {lt}",
    "bool_parsing": "true or false",
}
"""pydantic's name of a fault -> what belongs there; typer reads words with pydantic."""
NOT_ONE_OF = " is not one of "
"""Words of click before the choices of an option."""


def format_param_name(param: Any) -> str:
    """Return the name of an option or argument of a command as it is typed or shown in its help."""
    name: str = param.opts[0]
    return name if name.startswith("-") else param.metavar or name.upper()


def describe_option_error(error: typer.TyperException) -> str:
    """Describe an invalid option value: the option, what was given and what is expected.

    For any other fault this is typer's own message.
    """
    from pydantic import ValidationError  # typer has imported it, if this is its fault

    option = getattr(error, "param", None)
    if option is None or not isinstance(error.__cause__, ValidationError):
        return error.format_message()
    fault = error.__cause__.errors()[0]
    reason, limits = str(fault["msg"]), fault.get("ctx", {})
    expected = EXPECTED_VALUES.get(fault["type"], "").format_map(limits)
    if not expected and NOT_ONE_OF in reason:
        expected = "one of " + reason.split(NOT_ONE_OF, 1)[1].rstrip(".").replace("'", "")
    got = f"Got {format_param_name(option)} {fault['input']!r:.200}"
    return f"{got}: expected {expected}." if expected else f"{got}: {reason}"
