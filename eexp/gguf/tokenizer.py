"""Translate a tokenizer.json of byte-level BPE, with its chat template, to the tokenizer keys of a GGUF file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eexp.errors import EexpError
from eexp.gguf.file import read_json
from eexp.prompts.chat_template import render_chat

if TYPE_CHECKING:
    from gguf import GGUFWriter

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_MARKED_WORDS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# (how text is split into words, whether a word in the vocabulary skips the merges): llama.cpp's name for it.
_PRE_TOKENIZERS = {
    (("bytes", True), False): "gpt-2",
    (("digits", "bytes", True), False): "smollm",
    ((f"{_CONTRACTIONS}|{_WORDS}|" + r"\p{N}{1,3}|" + _REST, "bytes", False), True): "llama-bpe",
    ((f"{_CONTRACTIONS}|{_WORDS}|" + r"\p{N}{1,3}|" + _REST, "bytes", False), False): "dbrx",
    ((f"{_CONTRACTIONS}|{_WORDS}|" + r"\p{N}|" + _REST, "bytes", False), False): "qwen2",
    (
        (f"{_CONTRACTIONS}|{_MARKED_WORDS}|" + r"\p{N}|" + _REST.replace(r"\p{L}", r"\p{L}\p{M}", 1), "bytes", False),
        False,
    ): "qwen35",
}
# Two ways to write "every match is a word", for expressions that match everything.
_SPLITS = (("Isolated", False), ("Removed", True))


@dataclass(frozen=True)
class GgufVocabulary:
    """The tokenizer of a GGUF file."""

    pre: str  # llama.cpp's name of the pre-tokenizer
    tokens: list[str]  # text of each token
    types: list[int]  # type of each token: 1 normal, 3 control, 4 user-defined, 5 unused
    merges: list[str]  # BPE merges, two tokens with a blank between them
    ids: dict[str, int]  # token ids by name; the names are among bos, eos, eot, pad and unk
    add_bos: bool  # whether tokenizing a text puts bos before it
    add_eos: bool  # whether tokenizing a text puts eos after it
    chat_template: str | list[dict] | None  # the chat template, or several by name; None without one


def read_vocabulary(where: Path, size: int, config: dict) -> GgufVocabulary:
    """Read the tokenizer of a model directory.

    Args:
        size: Rows of the model's embedding.
        config: The model's config.json.

    Raises:
        EexpError: There is no tokenizer.json, or llama.cpp would tokenize otherwise than it says.
    """
    if not (where / "tokenizer.json").is_file():
        raise EexpError(f"{where}: no tokenizer.json; save the fast tokenizer with save_pretrained")
    tokenizer = read_json(where / "tokenizer.json")
    settings = read_json(where / "tokenizer_config.json", missing={})
    _refuse_unsupported_tokenizer(where, tokenizer)
    tokens, types = _read_tokens(where, tokenizer, size, _named(settings))
    by_text = {token: number for number, token in enumerate(tokens)}
    file = where / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
    ids = _read_special_ids(where, settings, config, tokenizer, by_text)
    special = {tokens[number] for number, kind in enumerate(types) if kind == 3}
    texts = {name: tokens[number] for name, number in ids.items()}
    end = _end_of_turn(template, special, texts)
    if end is not None and by_text[end] != ids.get("eos"):
        ids["eot"] = by_text[end]
    add_bos, add_eos = _adds_specials(settings, tokenizer, texts)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    pre = _find_pre_tokenizer(where, tokenizer)
    return GgufVocabulary(pre, tokens, types, merges, ids, add_bos, add_eos, template)


def _refuse_unsupported_tokenizer(where: Path, tokenizer: dict) -> None:
    model = tokenizer.get("model") or {}
    if model.get("byte_fallback") or model.get("type") == "Unigram":
        raise EexpError(f"{where}: its tokenizer is SentencePiece's; only byte-level BPE can be exported")
    if model.get("type") != "BPE":
        raise EexpError(f"{where}: its tokenizer is {model.get('type')}; only byte-level BPE can be exported")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("dropout"):
        raise EexpError(f"{where}: its BPE marks subwords or drops merges, which llama.cpp does not do")
    normalizer = (tokenizer.get("normalizer") or {"type": "NFC"})["type"]
    if normalizer != "NFC":
        raise EexpError(f"{where}: its tokenizer normalises text ({normalizer}), which llama.cpp does not do")
    for token in tokenizer.get("added_tokens", []):
        for flag in ("lstrip", "rstrip", "single_word"):
            if token.get(flag):
                raise EexpError(f"{where}: its token {token['content']!r} is {flag}, which llama.cpp does not do")


def _find_pre_tokenizer(where: Path, tokenizer: dict) -> str:
    node = tokenizer.get("pre_tokenizer") or {}
    steps = node.get("pretokenizers", []) if node.get("type") == "Sequence" else [node]
    key: list[object] = []
    for step in steps:
        kind = step.get("type")
        if kind == "ByteLevel" and not step.get("add_prefix_space"):
            key += ["bytes", step.get("use_regex", True)]
        elif kind == "Digits" and step.get("individual_digits"):
            key.append("digits")
        elif kind == "Split" and (step["behavior"], step["invert"]) in _SPLITS:
            key.append(step["pattern"].get("Regex"))
        else:
            key.append(kind)
    pre = _PRE_TOKENIZERS.get((tuple(key), bool(tokenizer["model"].get("ignore_merges"))))
    if pre is None:
        names = ", ".join(dict.fromkeys(_PRE_TOKENIZERS.values()))
        raise EexpError(f"{where}: its pre-tokenizer is none of those known to this exporter ({names})")
    return pre


def _named(settings: dict) -> set[str]:
    """Return the tokens that have a name (`eos_token`), all of which transformers treats as special."""
    values = [value for name, value in settings.items() if name.endswith("_token")]
    return {
        text for value in values if isinstance(text := value.get("content") if isinstance(value, dict) else value, str)
    }


def _read_tokens(where: Path, tokenizer: dict, size: int, named: set[str]) -> tuple[list[str], list[int]]:
    """Return the texts and the GGUF types of the embedding's `size` rows."""
    # Models pad their embedding to a round number of rows; llama.cpp requires a distinct text for each.
    tokens, types = [f"[PAD{number}]" for number in range(size)], [5] * size
    entries = [(number, text, 1) for text, number in tokenizer["model"]["vocab"].items()]
    added = tokenizer.get("added_tokens", [])
    entries += [(x["id"], x["content"], 3 if x.get("special") or x["content"] in named else 4) for x in added]
    for number, text, kind in entries:
        if number >= size:
            raise EexpError(f"{where}: token {text!r} is number {number}; the embedding has {size} rows")
        tokens[number], types[number] = text, kind
    if len(set(tokens)) != size:
        raise EexpError(f"{where}: the tokenizer has {Counter(tokens).most_common(1)[0][0]!r} twice")
    return tokens, types


def _read_special_ids(
    where: Path, settings: dict, config: dict, tokenizer: dict, by_text: dict[str, int]
) -> dict[str, int]:
    generation = read_json(where / "generation_config.json", missing={})
    ids = {}
    for name in ("bos", "eos", "pad", "unk"):
        text = settings.get(f"{name}_token")
        text = text.get("content") if isinstance(text, dict) else text
        if name == "unk":
            text = text or tokenizer["model"].get("unk_token")
        number = by_text.get(text) if isinstance(text, str) else None
        for source in (config, generation):
            if number is None:
                number = source.get(f"{name}_token_id")
                number = number[0] if isinstance(number, list) and number else number
        if isinstance(number, int) and 0 <= number < len(by_text):
            ids[name] = number
    return ids


def _adds_specials(settings: dict, tokenizer: dict, texts: dict[str, str]) -> tuple[bool, bool]:
    """Return whether tokenizing adds bos and eos; in transformers, an explicit setting overrides the post-processor."""
    if "add_bos_token" in settings or "add_eos_token" in settings:
        added = bool(settings.get("add_bos_token")), bool(settings.get("add_eos_token"))
    else:
        node = tokenizer.get("post_processor") or {}
        steps = node.get("processors", []) if node.get("type") == "Sequence" else [node]
        template = next((step["single"] for step in steps if step.get("type") == "TemplateProcessing"), [{}])
        ends = [part.get("SpecialToken", {}).get("id", 0) for part in (template[0], template[-1])]
        added = ends[0] == texts.get("bos"), ends[1] == texts.get("eos")
    return added[0] and "bos" in texts, added[1] and "eos" in texts


def _end_of_turn(template: str | list[dict] | None, special: set[str], texts: dict[str, str]) -> str | None:
    """Return the special token that the chat template puts after an assistant's message; None where it puts none."""
    if isinstance(template, list):
        template = next((x["template"] for x in template if x.get("name") == "default"), None)
    if not template:
        return None
    message = "assistant-message"
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": message}]
    try:
        text = render_chat(template, turns, {f"{name}_token": text for name, text in texts.items()}, to_answer=False)
    except EexpError:
        return None
    rest = text.rpartition(message)[2] if message in text else ""
    places = [(rest.find(token), -len(token), token) for token in special if token in rest]
    return min(places)[2] if places else None


def add_vocabulary(writer: GGUFWriter, vocabulary: GgufVocabulary) -> None:
    """Write the tokenizer keys."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    for name, number in vocabulary.ids.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)
