"""What people write without batch_runner: a loop and a semaphore. No resume, no order, no bill.

python baselines.py aiohttp|httpx|openai URL ROWS.csv IN_FLIGHT
"""

import asyncio
import csv
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any


Ask = Callable[[str], Awaitable[Any]]


async def aiohttp_client(stack: AsyncExitStack, url: str) -> Ask:
    import aiohttp

    session = await stack.enter_async_context(
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    )
    headers = {"authorization": "Bearer benchmark", "content-type": "application/json"}

    async def ask(text: str) -> Any:
        body = json.dumps({"model": "m", "input": text})
        async with session.post(url + "/responses", data=body, headers=headers) as reply:
            return json.loads(await reply.read())

    return ask


async def httpx_client(stack: AsyncExitStack, url: str) -> Ask:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    client = await stack.enter_async_context(httpx.AsyncClient(limits=limits, timeout=600))
    headers = {"authorization": "Bearer benchmark"}

    async def ask(text: str) -> Any:
        body = {"model": "m", "input": text}
        return (await client.post(url + "/responses", json=body, headers=headers)).json()

    return ask


async def openai_client(stack: AsyncExitStack, url: str) -> Ask:
    import openai

    client = await stack.enter_async_context(openai.AsyncOpenAI(base_url=url, api_key="benchmark"))

    async def ask(text: str) -> Any:
        return (await client.responses.create(model="m", input=text)).model_dump()

    return ask


CLIENTS = {"aiohttp": aiohttp_client, "httpx": httpx_client, "openai": openai_client}


async def main(kind: str, url: str, path: str, in_flight: int) -> None:
    free = asyncio.Semaphore(in_flight)
    async with AsyncExitStack() as stack:
        ask = await CLIENTS[kind](stack, url)
        with open(path, newline="") as rows, open("baseline.jsonl", "w") as out:  # noqa: ASYNC230, PTH123

            async def one(row: dict[str, str]) -> None:
                try:
                    reply = await ask("Sum: " + row["body"])
                    text = reply["output"][0]["content"][0]["text"]
                    record = {"id": row["id"], "text": text, "usage": reply["usage"]}
                    out.write(json.dumps(record) + "\n")
                finally:
                    free.release()

            tasks: set[asyncio.Task[None]] = set()
            for row in csv.DictReader(rows):
                await free.acquire()
                task = asyncio.create_task(one(row))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
