"""The cache returns exactly the decoded scans or decodes again; without a usable cache the run continues."""

import errno
import hashlib
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tmqc.data import contents, storage
from tmqc.data.cache import VolumeCache, compact, open_cache
from tmqc.data.contents import content_hashes
from tmqc.data.storage import Store
from tmqc.data.volumes import load_volumes
from tmqc.errors import CohortError, StoppedError
from tmqc.harm import harmful
from tmqc.harm.draw import draw_harm
from tmqc.harm.harmful import write_harmful
from tmqc.settings.schema import CacheConfig, HarmfulConfig

SHAPE = (6, 7, 8)
N = 336  # voxels


@pytest.fixture(autouse=True)
def trust_new_files(monkeypatch):
    """The index is not trusted for files changed just now; tests switch that off, because their files are new."""
    monkeypatch.setattr(contents, "STABLE_NS", -(10**18))


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def rows(write_nifti, subject):
    rng = np.random.default_rng(0)
    voxels = {"s1": rng.integers(0, 256, SHAPE), "s2": rng.normal(0, 1e4, SHAPE), "s3": rng.normal(100, 9, SHAPE)}
    dtypes = {"s1": np.uint8, "s2": np.int16, "s3": np.float32}
    return [subject(name, write_nifti(f"{name}.nii.gz", voxels[name], dtype=dtypes[name])) for name in voxels]


def load(rows, cache, **more):
    return load_volumes(rows, shape=SHAPE, spacing_mm=(1.0, 1.0, 1.0), orientation="RAS", cache=cache, **more)


def scans_of(rows, cache=None):
    return load(rows, cache).batch([row.subject for row in rows])


def entries(cache_dir, kind="scans"):
    return sorted((cache_dir / kind).iterdir())


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_cached_scans_are_bit_identical_and_read_no_scan_file(rows, cache_dir, monkeypatch):
    expected = scans_of(rows)
    first = VolumeCache(cache_dir)
    volumes = load(rows, first)
    np.testing.assert_array_equal(volumes.batch([r.subject for r in rows]), expected, strict=True)
    assert (first.stats.decodes, first.stats.hits) == (3, 0)

    def fail(*arguments):
        raise AssertionError(f"{arguments} was read")

    monkeypatch.setattr("tmqc.data.contents.Contents.read", fail)
    again = VolumeCache(cache_dir)
    volumes = load(rows, again)
    np.testing.assert_array_equal(volumes.batch([r.subject for r in rows]), expected, strict=True)
    assert (again.stats.decodes, again.stats.hits, again.store.n_damaged) == (0, 3, 0)
    assert [volumes.read(r.subject).dtype.name for r in rows] == ["uint8", "int16", "float32"]
    assert all(isinstance(volumes.read(r.subject), np.memmap) for r in rows)
    with pytest.raises(ValueError, match="read-only"):
        volumes.read("s1")[0] = 1
    assert volumes.describe() == f"3 of 3 scans from {cache_dir}, 0.0 MB as uint8 (1), int16 (1), float32 (1)"


def test_every_file_is_read_once_for_hashing_and_decoding(rows, cache_dir, monkeypatch):
    """A file that is replaced while it is read: its old voxels are not cached under its new content hash."""
    other = rows[1].path.read_bytes()
    expected, opened = scans_of(rows), []
    read = contents.Contents.read

    def read_then_replace(self, path):
        opened.append(path)
        found = read(self, path)
        path.write_bytes(other)
        return found

    with monkeypatch.context() as patch:
        patch.setattr("tmqc.data.contents.Contents.read", read_then_replace)
        np.testing.assert_array_equal(scans_of(rows[:1], VolumeCache(cache_dir)), expected[:1])
    assert opened == [rows[0].path]
    np.testing.assert_array_equal(scans_of(rows[:1], VolumeCache(cache_dir)), expected[1:2])


def test_entries_of_an_earlier_format_are_not_used(rows, cache_dir, monkeypatch):
    monkeypatch.setattr(storage, "FORMAT", storage.FORMAT - 1)
    scans_of(rows, VolumeCache(cache_dir))
    monkeypatch.undo()
    assert scans_of(rows, cache := VolumeCache(cache_dir)) is not None
    assert (cache.stats.hits, cache.stats.decodes) == (0, 3)


def test_content_hashes_are_sha256_and_read_from_the_index(rows, cache_dir, tmp_path, monkeypatch):
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes(rows[0].path.read_bytes())
    paths = [*(row.path for row in rows), copy, tmp_path / "absent.nii"]
    found = content_hashes(paths, VolumeCache().contents)
    assert list(found) == paths[:-1]
    assert len(set(found.values())) == 3 and found[copy] == found[rows[0].path]
    assert found[copy] == hashlib.sha256(copy.read_bytes()).hexdigest()
    cache = VolumeCache(cache_dir)
    load(rows, cache)
    monkeypatch.setattr("tmqc.data.contents.Contents.read", None)  # the hashes are in the index
    assert content_hashes(paths[:3], cache.contents) == {path: found[path] for path in paths[:3]}


def test_copy_of_a_file_at_another_path_is_a_cache_hit(rows, cache_dir, tmp_path, subject):
    expected = scans_of(rows, VolumeCache(cache_dir))
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes(rows[0].path.read_bytes())
    cache = VolumeCache(cache_dir)
    np.testing.assert_array_equal(scans_of([subject("copy", copy)], cache), expected[:1])
    assert (cache.stats.hits, cache.stats.decodes) == (1, 0)


@pytest.mark.parametrize("change", ["content", "size", "mtime"])
def test_changed_file_is_decoded_again(subject, cache_dir, write_nifti, change):
    voxels = np.random.default_rng(9).integers(0, 256, (2, *SHAPE))
    path = write_nifti("s1.nii", voxels[0])  # not compressed: all contents have the same size
    before = path.stat()
    rows = [subject("s1", path)]
    scans_of(rows, VolumeCache(cache_dir))
    match change:
        case "content":  # size and modification time stay the same
            write_nifti("s1.nii", voxels[1])
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        case "size":
            write_nifti("s1.nii", voxels[1])
            path.write_bytes(path.read_bytes() + b"\0")
        case "mtime":
            os.utime(path, ns=(0, 0))
    cache = VolumeCache(cache_dir)
    assert cache.contents.find(path) is None
    found = scans_of(rows, cache)
    np.testing.assert_array_equal(found[0, ..., 0], voxels[0 if change == "mtime" else 1])
    assert cache.stats.decodes == (0 if change == "mtime" else 1)  # only another time: the content is in the cache


def test_index_of_a_recently_changed_file_is_not_trusted(rows, cache_dir, monkeypatch):
    """Its content may change again within the resolution of file times."""
    monkeypatch.setattr(contents, "STABLE_NS", 2 * 10**9)
    scans_of(rows, VolumeCache(cache_dir))
    assert all(VolumeCache(cache_dir).contents.find(row.path) is None for row in rows)
    monkeypatch.setattr(contents.time, "time_ns", lambda: int(time.time() * 10**9) + 10**10)
    assert scans_of(rows, cache := VolumeCache(cache_dir)) is not None
    assert (cache.stats.hits, cache.stats.decodes) == (3, 0)
    assert all(VolumeCache(cache_dir).contents.find(row.path) is not None for row in rows)


def _overwrite(path, content):
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:10],
        lambda raw: raw[:128],
        lambda raw: raw[:-1],
        lambda raw: raw + b"\0",
        lambda raw: raw[:20] + bytes([raw[20] ^ 1]) + raw[21:],  # the header
        lambda raw: raw.replace(b"(1,)", b"(9,)"),
        lambda raw: raw.replace(b"|u1", b"|i1").replace(b"<i2", b"<u2").replace(b"<i8", b"<u8").replace(b"<f4", b"<i4"),
        lambda raw: b"X" + raw[1:],
        lambda raw: raw[:-100] + bytes([raw[-100] ^ 16]) + raw[-99:],  # one bit
        lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
    ],
)
@pytest.mark.parametrize("kind", ["scans", "index"])
def test_damaged_entries_are_not_used_and_written_again(rows, cache_dir, caplog, *, kind, damage):
    expected = scans_of(rows, VolumeCache(cache_dir))
    good = [path.read_bytes() for path in entries(cache_dir, kind)]
    for path, raw in zip(entries(cache_dir, kind), good, strict=True):
        _overwrite(path, damage(raw))
    cache = VolumeCache(cache_dir)
    np.testing.assert_array_equal(scans_of(rows, cache), expected)
    assert (cache.store.n_damaged, cache.stats.decodes) == (3, 3 if kind == "scans" else 0)
    [warning] = warnings_of(caplog)
    assert "is damaged" in warning
    after = VolumeCache(cache_dir)
    np.testing.assert_array_equal(scans_of(rows, after), expected)
    assert (after.stats.hits, after.store.n_damaged, after.stats.decodes) == (3, 0, 0)


def test_damage_in_a_read_only_cache_is_reported_once(rows, cache_dir, monkeypatch, caplog):
    expected = scans_of(rows, VolumeCache(cache_dir))
    for path in entries(cache_dir):
        raw = path.read_bytes()
        _overwrite(path, raw[:-1] + bytes([raw[-1] ^ 1]))

    def refuse(path, *arguments, **more):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    for name in ("unlink", "mkdir", "replace"):
        monkeypatch.setattr(f"tmqc.data.storage.Path.{name}", refuse)
    cache = VolumeCache(cache_dir)
    np.testing.assert_array_equal(scans_of(rows, cache), expected)
    assert (cache.store.n_damaged, cache.stats.decodes) == (3, 3)
    damaged, warning = warnings_of(caplog)
    assert "is damaged" in damaged and "cannot be written (Read-only file system)" in warning


def test_grid_of_cached_scans_is_checked_on_every_load(rows, cache_dir):
    scans_of(rows, VolumeCache(cache_dir))
    for expected, words in (
        ({"shape": (8, 7, 6)}, "6 x 7 x 8 voxels, expected 8 x 7 x 6"),
        ({"spacing_mm": (2.0, 1.0, 1.0)}, "spacing 1 x 1 x 1 mm, expected 2 x 1 x 1"),
        ({"orientation": "LPS"}, "orientation RAS, expected LPS"),
    ):
        wanted = {"shape": SHAPE, "spacing_mm": (1.0, 1.0, 1.0), "orientation": "RAS"} | expected
        with pytest.raises(CohortError, match=words):
            load_volumes(rows, cache=VolumeCache(cache_dir), **wanted)


def test_missing_scan_file_raises_although_it_is_cached(rows, cache_dir):
    scans_of(rows, VolumeCache(cache_dir))
    rows[1].path.unlink()
    with pytest.raises(CohortError, match=r"subject s2, .*s2\.nii\.gz: cannot be read: No such file"):
        scans_of(rows, VolumeCache(cache_dir))


def test_cache_deleted_during_a_run_is_rebuilt_and_changed_scans_stop_it(rows, cache_dir, write_nifti):
    expected = scans_of(rows)
    volumes = load(rows, VolumeCache(cache_dir))
    for path in entries(cache_dir):
        path.unlink()
    np.testing.assert_array_equal(volumes.batch(["s1", "s2", "s3"]), expected)
    assert volumes.cache.stats.decodes == 6
    np.testing.assert_array_equal(volumes.batch(["s1", "s2", "s3"]), expected)
    assert volumes.cache.stats.decodes == 6  # the entries were written again
    for path in entries(cache_dir):
        path.unlink()
    write_nifti("s1.nii.gz", np.random.default_rng(5).integers(0, 256, SHAPE))
    rows[1].path.unlink()
    with pytest.raises(StoppedError, match=r"subject s1, .*: has changed since the run began"):
        volumes.batch(["s1"])
    with pytest.raises(StoppedError, match=r"subject s2, .*: cannot be read: No such file"):
        volumes.batch(["s2"])


@pytest.mark.parametrize("where", ["cache", "cache/deeper"])
def test_file_in_place_of_the_cache_directory_gives_one_warning(rows, tmp_path, caplog, where):
    (tmp_path / "cache").write_text("not a directory")
    cache = VolumeCache(tmp_path / where)
    np.testing.assert_array_equal(scans_of(rows, cache), scans_of(rows))
    assert cache.stats.decodes == 3
    [warning] = warnings_of(caplog)
    assert f"cache.directory={tmp_path / where}: cannot be written (" in warning


def test_full_disk_gives_one_warning_and_loading_continues(rows, cache_dir):
    # In a separate process: the limit holds for every file of a process, including pytest's captured output.
    expected = scans_of(rows)
    code = f"""
import pickle, resource, sys
from pathlib import Path
from tmqc.data.cache import VolumeCache
from tmqc.data.volumes import load_volumes
rows = pickle.load(sys.stdin.buffer)
resource.setrlimit(resource.RLIMIT_FSIZE, ({N // 2}, resource.RLIM_INFINITY))
cache, same = VolumeCache(Path(sys.argv[1])), dict(shape={SHAPE}, spacing_mm=(1.0, 1.0, 1.0), orientation="RAS")
sys.stdout.buffer.write(load_volumes(rows, **same, cache=cache).batch([row.subject for row in rows]).tobytes())
"""
    child = subprocess.run([sys.executable, "-c", code, str(cache_dir)], input=pickle.dumps(rows), capture_output=True)
    assert child.returncode == 0, child.stderr.decode()
    np.testing.assert_array_equal(np.frombuffer(child.stdout, np.float32), expected.ravel())
    (warning,) = child.stderr.decode().splitlines()
    assert "cannot be written (File too large)" in warning
    assert entries(cache_dir) == []  # no partial entry either


def test_interrupted_write_leaves_no_entry_and_old_parts_are_removed(rows, cache_dir, monkeypatch):
    class Death(BaseException):
        pass

    def die(path, target):
        raise Death

    monkeypatch.setattr("tmqc.data.storage.Path.replace", die)
    with pytest.raises(Death):
        Store(cache_dir).put("scans", "x", fields={"voxels": np.zeros(9, np.uint8)})
    assert entries(cache_dir) == []
    monkeypatch.undo()
    old, young = cache_dir / "scans" / "a.1.part", cache_dir / "scans" / "b.2.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    scans_of(rows, VolumeCache(cache_dir))
    assert young.exists() and not old.exists()


SCRIPT = """
import sys, time
from pathlib import Path
import numpy as np
from tmqc.data.cache import VolumeCache
from tmqc.data.cohort import Subject
from tmqc.data.volumes import load_volumes
place, *paths = map(Path, sys.argv[1:])
rows = [Subject(path.name, path, "A", 0, None, None, None) for path in paths]
print("ready", flush=True)
sys.stdin.readline()
for _ in range(5):
    volumes = load_volumes(rows, shape=(6, 7, 8), spacing_mm=None, orientation=None, cache=VolumeCache(place))
    print(volumes.batch([row.subject for row in rows]).tobytes().hex())
"""


def test_two_processes_can_build_one_cache_at_the_same_time(write_nifti, subject, cache_dir):
    rng = np.random.default_rng(1)
    rows = [subject(f"{i}.nii.gz", write_nifti(f"{i}.nii.gz", rng.integers(0, 256, SHAPE))) for i in range(12)]
    command = [sys.executable, "-c", SCRIPT, str(cache_dir), *(str(row.path) for row in rows)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate() for process in processes]
    expected = scans_of(rows).tobytes().hex()
    assert [set(out.split()) for out, _ in answers] == [{expected}] * 2
    assert all(err == "" for _, err in answers)
    cache = VolumeCache(cache_dir)
    assert scans_of(rows, cache).tobytes().hex() == expected
    assert (cache.stats.hits, cache.store.n_damaged) == (12, 0)
    assert len(entries(cache_dir)) == len(entries(cache_dir, "index")) == 12  # no partial file is left


def write_corrupted(rows, out, cache, **settings):
    chosen = HarmfulConfig(scenario="samples", ids=["s1"], **({"kind": "noise"} | settings))
    [row] = [r for r in write_harmful(rows, draw_harm(rows, chosen), out, cache) if r.path.parent == out / "volumes"]
    return row.path.read_bytes()


def test_corrupted_copies_are_cached_by_content_settings_and_code(rows, cache_dir, tmp_path, monkeypatch):
    expected = write_corrupted(rows, tmp_path / "plain", None)
    first = VolumeCache(cache_dir)
    assert write_corrupted(rows, tmp_path / "a", first) == expected
    assert (first.stats.made, first.stats.copied) == (1, 0)
    for more in ({}, {"placement": "extra"}):  # same voxels as in place
        again = VolumeCache(cache_dir)
        assert write_corrupted(rows, tmp_path / f"b{more}", again, **more) == expected
        assert (again.stats.made, again.stats.copied) == (0, 1)
    for more in ({"seed": 1}, {"sigma": 26.0}, {"kind": "inverted"}, {"kind": "blur", "severity": 3}):
        other = VolumeCache(cache_dir)
        assert write_corrupted(rows, tmp_path / f"c{more}", other, **more) != expected
        assert (other.stats.made, other.stats.copied) == (1, 0)
    monkeypatch.setattr(harmful, "_code", lambda: ["another version"])
    assert write_corrupted(rows, tmp_path / "d", other := VolumeCache(cache_dir)) == expected
    assert other.stats.made == 1


def test_damaged_corrupted_copy_is_made_again(rows, cache_dir, tmp_path):
    expected = write_corrupted(rows, tmp_path / "a", VolumeCache(cache_dir))
    [path] = entries(cache_dir, "made")
    raw = path.read_bytes()
    _overwrite(path, raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:])
    cache = VolumeCache(cache_dir)
    assert write_corrupted(rows, tmp_path / "b", cache) == expected
    assert (cache.stats.made, cache.stats.copied, cache.store.n_damaged) == (1, 0, 1)


def test_corrupted_copy_of_a_missing_scan_raises(rows, cache_dir, tmp_path):
    rows[0].path.unlink()
    with pytest.raises(CohortError, match=r"subject s1, .*s1\.nii\.gz: cannot be read: No such file"):
        write_corrupted(rows, tmp_path / "a", VolumeCache(cache_dir))


def test_cache_settings_choose_the_directory(tmp_path, caplog):
    assert open_cache(CacheConfig(enabled=False), tmp_path).directory is None
    assert open_cache(CacheConfig(), tmp_path).directory == tmp_path / "cache"
    assert open_cache(CacheConfig(directory="/else/where"), tmp_path).directory.as_posix() == "/else/where"
    assert warnings_of(caplog) == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 255], "uint8"),
        ([-1, 255], "int16"),
        ([0, 256], "int16"),
        ([-32768, 32767], "int16"),
        ([0.5, 2048], "float16"),
        ([-0.0, 1], "float16"),  # uint8 would give +0.0
        ([0, 65504], "float16"),
        ([2049.5, 0], "float32"),
        ([0.1, 0], "float32"),
        ([0, 65535], "float32"),
        ([0, 1e30], "float32"),
        ([0, 1e-30], "float32"),
    ],
)
def test_compact_chooses_the_smallest_lossless_type(values, dtype):
    assert compact(np.array(values, np.float32)).dtype.name == dtype


@settings(deadline=None)
@given(arrays(np.float32, st.integers(2, 9), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_compact_is_lossless(scan):
    assert compact(scan).astype(np.float32).tobytes() == scan.tobytes()
