"""Server and local clients work with any proxy, certificate and Java variables in the environment."""

from pathlib import Path

import pytest

from tests.integration.serving.conftest import Engine, finish, running, start_ganctl

HOSTILE = {
    "http_proxy": "http://127.0.0.1:1",
    "https_proxy": "http://127.0.0.1:1",
    "ALL_PROXY": "socks5://127.0.0.1:1",
    "NO_PROXY": "[::1],fe80::/10",
    "SSL_CERT_FILE": "/nonexistent",
    "SSL_CERT_DIR": "/nonexistent",
    "REQUESTS_CA_BUNDLE": "/nonexistent",
    "SSLKEYLOGFILE": "/nonexistent/keys",
    "JAVA_TOOL_OPTIONS": "-Xnonsense",
    "_JAVA_OPTIONS": "-Xnonsense",
    "JDK_JAVA_OPTIONS": "-Xnonsense",
    "CLASSPATH": "/nonexistent",
}


@pytest.mark.soak_on_torchserve
def test_serve_sample_and_deploy_ignore_proxy_certificate_and_java_variables(
    engine: Engine, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    with running(export, tmp_path, engine=engine) as server:
        port = server.url.rpartition(":")[2]
        for command in (
            ("sample", server.url, "--out", str(tmp_path / "x.png")),
            ("deploy", str(export), "--port", port),
        ):
            process = start_ganctl(*command, temporary=tmp_path)
            _, err = finish(process)
            assert process.returncode == 0, err
    assert "Picked up" not in finish(server.process)[1], "Java read no options from the environment"
