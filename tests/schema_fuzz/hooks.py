"""What schemathesis' command asks us while it runs: which failures are none, and to be modest with a model's time."""

import json
import os
from collections import Counter
from functools import cache
from typing import Any, Final
from urllib.parse import quote, unquote
from urllib.request import Request, urlopen

import httpx2
import schemathesis
from openai import NotFoundError, OpenAI
from schemathesis import Case, CheckContext, HookContext, Response
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.openapi.checks import RejectedPositiveData

from tests.schema_fuzz.refusals import is_allowed

# What a schema allows would keep an engine and a trainer busy for hours. More than any context holds is refused at
# once, so it may stand.
MOST: Final = {"max_tokens": 8, "max_completion_tokens": 8, "max_new_tokens": 8, "n": 3, "best_of": 3, "n_epochs": 2}
BEYOND: Final = 10_000
# stands for a file that is there: schemathesis deletes those that it knows of
FILE: Final = "file-of-examples"
FILE_OF_DESCRIPTION: Final = "file-06h2n5v3kl7q9"  # in its examples, which many cases are made of
ALIAS: Final = "bot@prod"  # stands for the fine-tuned model whenever it is asked for, and before for its base
EXPORT: Final = "export-that-has-ended"  # stands for one that has files
EXPERIMENT: Final = "exp-that-has-ended"  # stands for the one that has a report
JOB: Final = "job-that-was-trained"  # stands for one
CANCELLED_JOB: Final = "job-that-was-cancelled"  # stands for a new one, as cases delete it
MODEL: Final = "model-that-was-trained"  # stands for the one that it made
UNKNOWN_HEADER: Final = "in header - object with unexpected properties"  # which HTTP has everybody pass over
EXAMPLES: Final = "".join(f'{{"prompt": "{n} and 1 is", "completion": " {n + 1}."}}\n' for n in range(40)).encode()
WAYS_TO_ARMS: Final = ("question", "arms", "grid", "random")
IMPORT: Final = "/v1/models/import"
RATINGS: Final = "/v1/models/aliases/{name}/ratings"
ANSWER_OF_DESCRIPTION: Final = "cmpl-06h2n5v3kl7q906h2n5v3kl7q9-1-0123456789abcdef"
SHOWN: Final = 300  # bytes of a refusal
TGI_PATHS: Final = ("/", "/generate", "/generate_stream")


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
    """Keep all failures but refusals of what no schema can forbid, and answers to what only looks wrong."""
    if isinstance(failure, AcceptedNegativeData):
        return UNKNOWN_HEADER not in failure.message and not is_adapter(case)
    refused = isinstance(failure, RejectedPositiveData) and response.status_code in (400, 422)
    return not (refused and is_allowed(message_of(response)))


def is_adapter(case: Case[Any]) -> bool:
    """Tell whether this is the form of `before_call`, whose bytes are no string as the schema has it."""
    form: Any = case.body
    return case.path == IMPORT and isinstance(form, dict) and form.get("file") == download()


@schemathesis.check
class EveryRouteIsReached:
    """Fails where a route answered nothing but refusals, so that nothing was seen of what it does; tells them."""

    def __init__(self) -> None:
        self._refusals: dict[str, Counter[str]] = {}
        self._reached: set[str] = set()

    def after_response(self, context: CheckContext, response: Response, case: Case[Any]) -> None:
        if response.status_code == 200:
            self._reached.add(case.operation.label)
        said = f"{response.status_code} {response.content[:SHOWN].decode(errors='replace')}"
        self._refusals.setdefault(case.operation.label, Counter())[said] += 1

    def after_run(self, context: CheckContext) -> None:
        unseen = {label: said for label, said in self._refusals.items() if label not in self._reached}
        told = (f"{label}: {dict(said.most_common(5))}" for label, said in sorted(unseen.items()))
        assert not unseen, "never answered 200: " + "; ".join(told)


def message_of(response: Response) -> str:
    """Give the sentence of an error, in either wire's envelope."""
    error = json.loads(response.content)["error"]
    return str(error if isinstance(error, str) else error["message"])


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Ask for short answers and short trainings, whatever was made up, and name files that there are."""
    if case.path_parameters.get("experiment_id") == EXPERIMENT:
        case.path_parameters["experiment_id"] = os.environ["FUZZED_EXPERIMENT"]
    if case.path_parameters.get("export_id") == EXPORT:
        case.path_parameters["export_id"] = os.environ["FUZZED_EXPORT"]
    if case.path_parameters.get("name") == MODEL:
        case.path_parameters["name"] = os.environ["FUZZED_MODEL"]
    for parameters, name in ((case.path_parameters, "job_id"), (case.query, "with")):
        if parameters.get(name) == JOB:
            parameters[name] = os.environ["FUZZED_JOB"]
    if case.path_parameters.get("job_id") == CANCELLED_JOB:
        case.path_parameters["job_id"] = cancelled_job()
    if unquote(str(case.path_parameters.get("name"))) == ALIAS:  # it stands there as in an address
        move_alias()
    body = case.body
    if not isinstance(body, dict):
        return
    if case.path == RATINGS and body.get("id") == ANSWER_OF_DESCRIPTION:
        body["id"] = answer()
    if case.path == IMPORT and body.get("suffix") is None:
        body.clear()
        body["file"] = download()  # type: ignore[assignment]  # a form has bytes; what is made up is no adapter
        return
    if case.path in TGI_PATHS:
        body["parameters"] = {} if body.get("parameters") is None else body["parameters"]
        set_limit(body["parameters"], "max_new_tokens")
    elif case.path == "/v1/chat/completions" and body.get("max_completion_tokens") is None:
        set_limit(body, "max_tokens")
    elif case.path.startswith("/v1/experiments"):
        fit_experiment(body)
    shorten(body)
    for fields in (body, body.get("job")):
        for name in ("training_file", "file"):
            if isinstance(fields, dict) and fields.get(name) in (FILE, FILE_OF_DESCRIPTION):
                fields[name] = upload()
    for name in ("models", "metrics"):
        named = body.get(name)
        if isinstance(named, list) and all(isinstance(each, str) for each in named):
            body[name] = list(dict.fromkeys(map(str, named)))  # of a few, and none may be named twice


def fit_experiment(body: dict[str, Any]) -> None:
    """Leave one of the ways in which arms can be asked for, and leave seeds to the experiment, a few."""
    first = next((name for name in WAYS_TO_ARMS if body.get(name) is not None), "question")
    for name in (*WAYS_TO_ARMS, *(() if first == "question" else ("weights",))):
        if name != first:
            body.pop(name, None)
    if isinstance(body.get("job"), dict):
        body["job"].pop("seed", None)
    if isinstance(body.get("seeds"), int):
        body["seeds"] = min(body["seeds"], 2)


def api() -> OpenAI:
    """Give a client of the deployment."""
    return OpenAI(base_url=f"{os.environ['FUZZED_URL']}/v1", api_key=os.environ["FUZZED_KEY"])


def move_alias() -> None:
    """Have the alias stand where it can be rolled back from."""
    with api() as client:
        try:
            client.models.retrieve(os.environ["FUZZED_MODEL"])
        except NotFoundError:  # some case has deleted it
            os.environ["FUZZED_MODEL"] = import_again()
        for model in (os.environ["FUZZED_BASE"], os.environ["FUZZED_MODEL"]):
            client.put(f"/models/aliases/{ALIAS}", cast_to=object, body={"model": model})


def answer() -> str:
    """Give the id of an answer for the alias."""
    with api() as client:
        return client.completions.create(model=ALIAS, prompt="1 and 1 is", max_tokens=1).id


def import_again() -> str:
    """Give the model's name as an imported one."""
    headers = {"Authorization": f"Bearer {os.environ['FUZZED_KEY']}"}
    answered = httpx2.post(
        f"{os.environ['FUZZED_URL']}{IMPORT}", files={"file": ("adapter.tar", download())}, headers=headers, timeout=120
    )
    return str(answered.raise_for_status().json()["id"])


def cancelled_job() -> str:
    """Give the id of a job that has ended and that nothing needs."""
    with api() as client:
        job = client.fine_tuning.jobs.create(model=os.environ["FUZZED_BASE"], training_file=upload())
        return client.fine_tuning.jobs.cancel(job.id).id


def upload() -> str:
    """Give the id of a file that can be trained on."""
    with api() as client:
        return client.files.create(file=("examples.jsonl", EXAMPLES), purpose="fine-tune").id


@cache
def download() -> bytes:
    """Give an adapter that can be imported, though the model may be deleted by now."""
    url = f"{os.environ['FUZZED_URL']}/v1/models/{quote(os.environ['FUZZED_MODEL'], safe='')}/download"
    headers = {"Authorization": f"Bearer {os.environ['FUZZED_KEY']}"}
    with urlopen(Request(url, headers=headers)) as response:
        return bytes(response.read())


def set_limit(fields: object, name: str) -> None:
    """Give a limit where there is none, which would mean a long answer."""
    if isinstance(fields, dict) and fields.get(name) is None:
        fields[name] = MOST[name]


def shorten(fields: dict[str, Any]) -> None:
    """Lower the whole numbers that would be taken, however deep they stand."""
    for name, value in fields.items():
        if isinstance(value, dict):
            shorten(value)
        elif isinstance(value, int) and MOST.get(name, BEYOND) < value < BEYOND:
            fields[name] = MOST[name]
