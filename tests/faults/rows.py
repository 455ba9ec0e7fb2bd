"""The faults that were once found from outside, each with the tests that try it: a row each of ``make faults``.

A test is named by its node id. One of a single case ends with the case's first letters: ``test_a[study: ..``.
"""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

KILLS = "also by SIGKILLs: tests/faults/kills.py"
CUTS = "also by power cuts: tests/faults/power.py"


class Row(NamedTuple):
    """A fault in plain words, the tests that try it, and what else tries it, or why none does."""

    fault: str
    tests: tuple[str, ...] = ()
    words: str = ""


def _of(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/{file}.py::test_{name}" for name in names)


def _of_study(*cases: str) -> tuple[str, ...]:
    """Cases of the bad study files, each of which every command says before it builds anything."""
    loads = (f"load__says_line_and_remedy[{case}" for case in cases)
    return _of("study/test_check", *loads, "cli__every_command_says_it_before_it_builds_anything")


def _of_coco(*cases: str) -> tuple[str, ...]:
    return _of(
        "data/test_coco", *(f"load__a_wrong_entry_is_an_error_that_names_file_and_entry[{case}" for case in cases)
    )


KILLS_AND_CLUSTERS = (
    Row(
        "a kill after the result, before the notebook and its page",
        _of("study/test_grid", "grid__what_is_missing_of_a_finished_experiment_is_made_again_without_training"),
        KILLS,
    ),
    Row(
        "a kernel outlives its killed job",
        _of("notebook/test_worker", "run_job__a_kernel_ends_with_its_job_and_the_job_with_its_worker"),
        KILLS,
    ),
    Row(
        "out of memory counts as finished when there is more memory",
        _of("study/test_grid", "grid__out_of_memory_is_a_result_and_the_grid_goes_on"),
    ),
    Row(
        "a worker's limit is the client's memory",
        _of(
            "study/test_cluster",
            "cluster__an_experiment_gets_its_share_of_the_workers_machine_and_not_of_the_clients",
        ),
    ),
    Row(
        "all experiments of one machine share its first GPU",
        _of(
            "study/test_queue",
            "local__each_slot_has_a_gpu_of_its_own",
            "gpus__are_those_that_a_scheduler_left_visible",
        ),
    ),
    Row(
        "jobs outlive a killed worker, main process, client or scheduler",
        (
            *_of(
                "notebook/test_worker",
                "run_job__a_kernel_ends_with_its_job_and_the_job_with_its_worker",
                "run_job__one_that_nobody_wants_any_more_is_ended",
                "run_job__nothing_survives_it",
            ),
            *_of("study/test_grid", "grid__asked_to_end_it_leaves_no_process_and_the_next_run_goes_on"),
        ),
        KILLS,
    ),
    Row(
        "the next run is a second writer of the same files",
        (
            *_of("test_files", "writing__a_second_writer_waits_and_says_for_whom_and_the_lock_ends_with_its_process"),
            *_of("study/test_grid", "grid__two_at_once_on_one_study_are_refused"),
        ),
        KILLS,
    ),
    Row(
        "a report or comparison of a study without a good result",
        (
            *_of("report/test_two_studies", "compare__a_study_without_a_good_result_has_no_student_in_common"),
            *_of("report/test_study_page", "parts__of_a_study_without_a_result_do_not_fail"),
            *_of("report/test_first_screen", "findings__of_a_study_without_a_result_are_its_failures"),
            *_of("report/test_verdicts", "missing__nothing_finished_is_an_empty_table_with_its_columns"),
        ),
    ),
    Row(
        "headers, notebooks and names that are not on the disk yet",
        (
            *_of(
                "features/test_store",
                "seal__headers_manifest_and_folder_are_on_the_disk_before_the_name",
                "build__what_a_power_cut_left_is_gone_on_with_or_begun_anew",
            ),
            *_of("faults/test_power", "power_cuts__cost_no_more_than_what_was_being_written"),
        ),
        CUTS,
    ),
    Row(
        "the scheduler goes away, or none answers",
        _of(
            "study/test_cluster",
            "cluster__a_scheduler_that_went_away_is_a_sentence_with_the_way_on",
            "cluster__no_scheduler_is_a_sentence_with_the_way_on",
        ),
        KILLS,
    ),
    Row(
        "a worker goes away with its job",
        _of("study/test_cluster", "cluster__the_job_of_a_worker_that_went_away_is_given_back"),
        KILLS,
    ),
    Row(
        "a worker with other folders, code or versions",
        _of(
            "study/test_cluster",
            "difference__another_folder_is_named_with_its_variable",
            "difference__other_code_and_versions_are_named",
            "difference__a_marker_of_an_earlier_run_does_not_count",
            "cluster__a_worker_that_cannot_work_gets_no_job_and_its_reason_is_said_once",
        ),
    ),
    Row(
        "leftovers of the killed, in runs/ and in the temporary folder",
        (
            *_of("test_files", "sweep__removes_what_killed_writers_left_and_nothing_else"),
            *_of(
                "notebook/test_worker",
                "run_job__what_it_leaves_in_the_temporary_folder_goes_with_it",
                "scratch__the_next_run_removes_what_a_killed_owner_left",
            ),
        ),
        KILLS,
    ),
    Row(
        "dask's dashboard listens on 0.0.0.0:8787",
        words="kdlib starts no scheduler any more; the commands in docs/run_on_a_cluster.md have --no-dashboard",
    ),
    Row(
        "workers that join late wait for the end of a job",
        _of("study/test_cluster", "cluster__a_worker_that_joins_late_gets_the_next_job"),
    ),
    Row(
        "every experiment starts cold under dask's nanny",
        _of("notebook/test_warm", "warm__below_dasks_nanny_jobs_are_warm_too"),
    ),
)

BAD_INPUT = (
    Row(
        "a finished run that was set aside is deleted",
        (
            *_of("test_files", "claim__what_was_set_aside_comes_back_and_is_never_deleted"),
            *_of("test_resume", "resume__changed_settings_never_continue_an_old_checkpoint"),
        ),
    ),
    Row(
        "CLIP or BLIP without its tokenizer, or with another's",
        _of(
            "teachers/test_audit",
            "load__a_file_that_is_missing_is_named",
            "load__another_models_vocabulary_is_refused",
        ),
    ),
    Row(
        "an edited score is printed",
        (
            *_of("study/test_grid", "grid__a_score_that_was_edited_is_named_and_made_again"),
            *_of("report/test_rows", "collect__a_score_that_was_edited_is_damage_and_no_number"),
            *_of("study/test_verify", "verify__a_score_that_is_sealed_but_wrong_is_found_by_computing_it_again"),
        ),
    ),
    Row(
        "a study named '..', '.', 'data' or 'features'",
        _of_study("study: "),
    ),
    Row(
        "an image or a class twice in Tiny ImageNet's lists",
        _of(
            "data/test_tinyimagenet",
            "load__an_image_that_is_labelled_twice_is_named_with_both_lines",
            "load__a_class_that_is_there_twice_is_named_with_both_lines",
        ),
    ),
    Row(
        "the id of an image or a caption of COCO twice",
        _of_coco("an image id twice", "a caption id twice"),
    ),
    Row(
        "a blank caption",
        (
            *_of_coco("a blank caption"),
            *_of("data/test_extra", "load__a_caption_that_cannot_be_read_is_an_error_that_names_its_image"),
        ),
    ),
    Row(
        "a truncated manifest of a store",
        (
            *_of("features/test_store", "ensure__a_manifest_that_is_cut_off_is_built_again"),
            *_of("report/test_spent", "spent__decoded_images_are_one_line_a_data_set"),
            *_of("test_finished", "store__is_the_one_that_was_scored_or_an_error_with_the_remedy"),
        ),
    ),
    Row(
        "a disk of 40 MB",
        (
            *_of("study/test_queue", "room__on_the_disk_is_asked_for_what_an_experiment_wrote"),
            *_of("features/test_store", "build__a_store_that_will_not_fit_fails_at_its_first_chunk"),
        ),
    ),
    Row(
        "a flipped bit under the old modification time",
        (
            *_of("study/test_verify", "verify__names_every_kind_of_file_that_was_altered"),
            *_of("features/test_store", "open__a_full_verification_finds_what_keeps_size_and_time"),
        ),
    ),
    Row(
        "an edited manifest of a store",
        _of("features/test_store", "open__refuses_an_edited_manifest"),
    ),
    Row(
        "a learning rate of 1e38",
        _of("test_trainer", "train__weights_that_are_not_finite_are_never_saved"),
    ),
    Row(
        "a teacher of NaN or of zeros",
        (
            *_of("test_trainer", "train__a_teacher_that_is_not_finite_is_not_blamed_on_the_learning_rate"),
            *_of(
                "teachers/test_audit",
                "load__weights_that_are_all_zero_or_nan_are_refused",
                "audit__refuses_outputs_that_cannot_be_right",
            ),
        ),
    ),
    Row(
        "100,000 threads",
        _of_study("threads"),
    ),
    Row(
        "an image that is a link to nowhere or to itself, or a pipe",
        (
            *_of("data/test_tinyimagenet", "images__what_is_no_file_is_a_bad_image_that_is_named"),
            *_of("features/test_store", "bad_images__what_is_no_file_is_skipped_too"),
            *_of("data/test_tree", "checksums__a_link_that_leads_nowhere_has_no_size"),
        ),
    ),
    Row(
        "captions null or a number, annotations null or an object, ids of two types",
        (
            *_of_coco(
                "a caption that is null",
                "a caption that is a number",
                "annotations null",
                "annotations an object",
                "an annotation that is a list",
                "ids of two types",
            ),
            *_of("data/test_coco", "load__an_annotation_file_that_is_no_record_is_named"),
        ),
    ),
    Row(
        "an entry without caption or id, captions and instances interchanged",
        (
            *_of_coco("no caption in an entry", "no id in an entry", "instances of other images"),
            *_of("data/test_coco", "load__captions_and_instances_interchanged_are_recognised"),
        ),
    ),
    Row(
        "half a character in a caption",
        (
            *_of_coco("half a character in a caption"),
            *_of("data/test_extra", "load__a_caption_that_cannot_be_read_is_an_error_that_names_its_image"),
        ),
    ),
    Row(
        "seed, study, variant or teacher as parameters, notebooks as a list",
        _of_study("seed there", "study there", "variant there", "teacher there", "list"),
    ),
    Row(
        "study, classes or annotations that are not UTF-8",
        (
            *_of("study/test_check", "load__a_file_that_is_not_utf8_is_named_with_its_line"),
            *_of("data/test_tinyimagenet", "load__a_file_that_is_not_utf8_is_named_with_the_line"),
            *_of("data/test_coco", "load__an_annotation_file_that_is_no_record_is_named[not text"),
        ),
    ),
    Row(
        "infinity and NaN as parameters",
        _of_study("inf", "nan", "memory"),
    ),
    Row(
        "a method that is os:system, nomod.x:Y or another thing",
        _of_study("own method", "no module", "no class", "own loss"),
    ),
    Row(
        "unknown method, teacher, loss, device, report or notebook",
        _of_study("method]", "teacher]", "data set", "notebook]", "loss", "device", "report]", "by_method"),
    ),
    Row(
        "duplicate method, epoch or seed, variant '', empty lists",
        _of_study(
            "method twice",
            "epoch twice",
            "seed twice",
            "variant ''",
            "no epoch",
            "no notebook",
            "no report",
            "entry twice",
        ),
    ),
    Row(
        "{} or [] as result, config, state, untrained or verified",
        (
            *_of("study/test_grid", "grid__a_score_that_was_edited_is_named_and_made_again"),
            *_of("test_files", "claim__a_folder_with_a_broken_config_is_taken_over"),
            *_of(
                "test_resume",
                "resume__passes_over_a_damaged_checkpoint_and_names_it[state ",
                "resume__a_damaged_record_of_the_untrained_student_is_made_again",
                "resume__a_folder_of_another_name_is_no_checkpoint",
            ),
            *_of("features/test_store", "open__what_was_verified_is_hashed_again_where_that_is_not_known"),
        ),
    ),
    Row(
        "garbage in the memory of checksums",
        _of("data/test_tree", "checksums__a_damaged_memory_is_computed_anew"),
    ),
    Row(
        "scores .npz missing or truncated",
        (
            *_of("study/test_grid", "grid__a_score_that_was_edited_is_named_and_made_again"),
            *_of("study/test_verify", "verify__names_every_kind_of_file_that_was_altered"),
        ),
    ),
    Row(
        "NaN or text as a score",
        (
            *_of("report/test_rows", "collect__a_score_that_was_edited_is_damage_and_no_number"),
            *_of("study/test_grid", "grid__a_score_that_was_edited_is_named_and_made_again"),
            *_of("test_files", "seal__knows_an_altered_record"),
        ),
    ),
    Row(
        "a CLIP as DINO, weights of another shape, truncated weights",
        (
            *_of(
                "teachers/test_audit",
                "load__a_folder_of_another_family_is_refused_by_both_names",
                "load__weights_of_another_shape_and_a_cut_off_file_are_sentences",
            ),
            *_of("study/test_its_teachers", "run__names_every_teacher_that_cannot_load_and_builds_nothing"),
        ),
    ),
    Row(
        "Markdown, links and scripts in a title",
        _of("report/test_build", "page__a_title_is_text_whatever_is_in_it"),
    ),
    Row(
        "the disk fills up while data are drawn or arrays written",
        (
            *_of("data/test_shapes", "ensure__a_full_disk_is_an_error_with_the_folder_and_leaves_nothing"),
            *_of("test_files", "write_atomic__a_write_that_fails_leaves_the_old_file_and_names_it"),
            *_of("features/test_store", "build__an_error_of_the_writer_stops_it_and_what_is_marked_stays"),
        ),
    ),
    Row(
        "an image of 16 bits",
        _of(
            "data/test_dataset",
            "decode__16_bits_are_scaled_to_8",
            "decode__32_bits_are_refused_since_their_white_is_unknown",
        ),
    ),
    Row(
        "students of 4096 numbers under a teacher of 128",
        (
            *_of("study/test_its_teachers", "prepare__says_that_a_student_is_wider_than_its_teacher"),
            *_of("evaluate/test_controls", "ensure__fits_a_probe_to_the_teacher_and_to_pca_alone"),
        ),
    ),
    Row(
        "a zip member that unpacks to gigabytes",
        _of("data/test_tree", "read__no_more_than_asked_for_from_folder_or_archive"),
    ),
    Row(
        "data check of an unknown data set, after a minute of drawing",
        _of("data/test_check", "check__an_unknown_name_is_an_error_before_anything_is_drawn"),
    ),
    Row(
        "overlap that data check passes, EXIF, a missing line of annotations",
        (
            *_of("data/test_check", "check__finds_damage_overlap_and_copies_of_all_splits_at_once"),
            *_of("data/test_dataset", "decode__an_image_stands_upright_as_pillows_own_rule_has_it"),
            *_of("data/test_tinyimagenet", "load__an_image_without_a_label_is_named"),
        ),
    ),
)

OWN_TEACHER = (
    Row(
        "a buffer or weight that an own teacher lacks",
        _of(
            "teachers/test_audit",
            "own__a_missing_buffer_that_is_used_is_named",
            "own__a_missing_weight_is_named",
        ),
    ),
    Row(
        "an own teacher without config, grid or image_size",
        _of(
            "teachers/test_audit",
            "own__a_model_that_is_not_transformers_loads_and_is_counted",
            "own__says_that_it_must_give_its_size_and_grid",
        ),
    ),
    Row(
        "a plan with an own teacher",
        _of(
            "study/test_forecast",
            "plan__a_teacher_of_ones_own_that_cannot_be_had_is_said_and_the_rest_is_planned",
        ),
    ),
    Row(
        "outputs of look that cannot be right, train mode, a missing key",
        _of(
            "teachers/test_audit",
            "audit__refuses_outputs_that_cannot_be_right",
            "audit__refuses_a_model_in_train_mode",
        ),
    ),
    Row(
        "five logistic regressions each for teacher, guesses and trip-wire",
        (
            *_of("evaluate/test_controls", "ensure__fits_a_probe_to_the_teacher_and_to_pca_alone"),
            *_of(
                "evaluate/test_linear",
                "credits__stop_when_two_penalties_in_a_row_are_no_better",
                "logistic__a_warm_start_ends_where_a_cold_one_does",
                "credits__without_the_probe_there_is_ridge_alone",
            ),
        ),
    ),
    Row(
        "no line for a quarter of an hour, an empty log",
        _of(
            "test_progress",
            "progress__in_a_log_a_long_one_is_told_once_in_a_while",
            "ticker__in_a_log_says_what_runs_once_in_a_while",
        ),
    ),
    Row(
        "status says absent for what runs",
        _of("study/test_file", "cli__status_names_who_works_on_an_experiment_that_runs"),
    ),
    Row(
        "what a teacher in a folder has seen cannot be stated",
        _of(
            "evaluate/test_exposure",
            "exposure__of_a_local_checkpoint_is_what_its_owner_states",
            "exposure__a_statement_that_cannot_be_read_is_unknown",
        ),
    ),
    Row(
        "a page calls an own teacher by a published one's name",
        (
            *_of("report/test_main_table", "main_table__has_a_group_for_each_teacher_by_its_own_name"),
            *_of(
                "report/test_cautions",
                "cautions__a_teacher_of_ones_own_stands_in_the_place_of_no_published_one",
            ),
        ),
        "a notebook's heading is its author's: docs/add_a_teacher.md says to write it",
    ),
    Row(
        "the paper's claims are judged on an own teacher",
        _of("report/test_study_page", "claims__of_the_paper_are_not_judged_on_another_teacher"),
    ),
    Row(
        "Chinese names of classes as boxes",
        _of("report/test_display", "pictures__have_words_of_any_script_and_say_which_are_framed"),
    ),
    Row(
        "fewer than 20 neighbours under the name of 20",
        _of("evaluate/test_knn", "knn__a_bank_smaller_than_k_is_taken_whole_and_named_so"),
    ),
    Row(
        "a wrong name for file:Class",
        (
            *_of("students/test_students", "errors__an_own_student_that_is_not_there_is_a_sentence"),
            *_of_study("no module", "no class"),
        ),
    ),
)

ROWS = (*KILLS_AND_CLUSTERS, *BAD_INPUT, *OWN_TEACHER)


def try_all(rows: Iterable[Row] = ROWS) -> list[dict]:
    """Run the tests of all rows, in one process; a line of the table for each row."""
    rows = list(rows)
    functions = list(dict.fromkeys(test.partition("[")[0] for row in rows for test in row.tests))
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        record = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", *functions, "-q", "-p", "no:cacheprovider", "-n0"]
        subprocess.run([*command, f"--junitxml={record}"], cwd=ROOT, stdout=sys.stderr)
        ended = outcomes(record)
    return [line(row, ended) for row in rows]


def outcomes(record: Path) -> dict[str, str]:
    """Node id -> passed, failed or skipped, from pytest's XML; nothing where there is none."""
    if not record.exists():
        return {}
    found = {}
    for case in ET.parse(record).iter("testcase"):
        kinds = {part.tag for part in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found[f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"] = outcome
    return found


def line(row: Row, ended: dict[str, str]) -> dict:
    """A row of the table. A test that did not run, though it was named, counts as wrong; a skipped one does not."""
    counts, silent = {"passed": 0, "failed": 0, "skipped": 0}, []
    for test in row.tests:
        begin = test if "[" in test else f"{test}["
        cases = [outcome for node, outcome in ended.items() if node == test or node.startswith(begin)]
        for outcome in cases:
            counts[outcome] += 1
        if not cases:
            silent.append(f"{test} did not run")
    skipped = [f"{counts['skipped']} skipped"] if counts["skipped"] else []
    return {
        "fault": row.fault,
        "tries": counts["passed"] + counts["failed"],
        "lost": 0,
        "wrong": counts["failed"] + len(silent),
        "message": "; ".join([*silent, *skipped, *filter(None, [row.words])]),
    }
