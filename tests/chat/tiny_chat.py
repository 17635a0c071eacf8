"""A model that was taught to chat, small enough for a test: it answers what it learned, and ends its answers."""

import torch

from folio.chat.messages import Message
from folio.chat.template import ChatTemplate, taught
from folio.formats import checkpoint, trained_model
from folio.networks.build import build_network
from Model_Params import ModelParams
from tokenizer import BPETokenizer

TEXT = "user\nassistant\nsystem\nping pong tick tock who are you I am a bell Be brief. " * 30
LEARNED = [[("user", "ping"), ("assistant", "pong")], [("user", "tick"), ("assistant", "tock")],
           [("user", "who are you"), ("assistant", "I am a bell.")],
           [("user", "ping"), ("assistant", "pong"), ("user", "tick"), ("assistant", "tock")],
           [("system", "Be brief."), ("user", "who are you"), ("assistant", "a bell")]]


def messages(*contents):
    """Messages of (role, content)."""
    return [Message(*content) for content in contents]


def chat_contents(name="bell", steps=60, context=64):
    """The contents of a weights file of a model that has learned LEARNED by heart."""
    tokenizer = taught(BPETokenizer.train([TEXT], 300))
    template = ChatTemplate(tokenizer)
    torch.manual_seed(0)
    net = build_network(ModelParams(num_layers=1, num_heads=2, emb_len=32, block_size=context,
                                    vocab_size=tokenizer.vocab_size))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    rows = [template.encode(messages(*contents)) for contents in LEARNED]
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])                           # (B, T)
    learned = torch.tensor([learned + [False] * (longest - len(learned)) for _, learned in rows])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(steps):
        logits = net(ids[:, :-1])[learned[:, 1:]]
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][learned[:, 1:]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    contents = trained_model.imported(name, net.params, net.state_dict(), tokenizer, tokenizer.encode("\n"))
    return contents | {"chat": template.to_dict()}


def write_chat_weights(home, name="bell", **options):
    """Write such a model as a run of a project. -> the path of its weights"""
    home.weights(name).parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(home.weights(name), chat_contents(name, **options))
    return home.weights(name)
