"""`needletail download` against a hub on this machine that misbehaves, and caches shared with Python's client.

    .deps/oracle/bin/python verify/hub.py [--seed N] [--kills 50]

The hub speaks as the real one does (api/models, resolve with ETag or X-Linked-Etag and a redirect to another host for large
files). Faults, each in a repository of its own: pieces cut short, a wrong length, bytes that change under way, a server that
ignores Range, 416, 429 with Retry-After, 500, bytes that are not what their name says, an ETag that changes between two
requests for parts, a file that is listed and not there. Checked after each: hashes of all files, no leftovers, no token at the
other host. Blobs that were cut or changed in the cache, caches that are not whole offline, and settings that cannot be meant: a
token with a line end, one with a control character, addresses without a scheme. Then downloads killed at random moments of a
file's bytes, one after another until 50 were, and how many bytes were fetched in all; a cache filled by one client used by the
other, both ways, with the server switched off, also what it says of files that are not there; what each variable of the
environment does; and what stands on a terminal.
"""

import hashlib
import http.server
import json
import os
import pathlib
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse

from common import Program, Report, Workspace, parser, wait_until

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
            server.handle_error = lambda *_: None  # a client that was killed
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
                    if repository is None:  # nobody in particular is not told which repositories there are
                        return self.plain(404 if self.headers.get("Authorization") else 401, b"{}", X_Error_Code="RepoNotFound")
                    if match[2] not in ("main", COMMIT, "refs%2Fpr%2F1"):
                        return self.plain(404, b"{}", X_Error_Code="RevisionNotFound")
                    if repository.get("fault") == "private" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                        return self.plain(401, b"{}")
                    siblings = [{"rfilename": file} for file in repository.get("ghosts", [])]
                    for entry in tree(repository["files"]):
                        sizes = {"size": entry["size"], "lfs": entry.get("lfs")} if "blobs=true" in self.path else {}
                        siblings.append({"rfilename": entry["path"], **sizes})
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
                    return self.plain(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
                if entry.get("fault") == "slow answer" and file == "config.json" and hub.count("slow answer") == 1:
                    time.sleep(30)
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
                if entry.get("fault") == "other ETag" and hub.count(("ETag", file)) == 1:
                    data = data[::-1]
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
                if fault == "other ETag" and n == 1:
                    data = data[::-1]
                part = data[start:]
                self.send_response(206 if start else 200)
                if start:
                    shown = start + 5 if fault == "wrong range" and n <= 3 else start
                    self.send_header("Content-Range", f"bytes {shown}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                stop = len(part)
                if fault in ("cut", "no range", "wrong range", "other ETag") and large and n <= (3 if fault == "cut" else 1):
                    stop = len(part) // 3
                stalls = fault == "slow bytes" and n == 1
                for at in range(0, stop, 1 << 16):
                    piece = part[at:min(at + (1 << 16), stop)]
                    try:
                        self.wfile.write(piece)
                    except OSError:
                        return
                    hub.sent += len(piece)
                    time.sleep(30 if stalls else hub.pause)
                if stop < len(part):
                    self.close_connection = True
                    self.connection.close()

        return Handler


def environment(cache, hub, **more):
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")
            and not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_", "XDG_"))}
    return {**kept, "HF_HUB_CACHE": str(cache), "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, **more}


def run(program, *words, env, cwd=None):
    return subprocess.run([str(program), *map(str, words)], env=env, cwd=cwd, capture_output=True, text=True, timeout=120)


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
    kinds = ["none", "cut", "length", "no range", "wrong range", "416", "429", "500", "other bytes", "other ETag", "private"]
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
    wanted = "no such repository, or it is private or gated and needs a token (HF_TOKEN)"
    report.holds("private without a token", closed.returncode == 65 and wanted in closed.stderr, closed.stderr.strip()[-100:])
    nobody = run(program, "download", "org/missing", env=environment(work / "closed", hub, HF_HUB_DISABLE_IMPLICIT_TOKEN="1"))
    report.holds("missing without a token", nobody.returncode == 65 and wanted in nobody.stderr, nobody.stderr.strip()[-100:])
    offline = environment(work / "faults", hub, HF_HUB_OFFLINE="1")
    hub.log.clear()
    result = run(program, "download", "org/none", env=offline)
    report.equals("offline: exit and requests", (result.returncode, len(hub.log)), (0, 0))
    hub.stop()


def damages(report, program, work, generator):
    """What is in the cache and not whole: mended by a download, told of offline."""
    files = make_files(generator)
    hub = Hub({"org/a": {"files": files}})
    env = environment(work / "damages", hub)
    run(program, "download", "org/a", env=env)
    blob = work / "damages/models--org--a/blobs" / sha256(files["model.safetensors"])

    def mended(name, data, *words):
        blob.write_bytes(data)
        hub.log.clear()
        result = run(program, "download", "org/a", *words, env=env)
        report.equals(f"a blob {name}: exit", result.returncode, 0)
        return [asked for kind, _, _, asked in hub.log if kind == "store"]

    asked = mended("cut", files["model.safetensors"][:1000])
    report.identical("a blob cut: files", differences(work / "damages", "org/a", files))
    report.equals("a blob cut: what is asked for", asked, ["bytes=1000-"])
    mended("too long", files["model.safetensors"] + b"more")
    report.identical("a blob too long: files", differences(work / "damages", "org/a", files))
    report.equals("a blob of other bytes: what is asked for", mended("of other bytes", files["model.safetensors"][::-1]), [])
    offline = run(program, "download", "org/a", "--verify", env={**env, "HF_HUB_OFFLINE": "1"})
    report.holds("a blob of other bytes, offline, --verify", offline.returncode == 65 and "model.safetensors" in offline.stderr,
                 offline.stderr.strip()[-100:])
    mended("of other bytes, --verify", files["model.safetensors"][::-1], "--verify")
    report.identical("a blob of other bytes, --verify: files", differences(work / "damages", "org/a", files))
    part = environment(work / "part", hub)
    run(program, "download", "org/a", "--include", "config.json", env=part)
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        for words, wanted in [([], "weights"), (["--include", "tokenizer.json"], "tokenizer.json"), (["--include", "config.json"], None)]:
            result = run(program, "download", "org/a", *words, env={**part, variable: "1"})
            lines = result.stderr.strip().splitlines()
            passed = result.returncode == 0 if wanted is None else (result.returncode, len(lines)) == (65, 1) and wanted in lines[0]
            report.holds(f"{variable}=1, config.json alone, {' '.join(words)}", passed, lines[-1:])
    hub.stop()


def settings(report, program, work, generator):
    """What cannot be meant is told of at once, in a line that names the variable and shows no secret."""
    hub = Hub({"org/private": {"files": make_files(generator), "fault": "private"}})
    result = run(program, "download", "org/private", env=environment(work / "settings", hub, HF_TOKEN=f"{TOKEN}\r\n"))
    report.equals("HF_TOKEN with a line end: exit", result.returncode, 0)
    hub.log.clear()
    bad = [("HF_TOKEN", f"{TOKEN}\x01"), ("HF_TOKEN", f"{TOKEN}é"), ("HF_ENDPOINT", "huggingface.co"), ("HF_ENDPOINT", "http://"),
           ("HF_ENDPOINT", f"http://u:{TOKEN}@127.0.0.1"), ("HF_ENDPOINT", "http://127.0.0.1:99999"),
           ("HTTP_PROXY", f"socks5://u:{TOKEN}@127.0.0.1:1"), ("HTTP_PROXY", "http://127.0.0.1:99999")]
    for name, value in bad:
        began = time.monotonic()
        result = run(program, "download", "org/private", env=environment(work / "bad", hub, **{name: value}))
        lines, seconds = result.stderr.strip().splitlines(), time.monotonic() - began
        passed = result.returncode == 64 and len(lines) == 1 and name in lines[0] and TOKEN not in lines[0] and seconds < 5
        report.holds(f"{name}={value!r}".replace(TOKEN, "TOKEN"), passed, lines[-1:])
    report.equals("requests with settings that cannot be meant", len(hub.log), 0)
    hub.stop()


def paths(report, program, work):
    """Where the cache is, by huggingface_hub's own reading of the variables."""
    ask = "from huggingface_hub import constants as c; print(c.HF_HUB_CACHE)"
    hub = Hub({"org/a": {"files": {"config.json": b"{}"}}})
    bare = environment("", hub, HOME=str(work / "somebody"), PLACE=str(work / "place"))
    del bare["HF_HUB_CACHE"]
    for more in ({"HF_HOME": "~/hf"}, {"HF_HOME": "$PLACE/hf"}, {"HF_HUB_CACHE": "${PLACE}cache"}, {"XDG_CACHE_HOME": "~/xdg"},
                 {"HUGGINGFACE_HUB_CACHE": "$PLACE/old"}, {"HUGGINGFACE_HUB_CACHE": "/nowhere", "HF_HUB_CACHE": "~/new"},
                 {"HF_HOME": str(work / "a$NONE")}):
        env = {**bare, **more}
        theirs = subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True, text=True).stdout.strip()
        result = run(program, "download", "org/a", env=env, cwd=work)
        report.equals(f"{more}: the cache".replace(str(work), ""), result.stdout.strip(), f"{theirs}/models--org--a/snapshots/{COMMIT}")
    hub.stop()


def kills(report, program, work, generator, count):
    files = make_files(generator, 24 << 20)
    hub = Hub({"org/large": {"files": files}})
    hub.pause = 0.02  # the file takes longer than all that is between the kills
    cache, whole = work / "kills", sum(map(len, files.values()))
    env = environment(cache, hub)
    killed = started = 0

    def ranges():
        return [asked for kind, _, _, asked in hub.log if kind == "store"]

    while killed < count and started < 3 * count:
        started, asked = started + 1, len(ranges())
        process = subprocess.Popen([str(program), "download", "org/large"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Bytes are on their way: the kill lands in the middle of a file.
        wait_until(lambda: len(ranges()) > asked or process.poll() is not None, 20, 0.002)
        time.sleep(generator.uniform(0, 0.08))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    hub.pause = 0
    result = run(program, "download", "org/large", env=env)
    report.equals("killed downloads, then one to its end", result.returncode, 0)
    report.equals(f"kills in the middle of a file's bytes, of {started} downloads", killed, count)
    report.identical("its files", differences(cache, "org/large", files))
    # What lies in sockets when a client dies was sent and never written: a few buffers a kill.
    report.at_most("bytes sent beyond the files' own, MiB per kill", (hub.sent - whole) / 2 ** 20 / max(killed, 1), 1)
    starts = [int(r.split("=")[1][:-1]) for r in ranges() if r]
    report.holds("each download goes on behind the one before", starts == sorted(starts) and len(set(starts)) > count / 2,
                 f"{len(starts)} resumed")
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


def absences(report, program, work, generator):
    """Marks that a commit has no such file, `.no_exist`: each client believes the other's."""
    ghosts = ["generation_config.json", "model-00002-of-00002.safetensors"]
    hub = Hub({"org/ghosts": {"files": make_files(generator), "ghosts": ghosts}})
    ask = ("import sys, huggingface_hub as h\n"
           "from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError\n"
           "for name in sys.argv[1:]:\n"
           "    try: h.hf_hub_download('org/ghosts', name); print('there')\n"
           "    except EntryNotFoundError as e: print('local' if isinstance(e, LocalEntryNotFoundError) else 'absent')\n"
           "    print(h.try_to_load_from_cache('org/ghosts', name) is h.file_download._CACHED_NO_EXIST)\n")

    def python(cache, *names, **more):
        env = environment(cache, hub, HF_HUB_DISABLE_XET="1", **more)
        result = subprocess.run([sys.executable, "-c", ask, *names], env=env, capture_output=True, text=True, timeout=120)
        return result.stdout.split() or result.stderr[-300:]

    def asked(name):
        return sum(path.endswith(f"/{name}") for _, _, path, _ in hub.log)

    theirs = work / "their-ghosts"
    report.equals("huggingface_hub marks what is absent", python(theirs, *ghosts), ["absent", "True"] * 2)
    hub.log.clear()
    result = run(program, "download", "org/ghosts", env=environment(theirs, hub))
    report.equals("needletail asks for none of them", [asked(name) for name in ghosts], [0, 0])
    report.holds("needletail names the one that is no option", result.returncode == 65 and ghosts[1] in result.stderr
                 and ghosts[0] not in result.stderr, result.stderr.strip())
    ours = work / "our-ghosts"
    for round, requests in (("first", 1), ("second", 0)):
        hub.log.clear()
        result = run(program, "download", "org/ghosts", env=environment(ours, hub))
        report.equals(f"needletail's {round} download: exit, requests for each",
                      (result.returncode, [asked(name) for name in ghosts]), (65, [requests] * 2))
    names = [*ghosts, "chat_template.jinja", "adapter_config.json"]
    report.equals("huggingface_hub believes needletail's marks, offline", python(ours, *names, HF_HUB_OFFLINE="1")[1::2], ["True"] * 4)
    hub.stop()


def variables(report, program, work, generator):
    """Each variable of the environment, with a control where it could go unnoticed."""
    hub = Hub({f"org/{fault.replace(' ', '-')}": {"files": make_files(generator), "fault": fault}
               for fault in ("none", "private", "slow answer", "slow bytes")})
    bare = environment("", hub)
    del bare["HF_HUB_CACHE"], bare["HF_TOKEN"]

    def asked(repository, **more):
        began = time.monotonic()
        env = {name: str(value) for name, value in {**bare, "HOME": work / "home", **more}.items()}
        return run(program, "download", repository, env=env), time.monotonic() - began

    for name, value, root in (("HF_HOME", work / "hf", work / "hf/hub"), ("XDG_CACHE_HOME", work / "xdg", work / "xdg/huggingface/hub"),
                              ("HOME", work / "person", work / "person/.cache/huggingface/hub")):
        result, _ = asked("org/none", **{name: value})
        report.equals(f"{name}: the cache", (result.returncode, result.stdout.strip()),
                      (0, f"{root}/models--org--none/snapshots/{COMMIT}"))
    (work / "secret").write_text(f"{TOKEN}\n")
    (work / "token-home").mkdir()
    (work / "token-home/token").write_text(TOKEN)
    for name, value, code in (("HF_HOME", work / "nobody", 65), ("HF_TOKEN_PATH", work / "secret", 0), ("HF_HOME", work / "token-home", 0)):
        result, _ = asked("org/private", **{name: value})
        report.equals(f"{name}={value.name}: exit for a private repository", result.returncode, code)
    report.equals("requests with the token at the other host", len(hub.leaks), 0)
    for name, repository in (("HF_HUB_ETAG_TIMEOUT", "org/slow-answer"), ("HF_HUB_DOWNLOAD_TIMEOUT", "org/slow-bytes")):
        result, seconds = asked(repository, **{name: 1})
        report.equals(f"{name}=1: exit", (result.returncode, result.stderr.strip()[-100:] if result.returncode else ""), (0, ""))
        report.at_most(f"{name}=1: seconds with one answer of 30", seconds, 6)
        hub.faults.clear()
        shutil.rmtree(work / "home")
        result, seconds = asked(repository, **{name: 3, "HF_HUB_ETAG_TIMEOUT" if "DOWN" in name else "HF_HUB_DOWNLOAD_TIMEOUT": 1})
        report.holds(f"{name}=3, the other 1: it waits", result.returncode == 0 and seconds > 3, f"{seconds:.1f} s")
    for value, shown in (("", True), ("1", False)):
        result, _ = asked("org/none", HF_HOME=work / f"bars{value}", HF_HUB_DISABLE_PROGRESS_BARS=value)
        report.equals(f"HF_HUB_DISABLE_PROGRESS_BARS={value}: lines on standard error", bool(result.stderr), shown)
    hub.stop()


def terminal(report, program, work, generator):
    """What stands on a screen: a line that is refreshed ten times a second at most; plain lines where codes are refused."""
    hub = Hub({"org/none": {"files": make_files(generator, 6 << 20)}})
    hub.pause = 0.02  # 50 pieces a second, about 2 s

    def show(name, **more):
        master, slave = pty.openpty()
        env = {**environment(work / f"screen-{name}", hub), "TERM": "xterm", **more}
        process = subprocess.Popen([str(program), "download", "org/none"], env=env, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        began, shown = time.monotonic(), b""
        try:
            while data := os.read(master, 1 << 16):
                shown += data
        except OSError:  # the end of a terminal
            pass
        os.close(master)
        return process.wait(), shown, time.monotonic() - began

    code, shown, seconds = show("color")
    updates = shown.count(b"\r\x1b[K")
    # Each file's last line is shown in any case.
    report.holds("on a terminal: a line is refreshed", code == 0 and updates > 5, f"exit {code}, {updates} updates in {seconds:.1f} s")
    report.at_most("on a terminal: updates a second", (updates - 5) / seconds, 10)
    for name, more in (("NO_COLOR", {"NO_COLOR": "1"}), ("TERM=dumb", {"TERM": "dumb"})):
        code, shown, _ = show(name, **more)
        plain = b"\x1b" not in shown and b"\r" not in shown.replace(b"\r\n", b"\n")
        report.holds(f"{name}: plain lines", code == 0 and plain and shown.count(b"\n") >= 2, repr(shown[:120]))
    hub.stop()


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--kills", type=int, default=50)
    arguments = arguments.parse_args()
    report, generator = Report(), random.Random(arguments.seed)
    program = Program(arguments.needletail, 1).path
    with Workspace(arguments) as work:
        faults(report, program, work, generator)
        damages(report, program, work, generator)
        settings(report, program, work, generator)
        paths(report, program, work)
        kills(report, program, work, generator, arguments.kills)
        both_clients(report, program, work, generator)
        absences(report, program, work, generator)
        variables(report, program, work, generator)
        terminal(report, program, work, generator)
    report.exit()


if __name__ == "__main__":
    main()
