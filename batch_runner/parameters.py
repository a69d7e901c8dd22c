"""Names under `[request]` that are probably not what was meant.

Every name is sent as it stands, for gateways have parameters of their own. A note is all there is.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any


RESPONSES = frozenset({
    "background", "conversation", "include", "max_output_tokens", "max_tool_calls", "metadata",
    "model", "parallel_tool_calls", "previous_response_id", "prompt", "prompt_cache_key",
    "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier", "store",
    "stream_options", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p",
    "truncation", "user",
})  # fmt: skip
"""What POST /v1/responses takes besides the prompt."""

_INSIDE: Mapping[str, frozenset[str]] = {
    "reasoning": frozenset({"effort", "summary", "generate_summary"}),
    "text": frozenset({"format", "verbosity"}),
}

_GATEWAYS = frozenset({
    "cache_prompt", "chat_template_kwargs", "enable_thinking", "grammar", "min_p", "min_tokens",
    "mirostat", "models", "n_probs", "plugins", "priority", "provider", "repeat_penalty",
    "repetition_penalty", "route", "session_id", "thinking", "top_a", "top_k", "transforms",
    "typical_p",
})  # fmt: skip
"""Names of other servers, some of which look like slips of the ones above."""

_NOWHERE = "the Responses API has nothing like it, and may refuse it"
_CAP = "max_output_tokens"
_UNBOUNDED = "nothing bounds the cost of a call"
_FORMAT = "text.format; a schema_file under [json] sets it, checks the answers and makes columns"
_ELSEWHERE: Mapping[str, str] = {
    "max_tokens": _CAP,
    "max_completion_tokens": _CAP,
    "max_new_tokens": _CAP,
    "max_tokens_to_sample": _CAP,
    "num_predict": _CAP,
    "n_predict": _CAP,
    "messages": "input; it is written as messages under [prompt]",
    "system": "instructions; they are written under [prompt]",
    "system_prompt": "instructions; they are written under [prompt]",
    "response_format": _FORMAT,
    "json_schema": _FORMAT,
    "reasoning_effort": 'reasoning = { effort = "..." }',
    "effort": 'reasoning = { effort = "..." }',
    "verbosity": 'text = { verbosity = "..." }',
    "functions": "tools",
    "function_call": "tool_choice",
    "web_search_options": 'tools = [ { type = "web_search" } ]',
    "logprobs": 'include = [ "message.output_text.logprobs" ], with top_logprobs',
}
"""Names of Chat Completions and others -> what the Responses API calls that."""
_WITHOUT_COUNTERPART = frozenset({
    "n", "stop", "stop_sequences", "seed", "frequency_penalty", "presence_penalty", "logit_bias",
    "modalities", "audio", "prediction", "best_of", "echo", "suffix",
})  # fmt: skip
_HINTS: Mapping[str, str] = {"n": "; each row gets one answer"}

_NEAR = 0.8
"""Closer than most names are to each other."""
_KNOWN = RESPONSES | _GATEWAYS | _ELSEWHERE.keys() | _WITHOUT_COUNTERPART


def notes(request: Mapping[str, Any], *, is_whole: bool) -> Iterator[str]:
    """One for each name that is likely a slip, or another API's word for something, or is missed.

    `is_whole` says that nothing is added to it by the row.
    """
    is_bounded = _CAP in request or not is_whole
    for name, value in request.items():
        note = _note(name)
        if note is not None:
            is_meant = _CAP in note and not is_bounded
            unbounded = f"; without that one, {_UNBOUNDED}" if is_meant else ""
            is_bounded = is_bounded or is_meant  # enough has been said
            yield f"request.{name} is sent as it stands, but {note}{unbounded}"
        for inner in value if name in _INSIDE and isinstance(value, Mapping) else ():
            near = _near(inner, _INSIDE[name]) if inner not in _INSIDE[name] else None
            if near is not None:
                yield f"request.{name}.{inner} is sent as it stands: is {name}.{near} meant?"
    if not is_bounded:
        yield f"request.{_CAP} is not set: {_UNBOUNDED} (such as request.{_CAP} = 400 does)"


def _note(name: str) -> str | None:
    if name in RESPONSES or name in _GATEWAYS:
        return None
    if name in _ELSEWHERE:
        return f"the Responses API calls it {_ELSEWHERE[name]}"
    if name in _WITHOUT_COUNTERPART:
        return f"{_NOWHERE}{_HINTS.get(name, '')}"
    near = _near(name, _KNOWN)
    if near is None or near in _GATEWAYS or near in _WITHOUT_COUNTERPART:
        return None
    return f"the Responses API knows {_ELSEWHERE.get(near, near)}: is that meant?"


def _near(name: str, known: frozenset[str]) -> str | None:
    """The name that this one is nearly, however it is capitalized and joined."""
    spelled = {_plain(one): one for one in sorted(known)}
    near = difflib.get_close_matches(_plain(name), spelled, n=1, cutoff=_NEAR)
    return spelled[near[0]] if near else None


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
