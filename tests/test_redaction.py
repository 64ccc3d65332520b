"""No secret is shown, and none is copied where they are to be masked."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.servers import fresh_database

import mlmigrate
from mlmigrate import api
from mlmigrate.artifacts import locate, redact, redact_within, short
from mlmigrate.model import (
    DatasetInput,
    Experiment,
    Item,
    ModelVersion,
    Note,
    Param,
    Ref,
    RegisteredModel,
    Run,
    Tag,
)
from mlmigrate.pipeline import Options
from mlmigrate.redaction import bears_credential, mask, redacted

SCHEMES = ["http", "https", "postgresql", "mysql+pymysql", "sftp", "s3"]
words = st.text("abcdefghij-_.", min_size=1, max_size=8)
secrets = st.text("abcXYZ0189:/@ ?#&=%.,;'\"<>()[]\\\n\té🚀", min_size=1, max_size=20)
#: What no reader of URLs takes for the end of a password, nor for a port.
plain_secrets = st.text("abcXYZ:@&=%.,;'()", min_size=1).map("x".__add__)


# -- for display ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("http://me:secret@h:5000/x", "http://me:***@h:5000/x"),
        ("http://me:a:b@h", "http://me:***@h"),
        ("http://me:s/x@h", "http://me:***@h"),
        ("http://me:s@x@h", "http://me:***@h"),
        ("http://me:s x@h", "http://me:***@h"),
        ("http://me:12/x@h", "http://me:***@h"),
        ("http://me:?#@h", "http://me:***@h"),
        ("http://:secret@h", "http://***@h"),
        ("http://token@h:5000", "http://***@h:5000"),
        ("http://token@h:5000/x@y", "http://***@y"),
        ("http://token@h/x@y", "http://***@h/x@y"),
        ("http://me:secret@[::1]:5000", "http://me:***@[::1]:5000"),
        ("http://h/x?password=secret", "http://h/x?password=***"),
        ("http://h/x?a=1&TOKEN=secret&b=2", "http://h/x?a=1&TOKEN=***&b=2"),
        ("https://b.blob/c?sv=1&sig=secret%3D", "https://b.blob/c?sv=1&sig=***"),
        ("s3://b/k?X-Amz-Signature=secret", "s3://b/k?X-Amz-Signature=***"),
        ("http://h/#access_token=secret", "http://h/#access_token=***"),
        ("postgresql://h/db?user=u&password=se cret", "postgresql://h/db?user=u&password=***"),
        ("postgresql+psycopg://u:p@h/db", "postgresql+psycopg://u:***@h/db"),
    ],
)  # fmt: skip
def test_secrets_of_locations_are_masked(location: str, shown: str) -> None:
    assert redact(location) == shown


@pytest.mark.parametrize(
    "location",
    [
        "",
        "./mlruns",
        "/home/me@corp/a:b@c/mlruns",
        "file:///home/me@corp/a:b@c/mlruns",
        "file://C:/Users/me@corp/mlruns",
        "sqlite:////home/a:b@c/mlflow.db",
        "C:\\Users\\me@corp\\mlruns",
        "s3://bucket/users/me@example.com/1",
        "http://tracking:5000/prefix",
        "http://[::1]:5000",
        "http://[::1]/me@x",
        "postgresql://h/db?sslmode=require",
        "mlflow-artifacts:/1/a",
    ],
)
def test_what_is_no_secret_is_shown(location: str) -> None:
    assert redact(location) == location


@given(st.sampled_from(SCHEMES), words, secrets, words)
@example("http", "me", "://", "h")
@example("http", "me", "5000 x", "h")
def test_no_password_of_any_form_is_shown(
    scheme: str, user: str, secret: str, host: str
) -> None:
    shown = redact(f"{scheme}://{user}:{secret}@{host}/x")
    assert shown == f"{scheme}://{user}:***@{host}/x"


@given(
    words,
    st.text("abcXYZ0189:/@?#&=%.;'()[]é🚀", min_size=1).filter(
        lambda s: "://" not in s
    ),
    words,
)
@example("u", "//a:b", "h")
def test_no_password_is_shown_within_a_text(user: str, secret: str, host: str) -> None:
    said = redact_within(f"cannot reach 'http://{user}:{secret}@{host}/x' (refused)")
    assert said == f"cannot reach 'http://{user}:***@{host}/x' (refused)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no http://u:a b@h today", "no http://u:***@h today"),
        ("from http://a:s@b to https://c:t@d", "from http://a:***@b to https://c:***@d"),
        ("http://h:5000: user me@x is unknown", "http://h:5000: user me@x is unknown"),
        ("at http://h:5000, write me@x", "at http://h:5000, write me@x"),
        ("at http://h/p: write me@x", "at http://h/p: write me@x"),
        ("GET http://h/x?sig=abc failed", "GET http://h/x?sig=*** failed"),
    ],
)  # fmt: skip
def test_texts_stay_readable(text: str, shown: str) -> None:
    assert redact_within(text) == shown


urls = st.text("a:/@ ?#&=[]\n\udcff5") | st.text()


@given(st.sampled_from(["", "http://", "x file://", "://"]), urls)
def test_any_text_can_be_redacted(head: str, text: str) -> None:
    for masking in (redact, redact_within):
        once = masking(head + text)
        assert masking(once) == once
        once.encode()


@pytest.mark.parametrize("unit", ["://", "a:b://", "?pass", "x@", "a:b ", "[", "&a=b"])
def test_redacting_takes_linear_time(unit: str) -> None:
    started = time.perf_counter()
    for masking in (redact, redact_within, mask):
        masking("http://" + unit * (200_000 // len(unit)))
    assert time.perf_counter() - started < 5


def test_errors_and_problems_show_no_secret() -> None:
    assert short(OSError("http://u:s@h: refused")) == "http://u:***@h: refused"
    (problem,) = locate("file://u:s3cret@h/x", where="run", owner="a").findings
    assert "s3cret" not in problem.what


# -- in what is copied ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://me:secret@h/x.git", "https://***@h/x.git"),
        ("https://me:a:b@h/x", "https://***@h/x"),
        ("https://me:s/x@h", "https://***@h"),
        ("https://me:s@x@h/y", "https://***@h/y"),
        ("git+https://ghp_0123456789abcdefghijABCDEFGHIJ012345@github.com/a", "git+https://***@github.com/a"),
        ('{"uri":"https://me:secret@h/x.csv","b":"x@y"}', '{"uri":"https://***@h/x.csv","b":"x@y"}'),
        ('{"uri": "https:\\/\\/me:secret@h\\/x"}', '{"uri": "https:\\/\\/***@h\\/x"}'),
        ("https://h/x?sv=2&sig=abc%3D&se=1", "https://h/x?sv=2&sig=***&se=1"),
        ("https://h/x?X-Amz-Credential=a&X-Amz-Signature=b", "https://h/x?X-Amz-Credential=***&X-Amz-Signature=***"),
        ("https://h/x?access_token=abc#top", "https://h/x?access_token=***#top"),
        ("train.py --password=hunter2 --lr 1", "train.py --password=*** --lr 1"),
        ('{"api_key": "abc", "lr": 1}', '{"api_key": "***", "lr": 1}'),
        ("Server=h;Uid=me;Pwd=abc;", "Server=h;Uid=me;Pwd=***;"),
        ("AccountName=a;AccountKey=Zm9v+/==;X=1", "AccountName=a;AccountKey=***;X=1"),
        ("Authorization: Bearer abcdefghij0123456789", "Authorization: Bearer ***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N", "***"),
        ("AKIAIOSFODNN7EXAMPLE", "***"),
        ("dapi0123456789abcdef0123456789abcdef", "***"),
        ("-----BEGIN X PRIVATE KEY-----\nM\n-----END X PRIVATE KEY-----\n", "***\n"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE, cut off", "***"),
    ],
)  # fmt: skip
def test_credentials_are_masked_by_their_form(text: str, masked: str) -> None:
    assert bears_credential(text)
    assert mask(text) == masked
    assert not bears_credential(masked)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://tracking:5000/#/experiments/me@example.com",
        "http://[::1]:5000/x@y",
        "https://h:443/Users/me@example.com/notebook",
        "s3://bucket/users/me@example.com/1",
        "abfss://my-very-long-container-name@account.dfs.core.windows.net/x",
        "file://C:/Users/me@corp/mlruns",
        "git@github.com:me/x.git",
        "write to me@example.com: http://h:80, or a@b",
        "pad_token=[PAD]",
        "https://h/x?tokenizer=bert&max_tokens=5",
        '{"mlflow_colspec": [{"name": "password", "type": "string"}]}',
        "password: see the vault",
        "passwords=3",
    ],
)
def test_what_is_no_credential_is_copied_as_it_is(text: str) -> None:
    assert mask(text) == text


@given(st.sampled_from(SCHEMES), words, plain_secrets, words)
def test_no_password_of_a_url_is_copied(
    scheme: str, user: str, secret: str, host: str
) -> None:
    assert mask(f"{scheme}://{user}:{secret}@{host}/x") == f"{scheme}://***@{host}/x"


@given(
    st.lists(
        st.sampled_from(
            ["http://", "me:x@", "?token=", "&", "a", ":", "@", "/", " ", '"', "'",
             "***", "password", "=", "sk-", "0123456789abcdefghij", "eyJ", ".",
             "Bearer ", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----",
             "AccountKey=", "\n", "\udcff", "-", "_", ";", "AKIA", "1", "api_key"]
        )
    ).map("".join)
)  # fmt: skip
def test_masking_any_text_once_is_enough(text: str) -> None:
    once = mask(text)
    assert mask(once) == once
    assert not bears_credential(once)


URL = "https://me:s3cret@example.org/x"
REF = Ref("run", "1")


def only_notes(item: Item) -> list[str]:
    assert all(isinstance(finding, Note) for finding in item.findings)
    return sorted(str(getattr(finding, "what", "")) for finding in item.findings)


def test_every_text_of_a_run_is_masked() -> None:
    header = Run(Ref("experiment", "0"), "r", artifact_uri=URL, source_name=URL)
    dataset = DatasetInput(
        "d", "1", "http", json.dumps({"url": URL}), tags=(Tag("t", URL),)
    )
    item = Item(
        REF,
        header,
        origin="1",
        params=(Param("url", URL), Param("lr", "1"), Param("db.password", "s3cret")),
        tags=(Tag("mlflow.source.git.repoURL", URL), Tag("mlflow.note.content", URL)),
        inputs=(dataset,),
    )
    found = redacted(item)
    assert "s3cret" not in repr(found)
    assert only_notes(found) == [
        "a credential in artifact_uri was masked",
        "a credential in dataset d source was masked",
        "a credential in dataset d tag t was masked",
        "a credential in param db.password was masked",
        "a credential in param url was masked",
        "a credential in source_name was masked",
        "a credential in tag mlflow.note.content was masked",
        "a credential in tag mlflow.source.git.repoURL was masked",
    ]
    assert json.loads(found.inputs[0].source) == {"url": "https://***@example.org/x"}
    assert found.params[1] == Param("lr", "1")


def test_every_text_of_an_experiment_is_masked() -> None:
    item = Item(
        Ref("experiment", "1"),
        Experiment("x", artifact_location=URL),
        origin="1/x",
        tags=(Tag("t", URL),),
    )
    found = redacted(item)
    assert "s3cret" not in repr(found)
    assert only_notes(found) == [
        "a credential in artifact_location was masked",
        "a credential in tag t was masked",
    ]


def test_every_text_of_a_model_is_masked() -> None:
    version = ModelVersion(
        3,
        "m/3@1",
        description=URL,
        source=URL,
        storage_location=URL,
        run_link=URL,
        status_message=URL,
        tags=(Tag("t", URL),),
    )
    item = Item(
        Ref("registered_model", "m"),
        RegisteredModel("m", description=f"see {URL}"),
        origin="m",
        tags=(Tag("t", URL),),
        versions=(version,),
    )
    found = redacted(item)
    assert "s3cret" not in repr(found)
    assert len(only_notes(found)) == 8
    assert "a credential in version 3 tag t was masked" in only_notes(found)


def test_what_bears_no_credential_stays_the_same_item() -> None:
    item = Item(
        REF,
        Run(Ref("experiment", "0"), artifact_uri="s3://bucket/me@x/1"),
        origin="1",
        params=(Param("password", ""), Param("save_password", "True")),
        tags=(Tag("pad_token", "<pad>"), Tag("token", "7")),
        inputs=(DatasetInput("d", "1", "local", '{"uri": "/x"}'),),
    )
    assert redacted(item) is item
    masked = redacted(
        Item(REF, item.header, origin="1", tags=(Tag("url", URL),), params=item.params)
    )
    assert not re.search("s3cret", repr(masked))
    assert redacted(masked) is masked


# -- from end to end ------------------------------------------------------------------


@pytest.fixture
def telltale(tmp_path: Path) -> Path:
    """A file store with a credential in every place that holds text."""
    id = "0123456789abcdef0123456789abcdef"
    root = tmp_path / "mlruns"
    run = f"1/{id}"
    files = {
        "1/meta.yaml": "experiment_id: '1'\nname: x\nlifecycle_stage: active\n"
        "artifact_location: sftp://me:s3cret@h/1\n",
        "1/tags/t": URL,
        f"{run}/meta.yaml": f"run_id: {id}\nexperiment_id: '1'\nstatus: 3\n"
        f"start_time: 1600000000000\nend_time: 1600000000001\nsource_name: {URL}\n"
        f"artifact_uri: https://me:s3cret@h/{id}/artifacts\n",
        f"{run}/artifacts/a.txt": "x",
        f"{run}/tags/mlflow.note.content": f"from {URL}",
        f"{run}/params/p": URL,
        f"{run}/inputs/i/meta.yaml": "source_type: DATASET\nsource_id: d\n"
        f"destination_type: RUN\ndestination_id: {id}\ntags: {{context: '{URL}'}}\n",
        "1/datasets/d/meta.yaml": "digest: a\nname: n\nsource_type: http\n"
        f"source: '{json.dumps({'url': URL})}'\n",
        "models/m/meta.yaml": f"name: m\ncreation_timestamp: 1\ndescription: {URL}\n",
        "models/m/tags/t": URL,
        "models/m/version-1/meta.yaml": "name: m\nversion: 1\ncreation_timestamp: 1\n"
        f"description: {URL}\nsource: {URL}\nrun_link: {URL}\nstatus: READY\n"
        f"run_id: {id}\ncurrent_stage: None\n",
        "models/m/version-1/tags/t": URL,
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize("artifacts", ["copy", "link"])
def test_no_secret_arrives(
    telltale: Path, tmp_path: Path, artifacts: Literal["copy", "link"]
) -> None:
    sink = fresh_database(tmp_path / "sink.db")
    options = Options(redact_credentials=True, artifacts=artifacts)
    report = mlmigrate.copy([str(telltale)], sink, options)
    verified = api.verify([str(telltale)], sink, options)
    with closing(sqlite3.connect(tmp_path / "sink.db")) as base:
        dump = "\n".join(base.iterdump())
    assert "s3cret" not in dump
    assert dump.count("https://***@example.org/x") >= 10
    assert "s3cret" not in report.text() + verified.text()
    assert verified.data()["same"] == {"experiment": 1, "run": 1, "registered_model": 1}
    assert not verified.data()["different"]
