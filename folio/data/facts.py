"""Records of facts to conversations, by a template in turns: "> Density of {substance}?\\n\\n{density} kg/m3"."""

from collections.abc import Mapping
from typing import Any

from folio.base.spelling import nearest
from folio.base.visible import unescaped
from folio.chat import plain_text
from folio.chat.messages import USER, Message
from folio.readers.dialogues import FACTS, NoConversation, messages_of
from folio.readers.records import Template, listed
from folio.readers.values import json_type, written


class Facts:
    """What the records of one file are as conversations, by a template.

    Each message of the template is filled by itself, so that no value can begin another one.

    >>> Facts("> Density of {substance}?\\\\n\\\\n{density} kg/m3").messages_of({"substance": "water", "density": 998})
    ([Message(role='user', content='Density of water?'), Message(role='assistant', content='998 kg/m3')], \
'facts in a template')
    """

    def __init__(self, template: str | None):
        """template: TextParams.template; one without turns is for texts, and makes no conversation of any record

        Raises FolioError where a brace has no partner.
        """
        turns = plain_text.read(unescaped(template or ""))
        self._forms = []
        if any(message.role == USER for message in turns):
            self._forms = [(message.role, Template(message.content, may_be_fixed=True)) for message in turns]
        self._are_known = False         # whether the first record had all names

    def messages_of(self, record: Any) -> tuple[list[Message], str]:
        """Return the messages of a record and its format; none where it lacks a value that the template names.

        Without turns in the template, or of a record that is no object, that is dialogues.messages_of. Raises
        NoConversation, also where the first record lacks a field.
        """
        if not self._forms or not isinstance(record, Mapping):
            return messages_of(record)
        if not self._are_known:
            self._look_for_fields(record)
        messages = []
        for role, form in self._forms:
            values = [self._value(record, name) for name in form.names]
            if not all(values):
                return [], FACTS
            messages.append(Message(role, form.fill(values)))
        return messages, FACTS

    def _look_for_fields(self, record):
        names = dict.fromkeys(name for _, form in self._forms for name in form.names)
        for name in names:
            if name not in record:
                hint = nearest(name, list(record))
                raise NoConversation(f"has no field {name!r}, which the template names"
                                     f"{hint or '.'} Its fields are {listed(record)}.")
        self._are_known = True

    def _value(self, record, name):
        try:
            return written(record.get(name))
        except TypeError:
            raise NoConversation(f"has {json_type(record[name])} in its field {name!r}, not text.") from None
