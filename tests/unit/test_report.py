from collections import Counter
from dataclasses import replace
from decimal import Decimal

import pytest

from batch_runner.bill import Bill, Biller, Tokens
from batch_runner.cli import build_parser
from batch_runner.errors import ExitCode
from batch_runner.findings import Findings
from batch_runner.money_view import bound_words
from batch_runner.pricing import PriceBook
from batch_runner.records import RowStatus, UnknownBilling
from batch_runner.report import MOST_LINES, report_lines, summary_lines
from batch_runner.run_view import limit_view
from batch_runner.summary import RunSummary


def bill(**changes):
    values = {
        "calls": 20_000,
        "answered": 19_990,
        "tokens": Tokens(input=31_200_000, cached=22_000_000, output=2_410_000, reasoning=900_000),
        "answers": Decimal("8.43"),
        "failures": Decimal("0.11"),
        "unknown": Counter({UnknownBilling.TIMEOUT: 3}),
        "unknown_at_most": Decimal("0.0131"),
    }
    return Bill(**(values | changes))


def summary(**changes):
    values = {
        "job": "article-summaries",
        "origin": "jobs/summarize_articles.toml",
        "invocation": "jobs/summarize_articles.toml",
        "run_id": "r",
        "started_at": 1.7e9,
        "elapsed_seconds": 761.0,
        "rows": 20_000,
        "sent": 20_000,
        "reused": 4_100,
        "statuses": Counter(
            {RowStatus.OK: 19_962, RowStatus.FAILED: 31, RowStatus.SKIPPED: 7},
        ),
        "codes": Counter({"content_filter": 19, "max_output_tokens": 9, "timeout": 3, "missing_value": 7}),
        "bill": bill(),
        "run_bill": bill(),
        "latency_quantiles": {"p50": 2.1, "p90": 5.4, "p99": 18.0, "max": 40.0},
        "output": "out/article_summaries.csv",
        "report": "out/article_summaries.html",
    }  # fmt: skip
    return RunSummary(**(values | changes))


AS_SHOWN = """\
article-summaries  20,000 rows: 19,962 ok (4,100 reused), 31 failed, 7 skipped   12m 41s, 26.3 rows/s
tokens   in 31.2M (cached 22.0M)  out 2.41M (reasoning 900k)
cost     $8.43 at list price (+$0.110 failed attempts; 3 attempts of unknown billing, at most $0.0131): at least $8.54, at most $8.56
latency  p50 2.1s  p90 5.4s  p99 18s
failed   19 content_filter, 9 max_output_tokens, 3 timeout     -> batch-runner retry jobs/summarize_articles.toml
output   out/article_summaries.csv   report out/article_summaries.html"""


def test_a_run_reads_as_the_interface_shows_it():
    assert "\n".join(summary_lines(summary())) == AS_SHOWN


def test_what_costs_nothing_has_no_list_price_and_a_price_of_the_job_is_none():
    free = Bill(calls=3, answered=3, sources=Counter({'[prices."m"]': 3}))
    assert line("cost", bill=free, run_bill=free) == "cost     $0.00"
    own = replace(free, answers=Decimal("0.25"))
    assert line("cost", bill=own, run_bill=own) == "cost     $0.250 at the job's price"


def test_failed_attempts_are_added_to_what_the_answers_cost_as_status_does():
    known = Bill(calls=3, answered=3, answers=Decimal("0.25"), failures=Decimal("0.125"))
    told = line("cost", bill=known, run_bill=known)
    assert told == "cost     $0.250 at list price (+$0.125 failed attempts): $0.375 in all"
    assert bound_words(known) == "$0.375"


def line(name, **changes):
    return next((one for one in summary_lines(summary(**changes)) if one.startswith(name)), None)


def test_rows_that_were_cut_off_are_not_said_to_have_failed():
    cut = {
        "statuses": Counter({RowStatus.OK: 57, RowStatus.INCOMPLETE: 2}),
        "codes": Counter({"max_output_tokens": 2}),
    }
    assert line("failed", **cut) is None
    assert line("not ok   2 max_output_tokens", **cut)


def test_a_model_without_a_price_comes_with_a_command_that_works_as_it_stands():
    unpriced = bill(unpriced=19_990)
    told = line("cost", bill=unpriced, run_bill=unpriced, model="my model")
    assert "batch-runner prices 'my model' shows how to give one" in told
    told = line("cost", bill=unpriced, run_bill=unpriced, model="{{ model }}")
    assert "batch-runner prices MODEL shows" in told


def test_rows_that_a_later_run_cures_are_not_sent_to_retry():
    told = line("failed", codes=Counter({"rate_limited": 31}))
    assert told == (
        "failed   31 rate_limited     -> a later run sends them again: "
        "batch-runner run jobs/summarize_articles.toml"
    )


def test_rate_limited_rows_among_others_have_a_note_of_their_own():
    assert "a later run sends them again" in line(
        "note", codes=Counter({"rate_limited": 30, "bad_request": 1})
    )


@pytest.mark.parametrize(
    ("status", "code"),
    [(RowStatus.INCOMPLETE, "content_filter"), (RowStatus.REFUSED, "other:refusal")],
)
def test_rows_that_retry_leaves_alone_have_a_command_that_includes_them(status, code):
    told = line("not ok", statuses=Counter({status: 2}), codes=Counter({code: 2}))
    assert told.endswith(f"batch-runner retry jobs/summarize_articles.toml --include {status}")


def test_rows_skipped_on_purpose_are_no_failure():
    statuses = Counter({RowStatus.OK: 1, RowStatus.SKIPPED: 7})
    assert line("failed", statuses=statuses, codes=Counter({"missing_value": 7})) is None


def test_a_job_made_of_flags_is_told_what_to_type():
    assert line("failed", invocation="-i a.csv").endswith("batch-runner retry -i a.csv")
    stopped = line("output", invocation="-i a.csv", output=None, exit_code=ExitCode.TERMINATED)
    assert "batch-runner export -i a.csv" in stopped


def test_a_path_with_spaces_can_be_pasted():
    assert line("failed", invocation="'my jobs/a.toml'").endswith("retry 'my jobs/a.toml'")


def test_what_an_endpoint_says_cannot_steer_the_terminal_or_break_the_line():
    lines = summary_lines(
        summary(
            codes=Counter({"other:\x1b[31m\nred": 1}),
            stop_reason="the endpoint said \x1b]0;x\x07\u202e\nnext",
            warnings=["a\rb"],
        )
    )
    assert not {"\x1b", "\x07", "\u202e", "\r", "\n"} & {*"".join(lines)}


def test_there_are_never_more_than_twelve_lines():
    lines = summary_lines(
        summary(
            warnings=[f"warning {n}" for n in range(9)],
            codes=Counter({"rate_limited": 1, "bad_request": 1}),
            stop_reason="limits.deadline",
            hint="run again",
        )
    )
    assert len(lines) <= MOST_LINES
    assert lines[-1].startswith("output")


def test_an_unknown_cost_is_not_shown_as_zero():
    unknown = bill(answers=Decimal(0), failures=Decimal(0), unpriced=19_990, unbounded=19_993)
    told = line("cost", bill=unknown, run_bill=unknown)
    assert "unknown" in told
    assert "$0" not in told


def test_a_bound_is_never_rounded_down():
    told = line("cost", bill=bill(unknown_at_most=Decimal("0.01001")))
    assert "at most $0.011" in told or "at most $0.0101" in told


def test_a_quick_run_is_not_shown_as_nothing():
    told = summary_lines(summary(elapsed_seconds=0.004, latency_quantiles={"p50": 0.0032}))
    assert "4ms" in told[0]
    assert "latency  p50 3ms" in told
    assert not any("0.0s" in one for one in told)


def test_this_run_and_all_runs_are_told_apart_where_they_differ():
    one = bill(calls=10, answered=10, answers=Decimal("0.25"), failures=Decimal(0), unknown=Counter(),
               unknown_at_most=Decimal(0), tokens=Tokens(input=500, output=100))  # fmt: skip
    lines = summary_lines(summary(run_bill=one, sent=10, elapsed_seconds=2.0))
    assert lines[0].endswith("   this run 10 rows in 2.0s, 5.0 rows/s")
    assert lines[1:5] == [
        "tokens   this run  in 500  out 100",
        "         all runs  in 31.2M (cached 22.0M)  out 2.41M (reasoning 900k)",
        "cost     this run  $0.250 at list price",
        (
            "         all runs  $8.43 at list price (+$0.110 failed attempts; "
            "3 attempts of unknown billing, at most $0.0131): at least $8.54, at most $8.56"
        ),
    ]
    assert lines[5].startswith("latency  this run  p50")


def test_a_run_that_sent_nothing_has_the_figures_of_all_runs_alone():
    lines = summary_lines(summary(run_bill=Bill(), sent=0, latency_quantiles={}))
    assert [one[:18] for one in lines[1:3]] == ["tokens   all runs ", "cost     all runs "]
    assert "rows/s" not in lines[0]


def test_tokens_that_nobody_reported_are_not_shown_as_zero():
    lost = bill(calls=3, answered=0, tokens=Tokens(), answers=Decimal(0), failures=Decimal(0))
    assert line("tokens", bill=lost, run_bill=lost) == "tokens   none reported"


def test_cut_off_answers_are_not_counted_as_ok_ones_reused():
    statuses = Counter({RowStatus.OK: 5, RowStatus.INCOMPLETE: 2})
    told = summary_lines(summary(statuses=statuses, reused=7))[0]
    assert "5 ok, 2 incomplete (7 answers reused)" in told
    only_ok = summary_lines(summary(statuses=Counter({RowStatus.OK: 7}), reused=7))[0]
    assert "7 ok (7 reused)" in only_ok


def test_a_mix_of_failed_and_cut_off_rows_has_a_command_that_takes_both():
    statuses = Counter({RowStatus.FAILED: 1, RowStatus.INCOMPLETE: 1, RowStatus.REFUSED: 1})
    codes = Counter({"bad_request": 1, "max_output_tokens": 1, "other:refusal": 1})
    told = line("not ok", statuses=statuses, codes=codes)
    assert told.endswith(
        "batch-runner retry jobs/summarize_articles.toml --include incomplete --include refused "
        "--only max_output_tokens,other:refusal --set retry.on_incomplete=retry"
    ), "what the endpoint does not accept, it does not accept again"
    import shlex

    words = shlex.split(told.partition("-> batch-runner ")[2])
    assert build_parser().parse_args(words).include == ["incomplete", "refused"]


def test_what_the_endpoint_does_not_accept_is_not_sent_again_among_others():
    mixed = line("failed", codes=Counter({"bad_request": 3, "json_invalid": 2, "timeout": 1}))
    assert mixed.endswith(
        "batch-runner retry jobs/summarize_articles.toml --only json_invalid,timeout"
    )
    alone = line("failed", codes=Counter({"bad_request": 3}))
    assert alone.endswith("batch-runner retry jobs/summarize_articles.toml")


def test_what_helps_most_of_the_rows_is_advised_first():
    def advice(**codes):
        statuses = Counter({RowStatus.FAILED: sum(codes.values())})
        return line("failed", statuses=statuses, codes=Counter(codes)).partition("-> ")[2]

    job = "jobs/summarize_articles.toml"
    run = f"batch-runner run {job}"
    assert advice(connection=20, missing_value=1) == (
        f"a later run sends them again: {run}; for missing_value fill the empty cells first"
    )
    assert advice(connection=1, missing_value=20) == f"fill the empty cells, then {run}"
    assert advice(json_invalid=20, bad_input=1) == (
        f"batch-runner retry {job}; for bad_input mend these cells, then {run}"
    )
    assert advice(bad_request=20, json_invalid=1) == (
        f"batch-runner check {job} --probe shows what is refused; "
        f"for the others batch-runner retry {job} --only json_invalid"
    )


THEN_RUN = "then batch-runner run jobs/summarize_articles.toml"


@pytest.mark.parametrize(
    ("codes", "way_out"),
    [
        ({"missing_value": 2}, f"fill the empty cells, {THEN_RUN}"),
        ({"missing_value": 1, "timeout": 1}, f"fill the empty cells, {THEN_RUN}"),
        ({"missing_value": 1, "bad_input": 1}, f"mend these cells, {THEN_RUN}"),
        (
            {"missing_value": 1, "json_invalid": 1},
            f"fill the empty cells, {THEN_RUN}; for the others batch-runner retry jobs/summarize_articles.toml",
        ),
    ],
    ids=" ".join,
)
def test_rows_that_retry_cannot_send_are_mended_first(codes, way_out):
    ended = {"statuses": Counter({RowStatus.FAILED: 2}), "codes": Counter(codes)}
    told = "in.csv:3 (b): empty cell in 'body'"
    lines = summary_lines(summary(**ended, examples={"missing_value": told}))
    [failed] = [one for one in lines if one.startswith("failed")]
    assert failed.endswith(f"-> {way_out}")
    [example] = [one for one in lines if told in one]
    assert "-> batch-runner" not in example, "no command alone fills a cell"


EXAMPLES = {
    "timeout": "row 3: no whole reply within endpoint.timeout (600 s)",
    "content_filter": "row 8: cut off by the \x1b[31mcontent filter",
}


def test_each_error_has_an_example_and_what_helps():
    lines = summary_lines(
        summary(codes=Counter({"timeout": 3, "content_filter": 1}), examples=EXAMPLES)
    )
    at = next(n for n, one in enumerate(lines) if one.startswith("failed"))
    assert lines[at + 1] == (
        "         3 timeout, such as row 3: no whole reply within endpoint.timeout (600 s)  -> "
        "batch-runner run jobs/summarize_articles.toml --set endpoint.timeout=20m"
    )
    assert "1 content_filter, such as row 8: cut off by the" in lines[at + 2]
    assert "\x1b" not in lines[at + 2]


def test_six_errors_have_an_example_each_and_a_command_that_can_be_copied():
    codes = ("timeout", "auth", "bad_request", "other:refusal", "max_output_tokens", "json_invalid")
    told = summary_lines(
        summary(codes=Counter(dict.fromkeys(codes, 1)), invocation="-i a.csv --set retry.attempts=2",
                examples={code: f"row {n}: says why" for n, code in enumerate(codes)})
    )  # fmt: skip
    assert len(told) == MOST_LINES
    for code in codes:
        assert any(f"1 {code}, such as row" in one and "-> batch-runner" in one for one in told)
    meant = "-i a.csv --set retry.attempts=2"
    assert all(f" {meant}" in one for one in told if "-> batch-runner" in one)
    assert any(one.endswith(f"-> batch-runner check {meant} --probe") for one in told)


def test_an_example_never_pushes_the_output_out():
    lines = summary_lines(
        summary(codes=Counter({"timeout": 3, "content_filter": 1}), examples=EXAMPLES,
                warnings=["one", "two", "three"], stop_reason="limits.deadline", hint="run again",
                run_bill=bill(calls=1))
    )  # fmt: skip
    assert len(lines) <= MOST_LINES
    assert lines[-1].startswith("output")
    assert any("such as row 3" in one for one in lines)


def test_beside_bounds_what_is_known_is_never_above_the_lower_one():
    odd = bill(answers=Decimal("0.0029355"), failures=Decimal(0), unknown_at_most=Decimal("0.001"))
    told = line("cost", bill=odd, run_bill=odd)
    assert told.startswith("cost     $0.00293 at list price (")
    assert told.endswith("): at least $0.00293, at most $0.00394")


def test_rows_that_nobody_has_asked_yet_have_a_way_on():
    waiting = Counter({RowStatus.OK: 2, RowStatus.PENDING: 1})
    told = line("pending", statuses=waiting)
    assert told.endswith(
        "1 row not answered yet     -> batch-runner run jobs/summarize_articles.toml"
    )
    assert line("pending", statuses=waiting, stop_reason="SIGINT") is None, "the hint says it"
    assert line("pending", statuses=waiting, plan={}) is None, "a dry run is asked what it would do"


def test_what_is_the_same_for_this_run_and_all_is_said_once():
    refused = bill(calls=5, answered=0, answers=Decimal(0), failures=Decimal(0), unknown=Counter(),
                   unknown_at_most=Decimal(0), tokens=Tokens())  # fmt: skip
    lost = bill(calls=9, answered=0, answers=Decimal(0), failures=Decimal(0), tokens=Tokens())
    lines = summary_lines(summary(run_bill=refused, bill=lost))
    assert [one for one in lines if "none reported" in one] == ["tokens   none reported"]
    assert "cost     this run  nothing: no call got so far as to cost anything" in lines
    assert "         all runs  no call told what it used (3 attempts" in "\n".join(lines)


def test_what_no_run_knows_is_said_once():
    unpriced = bill(unpriced=19_990, unbounded=3)
    one = bill(calls=10, answered=10, unpriced=10, unknown=Counter())
    lines = summary_lines(summary(bill=unpriced, run_bill=one, sent=10))
    assert len([line for line in lines if "no price for the model" in line]) == 1
    assert "3 attempts of unknown billing, no upper bound" in "\n".join(lines)


def test_rows_left_out_on_purpose_are_counted_and_need_no_cure(tmp_path):
    findings = Findings(Biller(PriceBook({})), [])
    told = "\n".join(report_lines(summary(), findings))
    assert '7 rows are skipped for an empty cell, as prompt.missing = "skip" asks' in told
    assert "prompt.missing=skip" not in told
    failed = Counter({RowStatus.OK: 1, RowStatus.FAILED: 7})
    lines = report_lines(summary(statuses=failed, codes=Counter({"missing_value": 7})), findings)
    assert "--set prompt.missing=skip" in lines[-1], "where it is not yet so, it is a way out"


def change(was, now, rate=None):
    return {"at": 1.7e9, "was": was, "now": now, "rate": rate, "why": "refused with 0 in flight"}


@pytest.mark.parametrize(
    ("calls", "changes", "told"),
    [
        (None, [], None),
        (0, [change(8, 16)], None),
        (1, [], "1 call was answered 429 (too many requests)"),
        (
            57,
            [change(20, 4)],
            "57 calls were answered 429 (too many requests); calls in flight went from 20 down to 4",
        ),
        (
            1200,
            [change(64, 20), change(20, 4), change(4, 9, 2.5)],
            (
                "1,200 calls were answered 429 (too many requests); "
                "calls in flight went from 64 down to 4 and up to 9; in the end 2.5 calls a second"
            ),
        ),
        (
            1,
            [change(8, 4), change(4, 4, 1.0)],
            (
                "1 call was answered 429 (too many requests); calls in flight went from 8 down to 4; "
                "in the end 1 call a second"
            ),
        ),
        (2, [change(20, 20)], "2 calls were answered 429 (too many requests)"),
        (
            2,
            [change(4, 8), change(8, 9)],
            "2 calls were answered 429 (too many requests); calls in flight went from 4 up to 9",
        ),
    ],
)
def test_the_end_of_a_run_names_its_429s_and_what_they_did(calls, changes, told):
    found = line("limits", rate_limited_calls=calls, limit_changes=changes)
    assert found == (told and f"limits   {told}")


def test_a_refusal_that_moved_nothing_is_no_change_of_the_limit():
    moves = [change(20, 20), change(20, 4), change(4, 4), change(4, 4, 2.0), change(4, 4, 2.0)]
    lines = limit_view(summary(limit_changes=moves))["lines"]
    assert [(moved, rate) for _, moved, rate, _ in lines] == [
        ("20 → 4", "as they come"),
        ("4", "2 a second"),
    ]
