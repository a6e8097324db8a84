"""Defects by which models leave or come as something else than they are."""

from tests.planted_defects.defect import Defect

OUT = "tests/app/models/downloads/test_routes.py"
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
)
