"""Model output that is hard to handle: long, executable, unencodable, not the JSON asked for."""

from batch_runner.faultserver.register import ENDINGS, ending
from batch_runner.faultserver.replies import Call, Reply, encode


BIG_BYTES = 200_000


def _saying(name: str, text: str, claim: str) -> None:
    def said_so(call: Call, _arg: str) -> Reply:
        return call.say(text.replace("SUMMARY", call.text()))

    said_so.__doc__ = claim
    ENDINGS[name] = said_so


_saying("formula", '=HYPERLINK("http://127.0.0.1/","SUMMARY")', "A text that spreadsheets run.")
_saying("script-tag", "</script><script>alert('SUMMARY')</script>", "A text that browsers run.")
_saying("nul", "SUMMARY\0with NUL", "A text that holds NUL.")
_saying("surrogate", "SUMMARY \ud800 alone", "A text that holds a lone surrogate (as \\ud800).")
_saying("invalid-json", '{"summary": "SUMMARY", ', "A text that is not JSON, whatever was asked.")
_saying("bad-schema", '{"unexpected": ["SUMMARY"]}', "A text that is JSON of another schema.")


@ending("fenced-json")
def fenced_json(call: Call, _arg: str) -> Reply:
    """The answer to `text.format` inside a Markdown code fence."""
    return call.say(f"```json\n{_as_json(call)}\n```")


@ending("json")
def json_answer(call: Call, _arg: str) -> Reply:
    """JSON by `text.format`, or an object with `summary` where no format was asked."""
    return call.say(_as_json(call))


@ending("big")
def big(call: Call, size: str) -> Reply:
    """A long text; ARG: its bytes, 200,000 by default."""
    wanted = int(size or BIG_BYTES)
    text = f"{call.text()} "
    return call.say((text * (wanted // len(text) + 1))[:wanted])


@ending("echo-key")
def echo_key(call: Call, _arg: str) -> Reply:
    """A success whose text is the key that was sent."""
    return call.say(f"your key is {call.api_key}")


def _as_json(call: Call) -> str:
    text = call.text()
    return text if text.startswith(("{", "[")) else encode({"summary": text}).decode()
