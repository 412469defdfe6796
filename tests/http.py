"""HTTP requests to the servers of the tests: without proxies, and with a timeout that only limits a hang."""

import functools

import httpx

from tests.waiting import PATIENCE

get = functools.partial(httpx.get, timeout=PATIENCE, trust_env=False)
post = functools.partial(httpx.post, timeout=PATIENCE, trust_env=False)
request = functools.partial(httpx.request, timeout=PATIENCE, trust_env=False)
Client = functools.partial(httpx.Client, timeout=PATIENCE, trust_env=False)
