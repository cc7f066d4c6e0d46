"""A Kubernetes that runs each job as a process of this machine, and an S3 that lives in memory.

Of Kubernetes there is as much as Snakemake's executor asks for: secrets, jobs, their pods and logs.
A pod is a new folder and the container's command in it; what it shares with others is the S3 alone.
"""

import base64
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread

import boto3
import processes
import yaml
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).parent.parent


class Pod:
    """A job's container.

    Parameters
    ----------
    folder : Path
        Of the pod alone.
    job : dict
        As it was sent.
    secrets : dict of str to dict
        Known to the cluster.
    image : dict of str to str
        The variables that the image sets.
    """

    def __init__(self, folder: Path, job: dict, secrets: dict[str, dict], image: dict[str, str]):
        self.job, self.log = job, folder / "log"
        work = folder / "workdir"
        work.mkdir(parents=True)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        given = image | {"PYTHONPATH": str(work), "HOME": str(folder), "TMPDIR": str(folder)}
        for variable in container.get("env", ()):
            named = variable["valueFrom"]["secretKeyRef"]
            value = secrets[named["name"]]["data"][named["key"]]
            given[variable["name"]] = base64.b64decode(value).decode()
        with open(self.log, "w") as file:
            self.process = subprocess.Popen(
                [*container["command"], *container["args"]],
                cwd=work,
                env=given,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def name(self) -> str:
        """The job's name."""
        return self.job["metadata"]["name"]

    def evict(self) -> None:
        """End all that runs in it."""
        processes.kill(self.process)

    def status(self) -> dict:
        """Return the job with its state."""
        code = self.process.poll()
        state = "active" if code is None else "failed" if code else "succeeded"
        return self.job | {"status": {state: 1}}

    def described(self) -> dict:
        """Return the pod with its container's state."""
        code = self.process.poll()
        state = {"running": {}} if code is None else {"terminated": {"exitCode": abs(code)}}
        container = {"name": "snakemake", "image": "-", "imageID": "-", "ready": code is None}
        container |= {"restartCount": 0, "state": state}
        return {
            "metadata": {"name": f"{self.name}-pod"},
            "status": {"containerStatuses": [container]},
        }


class Kubernetes:
    """A cluster whose one node is this machine.

    Parameters
    ----------
    folder : Path
        Of the pods.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.waiting: dict[str, dict] = {}  # jobs, until a core is free
        self.pods: dict[str, Pod] = {}
        self.secrets: dict[str, dict] = {}
        wheels = folder / "wheels"  # as in cluster/kubernetes/Dockerfile
        self.image = {
            "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
        }
        self._lock = Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._answering())
        self._objects = ThreadedMotoServer("127.0.0.1", 0, verbose=False)

    def start(self) -> None:
        """Make the image, and serve both."""
        words = ["pip", "download", "-qq", "-c", "constraints.txt", "snakemake-storage-plugin-s3"]
        words += ["-d", self.image["PIP_FIND_LINKS"]]
        subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=True)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for every request
        self._objects.start()
        Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """End both, and all pods."""
        for pod in self.pods.values():
            pod.evict()
        self._server.shutdown()
        self._objects.stop()

    def variables(self) -> dict[str, str]:
        """Return the variables by which Snakemake finds both."""
        settings = self.folder / "kubeconfig"
        address = f"http://127.0.0.1:{self._server.server_port}"
        named = {"cluster": "here", "user": "me"}
        settings.write_text(
            yaml.safe_dump(
                {
                    "clusters": [{"name": "here", "cluster": {"server": address}}],
                    "users": [{"name": "me", "user": {}}],
                    "contexts": [{"name": "it", "context": named}],
                    "current-context": "it",
                }
            )
        )
        host, port = self._objects.get_host_and_port()
        objects = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY": "me", "SECRET_KEY": "-"}
        return {"KUBECONFIG": str(settings)} | {
            f"SNAKEMAKE_STORAGE_S3_{name}": value for name, value in objects.items()
        }

    def bring(self, prefix: str, folder: Path) -> None:
        """Copy objects of the bucket ``book`` to a folder."""
        host, port = self._objects.get_host_and_port()
        given = {"aws_access_key_id": "me", "aws_secret_access_key": "-"}
        objects = boto3.resource("s3", endpoint_url=f"http://{host}:{port}", **given)
        folder.mkdir(parents=True, exist_ok=True)
        for one in objects.Bucket("book").objects.filter(Prefix=prefix):
            one.Object().download_file(folder / Path(one.key).name)

    def running(self) -> set[str]:
        """Return the names of the jobs that run."""
        return {name for name, pod in self.pods.items() if pod.process.poll() is None}

    def schedule(self) -> None:
        """Begin what waits, one job a core."""
        with self._lock:
            while self.waiting and len(self.running()) < (os.cpu_count() or 1):
                name, job = next(iter(self.waiting.items()))
                self.pods[name] = Pod(self.folder / name, job, self.secrets, self.image)
                self.waiting.pop(name, None)

    def answer(self, method: str, path: list[str], asked: dict | None) -> dict | str | None:
        """Return what the interface answers; None where there is no such thing."""
        match method, path:
            case "POST", ["secrets"]:
                self.secrets[asked["metadata"]["name"]] = asked
                return asked
            case "POST", ["jobs"]:
                self.waiting[asked["metadata"]["name"]] = asked
                return asked
            case "GET", ["jobs", name, "status"] if name in self.pods:
                return self.pods[name].status()
            case "GET", ["jobs", name, "status"] if name in self.waiting:
                return self.waiting[name] | {"status": {"active": 1}}
            case "GET", ["pods", name]:
                return {"items": [self.pods[name].described()] if name in self.pods else []}
            case "GET", ["pods", pod, "log"]:
                return self.pods[pod.removesuffix("-pod")].log.read_text()
            case "DELETE", [_, name]:
                self.waiting.pop(name, None)
                if pod := self.pods.get(name):
                    pod.evict()
                return {"status": "Success"}
        return None

    def _answering(self) -> type[BaseHTTPRequestHandler]:
        cluster = self

        class Answering(BaseHTTPRequestHandler):
            def _answer(self):
                path, _, query = self.path.partition("?")
                words = path.split("/namespaces/default/")[-1].split("/")
                if query and words == ["pods"]:  # of one job
                    words.append(query.rpartition("%3D")[2])
                length = int(self.headers.get("Content-Length") or 0)
                asked = json.loads(self.rfile.read(length)) if length else None
                said = cluster.answer(self.command, words, asked)
                cluster.schedule()  # Snakemake asks again and again
                plain = isinstance(said, str)
                content = (said if plain else json.dumps(said or {"status": "Failure"})).encode()
                self.send_response(404 if said is None else 200)
                self.send_header("Content-Type", "text/plain" if plain else "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = _answer

            def log_message(self, *_):
                pass

        return Answering


@contextmanager
def running_kubernetes(folder: Path) -> Iterator[Kubernetes]:
    """Run a Kubernetes and an S3 while the block does."""
    cluster = Kubernetes(folder)
    folder.mkdir()
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def evicted(cluster: Kubernetes, job: str) -> None:
    """Evict a pod."""
    cluster.pods[job].evict()
