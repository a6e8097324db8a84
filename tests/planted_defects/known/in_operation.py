"""Defects by which one host, page, process or text spoils a deployment for the others."""

from tests.planted_defects.defect import Defect

FAULTS = "tests/worker/jobs/test_host_faults.py"
UNFIT = "tests/core/store/queue/test_unfit_hosts.py"
GUARD = "tests/core/listening/test_origin_guard.py"
LIVENESS = "tests/app/cli/stack/test_liveness.py"
LOCK = "tests/app/cli/stack/test_sqlite_lock.py"
SUPERVISOR = "tests/app/cli/stack/test_supervisor.py::TestFrozenProcesses"
BOUND = "tests/core/text/test_text_bound.py"

DEFECTS = (
    Defect(
        name="an attempt that its host could not run counts against the job",
        in_="core.store.queue.leases:release",
        replace="1 if $outcome in _UNCOUNTED else 0",
        by="1 if $outcome in (RELEASED, PAUSED) else 0",
        tests=(f"{UNFIT}::test_it_waits_uncounted_and_says_why", f"{FAULTS}::TestBeforeTheTrainerSpeaks"),
    ),
    Defect(
        name="a job fails by a fault of its host that the trainer found",
        in_="worker.jobs.runner:TrainingAttempt._conclude",
        replace="$journal.failed is not None and $journal.failed.of_host",
        by="False",
        tests=(f"{FAULTS}::TestTrainer::test_that_finds_its_host_at_fault_goes_on_later_from_its_checkpoint",),
    ),
    Defect(
        name="a job is trained on whatever base model has the name",
        in_="worker.jobs.filling:fill_run_folder",
        replace="require_pinned($$$arguments)",
        by="pass",
        tests=(f"{FAULTS}::TestAnotherBaseModelOfTheName",),
    ),
    Defect(
        name="jobs of another base model close a sound host to its own",
        in_="worker.jobs.attempt:Attempt._give_back",
        replace="UNSUITED if isinstance($fault, HostUnsuited) else UNFIT",
        by="UNFIT",
        tests=(
            f"{FAULTS}::TestAnotherBaseModelOfTheName::test_does_not_keep_the_host_from_the_jobs_that_were_made_for_it",
        ),
    ),
    Defect(
        name="any host that a request names is answered to",
        in_="core.listening.origin_guard:OriginGuard._check_host",
        replace="if $refused: raise HostNotAllowed($$$arguments)",
        by="pass",
        tests=(f"{GUARD}::test_without_a_key_no_other_host_is_answered_to",),
    ),
    Defect(
        name="a host that begins like one of ours is ours",
        in_="core.listening.origin_guard:OriginGuard._check_host",
        replace="$host.name not in self._hosts",
        by="not $host.name.startswith(tuple(self._hosts))",
        tests=(f"{GUARD}::test_without_a_key_no_other_host_is_answered_to",),
    ),
    Defect(
        name="pages of other sites may change things",
        in_="core.listening.origin_guard:OriginGuard.check",
        replace="self._check_origin($$$arguments)",
        by="pass",
        tests=(f"{GUARD}::test_a_foreign_page_may_change_nothing",),
    ),
    Defect(
        name="a page whose browser says where it comes from, and no origin, may change things",
        in_="core.listening.origin_guard:OriginGuard._check_origin",
        replace="any($site not in _OWN_SITES for $site in $sites)",
        by="False",
        tests=(f"{GUARD}::test_a_foreign_page_may_change_nothing",),
    ),
    Defect(
        name="a frozen process keeps the lock",
        in_="app.cli.stack.liveness:LivenessWatch._find_frozen_holder",
        replace="find_lock_holder(self._database)",
        by="None",
        tests=(f"{LIVENESS}::test_a_stopped_process_with_the_lock_must_end_before_one_without",),
    ),
    Defect(
        name="a process that lives is ended for a lock that it holds for long",
        in_="app.cli.stack.liveness:LivenessWatch._find_frozen_holder",
        replace="max($holder.since_s, $heard) if $known else $holder.since_s",
        by="$holder.since_s",
        tests=(f"{LIVENESS}::test_a_process_that_lives_may_hold_the_lock",),
    ),
    Defect(
        name="a connection to a database with a write-ahead log counts as a writer",
        in_="app.cli.stack.sqlite_lock:find_lock_holder",
        replace="header[_READ_VERSION] < 2",
        by="True",
        tests=(
            f"{LOCK}::test_a_reader_counts_where_commits_wait_for_it",
            f"{LOCK}::test_connections_that_do_nothing_hold_nothing",
        ),
    ),
    Defect(
        name="frozen processes are named and live on",
        in_="app.cli.stack.supervisor:Supervisor._end",
        replace="os.kill($frozen.pid, signal.SIGKILL)",
        by="pass",
        tests=(f"{SUPERVISOR}::test_that_must_end_are_killed_and_start_again",),
    ),
    Defect(
        name="whoever holds the lock is killed, of the stack or not",
        in_="app.cli.stack.supervisor:Supervisor._end",
        replace="next($matching, None)",
        by="self.children[0]",
        tests=(f"{SUPERVISOR}::test_that_are_not_of_the_stack_are_left_alone",),
    ),
    Defect(
        name="a text that cannot fit is tokenised to its end",
        in_="core.text.tokenizer:TextTokenizer.check_size",
        replace="if $fewest > $limit: raise TooManyTokens($fewest)",
        by="pass",
        tests=(f"{BOUND}::TestLimited::test_a_text_that_cannot_fit_is_not_tokenised",),
    ),
    Defect(
        name="bytes that become no token count as if they did",
        in_="core.text.text_bound:TextBound.fewest_tokens",
        replace="len($data.translate(None, self.dropped)) if self.dropped else len($data)",
        by="len($data)",
        tests=(f"{BOUND}::test_characters_that_become_no_token_do_not_count",),
    ),
    Defect(
        name="a bound is claimed of tokenizers that drop what they cut at",
        in_="core.text.text_bound:find_bound",
        replace="all(map(_keeps_all, $pre_tokenizers))",
        by="True",
        tests=(f"{BOUND}::test_where_a_text_can_vanish_no_bound_is_claimed",),
    ),
)
