"""A small job file, as many tests want one: what is special about theirs is all they say."""


def job_text(
    *,
    path: str = "in.csv",
    key: str = "",
    prompt: str = "Say {{ body }}",
    cap: int | None = None,
    url: str | None = None,
    output: str = "out.csv",
) -> str:
    """Model `m1`; without `url` the endpoint is for a flag to say."""
    named = f'\nkey = "{key}"' if key else ""
    capped = "" if cap is None else f"\nmax_output_tokens = {cap}"
    endpoint = "" if url is None else f'[endpoint]\nbase_url = "{url}"\n'
    return f"""
[input]
path = "{path}"{named}
[prompt]
input = "{prompt}"
[request]
model = "m1"{capped}
{endpoint}[output]
path = "{output}"
"""
