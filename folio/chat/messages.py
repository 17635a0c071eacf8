"""A conversation: messages, each of a role. The user's and the assistant's take turns, the system's come first."""

from collections.abc import Sequence
from dataclasses import dataclass

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)


@dataclass(frozen=True)
class Message:
    """A message of a conversation; white space at both ends of its content means nothing."""
    role: str           # one of ROLES
    content: str


def system_count(messages: Sequence[Message]) -> int:
    """Return how many system messages a conversation begins with."""
    return next((place for place, message in enumerate(messages) if message.role != SYSTEM), len(messages))


def without_oldest_turn(messages: Sequence[Message]) -> list[Message] | None:
    """Return a conversation without the first of its turns, or None where it has only one.

    A turn begins with the first of the user's messages in a row, and has all answers to them. System messages at the
    beginning belong to no turn, and stay.

    >>> contents = [("system", "Be brief."), ("user", "One?"), ("assistant", "1"), ("user", "Two?")]
    >>> [message.content for message in without_oldest_turn([Message(*content) for content in contents])]
    ['Be brief.', 'Two?']
    """
    first = system_count(messages)
    for place in range(first + 1, len(messages)):
        if messages[place].role == USER and messages[place - 1].role != USER:
            return [*messages[:first], *messages[place:]]
    return None
