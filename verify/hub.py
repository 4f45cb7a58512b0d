"""`needletail download` against a hub on this machine that misbehaves, and caches shared with Python's client.

    .deps/oracle/bin/python verify/hub.py [--seed N] [--kills 50]

The hub speaks as the real one does (api/models, resolve with ETag or X-Linked-Etag and a redirect to another host for large
files). Faults, each in a repository of its own: pieces cut short, a wrong length, bytes that change under way, a server that
ignores Range, 416, 429 with Retry-After, 500, bytes that are not what their name says. Checked after each: hashes of all
files, no leftovers, no token at the other host. Then 50 downloads killed at random moments, one after another, and how many
bytes were fetched in all; and a cache filled by one client used by the other, both ways, with the server switched off.
"""

import hashlib
import http.server
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse

from common import Program, Report, Workspace, parser

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secretsecretsecret"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def tree(files):
    """The listing that newer clients ask for."""
    entries = []
    for name, data in files.items():
        entry = {"type": "file", "path": name, "size": len(data), "oid": git_sha1(data)}
        if len(data) > 10_000:
            entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
        entries.append(entry)
    return entries


class Hub:
    """Repositories {id: {"files": {name: bytes}, "fault": name}} on two ports: the hub, and where large files lie."""

    def __init__(self, repositories):
        self.repositories = repositories
        self.log, self.leaks, self.sent, self.faults = [], [], 0, {}
        self.pause = 0
        self.servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler(kind)) for kind in ("hub", "store")]
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
        self.endpoint, self.store = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)

    def stop(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def count(self, key):
        self.faults[key] = self.faults.get(key, 0) + 1
        return self.faults[key]

    def handler(self, kind):
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def plain(self, status, body=b"", **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def do_HEAD(self):
                self.answer()

            def do_GET(self):
                self.answer()

            def answer(self):
                path = self.path.split("?")[0]
                hub.log.append((kind, self.command, path, self.headers.get("Range")))
                if kind == "store":
                    if self.headers.get("Authorization"):
                        hub.leaks.append(path)
                    _, org, name, file = path.split("/", 3)
                    return self.bytes(f"{org}/{name}", urllib.parse.unquote(file))
                if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", path):
                    repository = hub.repositories.get(match[1])
                    if repository is None:
                        return self.plain(404, b"{}", X_Error_Code="RepoNotFound")
                    if match[2] not in ("main", COMMIT, "refs%2Fpr%2F1"):
                        return self.plain(404, b"{}", X_Error_Code="RevisionNotFound")
                    if repository.get("fault") == "private" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                        return self.plain(401, b"{}")
                    siblings = [{"rfilename": file} for file in repository["files"]]
                    body = {"id": match[1], "modelId": match[1], "sha": COMMIT, "siblings": siblings, "private": False, "tags": [],
                            "downloads": 0, "likes": 0}
                    return self.plain(200, json.dumps(body).encode(), Content_Type="application/json")
                if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
                    return self.plain(200, json.dumps(tree(hub.repositories[match[1]]["files"])).encode(), Content_Type="application/json")
                if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                    return self.resolve(match[1], urllib.parse.unquote(match[3]))
                self.plain(404)

            def resolve(self, repository, file):
                entry = hub.repositories[repository]
                data = entry["files"].get(file)
                if data is None:
                    return self.plain(404, X_Error_Code="EntryNotFound")
                if entry.get("fault") == "500" and hub.count(("500", file)) <= 2:
                    return self.plain(500)
                large = len(data) > 10_000
                if not large:
                    if self.command == "HEAD":
                        self.send_response(200)
                        self.send_header("ETag", f'"{git_sha1(data)}"')
                        self.send_header("X-Repo-Commit", COMMIT)
                        self.send_header("Content-Length", str(len(data)))
                        self.end_headers()
                        return
                    return self.bytes(repository, file)
                size = len(data) + (7 if entry.get("fault") == "length" and hub.count(("length", file)) <= 2 else 0)
                self.plain(302, ETag='"elsewhere"', X_Repo_Commit=COMMIT, X_Linked_Etag=f'"{sha256(data)}"', X_Linked_Size=str(size),
                           Location=f"{hub.store}/{repository}/{urllib.parse.quote(file)}")

            def bytes(self, repository, file):
                entry = hub.repositories[repository]
                data, fault = entry["files"][file], entry.get("fault")
                start = 0
                if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
                    start = int(match[1])
                large = len(data) > 10_000
                n = hub.count((fault, file, "bytes")) if large else 99
                if fault == "429" and n <= 2:
                    return self.plain(429, Retry_After="0")
                if fault == "416" and n == 1 or start > len(data):
                    return self.plain(416)
                if fault == "no range":
                    start = 0
                if fault == "other bytes" and n <= 2:
                    data = bytes(len(data))
                part = data[start:]
                self.send_response(206 if start else 200)
                if start:
                    shown = start + 5 if fault == "wrong range" and n <= 3 else start
                    self.send_header("Content-Range", f"bytes {shown}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                stop = len(part)
                if fault in ("cut", "no range", "wrong range") and large and n <= (3 if fault == "cut" else 1):
                    stop = len(part) // 3
                for at in range(0, stop, 1 << 16):
                    piece = part[at:min(at + (1 << 16), stop)]
                    try:
                        self.wfile.write(piece)
                    except OSError:
                        return
                    hub.sent += len(piece)
                    if hub.pause:
                        time.sleep(hub.pause)
                if stop < len(part):
                    self.close_connection = True
                    self.connection.close()

        return Handler


def environment(cache, hub, **more):
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
    return {**kept, "HF_HUB_CACHE": str(cache), "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, **more}


def run(program, *words, env):
    return subprocess.run([str(program), *map(str, words)], env=env, capture_output=True, text=True, timeout=120)


def differences(cache, repository, files):
    """What a snapshot lacks or has differently, and what lies around; empty when nothing."""
    root = cache / ("models--" + repository.replace("/", "--"))
    snapshot = root / "snapshots" / COMMIT
    found = [name for name, data in files.items() if not (snapshot / name).is_file() or (snapshot / name).read_bytes() != data]
    found += [str(p.relative_to(root)) for p in snapshot.rglob("*") if p.is_file() and not p.is_symlink()]
    found += [str(p.relative_to(root)) for p in (root / "blobs").iterdir() if p.name.endswith(".incomplete")]
    if (root / "refs/main").read_text() != COMMIT:
        found.append("refs/main")
    for link in (p for p in snapshot.rglob("*") if p.is_symlink()):
        if os.path.isabs(os.readlink(link)) or link.resolve().parent != (root / "blobs").resolve():
            found.append(f"{link} leads to {os.readlink(link)}")
    return ", ".join(found)


def make_files(generator, large=400_000):
    return {"config.json": b'{"model_type": "llama"}', "tokenizer.json": generator.randbytes(9_000), "README.md": b"",
            "model.safetensors": generator.randbytes(large), "sub/folder/more data.safetensors": generator.randbytes(30_000)}


def faults(report, program, work, generator):
    kinds = ["none", "cut", "length", "no range", "wrong range", "416", "429", "500", "other bytes", "private"]
    repositories = {f"org/{kind.replace(' ', '-')}": {"files": make_files(generator), "fault": kind} for kind in kinds}
    hub = Hub(repositories)
    for repository, entry in repositories.items():
        cache = work / "faults"
        result = run(program, "download", repository, env=environment(cache, hub))
        report.equals(f"{entry['fault']}: ends with", f"{result.returncode} {result.stderr.strip()[-150:] if result.returncode else ''}", "0 ")
        if result.returncode == 0:
            report.identical(f"{entry['fault']}: files", differences(cache, repository, entry["files"]))
            report.equals(f"{entry['fault']}: prints its folder", result.stdout.strip().endswith(f"snapshots/{COMMIT}"), True)
        hub.log.clear()
        again = run(program, "download", repository, env=environment(cache, hub))
        report.equals(f"{entry['fault']}: again, requests", (again.returncode, len(hub.log)), (0, 1))
    report.equals("requests with the token at the other host", len(hub.leaks), 0)
    for words, wanted in [(["org/missing"], "org/missing: not on"), (["org/none", "--revision", "v9"], "no such revision"),
                          (["org/none", "--include", "*.gguf"], "none of its 5 files is chosen")]:
        result = run(program, "download", *words, env=environment(work / "wrong", hub))
        lines = result.stderr.strip().splitlines()
        report.holds(" ".join(words), result.returncode in (64, 65) and len(lines) == 1 and wanted in lines[0], lines[-1:])
    closed = run(program, "download", "org/private", env=environment(work / "closed", hub, HF_HUB_DISABLE_IMPLICIT_TOKEN="1"))
    report.holds("private without a token", closed.returncode == 65 and "set HF_TOKEN" in closed.stderr, closed.stderr.strip()[-100:])
    offline = environment(work / "faults", hub, HF_HUB_OFFLINE="1")
    hub.log.clear()
    result = run(program, "download", "org/none", env=offline)
    report.equals("offline: exit and requests", (result.returncode, len(hub.log)), (0, 0))
    hub.stop()


def kills(report, program, work, generator, count):
    files = make_files(generator, 24 << 20)
    hub = Hub({"org/large": {"files": files}})
    hub.pause = 0.004
    cache, whole = work / "kills", sum(map(len, files.values()))
    env = environment(cache, hub)
    killed = 0
    for _ in range(count):
        process = subprocess.Popen([str(program), "download", "org/large"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(generator.uniform(0.02, 0.12))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    hub.pause = 0
    result = run(program, "download", "org/large", env=env)
    report.equals("killed downloads, then one to its end", result.returncode, 0)
    report.note("killed", f"{killed} of {count}")
    report.identical("its files", differences(cache, "org/large", files))
    # What lies in sockets when a client dies was sent and never written: a few buffers a kill.
    report.at_most("bytes sent beyond the files' own, MiB per kill", (hub.sent - whole) / 2 ** 20 / max(killed, 1), 1)
    starts = [int(r.split("=")[1][:-1]) for kind, command, _, r in hub.log if kind == "store" and r]
    report.holds("each download goes on behind the one before", starts == sorted(starts) and len(set(starts)) > 3, f"{len(starts)} resumed")
    hub.stop()


def both_clients(report, program, work, generator):
    files = make_files(generator)
    hub = Hub({"org/shared": {"files": files}})
    ask = ("import sys, huggingface_hub as h; print(h.snapshot_download('org/shared', local_files_only=sys.argv[1] == 'local', "
           "revision=sys.argv[2]))")

    def python(cache, where, revision="main"):
        env = environment(cache, hub, HF_HUB_DISABLE_XET="1")
        return subprocess.run([sys.executable, "-c", ask, where, revision], env=env, capture_output=True, text=True, timeout=120)

    theirs = work / "theirs"
    result = python(theirs, "hub")
    report.equals("huggingface_hub fills a cache", f"{result.returncode} {result.stderr[-200:] if result.returncode else ''}", "0 ")
    hub.log.clear()
    result = run(program, "download", "org/shared", env=environment(theirs, hub))
    report.equals("needletail on it: exit, requests for bytes", (result.returncode, sum("resolve" in p for _, _, p, _ in hub.log)), (0, 0))
    report.identical("its files", differences(theirs, "org/shared", files))
    ours = work / "ours"
    run(program, "download", "org/shared", env=environment(ours, hub))
    run(program, "download", "org/shared@refs/pr/1", env=environment(ours, hub))
    hub.stop()
    for revision in ("main", COMMIT, "refs/pr/1"):
        result = python(ours, "local", revision)
        folder = pathlib.Path(result.stdout.strip() or "missing")
        same = result.returncode == 0 and all((folder / name).read_bytes() == data for name, data in files.items())
        report.holds(f"huggingface_hub reads needletail's, server off, {revision}", same, result.stderr.strip()[-150:])
    result = run(program, "download", "org/shared", env=environment(theirs, hub, HF_HUB_OFFLINE="1"))
    report.equals("needletail reads huggingface_hub's, offline", result.returncode, 0)


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--kills", type=int, default=50)
    arguments = arguments.parse_args()
    report, generator = Report(), random.Random(arguments.seed)
    program = Program(arguments.needletail, 1).path
    with Workspace(arguments) as work:
        faults(report, program, work, generator)
        kills(report, program, work, generator, arguments.kills)
        both_clients(report, program, work, generator)
    report.exit()


if __name__ == "__main__":
    main()
