"""Which endpoints gave the answers that a run reuses: the key of a row names none, for gateways move."""

from collections import Counter

from batch_runner.amounts import commonest, many
from batch_runner.hosts import host_and_port, is_loopback_url
from batch_runner.plan import UNSENDABLE
from batch_runner.price_list import LOCAL_MODEL
from batch_runner.work import Work


_NAMED = 3


def endpoint_in_words(url: str, model: object) -> str:
    """The embedded one has another port each time, and is gone by the time that somebody reads of it."""
    return "the model on this machine" if _is_embedded(url, model) else url


def _is_embedded(url: str, model: object) -> bool:
    return model == LOCAL_MODEL and is_loopback_url(url)


def other_endpoints(work: Work) -> str:
    """A note where answers that stay were given by another host or port than the job's, or none."""
    job, replay, plan = work.job, work.replay, work.plan
    endpoint = job.endpoint
    is_embedded = _is_embedded(endpoint.base_url, job.model)
    others: dict[str, str] = {}
    for run in replay.runs:
        url = run.settings.get("base_url")
        if url is None or (is_embedded and is_loopback_url(url)):
            continue
        if host_and_port(url) != host_and_port(endpoint.base_url):
            others[run.run_id] = url
    if not others:  # rows by the million need not be looked at
        return ""
    rows = zip(plan.entries, plan.wanted, strict=True)
    stay = (entry for entry, is_wanted in rows if not is_wanted and entry != UNSENDABLE)
    given = Counter[str]()
    for file, answers in replay.index.answers_by_file(stay).items():
        if (url := others.get(replay.run_id(file) or "")) is not None:
            given[url] += answers
    if not given:
        return ""
    (first, answers), *more = commonest(given)
    was = "that stays was" if answers == 1 else "that stay were"
    told = [f"{many(answers, 'answer')} {was} given by {first}"]
    told += [f"{n:,} by {url}" for url, n in more[: _NAMED - 1]]
    if rest := sum(n for _, n in more[_NAMED - 1 :]):
        told.append(f"{rest:,} by others")
    return (
        f"{', '.join(told)}; the job asks {endpoint.base_url}: "
        "--fresh asks it for every row, as does -o with another output"
    )
