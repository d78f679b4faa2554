"""Stand-in for the Hugging Face Hub on the loopback interface, with the requests that we make."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0" * 40


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of `huggingface_hub` for uploads and downloads of small files."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]

    def log_message(self, *args: Any) -> None:
        """Print nothing."""

    def answer(self, content: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self) -> None:
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        body = self.chunks() if chunked else self.rfile.read(int(self.headers["Content-Length"]))
        answer: dict[str, Any] = {}
        if self.path == "/api/repos/create":
            about = json.loads(body)
            answer = {"url": f"https://huggingface.co/{about['organization']}/{about['name']}"}
        elif "/preupload/" in self.path:
            found = [one["path"] for one in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            answer = {"files": [{"path": path, **modes} for path in found]}
        elif "/commit/" in self.path:
            name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files[f"{name}/{value['path']}"] = base64.b64decode(value["content"])
            answer = {"commitUrl": f"https://huggingface.co/{name}/commit/{COMMIT}"}
            answer["commitOid"] = COMMIT
        self.answer(json.dumps(answer).encode(), Content_Type="application/json")

    def chunks(self) -> bytes:
        """Read a body in chunked transfer encoding."""
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/"):
            name = "/".join(path.split("/")[3:5])
            found = [one for one in self.files if one.startswith(f"{name}/")]
            parts = [
                {"type": "file", "path": one.removeprefix(f"{name}/"), "size": 1, "oid": COMMIT}
                for one in found
            ]
            siblings = [{"rfilename": part["path"]} for part in parts]
            about = {"id": name, "sha": COMMIT, "private": True, "siblings": siblings}
            if found:
                self.answer(json.dumps(parts if "/tree/" in path else about).encode())
                return
        name = path[1:].replace(f"/resolve/{COMMIT}", "")
        if name not in self.files:
            self.answer(b"{}", 404, X_Error_Code="RepoNotFound")
            return
        content = self.files[name]
        tag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        self.answer(content, ETag=f'"{tag}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


@contextmanager
def hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Serve repositories; yields the address, and the content of each `USER/NAME/FILE`."""
    files: dict[str, bytes] = {}
    handler = type("OneHub", (Handler,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
