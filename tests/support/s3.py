"""An S3 service (moto) on loopback. It is lenient: it accepts any credentials."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

from ._processes import answers, child, reserved_port

_direct = build_opener(ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class S3:
    """A running service."""

    endpoint: str

    @property
    def env(self) -> dict[str, str]:
        """The environment in which boto3, fsspec and MLflow find this service."""
        return {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": self.endpoint,
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
        }

    def make_bucket(self, name: str) -> str:
        """Create a bucket and return its URL."""
        import boto3

        session = boto3.Session(
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            region_name=self.env["AWS_DEFAULT_REGION"],
        )
        session.client("s3", endpoint_url=self.endpoint).create_bucket(Bucket=name)
        return f"s3://{name}"

    def reset(self) -> None:
        """Forget all buckets."""
        request = Request(f"{self.endpoint}/moto-api/reset", method="POST")
        with _direct.open(request, timeout=30):
            pass


def available() -> bool:
    """Tell whether moto's server is installed."""
    return bool(importlib.util.find_spec("moto") and importlib.util.find_spec("flask"))


@contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """Run a service which keeps its objects in memory; its log is in *folder*."""
    with reserved_port() as port:
        endpoint = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1"]
        with child(
            [*command, "-p", str(port)],
            ready=lambda: answers(f"{endpoint}/moto-api/data.json"),
            log=folder / "s3.log",
            cwd=folder,
        ):
            yield S3(endpoint)
