r"""A conversation as plain text, as a person writes it and /save does.

    >> Answer in one word.

    > How many
    > are there?

    Three.

Lines after "> " are the user's, after ">> " the system's, all others the assistant's. A blank line ends a message of
the user or the system. An assistant's line that begins with > or \ has a \ before it.
"""

from collections.abc import Sequence

from folio.chat.messages import ASSISTANT, SYSTEM, USER, Message

_MARKS = {SYSTEM: ">>", USER: ">"}


def written(messages: Sequence[Message]) -> str:
    r"""Return a conversation as text, which `read` reads.

    >>> written([Message("user", "How many?"), Message("assistant", "> 3")])
    '> How many?\n\n\\> 3\n'
    """
    blocks = []
    for message in messages:
        lines = message.content.strip().split("\n")
        if message.role == ASSISTANT:
            blocks.append("\n".join("\\" + line if line[:1] in (">", "\\") and line else line for line in lines))
        else:
            blocks.append("\n".join(f"{_MARKS[message.role]} {line}".rstrip() for line in lines))
    return "\n\n".join(blocks) + "\n" if blocks else ""


def read(text: str) -> list[Message]:
    r"""Return the messages of a text.

    >>> read("> How\n> many?\n\nThree.\n\nOr four.\n")
    [Message(role='user', content='How\nmany?'), Message(role='assistant', content='Three.\n\nOr four.')]
    """
    found, role, lines = [], None, []

    def end():
        content = "\n".join(lines).strip()
        if role in _MARKS or content:
            found.append(Message(role, content))
        lines.clear()

    for line in text.split("\n"):
        own, content = _role_of(line)
        if own == ASSISTANT and not line.strip() and role != ASSISTANT:         # ends a message, or separates two
            if role is not None:
                end()
            role = None
            continue
        if own != role:
            if role is not None:
                end()
            role = own
        lines.append(content)
    if role is not None:
        end()
    return found


def _role_of(line):
    """Return whose a line is, and what it says."""
    for role, mark in _MARKS.items():       # the longer mark first
        if line == mark or line.startswith(mark + " "):
            return role, line[len(mark) + 1:]
    return ASSISTANT, line[1:] if line[:1] == "\\" else line
