"""A folder for Ollama: a model as a GGUF file, and a Modelfile that says how Ollama is to run it.

    model.gguf      as folio/formats/gguf.py writes it
    Modelfile       one instruction per line; the file's reference is docs/modelfile.mdx of Ollama
        FROM ./model.gguf
        TEMPLATE "{{ .Prompt }}"        the model continues the prompt as it is, without the marks of a conversation;
                                        one that was taught to chat reads them (TEMPLATE)
        PARAMETER num_ctx 256           block_size; Ollama's own default is larger than most contexts
        PARAMETER temperature 0.8       ... and what follows as in GenerationParams, so that Ollama samples like run.py:
        PARAMETER top_k 1024            all of the vocabulary; Ollama's default is 40
        PARAMETER top_p 1               Ollama's default is 0.9
        PARAMETER repeat_penalty 1      no penalty; Ollama's default was 1.1
        PARAMETER stop "<|endoftext|>"  the token that ends a text; of a chat model also the one that ends an answer
"""

import re
from pathlib import Path

from folio.base.commands import quoted
from folio.base.files import refuse_foreign_folder, replacing_folder
from folio.chat.template import END, START
from folio.formats import exports, gguf
from Model_Params import GenerationParams

TYPES = gguf.TYPES
MODEL, MODELFILE = "model.gguf", "Modelfile"
# ChatML as a template of Go: messages, then the beginning of the answer.
TEMPLATE = ("{{ range .Messages }}" + START + "{{ .Role }}\n{{ .Content }}" + END + "\n{{ end }}" + START
            + "assistant\n")
LONGEST_NAME = 80                   # characters of a part of a model's name: Ollama's bound


def write(model, folder, type=None):
    """Write a TrainedModel as a folder for Ollama, whole or not at all. type: as gguf.write takes it

    Raises FolioError where GGUF cannot represent the model, FileExistsError where the path is something else.
    """
    exports.architecture(model, "ollama")
    refuse_foreign_folder(folder, "a folder for Ollama", f"{re.escape(MODEL)}|{MODELFILE}")
    with replacing_folder(folder) as temporary:
        gguf.write(model, temporary / MODEL, type)
        (temporary / MODELFILE).write_text(modelfile(model), encoding="utf-8", newline="\n")


def modelfile(model):
    """Return the text of a TrainedModel's Modelfile."""
    settings = GenerationParams().resolved()
    names = model.tokenizer.names()
    template = 'TEMPLATE "{{ .Prompt }}"' if model.chat is None else f'TEMPLATE """{TEMPLATE}"""'
    lines = [f"FROM ./{MODEL}", template,
             f"PARAMETER num_ctx {model.params.block_size}",
             f"PARAMETER temperature {settings.temperature:g}",
             f"PARAMETER top_k {settings.top_k or model.params.vocab_size}",
             f"PARAMETER top_p {1 if settings.top_p is None else settings.top_p:g}",
             f"PARAMETER repeat_penalty {settings.repetition_penalty:g}",
             *(f'PARAMETER stop "{names[end]}"' for end in model.ends)]
    return "\n".join([*lines, ""])


def commands(model, folder):
    """Return the two commands to type once a TrainedModel's folder is written: one registers it, one runs it."""
    name = model_name(model.name)
    return [f"ollama create {name} -f {quoted(Path(folder) / MODELFILE)}", f"ollama run {name}"]


def model_name(run):
    """Return a run's name as Ollama allows it: letters, digits, and -_. after the first character, in lower case.
    >>> model_name("pretrained"), model_name("Été 2 (final)"), model_name("詩")
    ('pretrained', 't-2-final', 'folio')
    """
    allowed = re.sub(r"[^a-z0-9._-]+", "-", run.lower()).strip("-._")
    return allowed[:LONGEST_NAME].rstrip("-._") or "folio"
