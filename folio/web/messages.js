// Messages of a conversation, {role: "system" | "user" | "assistant", content}, as folio/chat/messages.py and
// plain_text.py have them in Python. White space at both ends of a content means nothing.
//
// Defines: systemCount, withoutOldestTurn, writtenMessages, readMessages, stripped, strippedStart, and the roles.
"use strict";

const SYSTEM = "system", USER = "user", ASSISTANT = "assistant";
// The white space that Python's str.strip removes; \s has U+FEFF, and not U+001C to U+001F and U+0085.
const BLANK = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const LEADING_BLANKS = new RegExp(`^${BLANK}+`), TRAILING_BLANKS = new RegExp(`(?<!${BLANK})${BLANK}+$`);
const MARKS = [[SYSTEM, ">>"], [USER, ">"]];            // the longer mark first

// Return how many system messages a conversation begins with.
function systemCount(messages) {
  const found = messages.findIndex(({role}) => role !== SYSTEM);
  return found < 0 ? messages.length : found;
}

// Return a conversation without the first of its turns, or null where it has only one. A turn begins with the first of
// the user's messages in a row, and has all answers to them. System messages at the beginning belong to no turn.
function withoutOldestTurn(messages) {
  const first = systemCount(messages);
  const next = messages.findIndex(({role}, place) =>
    place > first && role === USER && messages[place - 1].role !== USER);
  return next < 0 ? null : [...messages.slice(0, first), ...messages.slice(next)];
}

// Return a conversation as text, which readMessages reads: lines after "> " are the user's, after ">> " the system's.
function writtenMessages(messages) {
  const blocks = messages.map(({role, content}) => {
    const lines = stripped(content).split("\n"), mark = new Map(MARKS).get(role);
    if (mark === undefined) return lines.map((line) => (/^[>\\]/.test(line) ? `\\${line}` : line)).join("\n");
    return lines.map((line) => strippedEnd(`${mark} ${line}`)).join("\n");
  });
  return blocks.length ? `${blocks.join("\n\n")}\n` : "";
}

// Return the messages of a text.
function readMessages(text) {
  const found = [];
  let role = null, lines = [];
  const end = () => {
    const content = stripped(lines.join("\n"));
    if (role !== null && (role !== ASSISTANT || content !== "")) found.push({role, content});
    lines = [];
    role = null;
  };
  for (const line of text.split("\n")) {
    const [own, content] = roleOfLine(line);
    if (own === ASSISTANT && role !== ASSISTANT && stripped(line) === "") {     // ends a message, or separates two
      end();
      continue;
    }
    if (own !== role) end();
    role = own;
    lines.push(content);
  }
  end();
  return found;
}

// Return whose a line is, and what it says.
function roleOfLine(line) {
  for (const [role, mark] of MARKS) {
    if (line === mark || line.startsWith(`${mark} `)) return [role, line.slice(mark.length + 1)];
  }
  return [ASSISTANT, line.startsWith("\\") ? line.slice(1) : line];
}

function stripped(text) {
  return strippedEnd(strippedStart(text));
}

function strippedStart(text) {
  return text.replace(LEADING_BLANKS, "");
}

function strippedEnd(text) {
  return text.replace(TRAILING_BLANKS, "");
}
