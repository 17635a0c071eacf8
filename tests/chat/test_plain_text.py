"""A conversation as plain text."""

from hypothesis import given
from hypothesis import strategies as st

from folio.chat.messages import Message
from folio.chat.plain_text import read, written


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text("ab> \\\n", max_size=12)),
                max_size=6))
def test_what_is_written_is_read_again(contents):
    messages = [Message(role, content.strip() or "a") for role, content in contents]
    # Two answers in a row are one, since blank lines may stand in an answer.
    joined = []
    for message in messages:
        if joined and joined[-1].role == message.role == "assistant":
            message = Message("assistant", joined.pop().content + "\n\n" + message.content)
        joined.append(message)
    assert [(m.role, _tidy(m.content)) for m in read(written(messages))] == [(m.role, _tidy(m.content)) for m in joined]


def _tidy(content):
    return [line.rstrip() for line in content.split("\n")]


def test_a_person_may_leave_out_blank_lines_and_write_several():
    assert read("\n\n> One?\n1\n> Two?\n\n\n\n2\n\n\n") == [
        Message("user", "One?"), Message("assistant", "1"), Message("user", "Two?"), Message("assistant", "2")]
    assert read("") == read("\n \n") == []
    assert written([]) == ""
