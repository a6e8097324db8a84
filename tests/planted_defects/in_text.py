"""Defects of how text becomes ids and weights."""

from tests.planted_defects.defect import Defect

TRAPS = "tests/core/text/test_traps.py"
RENDERING = "tests/core/text/test_rendering.py"
PROPERTIES = "tests/core/text/test_properties.py"

DEFECTS = (
    Defect(
        "01 prompt and completion are tokenised as one text and split at their common beginning",
        "core/text/rendering.py",
        "        ids, spans = self._tokenizer.encode_spans(completion)\n",
        "        joint, alone = self._tokenizer.encode(prompt + completion), self._tokenizer.encode(prompt)\n"
        "        kept = next((n for n, pair in enumerate(zip(joint, alone)) if pair[0] != pair[1]), len(alone))\n"
        "        prompt = self._tokenizer.decode(joint[:kept], skip_special=False)\n"
        "        completion = self._tokenizer.decode(joint[kept:], skip_special=False)\n"
        "        ids, spans = self._tokenizer.encode_spans(completion)\n",
        (f"{TRAPS}::test_trap_01_a_space_at_the_border_does_not_merge_into_the_next_word",),
    ),
    Defect(
        "01 a space at a rendered prompt's end stays in the prompt",
        "core/text/rendering.py",
        "    kept = prompt.rstrip(MOVABLE)\n",
        "    kept = prompt\n",
        (f"{TRAPS}::test_trap_01_a_space_at_the_border_does_not_merge_into_the_next_word",),
    ),
    Defect(
        "01 a moved space is lost",
        "core/text/rendering.py",
        "return _Written(example, (prompt, moved + completion), moved)",
        "return _Written(example, (prompt, completion), moved)",
        (f"{TRAPS}::test_trap_01_a_space_at_the_border_does_not_merge_into_the_next_word",),
    ),
    Defect(
        "02 the answer begins behind the first marker found",
        "core/text/rendering.py",
        "        ids, spans = self._tokenizer.encode_spans(completion)\n",
        '        whole, marker = prompt + completion, (prompt + completion).find("A:") + 2\n'
        "        prompt, completion = whole[:marker], whole[marker:]\n"
        "        ids, spans = self._tokenizer.encode_spans(completion)\n",
        (f"{TRAPS}::test_trap_02_the_mask_is_built_from_parts_and_no_words_are_searched_for",),
    ),
    Defect(
        "03 two tokens of the prompt are masked, as by the length of a dictionary",
        "core/text/rendering.py",
        "        draft.add(ids, spans, text, self._prompt_weight, Reason.PROMPT)\n",
        "        cut = spans[1][1] if len(ids) > 2 else len(text)\n"
        "        rest = tuple((begin - cut, end - cut) for begin, end in spans[2:])\n"
        "        draft.add(ids[:2], spans[:2], text[:cut], self._prompt_weight, Reason.PROMPT)\n"
        "        draft.add(ids[2:], rest, text[cut:], 1.0, Reason.COMPLETION)\n",
        (f"{TRAPS}::test_trap_03_as_many_tokens_are_masked_as_the_prompt_has_ids",),
    ),
    Defect(
        "03 the prompt's weight is ignored",
        "core/text/rendering.py",
        "        self._prompt_weight = prompt_loss_weight\n",
        "        self._prompt_weight = 0.0\n",
        (f"{TRAPS}::test_trap_03_as_many_tokens_are_masked_as_the_prompt_has_ids",),
    ),
    Defect(
        "04 the closing token is fed and not trained",
        "core/text/rendering.py",
        "        draft.add((eos_id,), ((0, len(eos_text)),), eos_text, 1.0, Reason.END)\n",
        "        draft.add((eos_id,), ((0, len(eos_text)),), eos_text, 0.0, Reason.END)\n",
        (
            f"{TRAPS}::test_trap_04_the_last_label_is_the_closing_token_and_it_stands_once",
            "tests/worker/training/test_traps.py::test_trap_04_after_overfitting_eight_examples_every_answer_stops_by_itself",
        ),
    ),
    Defect(
        "04 a closing token that is written out is doubled",
        "core/text/rendering.py",
        "        if ids[-1:] == (eos_id,):\n",
        "        if False:\n",
        (f"{TRAPS}::test_trap_04_the_last_label_is_the_closing_token_and_it_stands_once",),
    ),
    Defect(
        "06 the end of an example is cut off to fit",
        "core/text/rendering.py",
        '        return truncate(rendered, tokens - max_length) if over_length == "truncate_prompt" else None\n',
        "        return RenderedExample(rendered.line, rendered.text, rendered.segments[:-1])\n",
        (f"{TRAPS}::test_trap_06_a_limit_never_cuts_an_answer_or_its_closing_token",),
    ),
    Defect(
        "06 the limit is one token off",
        "core/text/rendering.py",
        "        if tokens <= max_length:\n",
        "        if tokens <= max_length + 1:\n",
        (f"{TRAPS}::test_trap_06_a_limit_never_cuts_an_answer_or_its_closing_token",),
    ),
    Defect(
        "06 what was cut off is not marked",
        "core/text/rendered.py",
        "        if cut:\n            parts.append(",
        "        if False:\n            parts.append(",
        (f"{TRAPS}::test_trap_06_a_limit_never_cuts_an_answer_or_its_closing_token",),
    ),
    Defect(
        "06 what begins every text is cut off first",
        "core/text/rendered.py",
        "    return replace(rendered, segments=(*segments[:first], *parts, *segments[first + len(prompt) :]))\n",
        "    return replace(rendered, segments=(*parts, *segments[first + len(prompt) :]))\n",
        (f"{TRAPS}::test_trap_06_a_limit_never_cuts_an_answer_or_its_closing_token",),
    ),
    Defect(
        "06 a token that truncation makes the first is a target",
        "core/text/rendered.py",
        "        return (0.0, *weights[1:]) if weights else ()\n",
        "        return weights\n",
        (f"{TRAPS}::test_trap_06_a_limit_never_cuts_an_answer_or_its_closing_token",),
    ),
    Defect(
        "07 an empty completion is an example",
        "core/text/files/examples.py",
        '    if not value["completion"].strip():\n',
        "    if False:\n",
        (f"{TRAPS}::test_trap_07_an_empty_answer_is_no_example",),
    ),
    Defect(
        "07 an empty answer in a conversation is an example",
        "core/text/files/examples.py",
        "    if not content.strip():\n",
        "    if False:\n",
        (f"{TRAPS}::test_trap_07_an_empty_answer_is_no_example",),
    ),
    Defect(
        "10 what begins a text is added to a text that has it",
        "core/text/rendering.py",
        "        if prefix and ids[: len(prefix)] == prefix:\n",
        "        if False:\n",
        (f"{TRAPS}::test_trap_10_what_begins_a_text_stands_once_and_at_the_front",),
    ),
    Defect(
        "10 what begins a text is left out",
        "core/text/rendering.py",
        "        prefix = self._tokenizer.prefix_ids if ids else self._tokenizer.start_ids\n",
        "        prefix = () if ids else self._tokenizer.start_ids\n",
        (f"{TRAPS}::test_trap_10_what_begins_a_text_stands_once_and_at_the_front",),
    ),
    Defect(
        "10 a completion begins like a text of its own",
        "core/text/tokenizer.py",
        "        return tuple(encoding.ids), tuple(encoding.offsets)\n",
        "        ids, spans = (*self.prefix_ids, *encoding.ids), ((0, 0),) * len(self.prefix_ids)\n"
        "        return ids, (*spans, *encoding.offsets)\n",
        (f"{TRAPS}::test_trap_10_what_begins_a_text_stands_once_and_at_the_front",),
    ),
    Defect(
        "11 serving strips a prompt",
        "core/text/rendering.py",
        "        self._open(draft, text)\n",
        "        self._open(draft, text.strip())\n",
        (f"{TRAPS}::test_trap_11_a_request_is_fed_as_the_example_was_trained",),
    ),
    Defect(
        "11 serving leaves the words out that ask for an answer",
        "core/text/rendering.py",
        "            pieces = self._cut(source, add_generation_prompt=True)\n",
        "            pieces = self._cut(source, add_generation_prompt=False)\n",
        (f"{TRAPS}::test_trap_11_a_request_is_fed_as_the_example_was_trained",),
    ),
    Defect(
        "11 serving feeds the space that training moved",
        "core/text/rendering.py",
        "self._prompt_of(*_split_movable(self._prompt_format.prompt.render(variables)))",
        "self._prompt_of(self._prompt_format.prompt.render(variables))",
        (
            f"{TRAPS}::test_trap_01_a_space_at_the_border_does_not_merge_into_the_next_word",
            f"{PROPERTIES}::TestPromptFormats",
        ),
    ),
    Defect(
        "11 columns are escaped as for HTML",
        "core/text/mustache.py",
        "_Engine(literal=budget.take, escape=budget.take,",
        '_Engine(literal=budget.take, escape=lambda text: text.replace("&", "&amp;").replace("<", "&lt;"),',
        (f"{TRAPS}::test_trap_11_a_request_is_fed_as_the_example_was_trained",),
    ),
    Defect(
        "12 the token that closes a turn has the prompt's weight",
        "core/text/rendering.py",
        "        draft.add(ids[:1], spans[:1], text[:cut], weight, end)\n",
        "        draft.add(ids[:1], spans[:1], text[:cut], self._prompt_weight, end)\n",
        (f"{TRAPS}::test_trap_12_the_token_that_closes_a_trained_turn_is_a_label",),
    ),
    Defect(
        "12 a message's weight leaves its closing token out",
        "core/text/rendering.py",
        "self._close(draft, following, message.weight, Reason.END, after)",
        "self._close(draft, following, 1.0, Reason.END, after)",
        (f"{TRAPS}::test_trap_12_the_token_that_closes_a_trained_turn_is_a_label",),
    ),
    Defect(
        "12 a message's weight is ignored",
        "core/text/rendering.py",
        "draft.add_answer(ids, spans, answer, message.weight, masked)",
        "draft.add_answer(ids, spans, answer, 1.0, masked)",
        (f"{TRAPS}::test_trap_12_the_token_that_closes_a_trained_turn_is_a_label",),
    ),
    Defect(
        "12 all answers are trained though the last alone was wanted",
        "core/text/rendering.py",
        '            if is_last or self._train_on == "all_assistant":\n',
        "            if True:\n",
        (f"{TRAPS}::test_trap_12_the_token_that_closes_a_trained_turn_is_a_label",),
    ),
    Defect(
        "a masked span hides only the tokens that lie wholly inside it",
        "core/text/rendering.py",
        "        is_masked = [characters.find(1, *span) >= 0 for span in spans]\n",
        "        is_masked = [characters.find(0, *span) < 0 for span in spans]\n",
        (f"{RENDERING}::TestMaskedSpans",),
    ),
    Defect(
        "a masked span is not moved with an answer that the chat template strips",
        "core/text/rendering.py",
        "    return [(max(0, begin + offset), max(0, end + offset)) for begin, end in spans]\n",
        "    return list(spans)\n",
        (f"{RENDERING}::TestMaskedSpans",),
    ),
    Defect(
        "a masked span begins before an answer that the chat template strips",
        "core/text/rendering.py",
        "    return [(max(0, begin + offset), max(0, end + offset)) for begin, end in spans]\n",
        "    return [(begin + offset, end + offset) for begin, end in spans]\n",
        (f"{RENDERING}::TestMaskedSpans",),
    ),
    Defect(
        "a masked span is trained on",
        "core/text/rendering.py",
        "            kind = (0.0, Reason.MASKED_SPAN) if hidden else (weight, reason)\n",
        "            kind = (weight, Reason.MASKED_SPAN) if hidden else (weight, reason)\n",
        (f"{RENDERING}::TestMaskedSpans",),
    ),
    Defect(
        "a masked span is counted from the prompt's beginning",
        "core/text/rendering.py",
        '            characters[begin:end] = b"\\1" * (min(end, len(text)) - begin)\n',
        '            characters[begin + 1 : end + 1] = b"\\1" * (min(end, len(text)) - begin)\n',
        (f"{RENDERING}::TestMaskedSpans",),
    ),
    Defect(
        "tokens' characters are counted from each part's beginning",
        "core/text/rendering.py",
        "Segment(ids, text, weight, reason, shifted)",
        "Segment(ids, text, weight, reason, spans)",
        (f"{PROPERTIES}::TestSpans", f"{PROPERTIES}::TestPromptFormats"),
    ),
)
