"""What a job asks of every row, as one short text to compare."""

import json
from hashlib import blake2b

from batch_runner.job import JobSpec


def fingerprint(job: JobSpec) -> str:
    """Equal for jobs that send the same for the same row."""
    prompt = {
        name: getattr(job.prompt, name) for name in ("instructions", "input", "messages", "body")
    }
    parts = {"prompt": prompt, "request": job.request, "schema": job.json.schema}
    return blake2b(
        json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16
    ).hexdigest()
