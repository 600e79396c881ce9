"""Who may ask a real server for what: tokens and their scopes, groups, Host, pages of other sites."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from origin import Origin, Resource

Serve = Callable[..., Any]


def token(served: Any, name: str, scopes: str, *more: str) -> str:
    """The secret of a new token."""
    argv = [sys.executable, "-m", "forebay", "token", "add", name, "--scope", scopes, *more, "--json"]
    made = subprocess.run([*argv, "--data", str(served.folder)], capture_output=True, text=True, check=True)
    return str(json.loads(made.stdout)["secret"])


@pytest.fixture(scope="module")
def secrets(shared_server: Any) -> dict[str, str]:
    """Tokens of the module's server, by name."""
    made = {name: token(shared_server, name, name) for name in ("read", "write", "admin")}
    for group in ("blue", "red"):
        made[group] = token(shared_server, group, "read,write", "--group", group)
    return made


@pytest.fixture
def asking(shared_server: Any, secrets: dict[str, str]) -> Iterator[Callable[[str | None], httpx.Client]]:
    """``asking(name)``: a client with that token; None: without any."""
    clients = []

    def make(name: str | None) -> httpx.Client:
        fields = {} if name is None else {"Authorization": f"Bearer {secrets[name]}"}
        clients.append(httpx.Client(base_url=shared_server.url, headers=fields, timeout=60, trust_env=False))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def code(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a problem."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


def test_without_a_token_nothing_is_told(asking: Callable[..., httpx.Client]) -> None:
    """401 with a challenge on everything but health, the documents and what is not there either."""
    client = asking(None)
    for method, path in (
        ("GET", "/v1/request/"), ("PUT", "/v1/request/"), ("GET", "/v1/request/x"), ("GET", "/nothing"),
        ("GET", "/r/http://127.0.0.1:9/"), ("GET", "/v1/request/x/response/v/y/content"),
        ("POST", "/v1/request/x/fetch"), ("DELETE", "/v1/request/x"),
    ):  # fmt: skip
        answer = client.request(method, path)
        assert code(answer) == (401, "token_missing"), path
        assert answer.headers["www-authenticate"].startswith("Bearer ")
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert code(client.get("/v1/request/", headers={"Authorization": "Bearer fby_" + "x" * 32})) == (
        401, "token_invalid",
    )  # fmt: skip


def test_a_token_is_the_password_of_basic_too(shared_server: Any, secrets: dict[str, str]) -> None:
    """Public clients speak only that; any user name will do."""
    with httpx.Client(base_url=shared_server.url, auth=("anybody", secrets["read"]), trust_env=False) as client:
        assert client.get("/v1/request/").status_code == 200


def test_each_scope_is_for_its_own(asking: Callable[..., httpx.Client], origin: Origin) -> None:
    """read does not write, write does not read; admin does both."""
    origin.serve("/f", Resource(b"content"))
    order = {"url": origin.url("/f")}
    assert code(asking("read").put("/v1/request/", json=order)) == (403, "scope_missing")
    made = asking("write").put("/v1/request/", json=order)
    assert made.status_code == 201
    path = f"/v1/request/{made.json()['id']}"
    assert code(asking("write").get(path)) == (403, "scope_missing")
    assert asking("read").get(path).status_code == 200
    assert code(asking("read").post(f"{path}/fetch", json={"wait_sec": 30})) == (403, "scope_missing")
    assert code(asking("read").post(f"{path}/refresh")) == (403, "scope_missing")
    assert code(asking("read").delete(path)) == (403, "scope_missing")
    assert asking("admin").delete(path).status_code == 200


@pytest.mark.parametrize(
    "more",
    [
        {"http_method": "put"}, {"http_header_fields": {"X-A": "b"}}, {"http_query_params": {"a": "b"}},
        {"http_request_body": "x"}, {"group_name": "other"}, {"description": "mine"}, {"validation_hash_type": "md5"},
        {"cache_configuration": {"recaching_strategy": {"strategy_name": "cron", "cron": "* * * * *"}}},
        {"cache_configuration": {"max_cached_unpinned_versions": 1}},
    ],
)  # fmt: skip
def test_who_only_reads_has_fetched_what_the_door_would(
    asking: Callable[..., httpx.Client], origin: Origin, more: dict[str, Any]
) -> None:
    """A plain GET, once it is due; whatever else an origin would see, or the server would keep, needs `write`."""
    origin.serve("/f", Resource(b"content"))
    plain = {"url": origin.url("/f")}
    for ask in ({"request": plain | more}, {"request": plain, "refresh": "always"}):
        assert code(asking("read").post("/v1/fetch", json=ask)) == (403, "scope_missing")
    assert not origin.requests("/f")
    for name in ("read", "red"):
        fetched = asking(name).post("/v1/fetch", json={"request": plain, "wait_sec": 30})
        assert fetched.status_code == 200, fetched.text
    # What is there may be read, whatever it is.
    for named in ({"offline": True}, {"version": "20260101T000000000000Z"}, {"tag": "good"}):
        found = asking("read").post("/v1/fetch", json={"request": plain | more} | named)
        assert found.status_code in (200, 404, 504), found.text
    asked = {"request": plain | more, "wait_sec": 30}
    assert code(asking("read").post("/v1/fetch", json=asked)) == (403, "scope_missing")
    assert asking("admin").post("/v1/fetch", json=asked).status_code == 200


def test_each_route_states_its_scope(asking: Callable[..., httpx.Client]) -> None:
    """In the OpenAPI document, and it is what a token without it is told to lack."""
    client = asking("read")
    document = client.get("/openapi.json").json()
    stated = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not path.startswith("/v1/") or path.endswith("/content"):
                continue
            if method == "options":
                continue  # what a browser asks before it asks with a token
            stated += 1
            assert operation["x-scope"] in ("read", "write", "admin"), path
            lacking = operation["x-scope"] != "read"
            asked = re.sub(r"\{request_timestamp\}", "1.5", path)
            answer = client.request(method, re.sub(r"\{\w+\}", "xx", asked), json=None if method == "get" else {})
            assert (answer.status_code == 403) == lacking, (method, path, answer.text)
    assert stated > 20


def test_a_group_is_all_that_its_token_sees(asking: Callable[..., httpx.Client], origin: Origin) -> None:
    """What it orders is in its group; another's is refused, and nobody tells that it is there."""
    origin.serve("/f", Resource(b"content"))
    blue, red = asking("blue"), asking("red")
    mine = blue.put("/v1/request/", json={"url": origin.url("/f")}).json()
    theirs = red.put("/v1/request/", json={"url": origin.url("/f")}).json()
    assert (mine["group_name"], theirs["group_name"]) == ("blue", "red")
    assert mine["id"] != theirs["id"]
    taken = blue.put("/v1/request/", json={"url": origin.url("/f"), "group_name": "red"})
    assert code(taken) == (403, "group_refused")
    assert [found["id"] for found in blue.get("/v1/request/").json()] == [mine["id"]]
    assert blue.get("/v1/request/", params={"group_name": "red"}).json() == []
    assert {mine["id"], theirs["id"]} <= {found["id"] for found in asking("admin").get("/v1/request/").json()}
    path = f"/v1/request/{theirs['id']}"
    for method, tail, body in (
        ("GET", "", None), ("DELETE", "", None), ("GET", "/response", None), ("POST", "/fetch", {}),
        ("POST", "/refresh", None), ("GET", "/response/latest", None), ("PUT", "/cache-config", {}),
        ("GET", "/response/v/x", None), ("PUT", "/response/v/x/pin", {"value": True}),
        ("PUT", "/response/v/x/tag", {"value": "good"}), ("DELETE", "/response/v/x", None),
        ("GET", "/status/1.5", None), ("GET", "/cache-config", None), ("GET", "/response/t/good", None),
    ):  # fmt: skip
        assert code(blue.request(method, path + tail, json=body)) == (404, "request_unknown"), (method, tail)


def test_a_server_answers_for_its_names_only(shared_server: Any, secrets: dict[str, str]) -> None:
    """A page that points its own name at this address gets nothing, whatever it asks for."""
    fields = {"Authorization": f"Bearer {secrets['admin']}"}
    port = shared_server.url.rpartition(":")[2]
    with httpx.Client(base_url=shared_server.url, headers=fields, trust_env=False) as client:
        for host in (f"localhost:{port}", "127.0.0.1", "[::1]:80", f"LOCALHOST.:{port}"):
            assert client.get("/v1/request/", headers={"Host": host}).status_code == 200, host
        for path in ("/v1/request/", "/docs", "/readyz", "/r/http://127.0.0.1:9/"):
            refused = client.get(path, headers={"Host": f"evil.example:{port}"})
            assert code(refused) == (421, "host_refused"), path
        # Health checks come with whatever Host.
        assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 200


def test_pages_of_other_sites_are_refused(shared_server: Any, secrets: dict[str, str], origin: Origin) -> None:
    """On writes, at the door and where something is fetched; what our own page asks is not."""
    origin.serve("/f", Resource(b"content"))
    fields = {"Authorization": f"Bearer {secrets['admin']}"}
    with httpx.Client(base_url=shared_server.url, headers=fields, timeout=60, trust_env=False) as client:
        order = {"url": origin.url("/f")}
        for foreign in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "null"},
                        {"Origin": "https://evil.example"}):  # fmt: skip
            assert code(client.put("/v1/request/", json=order, headers=foreign)) == (403, "cross_site_refused")
            assert code(client.get(f"/r/{origin.url('/f')}", headers=foreign)) == (403, "cross_site_refused")
            assert code(client.post("/v1/request/x/fetch", json={}, headers=foreign)) == (403, "cross_site_refused")
        assert not origin.requests("/f")
        own = {"Sec-Fetch-Site": "same-origin", "Origin": shared_server.url}
        assert client.put("/v1/request/", json=order, headers=own).status_code == 201


def test_a_token_that_is_revoked_ends(serve: Serve) -> None:
    """At once, on a server that runs; and nothing is open to all again."""
    served = serve()
    secret = token(served, "short", "read")
    with httpx.Client(base_url=served.url, trust_env=False) as client:
        fields = {"Authorization": f"Bearer {secret}"}
        assert client.get("/v1/request/", headers=fields).status_code == 200
        argv = [sys.executable, "-m", "forebay", "token", "revoke", "short", "--data", str(served.folder)]
        subprocess.run(argv, check=True, capture_output=True)
        assert code(client.get("/v1/request/", headers=fields)) == (401, "token_invalid")
        assert code(client.get("/v1/request/")) == (401, "token_missing")


def test_what_a_token_reads_is_for_no_shared_cache(serve: Serve, origin: Origin) -> None:
    """From the first token on: what was answered before, and what is asked without one meanwhile, changes nothing."""
    origin.serve("/f", Resource(b"content"))
    served = serve()
    with httpx.Client(base_url=served.url, timeout=60, trust_env=False) as client:
        path = client.get(f"/r/{origin.url('/f')}").headers["content-location"]
        for _ in range(2):
            assert client.get(path).headers["cache-control"].startswith("public,")
        fields = {"Authorization": f"Bearer {token(served, 'first', 'read')}"}
        for _ in range(2):
            assert code(client.get(path)) == (401, "token_missing")
            assert client.get(path, headers=fields).headers["cache-control"].startswith("private,")
