"""Names in messages: what an unknown one was meant to be, short names, singular and plural."""

from folio.base.errors import FolioError

# What other programs call our fields: LLM-V0, nanoGPT, Hugging Face's configurations and trainers,
# torch.nn.Transformer, papers.
OTHER_NAMES = {other: ours for ours, others in {
    "vocab_size": "n_vocab vocab vocabulary_size num_tokens",
    "block_size": "seq_length seq_len sequence_length max_seq_len max_seq_length context context_length context_len "
                  "context_size ctx_len n_ctx n_positions max_position_embeddings window_size max_length bptt",
    "emb_len": "embedding_dim embed_dim embedding_size emb_dim emb_size d_model n_embd n_embed hidden_size dim "
               "model_dim width",
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
    "steps": "max_iters max_iter num_iters n_iters iterations iters max_steps num_steps total_steps train_steps "
             "training_steps",
    "epochs": "num_epochs n_epochs max_epochs num_train_epochs",
    "batch_size": "train_batch_size per_device_train_batch_size",
    "learning_rate": "lr max_lr peak_lr lr_max",
    "weight_decay": "wd l2",
    "beta1": "adam_beta1 momentum",
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
    "tokens": "max_new_tokens max_tokens max_completion_tokens num_predict n_predict num_tokens_to_generate gen_length "
              "length",
    "temperature": "temp",
    "repetition_penalty": "repeat_penalty",
    "penalty_window": "repeat_last_n",
    "no_repeat_ngram": "no_repeat_ngram_size",
    "beams": "num_beams beam_size beam_width n_beams",
    "stop": "stop_strings stop_sequences stop_sequence stop_texts stop_words reverse_prompt",
}.items() for other in others.split()}

# What other programs have in their configurations, and Folio has elsewhere.
ELSEWHERE = {
    **dict.fromkeys("data data_file data_path data_dir dataset train_data train_file text_file input_file "
                    "corpus".split(),
                    "the text is named to init.py, or lies in Train_Data"),
    **dict.fromkeys("out_dir output_dir save_dir checkpoint_dir save_path model_path".split(),
                    "everything lies in the project's folder, which --home names"),
    **dict.fromkeys("run_name experiment_name model_name".split(), "a run is named by --name"),
    **dict.fromkeys(("train_split", "train_ratio", "train_fraction"), "val_fraction is the share that is held out"),
    **dict.fromkeys("gradient_accumulation_steps accumulation_steps grad_accum_steps".split(),
                    "micro_batch_size is how many windows of the batch_size are computed at once"),
    **dict.fromkeys(("n", "num_return_sequences", "num_samples", "best_of"),
                    "several answers are --samples in run.py, and the same prompt several times in complete_each"),
    **dict.fromkeys(("init_from", "resume_from_checkpoint", "resume_from"),
                    "that is said by --resume or --start-from"),
}


def hint(name, known, spelled=str):
    """Return what to append to a message about an unknown name: its name here, or else the nearest of the `known` ones.

    spelled: the function that turns a field's name into a known name, as into a flag. Empty where nothing is near.
    >>> known = ["num_layers", "emb_len"]
    >>> hint("n_layer", known), hint("emb_length", known), hint("zzz", known)
    ('; that is num_layers here', '; did you mean emb_len?', '')
    """
    plain = name.lower().strip("-").replace("-", "_")
    if plain in OTHER_NAMES and (ours := spelled(OTHER_NAMES[plain])) in known:
        return f"; that is {ours} here"
    return f"; {ELSEWHERE[plain]}" if plain in ELSEWHERE else nearest(name, known)


def by_full_name(values, short_names):
    """Return {name: value} with each short name replaced by the full one. Raises FolioError where both are there.

    short_names: {short name: full name}
    >>> by_full_name({"seed": 3, "tokens": 5}, {"seed": "sampling_seed"})
    {'sampling_seed': 3, 'tokens': 5}
    """
    for short, full in short_names.items():
        if short in values and full in values:
            raise FolioError(f"{short} is short for {full}, and both are given: give one of them.")
    return {short_names.get(name, name): value for name, value in values.items()}


def nearest(word, known):
    """Return what to append to a message about an unknown word: "; did you mean --emb-len?", or "" where none is near.

    Near is what at most three mistakes explain, and no more than three in ten letters; else a word whose beginning this
    is.
    """
    plain_names = {name: _plain(name) for name in known}
    word = _plain(word)
    if len(word) < 3:
        return ""
    most = min(3, max(1, int(0.3 * len(word))))
    # Lengths alone rule most out: a folder may have a hundred thousand names.
    mistakes = {name: _mistakes(word, plain) for name, plain in plain_names.items()
                if abs(len(word) - len(plain)) <= most}
    found = min((name for name in mistakes if mistakes[name] <= most), key=mistakes.get, default=None)
    if found is None:
        found = min((name for name, plain in plain_names.items() if plain.startswith(word)), key=len, default=None)
    return f"; did you mean {found}?" if found else ""


def _plain(word):
    return word.lower().lstrip("-/").replace("_", "-")


def _mistakes(word, right):
    """Return the least number of letters missing, added, changed, or exchanged with a neighbor (Damerau, 1964)."""
    before, row = [], list(range(len(right) + 1))
    for i, letter in enumerate(word, 1):
        two_before, before, row = before, row, [i]
        for j, right_letter in enumerate(right, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != right_letter)))
            if i > 1 and j > 1 and letter == right[j - 2] and word[i - 2] == right_letter:
                row[-1] = min(row[-1], two_before[j - 2] + 1)
    return row[-1]


def figure(number):
    """Return an estimate in about two significant digits, never with an exponent: 0.5, 1.5, 17, 1,200.
    >>> [figure(number) for number in (0.001, 0.0512, 1.0, 9.96, 1234.5, 1e6)]
    ['less than 0.01', '0.051', '1', '10', '1,200', '1,000,000']
    """
    if number >= 9.95:
        whole = round(number)
        return f"{round(whole, min(0, 2 - len(str(whole)))):,}"
    return f"{number:.2g}" if number >= 0.01 else "less than 0.01"


def counted(number, noun, plural=None):
    """Return a number with its noun, in the singular or the plural.

    A number that is rounded for display is passed as text.
    >>> counted(1, "pass", "passes"), counted(2000, "line"), counted("1", "hour"), counted("0.5", "epoch")
    ('1 pass', '2,000 lines', '1 hour', '0.5 epochs')
    """
    shown = number if isinstance(number, str) else f"{number:,}"
    return f"{shown} {noun if shown == '1' else plural or noun + 's'}"
