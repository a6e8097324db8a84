"""Defects by which models leave or come as something else than they are."""

from tests.planted_defects.defect import Defect

OUT = "tests/app/models/downloads/test_routes.py"
EXPORTS = "tests/worker/exporter/test_export.py"
IN = "tests/app/models/imports"
REFUSALS = f"{IN}/test_refusals.py"

DEFECTS = (
    Defect(
        name="a part of a download is taken from the beginning of a file",
        in_="app.models.downloads.service:OpenedRange.chunks",
        replace="file.seek(part.begin)",
        by="file.seek(0)",
        tests=(f"{OUT}::test_every_part_is_the_same_bytes_of_the_whole",),
    ),
    Defect(
        name="a download goes on although it is of something else by now",
        in_="app.models.downloads.byte_range:read_range",
        replace="found is None or only_if not in (None, etag)",
        by="found is None",
        tests=(f"{OUT}::test_a_part_of_what_it_no_longer_is_is_answered_with_all",),
    ),
    Defect(
        name="numbers that are not finite are imported",
        in_="app.models.imports.numbers:are_finite",
        replace="return all($chunks)",
        by="return True",
        tests=(
            f"{IN}/test_numbers.py::test_numbers_of_32_bits",
            f"{REFUSALS}::test_a_tensor_that_cannot_be_served_is_named",
        ),
    ),
    Defect(
        name="an archive may lead out of its folder",
        in_="app.models.imports.archive:_plain_name",
        replace="if $leads_away: $raise",
        by="pass",
        tests=(f"{REFUSALS}::test_an_archive_that_is_no_plain_adapter",),
    ),
    Defect(
        name="what a gzip unpacks to has no bound",
        in_="app.models.imports.archive:_unzip",
        replace="if left_bytes < 0: $raise",
        by="pass",
        tests=(f"{REFUSALS}::test_a_bomb_is_refused_by_its_size",),
    ),
    Defect(
        name="one read of an archive takes as much memory as it says",
        in_="app.models.imports.archive:_SmallReads.read",
        replace="if len(content) > MAX_READ_BYTES: $raise",
        by="pass",
        tests=(f"{REFUSALS}::test_a_directory_that_is_larger_than_any_adapters_is_not_read",),
    ),
    Defect(
        name="a manifest may name other weights than come with it",
        in_="app.models.imports.weights:copy_weights",
        replace="if $manifest is not None and $listed != found: $raise",
        by="pass",
        tests=(f"{REFUSALS}::test_a_manifest_that_does_not_fit",),
    ),
    Defect(
        name="an imported adapter's base model is not held against its manifest",
        in_="app.models.imports.verification:_trusted_base",
        replace="_trust(content, base)",
        by="pass",
        tests=(f"{REFUSALS}::test_a_manifest_that_does_not_fit",),
    ),
    Defect(
        name="an adapter is merged without its scale",
        in_="worker.exporter.merging:LayerFactors.delta",
        replace="return self.scale * $product",
        by="return $product",
        tests=(f"{EXPORTS}::test_an_export_in_every_format_is_the_adapter",),
    ),
    Defect(
        name="an adapter is merged transposed where that fits",
        in_="worker.exporter.merging:LayerFactors.merged",
        replace="$merged = weight_OI + self.delta()",
        by="$merged = weight_OI + (self.delta().T if weight_OI.shape[0] == weight_OI.shape[1] else self.delta())",
        tests=(f"{EXPORTS}::test_an_export_in_every_format_is_the_adapter",),
    ),
    Defect(
        name="a lora in GGUF forgets what rsLoRA scales by",
        in_="worker.exporter.gguf_files:write_lora",
        replace="$rest = pair.scale * pair.a_RI.shape[0] / alpha",
        by="$rest = 1",
        tests=(f"{EXPORTS}::test_a_lora_in_gguf_holds_scales_for_which_it_has_no_words",),
    ),
    Defect(
        name="GGUF has the rows of queries and keys in transformers' order",
        in_="worker.exporter.gguf_names:GgufNames.rows_to_gguf",
        replace="return tensor.reshape($heads, 2, -1, *$rest).transpose(1, 2).reshape(tensor.shape)",
        by="return tensor",
        tests=(f"{EXPORTS}::test_an_export_in_every_format_is_the_adapter",),
    ),
    Defect(
        name="an export that differs is called done",
        in_="worker.exporter.export:make_export",
        replace="require_within_bounds(report)",
        by="pass",
        tests=(
            f"{EXPORTS}::test_weights_that_are_merged_wrongly_are_refused",
            f"{EXPORTS}::test_a_shape_that_is_told_wrongly_is_refused",
        ),
    ),
    Defect(
        name="the token that ends an answer is not looked at",
        in_="worker.exporter.gguf_vocabulary:require_same_vocabulary",
        replace="if said.get(Keys.Tokenizer.EOS_ID) != tokenizer.eos_id or $others: $raise",
        by="pass",
        tests=(f"{EXPORTS}::test_another_end_token_in_gguf_is_refused",),
    ),
    Defect(
        name="what an export made is nobody's",
        in_="core.store.exports:add_files",
        replace="session.add_all($records)",
        by="pass",
        tests=("tests/worker/exports/test_runner.py::test_what_it_made_stays_until_it_is_deleted",),
    ),
)
