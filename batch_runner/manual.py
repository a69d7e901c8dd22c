"""What `--help` says below the flags."""

EXAMPLES = """\
examples:
  batch-runner init articles.csv > jobs/summaries.toml
  batch-runner check    jobs/summaries.toml              # no calls; shows what would be sent
  batch-runner estimate jobs/summaries.toml --sample 30
  batch-runner run      jobs/summaries.toml              # again = only what is missing
  batch-runner run -i reviews.csv -o out.csv -m gpt-5-mini -p "Summarize: {{ text }}"

exit codes:
  0  all wanted rows done             3    finished, some rows without a full answer
  1  a bug                            4    stopped by a limit, or refused by the endpoint
  2  usage, job, input, credentials   5    journal or output could not be written
  75 another run holds the lock       130, 143  stopped by SIGINT, SIGTERM; run again

environment:
  OPENAI_API_KEY OPENAI_BASE_URL HTTPS_PROXY NO_PROXY SSL_CERT_FILE NO_COLOR
  BATCH_RUNNER_<LONG_FLAG>, as in BATCH_RUNNER_MAX_COST=5
"""


VERIFY = """\
exit codes:
  0  every record is intact; or a killed run left half a line at the end of a segment; or what is
     damaged is made good: a run has met it since, and no row of its input is without a result
  5  damaged, and rows may have to be asked again: it says by which command
"""

SERVE = """\
Runs until a signal ends it (Ctrl-C, SIGTERM), and exits 0 then: a server has no other end.
"""

FAULTS = (
    SERVE
    + """
A request names its fault itself, by the model ("fault:429") or by a marker in its text
("[[fault:slow:2]]"), or a script names it. `curl http://127.0.0.1:8081/admin/faults` lists all.
  500                  always, for this request
  500x2-then-ok        twice, then a good reply
  429:3                Retry-After: 3
  500+slow:1           after a second

script (.toml or .json), rules in order, the first that matches; without `match` a rule is for all:
  [settings]                           # names and values: curl http://127.0.0.1:8081/admin/stats
  latency_seconds = 0.2                # --latency wins
  input_price = 0.25                   # dollars per million tokens, for the ledger
  output_price = 2
  [[rules]]
  match = { model = "gpt-*", every = 10 }
  fault = "429:1"
  [[rules]]
  match = { input_contains = "Sum", share = 0.05 }
  fault = "incomplete:max_output_tokens"

conditions, all of which must hold:
  model            a name, or a pattern with * and ?
  input_contains   a text in instructions or input
  share, seed      this share of all requests, the same ones again and again
  rate, seed       this share, drawn anew each time
  nth, every, first   of those that fit otherwise: these numbers, each n-th, the first n
  endpoint         responses (default), poll, cancel, input_tokens, models, health

ledger (--ledger FILE), JSON lines; each call has a number `n` and two lines, `e` says which:
  B  a whole request came: at (Unix time), key (a digest of its body: calls that ask for the very
     same have the same), model, attempt and idempotency_key (headers), response_id
  R  how it ended: status (null: no whole reply went out), billed (the provider worked, whoever got
     to know), usage_delivered (the client was told what it used), usage, replayed, dollars (null
     where the script gives no input_price and output_price)
  D  a poll has told the usage of a background response
No R: still in flight, or the server died. The response_id of B is the column llm_response_id
(output.columns = "full"); its key finds the other calls for that row, those that failed too.
"""
)
