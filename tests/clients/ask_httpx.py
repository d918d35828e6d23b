"""Callers with httpx and httpx-retries."""

import asyncio
import json
import sys

import httpx
from httpx_retries import Retry, RetryTransport

URL, CALLERS, BUDGET = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


class Counting(httpx.AsyncHTTPTransport):
    """Counts what leaves below the retries."""

    asked = 0

    async def handle_async_request(self, request):
        self.asked += 1
        return await super().handle_async_request(request)


async def ask(n):
    counting = Counting()
    retry = Retry(total=BUDGET, allowed_methods=["POST"], status_forcelist=[429, 503], backoff_factor=0.5)
    async with httpx.AsyncClient(transport=RetryTransport(transport=counting, retry=retry), timeout=60) as client:
        body = {"ScanDefinitionIds": [f"00000000-0000-4000-8000-{n:012x}"]}
        answer = await client.post(URL, json=body, headers={"x-caller": f"caller {n}"})
        return {"status": answer.status_code, "retries": counting.asked - 1}


async def main():
    json.dump(await asyncio.gather(*map(ask, range(CALLERS))), sys.stdout)


asyncio.run(main())
