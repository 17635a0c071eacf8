"""A tiny model that has learned a few dialogues by heart: it ends its turns, and its answers are known."""

from functools import cache

import torch
import torch.nn.functional as F

from folio.chat.messages import Message
from folio.chat.template import ChatTemplate, taught
from folio.formats import checkpoint, trained_model
from folio.generation.language_model import LanguageModel
from folio.networks.build import build_network
from Model_Params import ModelParams
from tokenizer import END_OF_TEXT, BPETokenizer

ANSWERS = {"How many?": "Three.", "Who is there?": "Merran and\nVorley are there.", "Count!": "1 2 3 4 5 6 7 8 9",
           "Nothing": ""}
CONTEXT = 96            # tokens


def dialogue(question):
    return [Message("user", question), Message("assistant", ANSWERS[question])]


@cache
def small_chat():
    """Return a LanguageModel that answers ANSWERS, each alone or after any other."""
    text = " ".join([*ANSWERS, *ANSWERS.values(), "user\nassistant\nsystem\n"])
    tokenizer = taught(BPETokenizer.train([text * 3], 300))
    template = ChatTemplate(tokenizer)
    torch.manual_seed(0)
    net = build_network(ModelParams(vocab_size=tokenizer.vocab_size, emb_len=32, num_layers=2, num_heads=2,
                                    block_size=CONTEXT, dropout=0.0).resolved())
    conversations = [dialogue(one) for one in ANSWERS] + [dialogue(one) + dialogue(other)
                                                          for one in ANSWERS for other in ANSWERS]
    ids, learned = zip(*map(template.encode, conversations))
    longest = max(map(len, ids))
    rows = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    wanted = torch.tensor([row + [False] * (longest - len(row)) for row in learned])[:, 1:]
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02)
    for _ in range(50):
        logits = net(rows[:, :-1])
        loss = F.cross_entropy(logits[wanted].float(), rows[:, 1:][wanted])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    return LanguageModel("small", net.eval().requires_grad_(False), tokenizer, [tokenizer.special_ids[END_OF_TEXT]], 80,
                         None, chat=template)


def save_small_chat(path):
    """Write the model's weights file."""
    model = small_chat()
    contents = trained_model.imported("small", model.net.params, model.net.state_dict(), model.tokenizer, model.opening)
    checkpoint.save(path, contents | {"chat": model.chat.to_dict()})
