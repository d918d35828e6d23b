"""Callers with requests and urllib3's Retry, as its documentation shows it; POST has to be allowed."""

import concurrent.futures
import json
import sys

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

URL, CALLERS, BUDGET = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def ask(n):
    retry = Retry(total=BUDGET, status_forcelist=[429, 503], allowed_methods={"POST"}, backoff_factor=0.5)
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        body = {"ScanDefinitionIds": [f"00000000-0000-4000-8000-{n:012x}"]}
        try:
            answer = session.post(URL, json=body, headers={"x-caller": f"caller {n}"}, timeout=60)
        except requests.RequestException as error:
            return {"status": 0, "retries": BUDGET + 1, "error": str(error)}
        return {"status": answer.status_code, "retries": len(answer.raw.retries.history)}


with concurrent.futures.ThreadPoolExecutor(CALLERS) as threads:
    json.dump(list(threads.map(ask, range(CALLERS))), sys.stdout)
