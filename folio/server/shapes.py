"""Shapes of JSON values: one declaration reads a value, checks it, and describes it as JSON Schema.

A request is a dataclass. A field declared by folio.base.fields.option is a number, a text or a truth value with its
bounds; a field declared by `shaped` has one of the shapes below; a field declared by `unsupported` is a known setting
that Folio cannot do. `parse` makes an instance of a JSON object, and `schema` describes the dataclass.
"""

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import Field, dataclass
from typing import Any

from folio.base.fields import LONGEST_SHOWN, bounds_problem, value_type
from folio.server.errors import ApiError

NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def invalid(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """Return the error for a request that is wrong at `param`."""
    return ApiError(400, message, "invalid_request_error", param, code)


def shown(value: Any) -> str:
    """Return the beginning of a JSON value for a message, in ASCII.

    >>> shown("word"), shown([1, 2]), shown({"a": 1}), shown(True), shown(None)
    ("'word'", 'a list', 'an object', 'true', 'null')
    """
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = ascii(value[:LONGEST_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= 2 * LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def whole_text(value: Any, param: str) -> str:
    """Return a text of whole characters. Raises ApiError for anything else, half a surrogate pair included."""
    if not isinstance(value, str):
        raise invalid(param, f"{param} should be a text, and this is {shown(value)}.", "invalid_type")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise invalid(param, f"{param} has half a surrogate pair, {value[error.start]!r}, which is no character; "
                                 "send whole characters.") from None
    return value


@dataclass(frozen=True)
class Scalar:
    """A number within bounds, a text, or a truth value."""
    kind: type
    low: float | None = None
    above: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None

    def read(self, value: Any, param: str) -> Any:
        """Return the value as `kind`; 1.0 is a whole number, true is no number. Raises ApiError."""
        if self.kind is str:
            value = whole_text(value, param)
        elif not isinstance(value, (int, float) if self.kind in (int, float) else bool) or \
                isinstance(value, bool) and self.kind is not bool or \
                self.kind is int and isinstance(value, float) and not value.is_integer():
            raise invalid(param, f"{param} should be {NAMES[self.kind]}, and this is {shown(value)}.", "invalid_type")
        if self.choices and value not in self.choices:
            raise invalid(param, f"{param}={shown(value)} is not one of {', '.join(self.choices)}.")
        # Before the conversion: a whole number may be beyond every float.
        if self.kind is float and not abs(value) <= sys.float_info.max:
            raise invalid(param, f"{param}={shown(value)} is not a finite number.")
        value = self.kind(value)
        if self.kind in (int, float) and (problem := bounds_problem(value, self.low, self.above, self.high)):
            raise invalid(param, f"{param}={problem}")
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        found = {"type": JSON_TYPES[self.kind], "minimum": self.low, "exclusiveMinimum": self.above,
                 "maximum": self.high, "enum": list(self.choices) if self.choices else None}
        return {name: value for name, value in found.items() if value is not None}


class Anything:
    """Any value, as it is."""

    def read(self, value: Any, param: str) -> Any:
        """Return the value."""
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {}


@dataclass(frozen=True)
class Items:
    """A list with a shape for its items."""
    item: Any
    most: int
    least: int = 0

    def read(self, value: Any, param: str) -> tuple:
        """Return the items as a tuple. Raises ApiError."""
        if not isinstance(value, list):
            raise invalid(param, f"{param} should be a list, and this is {shown(value)}.", "invalid_type")
        check_count(value, param, self.least, self.most)
        return tuple(self.item.read(item, f"{param}.[{place}]") for place, item in enumerate(value))

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "array", "items": self.item.schema(), "minItems": self.least, "maxItems": self.most}


def check_count(value: list, param: str, least: int, most: int) -> None:
    """Raise ApiError where a list has too few or too many items."""
    if not least <= len(value) <= most:
        bound = f"at least {least}" if len(value) < least else f"at most {most}"
        raise invalid(param, f"{param} has {len(value)} items; it may have {bound}.")


@dataclass(frozen=True)
class Strings:
    """One text or a list of texts, none empty."""
    most: int
    longest: int                # characters

    def read(self, value: Any, param: str) -> tuple[str, ...]:
        """Return the texts. Raises ApiError."""
        texts = Items(Scalar(str), self.most).read([value] if isinstance(value, str) else value, param)
        for text in texts:
            if not text:
                raise invalid(param, f"{param} has an empty text, and every answer begins with that; leave it out.")
            if len(text) > self.longest:
                raise invalid(param, f"{param} has a text of {len(text)} characters; {self.longest} is the most.")
        return texts

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        text = {"type": "string", "minLength": 1, "maxLength": self.longest}
        return {"anyOf": [text, {"type": "array", "items": text, "maxItems": self.most}]}


@dataclass(frozen=True)
class Biases:
    """An object from token ids, as texts, to numbers within bounds."""
    low: float
    high: float

    def read(self, value: Any, param: str) -> dict[int, float]:
        """Return {id: bias}. Raises ApiError."""
        if not isinstance(value, dict):
            raise invalid(param, f"{param} should be an object of token ids, and this is {shown(value)}.",
                          "invalid_type")
        found = {}
        for name, bias in value.items():
            if not (name.isascii() and name.isdigit() and len(name) <= 10):
                raise invalid(param, f"{param} has the key {shown(name)}, which is no token id.")
            found[int(name)] = Scalar(float, self.low, high=self.high).read(bias, f"{param}.{name}")
        return found

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "object", "propertyNames": {"pattern": "^[0-9]{1,10}$"},
                "additionalProperties": Scalar(float, self.low, high=self.high).schema()}


@dataclass(frozen=True)
class Shares:
    """An object from names of models to numbers from 0 to 1."""

    def read(self, value: Any, param: str) -> dict[str, float]:
        """Return {name: share}. Raises ApiError."""
        if not isinstance(value, dict):
            raise invalid(param, f"{param} should be an object of models and their shares, and this is {shown(value)}.",
                          "invalid_type")
        return {whole_text(name, param): Scalar(float, 0, high=1).read(share, f"{param}.{shown(name)}")
                for name, share in value.items()}

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "object", "additionalProperties": Scalar(float, 0, high=1).schema()}


@dataclass(frozen=True)
class Record:
    """An object that is read into a dataclass."""
    kind: type

    def read(self, value: Any, param: str) -> Any:
        """Return the instance. Raises ApiError."""
        return parse(self.kind, value, param)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return schema(self.kind)


@dataclass(frozen=True)
class Unsupported:
    """A known setting that Folio cannot do; with some values it asks for nothing."""
    harmless: tuple

    def read(self, value: Any, param: str) -> None:
        """Return None for a harmless value. Raises ApiError for any other."""
        if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in self.harmless):
            raise invalid(param, f"{param}={shown(value)} is not supported; leave {param} out.",
                          "unsupported_parameter")

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"enum": list(self.harmless)} if self.harmless else {"type": "null"}


def shaped(default: Any, help: str, shape: Any) -> Any:
    """Return a dataclass field with its help text and its shape."""
    return dataclasses.field(default=default, metadata={"help": help, "shape": shape})


def unsupported(help: str, *harmless: Any) -> Any:
    """Return a dataclass field for a known setting that Folio cannot do, with the values that ask for nothing."""
    return shaped(None, f"not supported: {help}", Unsupported(harmless))


def shape_of(field: Field) -> Any:
    """Return the shape of a dataclass field declared by `option`, `shaped` or `unsupported`."""
    about = field.metadata
    return about.get("shape") or Scalar(value_type(field), about["low"], about["above"], about["high"],
                                        about["choices"])


def parse(kind: type, values: Any, prefix: str = "") -> Any:
    """Return an instance of a dataclass from a JSON object; null is the default, unknown names are ignored.

    prefix: where the object stands in the request, for messages

    Raises ApiError, with the name of the field that is wrong.
    """
    if not isinstance(values, dict):
        raise invalid(prefix or None, f"{prefix or 'The body'} should be a JSON object, and this is {shown(values)}.",
                      "invalid_type")
    found = {}
    for field in dataclasses.fields(kind):
        param = f"{prefix}.{field.name}" if prefix else field.name
        if values.get(field.name) is not None:
            found[field.name] = shape_of(field).read(values[field.name], param)
        elif field.default is dataclasses.MISSING:
            raise invalid(param, f"{param} is missing, and there is no default for it.", "missing_required_parameter")
    return kind(**found)


def schema(kind: type) -> dict[str, Any]:
    """Return the JSON Schema of a dataclass: every field may be null or left out, unless it has no default."""
    properties = {}
    for field in dataclasses.fields(kind):
        own = shape_of(field).schema()
        about = {"description": field.metadata["help"]}
        if field.default is dataclasses.MISSING:
            properties[field.name] = own | about
            continue
        if isinstance(field.default, (int, float, str)):
            about["default"] = field.default
        nullable = own if own.get("type") == "null" else {"anyOf": [own, {"type": "null"}]}
        properties[field.name] = nullable | about
    required = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
    return {"type": "object", "description": (kind.__doc__ or "").strip().split("\n")[0], "properties": properties,
            **({"required": required} if required else {})}


def unknown_names(kind: type, values: dict[str, Any]) -> Iterator[str]:
    """Yield the names in a JSON object that are no field of a dataclass."""
    known = {field.name for field in dataclasses.fields(kind)}
    return (name for name in values if name not in known)
