// What a model reads of a conversation, as folio/chat/template.py makes it in Python: ChatML as token ids.
//
// Defines: class ChatTemplate.
//
// The two special tokens come from here alone: contents are encoded as ordinary text, so that no user can end a message
// by spelling them.
"use strict";

// A tokenizer's way to write conversations as ids.
class ChatTemplate {
  // values: the `chat` entry of a weights file, {template: "chatml", start, end}
  constructor(values, tokenizer) {
    const [start, end] = [values.start, values.end].map((name) => tokenizer.specialIds.get(name));
    if (values.template !== "chatml" || start === undefined || end === undefined) {
      throw new Error("The model in this page has a chat template that the page does not know. Export it again.");
    }
    Object.assign(this, {tokenizer, startId: start, endId: end});
    // Of an answer; the end of a text and the beginning of a message are no part of one either.
    this.ends = [...new Set([end, start, tokenizer.endOfText])].filter((id) => id !== null);
  }

  // Return the ids of a conversation.
  encode(messages) {
    return messages.flatMap(({role, content}) =>
      [...this.head(role), ...this.tokenizer.encode(stripped(content)), this.endId, ...this.tokenizer.encode("\n")]);
  }

  // Return the ids after which the assistant's answer follows. continues: the last message is the answer so far
  prompt(messages, continues = false) {
    if (!continues) return [...this.encode(messages), ...this.head(ASSISTANT)];
    const last = messages.at(-1);
    return [...this.encode(messages.slice(0, -1)), ...this.head(last.role),
      ...this.tokenizer.encode(strippedStart(last.content))];
  }

  // Return [the newest turns of a conversation that fit into a context beside an answer, how many do not]. System
  // messages stay, and so does the last turn.
  // context: in tokens, null: without end; tokens: most of the answer, for which up to half of the context is kept
  fitted(messages, context, tokens, continues = false) {
    let kept = messages, leftOut = 0;
    if (context === null) return [kept, leftOut];
    const room = Math.max(context - Number(tokens), context - Math.floor(context / 2));
    let beyond = this.prompt(kept, continues).length - room;
    while (beyond > 0) {
      const fewer = withoutOldestTurn(kept), first = systemCount(kept);
      if (fewer === null) break;
      beyond -= this.encode(kept.slice(first, first + kept.length - fewer.length)).length;
      kept = fewer;
      leftOut += 1;
    }
    return [kept, leftOut];
  }

  head(role) {
    return [this.startId, ...this.tokenizer.encode(`${role}\n`)];
  }
}
