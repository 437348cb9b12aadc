"""YAML, as people read it: the one place that knows the library. Pure."""

from typing import Any


def dump(value: Any) -> str:
    """The YAML of plain values, fields in their order."""
    import yaml  # who asks for no YAML does not pay for it

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=88)
    return text


def load(text: str) -> Any:
    """The plain values of a YAML text. Raises ValueError with a sentence."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
