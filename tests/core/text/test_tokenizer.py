import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from core.errors import BaseModelInvalid
from core.text.tokenizer import TextTokenizer
from tests.harness.models.byte_tokenizer import END_OF_TEXT, TURN_END, TURN_START, VOCAB_SIZE, write_byte_tokenizer

same_tokenizer = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestFromFolder:
    def test_reads_what_the_files_say(self, tmp_path: Path) -> None:
        write_byte_tokenizer(tmp_path)
        tokenizer = TextTokenizer.from_folder(tmp_path)
        assert tokenizer.eos_id == END_OF_TEXT
        assert tokenizer.end_ids == {END_OF_TEXT, TURN_END}
        assert tokenizer.prefix_ids == ()
        assert tokenizer.vocab_size == VOCAB_SIZE
        assert tokenizer.control_texts == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
        assert tokenizer.digest == hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()

    def test_eos_comes_from_the_config_when_the_tokenizer_names_none(self, tmp_path: Path) -> None:
        write_byte_tokenizer(tmp_path)
        (tmp_path / "tokenizer_config.json").unlink()
        (tmp_path / "generation_config.json").unlink()
        (tmp_path / "config.json").write_text('{"eos_token_id": 258}')
        assert TextTokenizer.from_folder(tmp_path).eos_id == TURN_END

    def test_without_any_eos_it_is_refused(self, tmp_path: Path) -> None:
        write_byte_tokenizer(tmp_path)
        (tmp_path / "tokenizer_config.json").unlink()
        (tmp_path / "generation_config.json").unlink()
        with pytest.raises(BaseModelInvalid, match="names no eos_token"):
            TextTokenizer.from_folder(tmp_path)

    def test_bos_is_found_in_the_post_processor(self, tmp_path: Path) -> None:
        write_byte_tokenizer(tmp_path)
        backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        backend.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", TURN_START), ("<|im_end|>", TURN_END)]
        )
        backend.save(str(tmp_path / "tokenizer.json"))
        assert TextTokenizer.from_folder(tmp_path).prefix_ids == (TURN_START,)
        assert TextTokenizer.from_folder(tmp_path).encode("a") == [97]

    def test_add_bos_token_overrules_the_post_processor(self, tmp_path: Path) -> None:
        write_byte_tokenizer(tmp_path)
        edit_json(tmp_path / "tokenizer_config.json", add_bos_token=True, bos_token={"content": "<|im_start|>"})
        assert TextTokenizer.from_folder(tmp_path).prefix_ids == (TURN_START,)

    def test_a_saved_truncation_or_padding_is_not_applied(self, tmp_path: Path) -> None:
        write_byte_tokenizer(tmp_path)
        backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        backend.enable_truncation(4)
        backend.enable_padding(length=8, pad_id=END_OF_TEXT, pad_token="<|endoftext|>")
        backend.save(str(tmp_path / "tokenizer.json"))
        assert TextTokenizer.from_folder(tmp_path).encode("abcdef") == [97, 98, 99, 100, 101, 102]

    def test_the_template_file_goes_before_the_config(self, tmp_path: Path) -> None:
        write_byte_tokenizer(tmp_path)
        (tmp_path / "chat_template.jinja").write_text("from the file")
        assert TextTokenizer.from_folder(tmp_path).chat_template == "from the file"

    def test_of_several_named_templates_the_default_is_taken(self, tmp_path: Path) -> None:
        write_byte_tokenizer(tmp_path)
        named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
        edit_json(tmp_path / "tokenizer_config.json", chat_template=named)
        assert TextTokenizer.from_folder(tmp_path).chat_template == "d"

    def test_missing_and_malformed_files_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(BaseModelInvalid, match=r"no readable tokenizer\.json"):
            TextTokenizer.from_folder(tmp_path)
        (tmp_path / "tokenizer.json").write_text("{}")
        with pytest.raises(BaseModelInvalid, match=r"tokenizer\.json is malformed"):
            TextTokenizer.from_folder(tmp_path)
        write_byte_tokenizer(tmp_path)
        (tmp_path / "generation_config.json").write_text("{")
        with pytest.raises(BaseModelInvalid, match=r"generation_config\.json is not JSON"):
            TextTokenizer.from_folder(tmp_path)

    def test_a_tokenizer_that_puts_a_space_before_each_text_is_refused(self, tmp_path: Path) -> None:
        write_byte_tokenizer(tmp_path)
        backend = Tokenizer(models.BPE(vocab={"▁": 0, "a": 1, "b": 2, "<unk>": 3}, merges=[], unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        backend.decoder = decoders.Metaspace(prepend_scheme="always")
        backend.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
        backend.save(str(tmp_path / "tokenizer.json"))
        with pytest.raises(BaseModelInvalid, match="tokenised separately"):
            TextTokenizer.from_folder(tmp_path)


class TestBuiltInTokenizers:
    def test_phi2_adds_nothing_and_ends_with_end_of_text(self, phi2: TextTokenizer) -> None:
        assert (phi2.prefix_ids, phi2.eos_id) == ((), 50256)
        assert phi2.end_ids == {50256}
        assert phi2.encode("Instruct: hi\nOutput:") == [43993, 25, 23105, 198, 26410, 25]
        assert phi2.chat_template is None

    def test_smollm2_adds_nothing_and_ends_its_turn(self, smollm2: TextTokenizer) -> None:
        assert (smollm2.prefix_ids, smollm2.eos_id) == ((), 2)
        assert smollm2.encode("<|im_start|>user\n") == [1, 4093, 198]
        assert smollm2.chat_template is not None


class TestStream:
    @same_tokenizer
    @given(text=st.text())
    def test_pieces_of_a_text_join_to_the_text(self, any_tokenizer: TextTokenizer, text: str) -> None:
        ids = any_tokenizer.encode(text)
        stream = any_tokenizer.stream(skip_special=False)
        pieces = [stream.push(token_id) for token_id in ids]
        assert "".join(pieces) + stream.flush() == any_tokenizer.decode(ids, skip_special=False)

    @same_tokenizer
    @given(text=st.text())
    def test_no_piece_ends_inside_a_character(self, byte_tokenizer: TextTokenizer, text: str) -> None:
        stream = byte_tokenizer.stream()
        for length, token_id in enumerate(data := text.encode(), start=1):
            pieces_so_far = stream.push(token_id)
            if pieces_so_far and "\ufffd" not in text:
                assert data[:length].decode().endswith(pieces_so_far)

    @same_tokenizer
    @given(ids=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=30))
    def test_bytes_that_are_no_text_give_what_decoding_at_once_gives(
        self, byte_tokenizer: TextTokenizer, ids: list[int]
    ) -> None:
        stream = byte_tokenizer.stream()
        assert "".join([*map(stream.push, ids), stream.flush()]) == byte_tokenizer.decode(ids)

    @same_tokenizer
    @given(data=st.data())
    def test_any_ids_of_a_real_vocabulary_decode(self, any_tokenizer: TextTokenizer, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.integers(0, any_tokenizer.vocab_size - 1), max_size=30))
        stream = any_tokenizer.stream()
        assert "".join([*map(stream.push, ids), stream.flush()]) == any_tokenizer.decode(ids)

    def test_a_character_comes_with_its_last_byte(self, byte_tokenizer: TextTokenizer) -> None:
        stream = byte_tokenizer.stream()
        assert [stream.push(byte) for byte in "a🙂b".encode()] == ["a", "", "", "", "🙂", "b"]
        assert stream.flush() == ""

    def test_an_unfinished_character_is_marked_at_the_end(self, byte_tokenizer: TextTokenizer) -> None:
        stream = byte_tokenizer.stream()
        assert [stream.push(byte) for byte in b"a\xf0\x9f"] == ["a", "", ""]
        assert stream.flush() == "\ufffd"
        assert stream.flush() == ""

    def test_endless_broken_bytes_are_given_out_in_bounded_memory(self, byte_tokenizer: TextTokenizer) -> None:
        stream = byte_tokenizer.stream()
        text = "".join(stream.push(0x80) for _ in range(1000))
        assert text.count("\ufffd") > 900
        assert len(stream._window) <= 33

    def test_special_tokens_are_left_out_on_request(self, byte_tokenizer: TextTokenizer) -> None:
        for skip, text in ((True, "ab"), (False, "a<|im_end|>b")):
            stream = byte_tokenizer.stream(skip_special=skip)
            assert "".join(map(stream.push, [97, TURN_END, 98])) == text
