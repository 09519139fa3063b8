"""A Kubernetes control plane on this machine: etcd, API server, controllers and scheduler, as processes."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from pathlib import Path
from typing import Any, Final, Self

from flows.local_kafka import HOST, free_port
from tests.k8s.api import Api, Object, Refused

START: Final = 90.0  # seconds until all is up
SERVICES: Final = "10.96.0.0/16"
STORAGE_CLASS: Final = "standard"


class ControlPlane:
    """As a context manager it runs for as long as the block; ``folder`` receives its data, logs and ``kubeconfig``."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kubeconfig = folder / "kubeconfig"
        self.api: Api

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the programs, the last one first."""
        for process in reversed(self._processes.values()):
            process.kill()  # nothing of it is to be kept
            process.wait()
        self._processes.clear()

    def check(self) -> None:
        """Raises where one of the programs has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                log = (self._folder / f"{name}.log").read_text(errors="replace")
                raise RuntimeError(f"{name} has ended with {process.returncode}:\n{log[-3000:]}")

    def _start(self) -> None:
        etcd, peer, port = (free_port() for _ in range(3))
        self._run(
            "server",
            data_dir=self._folder / "etcd",
            listen_client_urls=f"http://{HOST}:{etcd}",
            advertise_client_urls=f"http://{HOST}:{etcd}",
            listen_peer_urls=f"http://{HOST}:{peer}",
            initial_advertise_peer_urls=f"http://{HOST}:{peer}",
            initial_cluster=f"default=http://{HOST}:{peer}",
            unsafe_no_fsync="true",  # a crash of this machine ends the test anyway
        )
        token = secrets.token_hex(16)
        tokens, key, certificates = (self._folder / name for name in ("tokens.csv", "accounts.key", "certificates"))
        tokens.write_text(f"{token},admin,admin,system:masters\n", encoding="ascii")
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        self._run(
            "kube-apiserver",
            etcd_servers=f"http://{HOST}:{etcd}",
            bind_address=HOST,
            advertise_address=HOST,
            secure_port=port,
            cert_dir=certificates,  # it makes a certificate of its own there
            token_auth_file=tokens,
            authorization_mode="RBAC",
            allow_privileged="true",  # as on every cluster; what forbids it is to be the namespace
            service_account_issuer="https://kubernetes.default.svc",
            service_account_signing_key_file=key,
            service_account_key_file=key,
            service_cluster_ip_range=SERVICES,
            endpoint_reconciler_type="none",  # the loopback address is none that a Service may lead to
        )
        authority = certificates / "apiserver.crt"
        self._await(authority.exists)
        self.api = Api(port, token, authority)
        self._await(self._ready)
        self._write_kubeconfig()
        common: dict[str, object] = {"kubeconfig": self.kubeconfig, "leader_elect": "false", "bind_address": HOST}
        self._run(
            "kube-controller-manager",
            **common,
            secure_port=free_port(),
            cert_dir=certificates,
            service_account_private_key_file=key,
            controllers="*,-node-ipam-controller,-service-lb-controller,-node-route-controller",
        )
        self._run("kube-scheduler", **common, secure_port=free_port(), cert_dir=certificates)
        self._await(lambda: self._exists("/api/v1/namespaces/default/serviceaccounts/default"))

    def _run(self, name: str, **options: object) -> None:
        words = [f"--{option.replace('_', '-')}={value}" for option, value in options.items()]
        # The kernel ends them with this program, however that ends.
        command = ["setpriv", "--pdeathsig", "KILL", str(self._programs / name), *words]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _await(self, condition: Any) -> None:
        give_up = time.monotonic() + START
        while not condition():
            self.check()
            if time.monotonic() > give_up:
                raise RuntimeError(f"the control plane does not come up within {START:g} s; see {self._folder}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            self.api.get("/readyz")
        except (OSError, Refused):
            return False
        return True

    def _exists(self, path: str) -> bool:
        try:
            self.api.get(path)
        except Refused as refused:
            if refused.status == 404:
                return False
            raise
        return True

    def _write_kubeconfig(self) -> None:
        server = {"server": f"https://{HOST}:{self.api.port}", "certificate-authority": str(self.api.authority)}
        config: Object = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": "admin", "user": {"token": self.api.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }
        self.kubeconfig.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML too
