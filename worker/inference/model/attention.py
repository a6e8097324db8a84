"""Attention of one step's tokens over the slots' keys and values, in plain torch.

Two products and a softmax: torch's own attention kernel for CPUs takes several times as long for a single query in
bfloat16. Axis letters: B tokens of a round, T tokens of a chunk, M query heads of a key-value head, else as in
``forward``.
"""

from typing import Final

import torch
from torch import Tensor

from worker.inference.model.layout import Chunk, DecodeRows, Step

TILE_ROWS: Final = 64  # queries at a time: the scores of more would not stay in the cache between operations


def attend(
    query_NHD: Tensor,
    key_NGD: Tensor,
    value_NGD: Tensor,
    step: Step,
    layer: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Put the new keys and values into the slots, and give what every token reads there: (N, H, D).

    Args:
        window: how many of the last tokens a token sees, itself among them; None is all.
        softcap: scores are squeezed into its negative and positive by tanh, as Gemma 2 does; None leaves them.
    """
    if len(step.decode) == 1 and not step.chunks:
        return attend_decode(query_NHD, key_NGD, value_NGD, step.decode[0], layer, scale, window, softcap)
    result_NHD = torch.empty_like(query_NHD)
    for rows in step.decode:
        tokens = slice(rows.begin, rows.end)
        result_NHD[tokens] = attend_decode(
            query_NHD[tokens], key_NGD[tokens], value_NGD[tokens], rows, layer, scale, window, softcap
        )
    for chunk in step.chunks:
        tokens = slice(chunk.begin, chunk.end)
        result_NHD[tokens] = attend_chunk(
            query_NHD[tokens], key_NGD[tokens], value_NGD[tokens], chunk, layer, scale, window, softcap
        )
    return result_NHD


def attend_decode(
    query_BHD: Tensor,
    key_BGD: Tensor,
    value_BGD: Tensor,
    rows: DecodeRows,
    layer: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """As `attend`, for one round, all at once: (B, H, D)."""
    keys_SGDL, values_SGLD = rows.arena.keys[layer], rows.arena.values[layer]
    keys_SGDL[rows.places_B, :, :, rows.positions_B] = key_BGD
    values_SGLD[rows.places_B, :, rows.positions_B] = value_BGD
    places, kv_heads, head_dim = rows.n_places, key_BGD.shape[1], key_BGD.shape[2]
    query = query_BHD
    if not rows.is_dense:
        query = query.new_zeros(places, *query.shape[1:])
        query[rows.places_B] = query_BHD
    query_FMD = query.reshape(places * kv_heads, -1, head_dim)  # F: places times key-value heads
    keys_FDL = keys_SGDL[:places, :, :, : rows.width].flatten(0, 1)
    hidden_PL = rows.hidden_PL if window is None else rows.hidden_PL + _outside_window(rows, window)
    hidden_FML = _spread(hidden_PL, kv_heads, query_FMD)
    if softcap is None:
        scores_FML = torch.baddbmm(hidden_FML, query_FMD, keys_FDL, alpha=scale)
    else:
        scores_FML = torch.tanh(torch.bmm(query_FMD, keys_FDL) * (scale / softcap)) * softcap + hidden_FML
    shares = torch.softmax(scores_FML, dim=2, dtype=torch.float32).to(value_BGD.dtype)
    result = torch.bmm(shares, values_SGLD[:places, :, : rows.width].flatten(0, 1)).view(places, -1, head_dim)
    return result if rows.is_dense else result[rows.places_B]


def _spread(hidden_PL: Tensor, kv_heads: int, query_FMD: Tensor) -> Tensor:
    places, width = hidden_PL.shape
    hidden_PGML = hidden_PL.to(query_FMD.dtype)[:, None, None].expand(places, kv_heads, query_FMD.shape[1], width)
    return hidden_PGML.reshape(-1, query_FMD.shape[1], width)


def _outside_window(rows: DecodeRows, window: int) -> Tensor:
    """Give (places, L): -inf for tokens that are too old for the place's row, 0 elsewhere."""
    first_P = torch.zeros(rows.n_places, dtype=torch.long, device=rows.places_B.device)
    first_P[rows.places_B] = rows.positions_B - window + 1
    tokens_L = torch.arange(rows.width, device=first_P.device)
    return rows.hidden_PL.new_zeros(rows.hidden_PL.shape).masked_fill_(tokens_L < first_P[:, None], float("-inf"))


def attend_chunk(
    query_THD: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    chunk: Chunk,
    layer: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """As `attend`, for one long row: (T, H, D)."""
    arena, place = chunk.slot.arena, chunk.slot.place
    end = chunk.past + len(query_THD)
    keys_GDL, values_GLD = arena.keys[layer][place, :, :, :end], arena.values[layer][place, :, :end]
    keys_GDL[:, :, chunk.past :] = key_TGD.permute(1, 2, 0)
    values_GLD[:, chunk.past :] = value_TGD.transpose(0, 1)
    _, kv_heads, head_dim = key_TGD.shape
    query_GMTD = (query_THD * scale).unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3)
    result_THD = torch.empty_like(query_THD)
    for first in range(0, len(query_THD), TILE_ROWS):
        tile = query_GMTD[:, :, first : first + TILE_ROWS]
        rows, seen = tile.shape[2], chunk.past + first + tile.shape[2]
        scores = torch.bmm(tile.reshape(kv_heads, -1, head_dim), keys_GDL[:, :, :seen]).float()
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores.view(kv_heads, -1, rows, seen).add_(_hidden(rows, seen, window, scores.device))
        shares = torch.softmax(scores, dim=2).to(value_TGD.dtype)
        result = torch.bmm(shares, values_GLD[:, :seen]).view(kv_heads, -1, rows, head_dim)
        result_THD[first : first + rows] = result.permute(2, 0, 1, 3).flatten(1, 2)
    return result_THD


def _hidden(rows: int, seen: int, window: int | None, device: torch.device) -> Tensor:
    """Give (rows, seen): -inf where a query, the last of which sees all keys, does not see a key; 0 elsewhere."""
    last_T1 = torch.arange(seen - rows, seen, device=device)[:, None]
    keys_L = torch.arange(seen, device=device)
    hidden = keys_L > last_T1
    if window is not None:
        hidden |= keys_L <= last_T1 - window
    return torch.zeros(rows, seen, device=device).masked_fill_(hidden, float("-inf"))
