"""HTTP to the tests' own servers: the environment's proxies are not asked, and the timeout only bounds a hang."""

import functools

import httpx

from tests.waiting import PATIENCE

get = functools.partial(httpx.get, timeout=PATIENCE, trust_env=False)
post = functools.partial(httpx.post, timeout=PATIENCE, trust_env=False)
request = functools.partial(httpx.request, timeout=PATIENCE, trust_env=False)
Client = functools.partial(httpx.Client, timeout=PATIENCE, trust_env=False)
