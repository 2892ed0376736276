"""Logs are joined, thinned out and carried around without losing what is best."""

from __future__ import annotations

import gzip
import io
import tarfile
from html.parser import HTMLParser

import pytest

from compiler.errors import EdgeccError
from compiler.target import load_target
from compiler.tuning import manage
from compiler.tuning.log import RECORDS, Fingerprint, TuningLog
from compiler.tuning.log_writer import LogWriter
from compiler.tuning.report import write_report
from tests.tuning.models import small_network
from tests.tuning.test_lookup import log_last_decisions

LOCAL = Fingerprint("local", {"clock_ghz": 2.0}, {"conv2d": 1})
EMULATED = Fingerprint("emulated", {"clock_ghz": 2.0}, {"conv2d": 1})


def record(value):
    trace = [[["SampleCategorical", [], [[value], [1.0]], ["v0"]]], [[0, 0]]]
    return {"trace": trace, "target": {"kind": "llvm"}, "arguments": [], "template": "conv2d"}


def write(folder, *entries, fingerprint=LOCAL):
    """Entries of (workload, value, seconds)."""
    with LogWriter(folder) as log:
        log.add_fingerprint(fingerprint)
        for key, value, seconds in entries:
            samples = [] if seconds is None else [seconds]
            log.add(key, f"module {key}", record(value), (value,), samples, fingerprint)


def content(folder):
    log = TuningLog(folder)
    return {log.keys[r.workload]: (r.values[0], r.best) for r in manage.best_records(log)}


def test_merging_keeps_the_best_of_both(tmp_path):
    write(tmp_path / "a" / "cpu", ("x", 1, 5.0), ("x", 2, 3.0), ("y", 1, 1.0))
    write(tmp_path / "b" / "cpu", ("x", 3, 2.0), ("y", 2, 4.0), ("z", 1, 7.0), ("w", 1, None))
    taken = manage.merge([tmp_path / "b"], tmp_path / "a")
    assert taken == {"cpu": 2}
    assert content(tmp_path / "a" / "cpu") == {"x": (3, 2.0), "y": (1, 1.0), "z": (1, 7.0)}
    assert manage.merge([tmp_path / "b"], tmp_path / "a") == {}


def test_an_estimate_never_beats_a_measurement(tmp_path):
    write(tmp_path / "a" / "cpu", ("x", 1, 5.0))
    write(tmp_path / "b" / "cpu", ("x", 2, 1.0), fingerprint=EMULATED)
    assert manage.merge([tmp_path / "b"], tmp_path / "a") == {}
    assert manage.merge([tmp_path / "a"], tmp_path / "b") == {"cpu": 1}
    assert content(tmp_path / "b" / "cpu") == {"x": (1, 5.0)}


def test_pruning_keeps_what_builds_take(tmp_path):
    write(tmp_path / "cpu", ("x", 1, 5.0), ("x", 2, 3.0), ("y", 1, 1.0), ("y", 2, None))
    before = content(tmp_path / "cpu")
    assert manage.prune(tmp_path / "cpu") == (4, 2)
    assert content(tmp_path / "cpu") == before
    write(tmp_path / "cpu", ("y", 3, 0.5))
    assert content(tmp_path / "cpu")["y"] == (3, 0.5)


def test_an_archive_goes_around(tmp_path):
    write(tmp_path / "a" / "cpu", ("x", 1, 5.0), ("x", 2, 3.0))
    write(tmp_path / "a" / "other", ("y", 1, 1.0), fingerprint=EMULATED)
    assert manage.export(tmp_path / "a", tmp_path / "logs.tar.gz") == 2
    assert manage.import_archive(tmp_path / "logs.tar.gz", tmp_path / "b") == {"cpu": 1, "other": 1}
    assert content(tmp_path / "b" / "cpu") == {"x": (2, 3.0)}
    assert TuningLog(tmp_path / "b" / "other").fingerprints == {EMULATED.identity: EMULATED}
    manage.export(tmp_path / "a", tmp_path / "again.tar.gz")
    first, second = ((tmp_path / n).read_bytes() for n in ("logs.tar.gz", "again.tar.gz"))
    assert first == second


def archive(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    "name", ["../x/" + RECORDS, "/etc/" + RECORDS, "../" + RECORDS, "cpu/evil.py", "a/b/" + RECORDS]
)
def test_archives_write_nowhere_else(name, tmp_path):
    bad = archive(tmp_path / "bad.tar.gz", (name, b"[]\n"))
    with pytest.raises(EdgeccError, match="does not belong"):
        manage.import_archive(bad, tmp_path / "logs")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.tar.gz"]


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive", gzip.compress(b"neither", mtime=0)[:-4]],
    ids=["empty", "text", "truncated"],
)
def test_what_is_no_archive(data, tmp_path):
    (tmp_path / "bad.tar.gz").write_bytes(data)
    with pytest.raises(EdgeccError):
        manage.import_archive(tmp_path / "bad.tar.gz", tmp_path / "logs")


def test_the_commands(edgecc, tmp_path):
    write(tmp_path / "tuning_logs" / "cpu", ("x", 1, 5.0), ("x", 2, 3.0), ("y", 1, None))
    assert "cpu" in edgecc("logs", "list").stdout
    assert "1 records" in edgecc("logs", "export", "out.tar.gz").stdout
    assert "1 of 3" in edgecc("logs", "prune").stdout
    done = edgecc("logs", "import", "out.tar.gz", "--tuning-logs", "new")
    assert "cpu: 1 records" in done.stdout
    assert "nothing" in edgecc("logs", "merge", "new").stdout
    missing = edgecc("logs", "list", "--tuning-logs", "nowhere")
    assert missing.returncode == 1
    assert "no tuning logs" in missing.stderr


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not {"src", "href"} & {k for k, v in attrs if not v.startswith("#")}

    def handle_data(self, data):
        self.text += data


def test_the_report_is_one_page(tmp_path):
    model = small_network(tmp_path / "small.onnx")
    chosen = log_last_decisions(model, tmp_path / "logs", "x86_64_v3")
    count = write_report(tmp_path / "logs" / "x86_64_v3", tmp_path / "page.html")
    page = Page()
    page.feed((tmp_path / "page.html").read_text())
    assert page.tags.count("section") == count >= 2
    assert page.tags.count("polyline") == count
    assert "script" not in page.tags
    assert "2.00x" in page.text
    assert "tile.rows" in page.text
    assert chosen
    with pytest.raises(EdgeccError, match="no records"):
        write_report(tmp_path / "nothing", tmp_path / "page.html", load_target("host"))
