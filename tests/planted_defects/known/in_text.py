"""Defects of how text becomes ids and weights."""

from tests.planted_defects.defect import Defect

TRAPS = "tests/core/text/test_traps.py"
RENDERING = "tests/core/text/test_rendering.py"
PROPERTIES = "tests/core/text/test_properties.py"
PARTITION = "tests/core/text/test_partition.py"
HELD_OUT = "tests/core/text/test_held_out.py"

DEFECTS = (
    Defect(
        name="01 prompt and completion are tokenised as one text and split at their common beginning",
        in_="core.text.rendering:Renderer._prompt_and_completion",
        replace="$ids, $spans = self._tokenizer.encode_spans($completion)",
        by=(
            "joint, alone = self._tokenizer.encode(prompt + $completion), self._tokenizer.encode(prompt)\n"
            "kept = next((n for n, pair in enumerate(zip(joint, alone)) if pair[0] != pair[1]), len(alone))\n"
            "prompt = self._tokenizer.decode(joint[:kept], skip_special=False)\n"
            "$completion = self._tokenizer.decode(joint[kept:], skip_special=False)\n"
            "$ids, $spans = self._tokenizer.encode_spans($completion)"
        ),
        tests=(f"{TRAPS}::test_trap_01_a_space_at_the_border_does_not_merge_into_the_next_word",),
    ),
    Defect(
        name="01 a space at a rendered prompt's end stays in the prompt",
        in_="core.text.rendering:_split_movable",
        replace="$prompt.rstrip(MOVABLE)",
        by="$prompt",
        tests=(f"{TRAPS}::test_trap_01_a_space_at_the_border_does_not_merge_into_the_next_word",),
    ),
    Defect(
        name="01 a moved space is lost",
        in_="core.text.rendering:Renderer._write",
        replace="_ExampleTexts($example, ($prompt, $moved + $completion), $moved)",
        by="_ExampleTexts($example, ($prompt, $completion), $moved)",
        tests=(f"{TRAPS}::test_trap_01_a_space_at_the_border_does_not_merge_into_the_next_word",),
    ),
    Defect(
        name="02 the answer begins behind the first marker found",
        in_="core.text.rendering:Renderer._prompt_and_completion",
        replace="$ids, $spans = self._tokenizer.encode_spans($completion)",
        by=(
            'whole, marker = prompt + $completion, (prompt + $completion).find("A:") + 2\n'
            "prompt, $completion = whole[:marker], whole[marker:]\n"
            "$ids, $spans = self._tokenizer.encode_spans($completion)"
        ),
        tests=(f"{TRAPS}::test_trap_02_the_mask_is_built_from_parts_and_no_words_are_searched_for",),
    ),
    Defect(
        name="03 two tokens of the prompt are masked, as by the length of a dictionary",
        in_="core.text.rendering:Renderer._open",
        replace="$draft.add($ids, $spans, $text, $weight, Reason.PROMPT)",
        by=(
            "cut = $spans[1][1] if len($ids) > 2 else len($text)\n"
            "rest = tuple((begin - cut, end - cut) for begin, end in $spans[2:])\n"
            "$draft.add($ids[:2], $spans[:2], $text[:cut], $weight, Reason.PROMPT)\n"
            "$draft.add($ids[2:], rest, $text[cut:], 1.0, Reason.COMPLETION)"
        ),
        tests=(f"{TRAPS}::test_trap_03_as_many_tokens_are_masked_as_the_prompt_has_ids",),
    ),
    Defect(
        name="03 the prompt's weight is ignored",
        in_="core.text.rendering:Renderer.__init__",
        replace="self._prompt_weight = $weight",
        by="self._prompt_weight = 0.0",
        tests=(f"{TRAPS}::test_trap_03_as_many_tokens_are_masked_as_the_prompt_has_ids",),
    ),
    Defect(
        name="04 the closing token is fed and not trained",
        in_="core.text.rendering:Renderer._prompt_and_completion",
        replace="$draft.add($ids, $spans, $text, 1.0, Reason.END)",
        by="$draft.add($ids, $spans, $text, 0.0, Reason.END)",
        tests=(
            f"{TRAPS}::test_trap_04_the_last_label_is_the_closing_token_and_it_stands_once",
            "tests/worker/training/traps/test_traps.py::test_trap_04_after_overfitting_eight_examples_every_answer_stops_by_itself",
        ),
    ),
    Defect(
        name="04 a closing token that is written out is doubled",
        in_="core.text.rendering:Renderer._prompt_and_completion",
        replace="$ids[-1:] == ($eos_id,)",
        by="False",
        tests=(f"{TRAPS}::test_trap_04_the_last_label_is_the_closing_token_and_it_stands_once",),
    ),
    Defect(
        name="06 the end of an example is cut off to fit",
        in_="core.text.rendering:Renderer.fit",
        replace="truncate($rendered, $excess) if $may_cut else None",
        by="RenderedExample($rendered.source, $rendered.text, $rendered.segments[:-1], $rendered.prompt_text)",
        tests=(f"{TRAPS}::test_trap_06_a_limit_never_cuts_an_answer_or_its_closing_token",),
    ),
    Defect(
        name="06 the limit is one token off",
        in_="core.text.rendering:Renderer.fit",
        replace="$tokens <= $limit",
        by="$tokens <= $limit + 1",
        tests=(f"{TRAPS}::test_trap_06_a_limit_never_cuts_an_answer_or_its_closing_token",),
    ),
    Defect(
        name="06 what was cut off is not marked",
        in_="core.text.rendered:truncate",
        replace=("if $cut:\n    $parts.append(replace($$$marked))"),
        by=("if False:\n    $parts.append(replace($$$marked))"),
        tests=(f"{TRAPS}::test_trap_06_a_limit_never_cuts_an_answer_or_its_closing_token",),
    ),
    Defect(
        name="06 what begins every text is cut off first",
        in_="core.text.rendered:truncate",
        replace="(*$segments[:$first], *$parts, *$segments[$after:])",
        by="(*$parts, *$segments[$after:])",
        tests=(f"{TRAPS}::test_trap_06_a_limit_never_cuts_an_answer_or_its_closing_token",),
    ),
    Defect(
        name="06 a token that truncation makes the first is a target",
        in_="core.text.rendered:RenderedExample.weights",
        replace="(0.0, *$weights[1:]) if $weights else ()",
        by="$weights",
        tests=(f"{TRAPS}::test_trap_06_a_limit_never_cuts_an_answer_or_its_closing_token",),
    ),
    Defect(
        name="07 an empty completion is an example",
        in_="core.text.files.examples:_prompt_completion",
        replace='not $value["completion"].strip()',
        by="False",
        tests=(f"{TRAPS}::test_trap_07_an_empty_answer_is_no_example",),
    ),
    Defect(
        name="07 an empty answer in a conversation is an example",
        in_="core.text.files.examples:_message",
        replace="not $content.strip()",
        by="False",
        tests=(f"{TRAPS}::test_trap_07_an_empty_answer_is_no_example",),
    ),
    Defect(
        name="10 what begins a text is added to a text that has it",
        in_="core.text.rendering:Renderer._open",
        replace="$prefix and $ids[: len($prefix)] == $prefix",
        by="False",
        tests=(f"{TRAPS}::test_trap_10_what_begins_a_text_stands_once_and_at_the_front",),
    ),
    Defect(
        name="10 what begins a text is left out",
        in_="core.text.rendering:Renderer._open",
        replace="$tokenizer.prefix_ids if $ids else $tokenizer.start_ids",
        by="() if $ids else $tokenizer.start_ids",
        tests=(f"{TRAPS}::test_trap_10_what_begins_a_text_stands_once_and_at_the_front",),
    ),
    Defect(
        name="10 a completion begins like a text of its own",
        in_="core.text.tokenizer:TextTokenizer.encode_spans",
        replace="return tuple($encoding.ids), tuple($encoding.offsets)",
        by=(
            "ids, spans = (*self.prefix_ids, *$encoding.ids), ((0, 0),) * len(self.prefix_ids)\n"
            "return ids, (*spans, *$encoding.offsets)"
        ),
        tests=(f"{TRAPS}::test_trap_10_what_begins_a_text_stands_once_and_at_the_front",),
    ),
    Defect(
        name="11 serving strips a prompt",
        in_="core.text.rendering:Renderer._prompt_of",
        replace="self._open($draft, $text)",
        by="self._open($draft, $text.strip())",
        tests=(f"{TRAPS}::test_trap_11_a_request_is_fed_as_the_example_was_trained",),
    ),
    Defect(
        name="11 serving leaves the words out that ask for an answer",
        in_="core.text.rendering:Renderer.prompt",
        replace="self._cut($source, add_generation_prompt=True)",
        by="self._cut($source, add_generation_prompt=False)",
        tests=(f"{TRAPS}::test_trap_11_a_request_is_fed_as_the_example_was_trained",),
    ),
    Defect(
        name="11 serving feeds the space that training moved",
        in_="core.text.rendering:Renderer._prompt_of_variables",
        replace="self._prompt_of(*_split_movable($prompt))",
        by="self._prompt_of($prompt)",
        tests=(
            f"{TRAPS}::test_trap_01_a_space_at_the_border_does_not_merge_into_the_next_word",
            f"{PROPERTIES}::TestPromptFormats",
        ),
    ),
    Defect(
        name="11 columns are escaped as for HTML",
        in_="core.text.mustache:Template.render",
        replace="_Engine($$$rest, escape=$take)",
        by='_Engine($$$rest, escape=lambda text: text.replace("&", "&amp;").replace("<", "&lt;"))',
        tests=(f"{TRAPS}::test_trap_11_a_request_is_fed_as_the_example_was_trained",),
    ),
    Defect(
        name="12 the token that closes a turn has the prompt's weight",
        in_="core.text.rendering:Renderer._close",
        replace="$draft.add($ids[:1], $spans[:1], $text, $weight, $end)",
        by="$draft.add($ids[:1], $spans[:1], $text, self._prompt_weight, $end)",
        tests=(f"{TRAPS}::test_trap_12_the_token_that_closes_a_trained_turn_is_a_label",),
    ),
    Defect(
        name="12 a message's weight leaves its closing token out",
        in_="core.text.rendering:Renderer._conversation",
        replace="self._close($draft, $following, $message.weight, $$$rest)",
        by="self._close($draft, $following, 1.0, $$$rest)",
        tests=(f"{TRAPS}::test_trap_12_the_token_that_closes_a_trained_turn_is_a_label",),
    ),
    Defect(
        name="12 a message's weight is ignored",
        in_="core.text.rendering:Renderer._conversation",
        replace="$draft.add_answer($ids, $spans, $answer, $message.weight, $$$rest)",
        by="$draft.add_answer($ids, $spans, $answer, 1.0, $$$rest)",
        tests=(f"{TRAPS}::test_trap_12_the_token_that_closes_a_trained_turn_is_a_label",),
    ),
    Defect(
        name="12 all answers are trained though the last alone was wanted",
        in_="core.text.rendering:Renderer._conversation",
        replace='$is_last or $train_on == "all_assistant"',
        by="True",
        tests=(f"{TRAPS}::test_trap_12_the_token_that_closes_a_trained_turn_is_a_label",),
    ),
    Defect(
        name="a masked span hides only the tokens that lie wholly inside it",
        in_="core.text.rendering:_TokenSequence.add_answer",
        replace="$characters.find(1, *$span) >= 0",
        by="$characters.find(0, *$span) < 0",
        tests=(f"{RENDERING}::TestMaskedSpans",),
    ),
    Defect(
        name="a masked span is not moved with an answer that the chat template strips",
        in_="core.text.rendering:_shifted",
        replace="[(max(0, $begin + $offset), max(0, $end + $offset)) for $begin, $end in $spans]",
        by="list($spans)",
        tests=(f"{RENDERING}::TestMaskedSpans",),
    ),
    Defect(
        name="a masked span begins before an answer that the chat template strips",
        in_="core.text.rendering:_shifted",
        replace="[(max(0, $begin + $offset), max(0, $end + $offset)) for $begin, $end in $spans]",
        by="[($begin + $offset, $end + $offset) for $begin, $end in $spans]",
        tests=(f"{RENDERING}::TestMaskedSpans",),
    ),
    Defect(
        name="a masked span is trained on",
        in_="core.text.rendering:_TokenSequence.add_answer",
        replace="(0.0, Reason.MASKED_SPAN) if $hidden else ($weight, $reason)",
        by="($weight, Reason.MASKED_SPAN) if $hidden else ($weight, $reason)",
        tests=(f"{RENDERING}::TestMaskedSpans",),
    ),
    Defect(
        name="a masked span is counted from the prompt's beginning",
        in_="core.text.rendering:_TokenSequence.add_answer",
        replace="$characters[$begin:$end] = $marks",
        by="$characters[$begin + 1 : $end + 1] = $marks",
        tests=(f"{RENDERING}::TestMaskedSpans",),
    ),
    Defect(
        name="tokens' characters are counted from each part's beginning",
        in_="core.text.rendering:_TokenSequence.add",
        replace="Segment($ids, $text, $weight, $reason, $shifted)",
        by="Segment($ids, $text, $weight, $reason, spans)",
        tests=(f"{PROPERTIES}::TestSpans", f"{PROPERTIES}::TestPromptFormats"),
    ),
    Defect(
        name="prompts are held out by a threshold, so that small files may have none",
        in_="core.text.held_out:draw",
        replace="frozenset($hashes[: count_held_out(len($hashes))])",
        by="frozenset(one for one in $hashes if one % HELD_OUT_ONE_IN == 0)",
        tests=(
            f"{HELD_OUT}::test_a_tenth_of_the_distinct_prompts_is_drawn_at_least_one_and_never_all",
            "tests/worker/training/data/test_examples.py::TestHeldOut",
        ),
    ),
    Defect(
        name="prompts are told apart by their ids, so that a tokenizer decides what is held out",
        in_="core.text.rendering:Renderer._assemble",
        replace="RenderedExample($example, $text, $segments, $prompt, $moved)",
        by="RenderedExample($example, $text, $segments, str(self.tokenizer.encode($prompt)), $moved)",
        tests=(
            f"{PARTITION}::test_the_tokenizer_does_not_matter",
            f"{PARTITION}::test_a_prompts_text_is_the_same_before_and_after_it_is_rendered",
        ),
    ),
    Defect(
        name="a conversation's prompt is told apart as the base model's chat template writes it",
        in_="core.text.rendering:Renderer.prompt_text",
        replace="_before_answer($example, self._train_on)",
        by='"".join(self._write($example).pieces[: -2 if self._train_on == "last_assistant" else 1])',
        tests=(f"{PARTITION}::test_a_prompts_text_is_the_same_before_and_after_it_is_rendered",),
    ),
    Defect(
        name="a prompt that is written in capitals is another prompt",
        in_="core.text.held_out:normalised",
        replace='unicodedata.normalize("NFKC", $prompt).casefold()',
        by='unicodedata.normalize("NFKC", $prompt)',
        tests=(
            f"{HELD_OUT}::test_prompts_that_differ_in_writing_only_are_one",
            f"{PARTITION}::test_no_prompt_is_in_both_parts_however_it_is_written",
        ),
    ),
    Defect(
        name="what was drawn is held out although none of it can be scored",
        in_="core.text.partition:partition",
        replace="$seen.correct($drawn)",
        by="$drawn",
        tests=(f"{PARTITION}::test_where_all_that_was_drawn_is_dropped_the_next_in_rank_is_held_out",),
    ),
)
