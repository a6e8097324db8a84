"""A tokenizer as GGUF has it: tokens, merges, the ids that begin and end texts, the chat template; written, and read.

Only byte-level vocabularies with a pre-tokenizer that GGUF has a name for (``core.text.pre_tokenizers``). What is read
back is held against the tokenizer itself by cutting texts with both.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from gguf import GGUFReader, GGUFWriter, Keys, TokenType
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from core.errors import ExportDiffers
from core.exports.possible import gguf_pre_tokenizer
from core.text.pre_tokenizers import PRE_TOKENIZERS
from core.text.tokenizer import TextTokenizer

_KIND: Final = "gpt2"  # GGUF's word for byte-level byte-pair merges
_ROLES: Final = {
    "bos_token": Keys.Tokenizer.BOS_ID,
    "unk_token": Keys.Tokenizer.UNK_ID,
    "pad_token": Keys.Tokenizer.PAD_ID,
}


def add_vocabulary(writer: GGUFWriter, tokenizer: TextTokenizer, rows: int) -> None:
    """Write a tokenizer's vocabulary.

    Args:
        rows: of the embedding; those that stand for no token get a name of their own.
    """
    written = json.loads(tokenizer.to_json())
    added = {token["id"]: token for token in written["added_tokens"]}
    texts = {token_id: text for text, token_id in written["model"]["vocab"].items()}
    texts |= {token_id: token["content"] for token_id, token in added.items()}
    pre_tokenizer = gguf_pre_tokenizer(tokenizer)
    assert pre_tokenizer is not None, "asked before the export was queued"
    writer.add_tokenizer_model(_KIND)
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list([texts.get(row, f"[PAD{row}]") for row in range(rows)])
    writer.add_token_types([_type_of(row, texts, added) for row in range(rows)])
    writer.add_token_merges([" ".join(pair) for pair in _pairs(written["model"]["merges"])])
    _add_special(writer, tokenizer, {token["content"]: token_id for token_id, token in added.items()})
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def _add_special(writer: GGUFWriter, tokenizer: TextTokenizer, ids: Mapping[str, int]) -> None:
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(bool(tokenizer.prefix_ids))
    writer.add_eos_token_id(tokenizer.eos_id)
    for role, key in _ROLES.items():
        text = tokenizer.special_tokens.get(role)
        if text is not None and text in ids:
            writer.add_uint32(key, ids[text])
    others = sorted(tokenizer.end_ids - {tokenizer.eos_id})
    if others:
        writer.add_eot_token_id(others[0])


def _type_of(row: int, texts: Mapping[int, str], added: Mapping[int, Mapping[str, Any]]) -> TokenType:
    if row in added:
        return TokenType.CONTROL if added[row]["special"] else TokenType.USER_DEFINED
    return TokenType.NORMAL if row in texts else TokenType.UNUSED


def _pairs(merges: Iterable[str | list[str]]) -> Iterable[list[str]]:
    """Give merges as pairs, however tokenizer.json has them."""
    return (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)


def require_same_vocabulary(reader: GGUFReader, tokenizer: TextTokenizer, texts: Iterable[str]) -> None:
    """Hold what a file says of the vocabulary against the tokenizer that the adapter was trained with.

    Args:
        texts: that both are to cut alike.

    Raises:
        ExportDiffers: it begins or ends texts otherwise, or cuts one otherwise.
    """
    said = {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}
    ends = {said.get(Keys.Tokenizer.EOS_ID), said.get(Keys.Tokenizer.EOT_ID)} - {None}
    if said.get(Keys.Tokenizer.EOS_ID) != tokenizer.eos_id or not ends <= tokenizer.end_ids:
        raise ExportDiffers(
            f"the file ends answers with token {said.get(Keys.Tokenizer.EOS_ID)}, and the adapter was trained to end "
            f"them with {tokenizer.eos_id} {tokenizer.token_text(tokenizer.eos_id)!r}"
        )
    if said.get(Keys.Tokenizer.ADD_BOS, False) != bool(tokenizer.prefix_ids):
        raise ExportDiffers("the file begins texts otherwise than the adapter was trained")
    if said.get(Keys.Tokenizer.CHAT_TEMPLATE) != tokenizer.chat_template:
        raise ExportDiffers("the file has another chat template than the base model")
    rebuilt = _rebuild(said)
    for text in texts:
        if rebuilt.encode(text, add_special_tokens=False).ids != tokenizer.encode(text):
            raise ExportDiffers(f"the file's vocabulary cuts {text[:40]!r} into other tokens than the base model's")


def _rebuild(said: Mapping[str, Any]) -> Tokenizer:
    """Make a tokenizer of what a file says, as its reader would."""
    tokens, types = said[Keys.Tokenizer.LIST], said[Keys.Tokenizer.TOKEN_TYPE]
    merges = [tuple(merge.split(" ")) for merge in said.get(Keys.Tokenizer.MERGES, ())]
    normal = {
        text: row for row, (text, type_) in enumerate(zip(tokens, types, strict=True)) if type_ == TokenType.NORMAL
    }
    rebuilt = Tokenizer(BPE(vocab=_with_rows(normal, tokens), merges=merges))
    rebuilt.pre_tokenizer = PRE_TOKENIZERS[said[Keys.Tokenizer.PRE]]
    rebuilt.add_tokens(
        [
            AddedToken(text, special=type_ == TokenType.CONTROL, normalized=False)
            for text, type_ in zip(tokens, types, strict=True)
            if type_ in (TokenType.CONTROL, TokenType.USER_DEFINED)
        ]
    )
    return rebuilt


def _with_rows(normal: dict[str, int], tokens: list[str]) -> dict[str, int]:
    """Give each token its row; an added one has its own from the vocabulary too."""
    return {text: row for row, text in enumerate(tokens)} | normal
