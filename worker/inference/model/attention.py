"""Attention of one step's tokens over the slots' keys and values, in plain torch.

Two products and a softmax: torch's own attention kernel for CPUs takes several times as long for a single query in
bfloat16. Beside the usual axis letters: J query heads of one key-value head, F slots times key-value heads; B are
the rows of a round, each with one token, T the tokens of a chunk.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from worker.inference.model.step_layout import DecodeRows, PrefillChunk, Step

TILE_ROWS: Final = 64  # queries at a time: the scores of more would not stay in the cache between operations


@dataclass(frozen=True)
class Scoring:
    """How a layer's queries score the keys.

    Attributes:
        scale: what the products are multiplied by.
        window: how many of the last tokens a token sees, itself among them; None is all.
        softcap: scores are squeezed into its negative and positive by tanh, as Gemma 2 does; None leaves them.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None


def attend(query_NAD: Tensor, key_NGD: Tensor, value_NGD: Tensor, step: Step, layer: int, scoring: Scoring) -> Tensor:
    """Put the new keys and values into the slots, and give what every token reads there: (N, A, D)."""
    if len(step.decode) == 1 and not step.chunks:
        return attend_decode(query_NAD, key_NGD, value_NGD, step.decode[0], layer, scoring)
    result_NAD = torch.empty_like(query_NAD)
    for rows in step.decode:
        tokens = slice(rows.begin, rows.end)
        result_NAD[tokens] = attend_decode(query_NAD[tokens], key_NGD[tokens], value_NGD[tokens], rows, layer, scoring)
    for chunk in step.chunks:
        tokens = slice(chunk.begin, chunk.end)
        result_NAD[tokens] = attend_chunk(query_NAD[tokens], key_NGD[tokens], value_NGD[tokens], chunk, layer, scoring)
    return result_NAD


def attend_decode(
    query_BAD: Tensor, key_BGD: Tensor, value_BGD: Tensor, rows: DecodeRows, layer: int, scoring: Scoring
) -> Tensor:
    """As `attend`, for one round, all at once: (B, A, D)."""
    keys_SGDP, values_SGPD = rows.arena.keys[layer], rows.arena.values[layer]
    keys_SGDP[rows.slots_B, :, :, rows.positions_B] = key_BGD
    values_SGPD[rows.slots_B, :, rows.positions_B] = value_BGD
    slots, kv_heads, head_dim = rows.n_slots, key_BGD.shape[1], key_BGD.shape[2]
    query = query_BAD
    if not rows.is_dense:
        query = query.new_zeros(slots, *query.shape[1:])
        query[rows.slots_B] = query_BAD
    query_FJD = query.reshape(slots * kv_heads, -1, head_dim)
    keys_FDP = keys_SGDP[:slots, :, :, : rows.width].flatten(0, 1)
    mask_SP = rows.mask_SP if scoring.window is None else rows.mask_SP + _window_mask(rows, scoring.window)
    mask_FJP = _expand_mask(mask_SP, kv_heads, query_FJD)
    if (softcap := scoring.softcap) is None:
        scores_FJP = torch.baddbmm(mask_FJP, query_FJD, keys_FDP, alpha=scoring.scale)
    else:
        scores_FJP = torch.tanh(torch.bmm(query_FJD, keys_FDP) * (scoring.scale / softcap)) * softcap + mask_FJP
    probs = torch.softmax(scores_FJP, dim=2, dtype=torch.float32).to(value_BGD.dtype)
    result = torch.bmm(probs, values_SGPD[:slots, :, : rows.width].flatten(0, 1)).view(slots, -1, head_dim)
    return result if rows.is_dense else result[rows.slots_B]


def _expand_mask(mask_SP: Tensor, kv_heads: int, query_FJD: Tensor) -> Tensor:
    slots, width = mask_SP.shape
    mask_SGJP = mask_SP.to(query_FJD.dtype)[:, None, None].expand(slots, kv_heads, query_FJD.shape[1], width)
    return mask_SGJP.reshape(-1, query_FJD.shape[1], width)


def _window_mask(rows: DecodeRows, window: int) -> Tensor:
    """Give mask_SP: -inf at positions that are too old for the slot's row, 0 elsewhere."""
    first_S = torch.zeros(rows.n_slots, dtype=torch.long, device=rows.slots_B.device)
    first_S[rows.slots_B] = rows.positions_B - window + 1
    positions_P = torch.arange(rows.width, device=first_S.device)
    return rows.mask_SP.new_zeros(rows.mask_SP.shape).masked_fill_(positions_P < first_S[:, None], float("-inf"))


def attend_chunk(
    query_TAD: Tensor, key_TGD: Tensor, value_TGD: Tensor, chunk: PrefillChunk, layer: int, scoring: Scoring
) -> Tensor:
    """As `attend`, for one long row: (T, A, D)."""
    arena, place = chunk.slot.arena, chunk.slot.place
    end = chunk.past + len(query_TAD)
    keys_GDP, values_GPD = arena.keys[layer][place, :, :, :end], arena.values[layer][place, :, :end]
    keys_GDP[:, :, chunk.past :] = key_TGD.permute(1, 2, 0)
    values_GPD[:, chunk.past :] = value_TGD.transpose(0, 1)
    _, kv_heads, head_dim = key_TGD.shape
    query_GJTD = (query_TAD * scoring.scale).unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3)
    result_TAD = torch.empty_like(query_TAD)
    for first in range(0, len(query_TAD), TILE_ROWS):
        tile = query_GJTD[:, :, first : first + TILE_ROWS]
        rows, seen = tile.shape[2], chunk.past + first + tile.shape[2]
        scores = torch.bmm(tile.reshape(kv_heads, -1, head_dim), keys_GDP[:, :, :seen]).float()
        if (softcap := scoring.softcap) is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores.view(kv_heads, -1, rows, seen).add_(_causal_mask(rows, seen, scoring.window, scores.device))
        probs = torch.softmax(scores, dim=2).to(value_TGD.dtype)
        result = torch.bmm(probs, values_GPD[:, :seen]).view(kv_heads, -1, rows, head_dim)
        result_TAD[first : first + rows] = result.permute(2, 0, 1, 3).flatten(1, 2)
    return result_TAD


def _causal_mask(rows: int, seen: int, window: int | None, device: torch.device) -> Tensor:
    """Give (rows, seen): -inf where a query, the last of which sees all keys, does not see a key; 0 elsewhere."""
    last_T1 = torch.arange(seen - rows, seen, device=device)[:, None]
    keys_P = torch.arange(seen, device=device)
    is_masked_TP = keys_P > last_T1
    if window is not None:
        is_masked_TP |= keys_P <= last_T1 - window
    return torch.zeros(rows, seen, device=device).masked_fill_(is_masked_TP, float("-inf"))
