"""What schemathesis must know of this service in addition to openapi.yaml."""

import json
import os
import unicodedata
from urllib.parse import quote

import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.specs.openapi.checks import negative_data_rejection

# A version and an id that the service has returned: generated versions are mostly ahead of the store, and generated ids
# unknown.
known_version = "0"
known_id = None


NAME_BYTES_MAX = 255
# A longer URL is refused before it reaches the service.
URL_BYTES_MAX = 60_000
EVENTS_OF_AN_ATOMIC_APPEND_MAX = 100
SHARDS_MAX = 1024
# Nobody appends it. Generated ids in paths may be in another form than NFC.
FREE_ID = "free-id"
# An entry that counts as unread, in a feed that no generated request names, so that nothing erases it.
ENTRY_FEED = os.environ["NEWSFEED_ENTRY_FEED"]
ENTRY_VERSION = json.loads(os.environ["NEWSFEED_ENTRY"])["version"]


def normal(value):
    """Names and ids in NFC and of at most 255 bytes, which JSON Schema cannot express. `data` is left as it is."""
    if isinstance(value, str):
        value = unicodedata.normalize("NFC", value)
        while len(value.encode("utf-8", "surrogatepass")) > NAME_BYTES_MAX:
            value = value[:-1].rstrip()
        return value
    if isinstance(value, list):
        return [normal(item) for item in value]
    if isinstance(value, dict):
        return {key: item if key == "data" else normal(item) for key, item in value.items()}
    return value


@schemathesis.serializer("application/x-ndjson")
def ndjson(ctx, value):
    """Sends text as it is, and anything else as JSON."""
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")


def fitting(values):
    """As many of the values as a URL has room for."""
    room = URL_BYTES_MAX
    for number, value in enumerate(values):
        room -= len(quote(str(value), safe="")) + len("&feed=")
        if room < 0:
            return values[:number]
    return values


def expecting_known(value):
    """Conditions expect a version that the store knows."""
    if isinstance(value, list):
        for item in value:
            expecting_known(item)
    elif isinstance(value, dict):
        conditions = value.get("expect")
        for condition in conditions if isinstance(conditions, list) else [conditions]:
            if isinstance(condition, dict) and condition.get("version") not in (None, "0"):
                condition["version"] = known_version
        expecting_known(value.get("events"))


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """Corrects generated requests where OpenAPI cannot express validity: normalized names, the order of versions,
    parameters that exclude each other, times in the past, shards, configured kinds, log filters. Long polls do not wait, and
    URLs fit. Ids exist, once there is an event."""
    query = case.query or {}
    if isinstance(query.get("feed"), list):
        query["feed"] = fitting(query["feed"])
    if str(query.get("wait", "")) in map(str, range(61)):
        query["wait"] = 0
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    # In chains of requests, ids come from the requests before.
    is_chained = case.meta.phase.name == "stateful"
    for parameters in (query, case.path_parameters or {}):
        for name in ("feed", "kind", "actor", "id", "reader", "from"):
            if name in parameters:
                parameters[name] = normal(parameters[name])
        if "id" in parameters and case.operation.path != "/v1/erasures/{id}" and not is_chained:
            if known_id is not None:
                parameters["id"] = known_id
            elif case.operation.method == "patch":
                parameters["id"] = FREE_ID
    if case.operation.path != "/v1/admin/log" and isinstance(case.body, (dict, list)):
        case.body = normal(case.body)
    for name in ("until", "before", "after"):
        if query.get(name, "0") != "0":
            query[name] = known_version
    if "after" in query:
        query.pop("before", None)
    if "after" not in query:
        query.pop("kept", None)
    if "after" not in query or "until" in query:
        query.pop("wait", None)
    if str(query.get("at", "")) > "2025":
        # As 2004 was a leap year, it has every day.
        query["at"] = "2004" + query["at"][4:]
    if case.operation.path == "/v1/log":
        # Lines are not asked for.
        query.pop("follow", None)
        index, _, of = query.get("shard", "0/1").partition("/")
        if not int(index) < int(of) <= SHARDS_MAX:
            query["shard"] = "0/4"
    if case.operation.path == "/v1/events" and case.operation.method == "post":
        expecting_known(case.body)
        if isinstance(case.body, dict) and "events" in case.body:
            case.query = {**query, "atomic": "true"}
        elif not isinstance(case.body, list) or len(case.body) > EVENTS_OF_AN_ATOMIC_APPEND_MAX:
            query.pop("atomic", None)
    if case.operation.path == "/v1/transient" and isinstance(case.body, dict):
        case.body["kind"] = "typing"
    if case.operation.path == "/v1/admin/log" and isinstance(case.body, dict):
        case.body["filter"] = "warn,newsfeed=info"
    if case.operation.path.endswith("/markers/{marker}") and isinstance(case.body, dict):
        case.body["version"] = known_version
    if case.operation.path.endswith("/entries/{version}/state"):
        case.path_parameters["version"] = ENTRY_VERSION
        (case.path_parameters if "feed" in case.path_parameters else query)["feed"] = ENTRY_FEED


@schemathesis.hook
def after_call(ctx, case, response):
    global known_version, known_id
    if case.operation.path == "/v1/feeds/{feed}" and response.status_code == 200:
        known_version = response.json()["version"]
    if case.operation.path == "/v1/events" and case.operation.method == "post" and response.status_code == 200:
        for line in response.content.splitlines():
            answer = json.loads(line)
            answers = answer if isinstance(answer, list) else [answer]
            stored = [one["id"] for one in answers if one["status"] in ("appended", "duplicate")]
            known_id = stored[0] if stored else known_id
    if case.operation.method == "delete" or case.operation.path == "/v1/erasures":
        # Whatever was erased: it may have been that event.
        known_id = None


def counted_once(case):
    """Lists in which a repeated name counts once, each with its limit."""
    path, query = case.operation.path, case.query or {}
    if path == "/v1/log":
        return
    yield query.get("kind"), 20
    yield query.get("feed"), 1000 if path == "/v1/feeds" else 100
    if path == "/v1/feeds" and isinstance(case.body, dict):
        yield case.body.get("feeds"), 1000


@schemathesis.check
def invalid_requests_are_refused(ctx, response, case):
    """The built-in check, except that an invalid NDJSON line is rejected in the answer, and a repeated feed or kind counts
    once, which JSON Schema cannot express."""
    try:
        return negative_data_rejection(ctx, response, case)
    except Failure:
        for names, most in counted_once(case):
            if isinstance(names, list) and len(names) > most >= len(set(map(str, names))):
                return None
        lines = response.content.splitlines()
        if response.headers["content-type"] == ["application/x-ndjson"]:
            if any(json.loads(line)["status"] == "rejected" for line in lines):
                return None
        raise
