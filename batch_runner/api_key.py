"""The key to send, from the environment: which one, and to whom it may go."""

import os
from collections.abc import Mapping

from batch_runner import hosts
from batch_runner.errors import UsageError
from batch_runner.job import DEFAULT_BASE_URL, URL_VARIABLE, JobSpec


DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"


def api_key(job: JobSpec, environment: Mapping[str, str] | None = None) -> str | None:
    """The key to send; None for an endpoint on this machine, or where the job says there is none.

    Raises UsageError for a key that is missing or cannot be sent. Never repeats it.
    """
    environment = os.environ if environment is None else environment
    name = job.endpoint.api_key_env
    if name == "":
        return None
    if name is None:
        name = DEFAULT_KEY_VARIABLE
        owned = _owns_default_key(job.endpoint.base_url, environment)
        if job.endpoint.is_local and not (owned and environment.get(name, "").strip()):
            return None
        if not owned:
            raise UsageError(
                f"{job.origin}: endpoint.api_key_env: missing: {job.endpoint.base_url} is not the "
                f"default host, so it is not sent {name} unless the job says so",
                hint='name the variable that holds its key: api_key_env = "..." under [endpoint]; '
                'api_key_env = "" if it takes none; on this machine (127.0.0.1, localhost) none is needed',
            )
    key = environment.get(name, "").strip()
    if not key:
        state = "empty" if name in environment else "not set"
        other = (
            "endpoint.base_url (--base-url http://127.0.0.1:PORT/v1) asks your own server, --local"
        )
        if job.endpoint.api_key_env is not None:
            other = 'api_key_env = "" says that the server takes none, --local asks'
        raise UsageError(
            f"the environment variable {name} is {state}: the key for {job.endpoint.base_url}",
            hint=f"export {name}=...; without a key: {other} a small model (batch-runner serve)",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(
            f"the key in {name} holds white space, control or non-ASCII characters (value not shown)",
            hint="was something else pasted with it?",
        )
    return key


def key_source(job: JobSpec, key: str | None) -> str:
    """Where `key` came from, for people."""
    if job.endpoint.api_key_env == "":
        return 'no key, as endpoint.api_key_env = "" says'
    if key is None:
        held = job.endpoint.api_key_env is None and os.environ.get(DEFAULT_KEY_VARIABLE)
        why = (
            f" ({DEFAULT_KEY_VARIABLE} goes to no other host unless endpoint.api_key_env names it)"
        )
        return "no key" + (why if held else "")
    return f"key from {key_variable(job)}"


def key_variable(job: JobSpec) -> str:
    """The name of the variable whose key is sent, where one is."""
    return job.endpoint.api_key_env or DEFAULT_KEY_VARIABLE


def _owns_default_key(url: str, environment: Mapping[str, str]) -> bool:
    """The default key belongs to this URL: it is the default, or stands in the environment too."""
    if url == DEFAULT_BASE_URL:
        return True
    try:
        return url == hosts.base_url(environment.get(URL_VARIABLE, ""))
    except ValueError:
        return False
