"""The report of real runs against an endpoint in memory that answers as it is told."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import anyio
import httpx
import pytest

from batch_runner import html_report
from batch_runner.asked import read_asked
from batch_runner.findings import MOST_RANDOM, gather
from batch_runner.html_report import no_repeats, render_report, write_report
from batch_runner.jobfile import load_job
from batch_runner.journal import Durability, Intent, Journal, RunDirectory
from batch_runner.opening import open_work
from batch_runner.progress import ProgressStyle
from batch_runner.records import RowStatus
from batch_runner.run_options import RunOptions
from batch_runner.runner import run
from batch_runner.standing import standing


HOSTILE = (
    "</script></pre><script>alert(1)</script> \" ' ` &amp; {{ 7 * 7 }} \x00 \u202egnp.exe "
    "\x1b[2J\x1b]0;pwned\x07 \ud800 <img src=x onerror=alert(2)> <style>*{display:none}</style>"
)
NEVER_CLOSED = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """What a browser would make of the file, as far as it matters for safety."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in NEVER_CLOSED:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def answer(text, **fields):
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 40},
        "output_tokens": 10,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 110,
    }
    content = [{"type": "output_text", "text": text, "annotations": []}]
    message = {"type": "message", "role": "assistant", "content": content}
    reply = {"id": "r", "object": "response", "model": "m1", "status": "completed"}
    return json_reply(200, reply | {"output": [message], "usage": usage} | fields)


def bad_request(message):
    return json_reply(400, {"error": {"code": "invalid_value", "message": message}})


def json_reply(status, value):
    """ASCII on the wire: the only way for half a surrogate pair to travel."""
    headers = {"content-type": "application/json"}
    return httpx.Response(status, content=json.dumps(value).encode(), headers=headers)


@pytest.fixture
def ran(tmp_path):
    """Carry a job out over the texts; returns what a report is made of."""

    def carry_out(texts, endpoint, *, redact=False, priced=True, extra="", prompt=""):
        with (tmp_path / "in.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "body"])
            writer.writerows((f"label-{n}", text) for n, text in enumerate(texts))
        price = '[prices."m1"]\ninput = 1\noutput = 2\n' if priced else ""
        (tmp_path / "job.toml").write_text(
            '[input]\npath = "in.csv"\nkey = "id"\n[prompt]\ninput = "Sum up: {{ body }}"\n'
            f"{prompt}"
            '[request]\nmodel = "m1"\nmax_output_tokens = 50\n'
            f'[endpoint]\nbase_url = "http://127.0.0.1:1/v1"\n{price}'
            f'[output]\npath = "out.csv"\n{extra}'
        )
        job = load_job(tmp_path / "job.toml")
        if endpoint is not None:
            transport = httpx.MockTransport(endpoint)
            options = RunOptions(
                transport=transport, progress=ProgressStyle.OFF, handle_signals=False
            )
            run(job, options)
        with open_work(job) as work:
            findings = gather(work)
            summary = standing(work, findings)
            asked = read_asked(work, {one.key for one in findings.samples()})
            html = render_report(work, summary, findings, asked, redact=redact)
            write_report(work, summary, findings, tmp_path / "r.html", redact=redact)
        written = (tmp_path / "r.html").read_text(encoding="utf-8")
        return SimpleNamespace(
            html=html, written=written, page=Page(html), summary=summary, findings=findings, job=job
        )

    return carry_out


def body_of(request):
    return json.loads(request.content)["input"]


def test_hostile_output_is_text_and_nothing_else(ran):
    def endpoint(request):
        if "bad" in body_of(request):
            return bad_request(HOSTILE)
        return answer(HOSTILE)

    report = ran(["a <b>c", "bad"], endpoint)
    assert report.page.open == []
    assert not {"script", "img", "iframe", "link", "object", "form", "base"} & {*report.page.tags}
    assert report.page.tags.count("style") == 1
    assert not [name for name, _ in report.page.attributes if name.startswith("on")]
    assert not [name for name, _ in report.page.attributes if name in ("src", "href", "srcset")]
    assert "alert(1)" in report.page.words, "the text is on show"
    assert "{{ 7 * 7 }}" in report.page.words
    assert not {"\x00", "\x1b", "\u202e", "\x07"} & {*report.html}
    assert report.html.encode().startswith(b"<!doctype html>")


def test_the_policy_lets_nothing_run_and_nothing_load(ran):
    report = ran(["a"], lambda _: answer("fine"))
    policy = dict(report.page.attributes).get("content")
    contents = [value for name, value in report.page.attributes if name == "content"]
    assert policy is not None
    assert contents[0].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert "url(" not in report.html
    assert "@import" not in report.html


def test_the_report_tells_cost_errors_and_what_to_type(ran):
    def endpoint(request):
        return bad_request("no such thing") if "bad" in body_of(request) else answer("A summary.")

    words = ran(["one", "two", "bad one"], endpoint).page.words
    assert "2 of 3 rows are answered" in words.replace("\N{NO-BREAK SPACE}", " ")
    assert "$0.000240, with nothing unknown about it." in words  # 2 x (100 x $1 + 10 x $2) / 1M
    assert "bad_request" in words
    assert "label-2: HTTP 400: no such thing" in words
    assert "batch-runner check" in words
    assert "40.0%" in words, "cached and reasoning shares"
    assert "Sum up: one" in words
    assert "in.csv:2" in words


def test_unknown_billing_is_named_by_cause_with_its_bound(ran):
    calls = iter(range(100))

    def endpoint(request):
        if next(calls) == 0:
            raise httpx.ReadError("reset", request=request)
        return answer("fine")

    report = ran(["one"], endpoint)
    words = report.page.words
    assert report.summary.bill.at_least < report.summary.bill.at_most
    assert "At least $0.000120, at most $0.000" in words
    assert "connection broke after they were sent" in words
    assert "at most $0.000" in words.partition("connection broke")[2]


def test_without_a_price_the_cost_is_unknown_and_never_zero(ran):
    words = ran(["one"], lambda _: answer("fine"), priced=False).page.words
    assert "The cost is unknown" in words
    assert "$0" not in words


def test_a_free_model_whose_call_was_lost_is_not_called_known(ran):
    def endpoint(request):
        if "lost" in body_of(request):
            raise httpx.ReadError("reset", request=request)
        return answer("fine")

    free = '[prices."m1"]\ninput = 0\noutput = 0\n'
    never = "[retry]\nmaybe_billed_attempts = 0\n"
    report = ran(["one", "lost"], endpoint, priced=False, extra=free + never)
    assert report.summary.bill.at_least == report.summary.bill.at_most == 0
    assert report.summary.bill.unknown_calls == 1
    words = report.page.words
    assert "nothing unknown" not in words
    assert "all of it known" not in words
    assert "$0.00. Not every call told all that it used, but none can have cost more." in words
    assert "No call with a known cost cost anything." in words
    assert "No call was repeated." in words


@pytest.mark.parametrize("has_ended", [False, True], ids=["crash", "damage"])
def test_a_lost_call_may_have_been_a_repeat(ran, has_ended):
    report = ran(["one"], lambda _: answer("fine"))
    assert "No call was repeated." in report.page.words
    findings = report.findings
    lost = Intent(key=b"k" * 16, attempt=2, row=0, model="m1", request_bytes=9, max_output_tokens=5)
    findings.add_lost_call(replace(lost, has_ended=has_ended))
    assert no_repeats(findings) == (
        "No result took more than one call in its run; one call has no end in the journal."
    )
    ran(["one", "two"], lambda _: answer("fine"))
    assert "No call was repeated within a run." in ran(["one", "two"], None).page.words


def test_redact_leaves_no_text_of_input_or_model(ran):
    def endpoint(request):
        return bad_request("PRIVATE-E") if "bad" in body_of(request) else answer("PRIVATE-A")

    shown = ran(["PRIVATE-I", "bad PRIVATE-I"], endpoint)
    assert all(f"PRIVATE-{kind}" in shown.html for kind in "IAE"), "the test can see them"
    redacted = ran(["PRIVATE-I", "bad PRIVATE-I"], endpoint, redact=True)
    for text in ("PRIVATE", "label-", "Sum up"):
        assert text not in redacted.html
        assert text not in redacted.written
    assert "without texts" in redacted.page.words


def test_before_the_first_run_every_section_says_that_there_is_nothing_yet(ran):
    report = ran(["one", "two"], None)
    assert "Nothing has been sent yet: 2 rows are waiting." in report.page.words
    assert "No call has been made yet." in report.page.words
    assert report.page.open == []


def test_an_input_without_rows_makes_a_report(ran):
    assert "The input has no rows." in ran([], None).page.words


def test_a_row_without_a_request_has_its_reason_as_an_example(ran):
    report = ran(["one", ""], lambda _: answer("fine"))
    assert report.summary.codes == {"missing_value": 1}
    assert "missing_value" in report.page.words
    assert "in.csv:3" in report.page.words


def test_a_row_skipped_on_purpose_is_counted_and_no_error(ran, tmp_path):
    ran(["one", ""], lambda _: answer("fine"))
    report = ran(["one", ""], None, prompt='missing = "skip"\n')
    assert report.summary.statuses[RowStatus.SKIPPED] == 1
    assert (
        '1 row is skipped for an empty cell, as prompt.missing = "skip" asks.' in report.page.words
    )
    assert "missing_value" not in report.page.words
    assert "prompt.missing=skip" not in report.page.words


def test_rows_in_hand_say_what_of_a_killed_run_is_not_drawn(ran):
    job = ran(["one", "two"], lambda _: answer("fine")).job
    assert "not drawn" not in ran(["one", "two"], None).page.words
    killed = Journal(RunDirectory(job.run_path), run_id="killed", durability=Durability.OFF)
    lost = Intent(key=b"k" * 16, attempt=1, row=0, model="m1", request_bytes=9, max_output_tokens=5)
    anyio.run(killed.announce, lost)
    words = ran(["one", "two"], None).page.words
    assert (
        "one call without an end in the journal is not drawn: when it began is not known" in words
    )


def test_how_runs_ended_and_what_is_not_ok_is_named(ran):
    def endpoint(request):
        cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        return answer("half", **cut) if "long" in body_of(request) else answer("ok")

    html = ran(["a", "long"], endpoint).html
    assert '<th class="n">Not ok</th>' in html
    row = html.partition('<table class="runs">')[2].partition("<tbody>")[2]
    assert '<td class="n">2</td><td class="n">1</td>' in row
    assert "<td>cleanly</td>" in row
    assert "in order" not in row


def test_a_run_whose_calls_were_all_refused_has_cost_nothing(ran):
    html = ran(["one"], lambda _: bad_request("no")).html
    table = html.partition('<table class="runs">')[2].partition("</table>")[0]
    assert table.count("$0.00<") == 2, "at least, and at most"
    assert "unknown" not in table


def test_what_each_run_may_have_cost_is_told_and_unknown_is_not_zero(ran):
    job = ran(["one", "two"], lambda _: answer("fine")).job
    killed = Journal(RunDirectory(job.run_path), run_id="killed", durability=Durability.OFF)
    lost = Intent(key=b"k" * 16, attempt=1, row=0, model="m1", request_bytes=9, max_output_tokens=5)
    anyio.run(killed.announce, lost)
    table = ran(["one", "two"], None).html.partition('<table class="runs">')[2]
    head, first, second = re.findall("<tr>.*?</tr>", table.partition("</table>")[0])
    names, *runs = (re.findall("<t[hd][^>]*>(.*?)</t[hd]>", line) for line in (head, first, second))
    first, second = (dict(zip(names, run, strict=True)) for run in runs)
    shown = ("Calls", "At least", "At most", "Ended")
    assert [first[name] for name in shown] == ["2", "$0.000240", "$0.000240", "cleanly"]
    assert [second[name] for name in shown] == ["1", "unknown", "$0.0000830", "killed"]


def test_a_phone_hides_no_column_of_a_table(ran):
    page = ran(["one"], lambda _: answer("fine")).html
    narrow = page.partition("@media (max-width")[2].partition("@media print")[0]
    hidden = re.findall(r"^\s*([^{}]+?) \{ display: none; \}", narrow, re.MULTILINE)
    assert {*hidden} <= {".below .wide", ".row[open] .glimpse", ".row .facts span:nth-child(n + 3)"}


def test_rows_left_out_and_rows_not_asked_yet_have_colours_of_their_own(ran):
    page = ran(["one"], lambda _: answer("fine")).html
    schemes = re.findall(r"--skipped: (#\w+); --pending: (#\w+);", page)
    assert len(schemes) == 3, "light, dark and paper"
    assert all(skipped != pending for skipped, pending in schemes)
    assert ".skipped { color: var(--skipped); } .pending { color: var(--pending); }" in page


def test_a_row_that_failed_can_be_read_with_what_it_was_asked(ran):
    def endpoint(request):
        return bad_request("no such thing") if "bad" in body_of(request) else answer("A summary.")

    rows = ran(["one", "a bad one"], endpoint).html.partition("<h2>Rows to read</h2>")[2]
    group = rows.partition("<h3>Slowest")[0]
    assert "Without a full answer" in group
    assert "Sum up: a bad one" in group
    assert "bad_request" in group


def test_a_slow_pace_is_told_by_the_minute(ran):
    report = ran(["one"], lambda _: answer("fine"))
    report.findings.courses[0].last += 300
    figures = html_report._figures(report.summary, report.findings)
    assert [figure for name, figure, _ in figures if name == "Pace"] == ["0.2 rows/min"]


def test_a_report_says_when_it_was_written_and_not_when_the_last_run_ended(ran, monkeypatch):
    ran(["one"], lambda _: answer("fine"))
    monkeypatch.setattr(html_report.time, "time", lambda: 2e9)
    assert "Written 2033-05-18 03:33:20 UTC" in ran(["one"], None).page.words


def test_the_size_does_not_grow_with_the_rows(ran):
    def endpoint(_):
        return answer("word " * 2000)

    small = len(ran([f"row {n} " + "x" * 3000 for n in range(40)], endpoint).html)
    large = ran([f"row {n} " + "x" * 3000 for n in range(320)], endpoint)
    assert len(large.html) < small + 40_000  # more of the 200 columns are in use
    assert len(large.findings.random.samples()) == MOST_RANDOM


def test_the_same_journal_shows_the_same_random_rows(ran):
    def endpoint(_):
        return answer("fine")

    texts = [f"row {n}" for n in range(60)]
    first, second = ran(texts, endpoint), ran(texts, endpoint)
    rows = [[one.row for one in each.findings.random.samples()] for each in (first, second)]
    assert rows[0] == rows[1]
    assert rows[0] != sorted(rows[0])[:MOST_RANDOM] or rows[0] != [*range(MOST_RANDOM)]


def test_a_row_that_failed_first_and_was_answered_later_is_no_error(ran):
    ran(["one"], lambda _: httpx.Response(400, json={"error": {"message": "first"}}))
    assert "first" in ran(["one"], None).page.words
    job = ran(["one"], None).job
    transport = httpx.MockTransport(lambda _: answer("fine"))
    options = RunOptions(
        transport=transport,
        progress=ProgressStyle.OFF,
        handle_signals=False,
        wanted=lambda status, _: status is RowStatus.FAILED,
    )
    run(job, options)
    report = ran(["one"], None)
    assert report.findings.examples == {}
    assert "The one row is answered." in report.page.words
    assert len(report.findings.courses) == 2


def test_a_run_writes_the_report_it_was_asked_for(ran, tmp_path):
    ran(["one"], lambda _: answer("fine"), extra='report = "run.html"\n')
    meta = json.loads((tmp_path / "out.csv.meta.json").read_text())
    assert meta["report"] == str(tmp_path / "run.html")
    page = Page((tmp_path / "run.html").read_text(encoding="utf-8"))
    assert "fine" in page.words
    assert meta["run_id"] in (tmp_path / "run.html").read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written_is_told_and_the_output_is_there(ran, tmp_path):
    (tmp_path / "taken.html").mkdir()
    ran(["one"], lambda _: answer("fine"), extra='report = "taken.html"\n')
    meta = json.loads((tmp_path / "out.csv.meta.json").read_text())
    assert meta["exit_code"] == 5
    assert "taken.html" in meta["stop_reason"]
    assert meta["report"] is None
    assert (tmp_path / "out.csv").read_text().count("fine") == 1
