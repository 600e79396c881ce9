"""The OpenAPI document and the server agree: schemathesis derives requests from the document, right and wrong ones,
alone and one after the other, sends them to a real server, and holds each answer to what the document says of it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from origin import Origin, Resource, Status, blob
from raw import Api

# Where the document cannot say all: a URL is more than a string, and numbers are taken for truth values. A Request
# stays when it is deleted: its versions go.
BEYOND_A_SCHEMA = "positive_data_acceptance,negative_data_rejection,use_after_free"
# 502 and 504 are an origin's failures, told as the document says; 507 is for who would upload more than the disk has,
# and 412 for who does not say which version of tus it speaks.
CONFIGURATION = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "502", "504", "507"]
[checks.missing_required_header]
expected-statuses = ["400", "401", "403", "406", "412", "415", "422"]
"""
# Types that only uploads use: bytes.
HOOKS = """
import schemathesis
schemathesis.serializer.alias("application/partial-upload", "application/octet-stream")
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
"""


def configure(known: dict[str, list[Any]], bound: dict[str, str]) -> str:
    """A configuration: *bound* parameters are, more often than not, one of what is *known*."""
    lines = [f"[dictionaries.{name}]\nvalues = {json.dumps(values)}" for name, values in known.items()]
    lines.append("[parameters]")
    lines += [f'"{name}" = {{ dictionary = "{values}", probability = 0.85 }}' for name, values in bound.items()]
    return CONFIGURATION + "\n".join(lines)


def store_some(api: Api, origin: Origin) -> dict[str, list[Any]]:
    """Requests with a ready version, tagged, and with a failed one, and uploads: what names them."""
    known: dict[str, list[Any]] = {
        "ids": [], "versions": [], "urls": [], "timestamps": [], "uids": [], "tags": ["good", "bad"],
    }  # fmt: skip
    for number in range(12):
        behaviour = Resource(blob(1000 + number, number)) if number % 4 else Status(404)
        origin.serve(f"/{number}", behaviour)
        known["urls"].append(origin.url(f"/{number}"))
        made = api.json("PUT", "/v1/request/", {"url": known["urls"][-1]})
        place = f"/v1/request/{made['id']}"
        api.send("POST", f"{place}/fetch", {"wait_sec": 30})
        version = api.json("GET", f"{place}/response/latest")["version"]
        api.send("PUT", f"{place}/response/v/{version}/tag", {"value": "good"})
        known["ids"].append(made["id"])
        known["versions"].append(version)
        known["timestamps"].append(made["request_timestamp"])
        uploaded = api.ask("POST", "/v1/upload/", ("Upload-Complete", f"?{number % 2}"), ("Content-Length", "0"))
        length = (("Tus-Resumable", "1.0.0"), ("Upload-Length", str(number)), ("Content-Length", "0"))
        by_tus = api.ask("POST", "/v1/upload/tus/", *length)
        for made_so in (uploaded, by_tus):
            known["uids"].append(made_so.fields["location"].rpartition("/")[2])
    return known


def test_the_server_does_what_its_document_says(serve: Callable[..., Any], origin: Origin, tmp_path: Path) -> None:
    """No answer is a failure of the server's, or another than the document has: in its status, its type, its fields
    or its body; nor is there a method that the document does not have."""
    served = serve(env={"FOREBAY_MAX_ATTEMPTS": "1"})
    api = Api(served)
    known = store_some(api, origin)
    bound = {
        "path.request_id": "ids",
        "path.version": "versions",
        "path.tag": "tags",
        "path.request_timestamp": "timestamps",
        "query.tag": "tags",
        "query.url": "urls",
        "body.url": "urls",
        "body.request.url": "urls",
        "body.name": "urls",
        "path.uid": "uids",
        "body.uploadUid": "uids",
    }
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(configure(known, bound))
    argv = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration), "--no-color", "run"]
    argv += ["--max-examples", "6", "--generation-deterministic", "--request-timeout", "60"]
    argv += ["--exclude-checks", BEYOND_A_SCHEMA, f"{served.url}/openapi.json"]
    (tmp_path / "hooks.py").write_text(HOOKS)
    env = {**os.environ, "NO_PROXY": "*", "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    operations = sum(len(path) for path in json.loads(api.get("/openapi.json").body)["paths"].values())
    assert f"Tested: {operations}\n" in done.stdout, done.stdout
    assert "Traceback" not in served.stderr()
    assert served.stop() == 0


def test_exposed_functions_do_what_the_document_says(serve: Callable[..., Any], tmp_path: Path) -> None:
    """Their parameters, from their annotations, and their answers: right requests and wrong ones."""
    served = serve("--functions", str(Path(__file__).parents[1] / "exposed.py"))
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    # Those that neither fail on purpose nor wait for somebody.
    functions = "^/v1/call/(report|uploaded|picky|nothing|text|doubled|governed)$|^/item|^/start"
    argv = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration), "--no-color", "run"]
    argv += ["--max-examples", "6", "--generation-deterministic", "--request-timeout", "60"]
    argv += ["--include-path-regex", functions, "--exclude-checks", BEYOND_A_SCHEMA, f"{served.url}/openapi.json"]
    done = subprocess.run(argv, cwd=tmp_path, env={**os.environ, "NO_PROXY": "*"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 16\n" in done.stdout, done.stdout
    assert "Traceback" not in served.stderr()
