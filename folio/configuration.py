"""Settings in a JSON file: one object of {field: value}, with the names that the fields and the flags have.

One file serves all three scripts: each takes the fields that are its own. Whatever is wrong in a file is said together.
"""

import json
import re
from dataclasses import fields
from pathlib import Path

from folio.errors import FolioError
from folio.files import refuse_foreign, replacing
from folio.spelling import nearest
from Model_Params import GenerationParams, ModelParams, TextParams, TrainingParams

NAMES = {each.name for part in (TextParams, ModelParams, TrainingParams, GenerationParams) for each in fields(part)}

# What other programs call our fields: LLM-V0, nanoGPT, Hugging Face's configurations and trainers, torch.nn.Transformer, papers.
OTHER_NAMES = {other: ours for ours, others in {
    "vocab_size": "n_vocab vocab vocabulary_size num_tokens",
    "block_size": "seq_length seq_len sequence_length max_seq_len max_seq_length context context_length context_len context_size ctx_len n_ctx "
                  "n_positions max_position_embeddings window_size max_length bptt",
    "emb_len": "embedding_dim embed_dim embedding_size emb_dim emb_size d_model n_embd n_embed hidden_size dim model_dim width",
    "hidden_len": "hidden_dim intermediate_size d_ff dim_feedforward ffn_dim n_inner mlp_dim",
    "num_layers": "n_layer n_layers num_hidden_layers depth num_blocks n_blocks layers",
    "num_heads": "n_head n_heads num_attention_heads nhead attention_heads heads",
    "num_kv_heads": "n_kv_head n_kv_heads num_key_value_heads",
    "head_len": "head_dim head_size d_head",
    "dropout": "dropout_rate dropout_prob drop_rate p_dropout resid_pdrop embd_pdrop hidden_dropout_prob",
    "attention_dropout": "attn_pdrop attn_dropout attention_probs_dropout_prob",
    "mlp": "activation activation_function hidden_act",
    "norm": "norm_type normalization",
    "biases": "bias use_bias",
    "tied_head": "tie_word_embeddings tie_weights tied_embeddings",
    "steps": "max_iters max_iter num_iters n_iters iterations iters max_steps num_steps total_steps train_steps training_steps",
    "epochs": "num_epochs n_epochs max_epochs num_train_epochs",
    "batch_size": "train_batch_size per_device_train_batch_size",
    "learning_rate": "lr max_lr peak_lr lr_max",
    "weight_decay": "wd l2",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "warmup_steps": "warmup_iters warmup num_warmup_steps",
    "schedule": "lr_scheduler scheduler lr_schedule lr_scheduler_type decay_lr",
    "gradient_clip": "grad_clip max_grad_norm clip_grad clip clip_grad_norm",
    "eval_interval": "eval_steps eval_every eval_freq evaluation_interval",
    "patience": "early_stopping_patience early_stopping",
    "precision": "dtype torch_dtype amp mixed_precision fp16 bf16",
    "seed": "random_seed rng_seed manual_seed",
    "threads": "num_threads n_threads",
    "val_fraction": "val_split validation_split val_ratio val_size test_size",
    "tokens": "max_new_tokens max_tokens max_completion_tokens num_predict n_predict num_tokens_to_generate gen_length length",
    "temperature": "temp",
    "repetition_penalty": "repeat_penalty",
    "penalty_window": "repeat_last_n",
    "no_repeat_ngram": "no_repeat_ngram_size",
    "beams": "num_beams beam_size beam_width n_beams",
    "stop": "stop_strings stop_sequences stop_sequence stop_texts stop_words reverse_prompt",
}.items() for other in others.split()}

# What other programs keep in their configurations, and is said in another way here.
ELSEWHERE = {
    **dict.fromkeys("data data_file data_path data_dir dataset train_data train_file text_file input_file corpus".split(),
                    "the text is named to init.py, or lies in Train_Data"),
    **dict.fromkeys("out_dir output_dir save_dir checkpoint_dir save_path model_path".split(),
                    "everything lies in the project's folder, which --home names"),
    **dict.fromkeys("run_name experiment_name model_name".split(), "a run is named by --name"),
    **dict.fromkeys(("train_split", "train_ratio", "train_fraction"), "val_fraction is the share that is held out"),
    **dict.fromkeys("gradient_accumulation_steps accumulation_steps grad_accum_steps".split(),
                    "micro_batch_size is how many windows of the batch_size are computed at once"),
    **dict.fromkeys(("n", "num_return_sequences", "num_samples", "best_of"),
                    "several answers are --samples in run.py, and the same prompt several times in complete_each"),
    **dict.fromkeys(("init_from", "resume_from_checkpoint", "resume_from"), "that is said by --resume or --start-from"),
}


def hint(name, known=NAMES, spelled=str):
    """What to put behind a name that is none of ours: what it is called here, or else the nearest of the `known` ones, if any.

    spelled: how the known names write a field's name.
    >>> hint("n_layer"), hint("emb_length"), hint("zzz")
    ('; that is num_layers here', '; did you mean emb_len?', '')
    """
    plain = name.lower().strip("-").replace("-", "_")
    if plain in OTHER_NAMES and (ours := spelled(OTHER_NAMES[plain])) in known:
        return f"; that is {ours} here"
    return f"; {ELSEWHERE[plain]}" if plain in ELSEWHERE else nearest(name, known)


def load(path):
    """The settings in a JSON file. -> {field: value}, and a list of sentences about what is wrong with the file.

    Whether a value suits its field is not looked at: that is what the parameters' own `problems` are for.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")          # Windows' editors like to begin with a byte order mark
    except UnicodeDecodeError as error:
        return {}, [f"{path} is not in UTF-8: its byte {error.start} belongs to no character. Save it anew in that encoding."]
    except OSError as error:
        return {}, [f"{path} cannot be read: {error.strerror}. It should be a file of settings in JSON, such as --save-config writes."]
    if not text.strip():
        return {}, [f'{path} is empty. It should have settings in JSON, such as {{"num_layers": 4}}.']
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        return {}, [f"{path}, line {error.lineno}, column {error.colno}: {_syntax(text, error)}"]
    except (ValueError, RecursionError) as error:
        return {}, [f"{path} cannot be used: {error}."]
    if not isinstance(pairs, _Pairs):
        return {}, [f'{path} should be one object of settings, such as {{"num_layers": 4}}, and begins with {text.strip()[:20]!r}.']
    return {name: tuple(value) if type(value) is list else value for name, value in pairs if name in NAMES}, [f"{path}: {problem}" for problem in _problems(pairs)]


def refuse_other(path):
    """Raise FileExistsError where something else than a file of settings lies."""
    refuse_foreign(path, "a file of settings, as --save-config writes", _are_settings)


def _are_settings(content):
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and (not values or not NAMES.isdisjoint(values))


def save(path, values):
    """Write {field: value} to a JSON file that `load` reads, whole or not at all; None becomes null: what is still to be worked out.

    Raises FileExistsError where something else than a file of settings lies there.
    """
    refuse_other(path)
    with replacing(path) as file:
        file.write((json.dumps(values, ensure_ascii=False, indent=4) + "\n").encode("utf-8"))


class _Pairs(list):
    """A JSON object as it stands in the file: its names and values in order, with names that come twice."""


def _problems(pairs):
    names = [name for name, _ in pairs]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"{name} is there {names.count(name)} times; keep one."
    for name, value in dict(pairs).items():
        if name not in NAMES:
            grouped = "; settings stand side by side, not in groups" if isinstance(value, _Pairs) else ""
            yield f"there is no setting {name}{grouped or hint(name)}"


def _syntax(text, error):
    """What is wrong where the JSON could not be read, in words for somebody who does not know JSON by heart."""
    before, after = text[:error.pos].rstrip(), text[error.pos:]
    if after.startswith(("//", "/*", "#")):
        return "JSON has no comments; take that one out."
    if before.endswith(",") and after[:1] in ("}", "]") or re.match(r",\s*[}\]]", after):
        return "the last setting has a comma behind it; take it out."
    if after.startswith("'"):
        return 'JSON wants names and words in double quotes, "like this".'
    if word := re.match("True|False|None", after):
        return f"JSON writes {word[0]} as {({'None': 'null'}.get(word[0]) or word[0].lower())}."
    return f"this is not JSON ({error.msg})."


def _refuse_constant(word):
    raise FolioError(f"JSON has no number {word}")
