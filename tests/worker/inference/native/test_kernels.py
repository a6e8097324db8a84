"""Each kernel against torch, at widths and ranks that no register divides.

float32 differs by the order of its sums. bfloat16 keeps 8 bits: a sum in another order may round to the neighbour,
2**-8 away, and what is rounded twice may do so twice.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention, silu
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from worker.inference.native.kernels import Kernels
from worker.inference.native.rows import AttentionRows, LoraRows, LoraSite

RELATIVE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
DTYPES = pytest.mark.parametrize("dtype", list(RELATIVE))
WIDTHS = pytest.mark.parametrize(("rows", "width"), [(1, 576), (2, 5), (3, 83), (9, 64), (8, 2563)])


@pytest.fixture(autouse=True)
def numbers() -> Iterator[None]:
    """The same random numbers for each test, and no gradients."""
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def assert_like(got: Tensor, wanted: Tensor) -> None:
    """Compare within what the dtype can keep; a sum's error is as large as its terms, not as the sum."""
    relative = RELATIVE[got.dtype]
    size = wanted.abs().max().item()
    torch.testing.assert_close(got.float(), wanted.float(), rtol=relative, atol=relative * size)


def int32(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


@DTYPES
@WIDTHS
class TestNorms:
    def test_rms_norm_is_that_of_transformers(
        self, kernels: Kernels, dtype: torch.dtype, rows: int, width: int
    ) -> None:
        x, norm = torch.randn(rows, width).to(dtype), LlamaRMSNorm(width, 1e-5).to(dtype)
        norm.weight.copy_(torch.randn(width))
        kernels.rms_norm(out := torch.empty_like(x), x, norm.weight, 1e-5)
        assert_like(out, norm(x))

    def test_layer_norm_is_that_of_torch(self, kernels: Kernels, dtype: torch.dtype, rows: int, width: int) -> None:
        x, norm = (torch.randn(rows, width) + 3).to(dtype), nn.LayerNorm(width, 1e-5, dtype=dtype)
        norm.weight.copy_(torch.randn(width))
        norm.bias.copy_(torch.randn(width))
        kernels.layer_norm(out := torch.empty_like(x), x, norm.weight, norm.bias, 1e-5)
        assert_like(out, norm(x))


@DTYPES
@WIDTHS
class TestActivations:
    def test_gated_silu(self, kernels: Kernels, dtype: torch.dtype, rows: int, width: int) -> None:
        gate_up = (5 * torch.randn(rows, 2 * width)).to(dtype)
        kernels.gated_silu(out := torch.empty(rows, width, dtype=dtype), gate_up)
        gate, up = gate_up.chunk(2, dim=1)
        assert_like(out, silu(gate) * up)

    def test_gelu_tanh_in_place(self, kernels: Kernels, dtype: torch.dtype, rows: int, width: int) -> None:
        x = (5 * torch.randn(rows, width)).to(dtype)
        wanted = gelu(x, approximate="tanh")
        kernels.gelu_tanh(x, x)
        assert_like(x, wanted)


@DTYPES
def test_large_numbers_and_none_stay_what_they_are(kernels: Kernels, dtype: torch.dtype) -> None:
    x = torch.tensor([[-1e4, -100.0, 0.0, 100.0, 1e4, float("nan"), float("inf")]], dtype=dtype)
    kernels.gelu_tanh(out := torch.empty_like(x), x)
    torch.testing.assert_close(out[0, :5], torch.tensor([0, 0, 0, 100, 1e4], dtype=dtype))
    assert out[0, 5].isnan()
    assert out[0, 6].isinf()


@DTYPES
@pytest.mark.usefixtures("threads")
class TestDecodeAttention:
    @pytest.mark.parametrize(
        ("query_heads", "kv_heads", "head_dim", "rotary", "places", "rows"),
        [
            (9, 3, 64, 64, 128, 8),  # SmolLM2
            (4, 4, 80, 32, 256, 2),  # Phi-2: a part of each head is rotated, each kv head has one query head
            (7, 1, 72, 10, 131, 3),  # more query heads than one pass takes, an odd last arena
            (2, 1, 20, 20, 9, 1),
            (6, 3, 16, 8, 300, 9),
        ],
    )
    def test_it_rotates_caches_and_attends(
        self,
        kernels: Kernels,
        dtype: torch.dtype,
        query_heads: int,
        kv_heads: int,
        head_dim: int,
        rotary: int,
        places: int,
        rows: int,
    ) -> None:
        keys = torch.randn(rows + 2, kv_heads, head_dim, places).to(dtype)
        values = torch.randn(rows + 2, kv_heads, places, head_dim).to(dtype)
        padded = torch.randn(rows, (query_heads + 2 * kv_heads) * head_dim + 3).to(dtype)  # rows may lie apart
        qkv = padded[:, :-3]
        angles = torch.randn(rows, rotary // 2).repeat(1, 2)
        slots = int32(*reversed(range(1, rows + 1)))
        lengths = int32(*(row * (places - 1) // max(rows - 1, 1) for row in range(rows)))  # an empty and a full slot
        wanted_keys, wanted_values = keys.clone(), values.clone()
        wanted = torch.cat(
            [
                _attend(qkv[row], angles[row], wanted_keys[slots[row]], wanted_values[slots[row]], int(lengths[row]))
                for row in range(rows)
            ]
        )
        out = torch.empty(rows, query_heads * head_dim, dtype=dtype)
        attention_rows = AttentionRows(angles.cos(), angles.sin(), slots, lengths)
        kernels.decode_attention(out, padded, keys, values, attention_rows, head_dim**-0.5)
        assert_like(out, wanted)
        assert_like(keys, wanted_keys)
        assert values.equal(wanted_values)

    def test_what_lies_behind_a_row_is_not_seen(self, kernels: Kernels, dtype: torch.dtype) -> None:
        keys, values = torch.randn(1, 1, 16, 128).to(dtype), torch.randn(1, 1, 128, 16).to(dtype)
        keys[..., 21:], values[:, :, 21:] = float("nan"), float("nan")
        qkv, angles = torch.randn(1, 48).to(dtype), torch.randn(1, 16)
        attention_rows = AttentionRows(angles.cos(), angles.sin(), int32(0), int32(20))
        kernels.decode_attention(out := torch.empty(1, 16, dtype=dtype), qkv, keys, values, attention_rows, 0.25)
        assert out.isfinite().all()


@DTYPES
@pytest.mark.usefixtures("threads")
class TestChunkAttention:
    @pytest.mark.parametrize(
        ("query_heads", "kv_heads", "head_dim", "rotary", "places", "past", "count"),
        [
            (9, 3, 64, 64, 128, 0, 100),  # SmolLM2
            (4, 4, 80, 32, 256, 30, 33),  # Phi-2
            (7, 1, 72, 10, 131, 100, 31),  # up to the slot's last place
            (2, 1, 20, 20, 9, 0, 9),
            (6, 3, 16, 8, 300, 250, 1),
        ],
    )
    def test_each_token_attends_as_if_it_came_alone(
        self,
        kernels: Kernels,
        dtype: torch.dtype,
        query_heads: int,
        kv_heads: int,
        head_dim: int,
        rotary: int,
        places: int,
        past: int,
        count: int,
    ) -> None:
        keys = torch.randn(kv_heads, head_dim, places).to(dtype)
        values = torch.randn(kv_heads, places, head_dim).to(dtype)
        padded = torch.randn(count, (query_heads + 2 * kv_heads) * head_dim + 3).to(dtype)  # rows may lie apart
        qkv, angles = padded[:, :-3], torch.randn(count, rotary // 2).repeat(1, 2)
        wanted_keys, wanted_values = keys.clone(), values.clone()
        wanted = torch.cat([_attend(qkv[n], angles[n], wanted_keys, wanted_values, past + n) for n in range(count)])
        out = torch.empty(count, query_heads * head_dim, dtype=dtype)
        kernels.chunk_attention(out, padded, keys, values, angles.cos(), angles.sin(), past, head_dim**-0.5)
        assert_like(out, wanted)
        assert_like(keys, wanted_keys)
        assert values.equal(wanted_values)

    def test_what_lies_behind_is_not_seen(self, kernels: Kernels, dtype: torch.dtype) -> None:
        keys, values = torch.randn(1, 16, 128).to(dtype), torch.randn(1, 128, 16).to(dtype)
        keys[..., 23:], values[:, 23:] = float("nan"), float("nan")
        qkv, angles = torch.randn(3, 48).to(dtype), torch.randn(3, 16)
        out = torch.empty(3, 16, dtype=dtype)
        kernels.chunk_attention(out, qkv, keys, values, angles.cos(), angles.sin(), 20, 0.25)
        assert out.isfinite().all()


def _attend(qkv: Tensor, angles_R: Tensor, keys_GDP: Tensor, values_GPD: Tensor, length: int) -> Tensor:
    """Give one row's (1, H·D) in float32, of keys rounded to storage, and write its key and value into the cache."""
    kv_heads, head_dim, _ = keys_GDP.shape
    heads = qkv.float().view(-1, head_dim)
    q_HD, k_GD, v_GD = heads.split([heads.shape[0] - 2 * kv_heads, kv_heads, kv_heads])
    keys_GDP[..., length] = _rotated(k_GD, angles_R)
    values_GPD[:, length] = v_GD
    return scaled_dot_product_attention(
        _rotated(q_HD, angles_R).to(qkv.dtype).float()[None, :, None],
        keys_GDP[None, ..., : length + 1].transpose(2, 3).float(),
        values_GPD[None, :, : length + 1].float(),
        enable_gqa=True,
    ).view(1, -1)


def _rotated(heads: Tensor, angles_R: Tensor) -> Tensor:
    rotary = angles_R.shape[0]
    part, rest = heads[:, :rotary], heads[:, rotary:]
    low, high = part.chunk(2, dim=1)
    return torch.cat([part * angles_R.cos() + torch.cat([-high, low], dim=1) * angles_R.sin(), rest], dim=1)


@DTYPES
@pytest.mark.usefixtures("threads")
class TestLora:
    @pytest.mark.parametrize(
        ("inputs", "outputs", "begins", "ranks"),
        [
            (576, (576, 192, 192), (0, 16, 32, 48, 64, 80, 96, 112), (16,) * 8),  # eight adapters
            (576, (1536, 1536), (0, 0, 0, 0, 0, 0, 0), (64,) * 7),  # one, of more rows than one pass takes
            (83, (37, 5), (8, 0, 8, 0, 9, 8, 0, 0, 8), (1, 8, 1, 0, 3, 1, 8, 8, 1)),  # mixed, and one of the base model
            (1536, (2563,), (5,), (33,)),
            (2, (1,), (0, 1), (1, 2)),
            (
                576,
                (576, 192, 192),
                (8,) * 40,
                (16,) * 40,
            ),  # a part of a prompt: so many rows of one that it is laid out
            (84, (37, 5), (3,) * 17, (5,) * 17),
            (42, (70,), (0,) * 33, (33,) * 33),
            (42, (70,), (0,) * 16, (0,) * 16),
        ],
    )
    def test_it_adds_each_rows_delta(
        self,
        kernels: Kernels,
        dtype: torch.dtype,
        inputs: int,
        outputs: tuple[int, ...],
        begins: tuple[int, ...],
        ranks: tuple[int, ...],
    ) -> None:
        columns, rows = 128, len(begins)
        a = torch.randn(len(outputs), columns, inputs).to(dtype)
        b = [torch.randn(columns, width).to(dtype) for width in outputs]
        offsets = [3 + sum(outputs[:section]) for section in range(len(outputs))]
        x, y = torch.randn(rows, inputs + 1).to(dtype)[:, :-1], torch.randn(rows, sum(outputs) + 7).to(dtype)
        wanted = y.float()
        for row, (begin, rank) in enumerate(zip(begins, ranks, strict=True)):
            for section, offset in enumerate(offsets):
                h = (x[row].float() @ a[section, begin : begin + rank].float().T).to(dtype)
                part = wanted[row, offset : offset + outputs[section]]
                part += h.float() @ b[section][begin : begin + rank].float()
        before = y.clone()
        kernels.lora(y, x, LoraSite(a, b, offsets), LoraRows(int32(*begins), int32(*ranks)[None]))
        assert_like(y, wanted)
        assert y[:, :3].equal(before[:, :3])
        assert y[:, -4:].equal(before[:, -4:])
        for row, rank in enumerate(ranks):
            assert rank > 0 or y[row].equal(before[row])

    def test_sections_may_differ_in_rank(self, kernels: Kernels, dtype: torch.dtype) -> None:
        a, b = torch.randn(2, 8, 32).to(dtype), [torch.randn(8, 16).to(dtype), torch.randn(8, 16).to(dtype)]
        x, y = torch.randn(2, 32).to(dtype), torch.zeros(2, 32, dtype=dtype)
        rows = LoraRows(int32(0, 4), torch.tensor([[4, 0], [0, 2]], dtype=torch.int32))
        kernels.lora(y, x, LoraSite(a, b, [0, 16]), rows)
        wanted = torch.zeros(2, 32)
        wanted[0, :16] = (x[0].float() @ a[0, :4].float().T).to(dtype).float() @ b[0][:4].float()
        wanted[1, 16:] = (x[1].float() @ a[1, 4:6].float().T).to(dtype).float() @ b[1][4:6].float()
        assert_like(y, wanted)

    def test_what_is_written_into_the_bank_later_counts(self, kernels: Kernels, dtype: torch.dtype) -> None:
        a, b = torch.zeros(1, 4, 16, dtype=dtype), torch.ones(4, 16, dtype=dtype)
        site, rows = LoraSite(a, [b], [0]), LoraRows(int32(0), int32(4)[None])
        a += 1
        kernels.lora(y := torch.zeros(1, 16, dtype=dtype), torch.ones(1, 16, dtype=dtype), site, rows)
        assert y.equal(torch.full((1, 16), 64.0, dtype=dtype))
