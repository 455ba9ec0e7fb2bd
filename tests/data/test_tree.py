import pickle
import shutil
import threading
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from kdlib.data import tree as trees
from kdlib.data.tree import Tree

FILES = {"top.txt": b"top", "a/1.txt": b"one", "a/b/2.txt": b"two", "ab/3.txt": b"three"}


@pytest.fixture
def folder(tmp_path):
    """A folder data/set with FILES."""
    for name, content in FILES.items():
        path = tmp_path / "data" / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "data"


def pack(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(params=["holder", "folder", "zip with top folder", "zip without", "two zips"])
def tree(request, folder, tmp_path):
    """The same files in every place a user may keep them."""
    halves = dict(list(FILES.items())[:2]), dict(list(FILES.items())[2:])
    if request.param == "holder":
        root = folder
    elif request.param == "folder":
        root = folder / "set"
    elif request.param == "zip with top folder":
        root = pack(tmp_path / "z.zip", {f"set/{name}": content for name, content in FILES.items()})
    elif request.param == "zip without":
        root = pack(tmp_path / "z.zip", FILES)
    else:
        root = tmp_path / "z"
        for number, half in enumerate(halves):
            pack(root / f"{number}.zip", half)
    return Tree(root, "set")


def test_read__gives_the_content_from_every_place(tree):
    assert {name: tree.read(name) for name in FILES} == FILES
    assert all(tree.exists(name) for name in FILES)


def test_below__lists_the_files_of_a_folder_and_of_no_other(tree):
    assert tree.below("a") == ["a/1.txt", "a/b/2.txt"]
    assert tree.below("a/b") == ["a/b/2.txt"]
    assert tree.below("none") == []


@pytest.mark.parametrize("name", ["a", "a/", "missing", "a/1.txt/x"])
def test_exists__is_false_for_a_folder_and_for_what_is_not_there(tree, name):
    assert not tree.exists(name)


def test_read__names_a_file_that_is_not_there(tree):
    with pytest.raises(FileNotFoundError, match=r"there is no a/9\.txt"):
        tree.read("a/9.txt")
    with pytest.raises(FileNotFoundError, match=r"there is no a/9\.txt"):
        tree.checksums(["a/1.txt", "a/9.txt"])


def test_checksums__are_path_size_and_crc_in_the_order_asked_for(tree):
    names = sorted(FILES, reverse=True)
    expected = [(name, len(FILES[name]), zlib.crc32(FILES[name])) for name in names]
    assert tree.checksums(names) == expected
    assert tree.checksums(names) == expected  # from memory, where it is a folder


def test_pickle__a_tree_reads_on_in_another_process(tree):
    tree.read("a/1.txt")
    assert pickle.loads(pickle.dumps(tree)).read("a/b/2.txt") == b"two"


def test_read__threads_may_share_a_tree(tmp_path):
    for part in ("a", "b"):  # so many names that threads meet while they are being listed
        pack(tmp_path / "z" / f"{part}.zip", {f"{part}/{number}": str(number) for number in range(3000)})
    tree, barrier = Tree(tmp_path / "z", "set"), threading.Barrier(4)

    def read(name):
        barrier.wait()
        return tree.read(name)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, ["b/2999", "a/0", "b/0", "a/2999"])) == [b"2999", b"0", b"0", b"2999"]


def test_read__a_folder_comes_before_an_archive(folder):
    pack(folder / "set.zip", {"set/a/1.txt": b"packed", "set/a/4.txt": b"only packed"})
    tree = Tree(folder, "set")
    assert tree.read("a/1.txt") == b"one"
    assert tree.read("a/4.txt") == b"only packed"
    assert tree.below("a") == ["a/1.txt", "a/4.txt", "a/b/2.txt"]
    assert tree.checksums(["a/1.txt", "a/4.txt"]) == [
        ("a/1.txt", 3, zlib.crc32(b"one")),
        ("a/4.txt", 11, zlib.crc32(b"only packed")),
    ]


def test_checksums__follow_a_change_of_a_file(folder):
    Tree(folder, "set").checksums(FILES)
    (folder / "set" / "a" / "1.txt").write_bytes(b"longer than before")
    assert Tree(folder, "set").checksums(["a/1.txt"]) == [("a/1.txt", 18, zlib.crc32(b"longer than before"))]
    found = {name: crc for name, _, crc in Tree(folder, "set").checksums(FILES)}
    assert found["a/1.txt"] == zlib.crc32(b"longer than before")


def test_checksums__of_a_folder_are_computed_once(folder, tmp_path, monkeypatch):
    first = Tree(folder, "set").checksums(FILES)

    def no_second_time(content):
        raise AssertionError("computed again")

    monkeypatch.setattr(trees.zlib, "crc32", no_second_time)
    assert Tree(folder, "set").checksums(FILES) == first
    assert list((tmp_path / "runs" / "data" / "checksums").glob("*.json"))


def test_checksums__two_folders_do_not_share_what_is_remembered(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")  # the same names, sizes and times
    changed = tmp_path / "copy" / "set" / "a" / "1.txt"
    times = changed.stat()
    changed.write_bytes(b"ONE")
    trees.os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert Tree(folder, "set").checksums(["a/1.txt"]) == [("a/1.txt", 3, zlib.crc32(b"one"))]
    assert Tree(tmp_path / "copy", "set").checksums(["a/1.txt"]) == [("a/1.txt", 3, zlib.crc32(b"ONE"))]


def test_tree__a_cut_archive_is_named_with_the_remedy(tmp_path):
    archive = pack(tmp_path / "z.zip", FILES)
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(OSError, match=r"z\.zip: not a complete zip archive .*Download it again"):
        Tree(archive, "set").exists("a/1.txt")


def test_tree__a_member_with_other_content_than_its_checksum_is_named_with_the_remedy(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_STORED) as packed:
        packed.writestr("a/1.txt", b"one" * 100)
    content = (tmp_path / "z.zip").read_bytes()
    (tmp_path / "z.zip").write_bytes(content.replace(b"oneone", b"onetwo", 1))
    with pytest.raises(OSError, match=r"z\.zip: a/1\.txt is damaged .*Download the archive again"):
        Tree(tmp_path / "z.zip", "set").read("a/1.txt")


def test_tree__a_member_that_cannot_be_unpacked_is_named_with_the_remedy(tmp_path):
    archive = pack(tmp_path / "z.zip", {"a/1.txt": bytes(range(256)) * 20})
    content = bytearray(archive.read_bytes())
    content[60:90] = bytes([255] * 30)  # in the compressed data
    archive.write_bytes(content)
    with pytest.raises(OSError, match=r"z\.zip: a/1\.txt is damaged .*Download the archive again"):
        Tree(archive, "set").read("a/1.txt")


def test_tree__a_download_that_is_not_finished_is_not_read(folder):
    shutil.copy(pack(folder.parent / "z.zip", {"a/9.txt": b"nine"}), folder / "z.zip.part")
    assert not Tree(folder, "set").exists("a/9.txt")


@pytest.mark.parametrize("packed", [False, True])
def test_below__nothing_is_everything(tmp_path, packed):
    files = {"top.txt": "a", "inner/one.txt": "b", "inner/deep/two.txt": "c"}
    root = tmp_path / "content"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    if packed:
        with zipfile.ZipFile(tmp_path / "content.zip", "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        root = tmp_path / "content.zip"
    tree = Tree(root, "none")
    assert tree.below("") == sorted(files)
    assert tree.below("inner") == ["inner/deep/two.txt", "inner/one.txt"]


def test_read__no_more_than_asked_for_from_folder_or_archive(folder, tmp_path):
    packed = pack(tmp_path / "z.zip", {"a/1.txt": bytes(2_000_000)})
    assert packed.stat().st_size < 10_000  # small itself
    (folder / "set" / "a" / "1.txt").write_bytes(bytes(2_000_000))
    for root in (packed, folder):
        with pytest.raises(OSError, match=r"a/1\.txt has 2 MB, and 1 MB are the most that is read"):
            Tree(root, "set").read("a/1.txt", most=1_000_000)
        assert len(Tree(root, "set").read("a/1.txt", most=2_000_000)) == 2_000_000


def test_read__a_member_behind_a_password_is_named_with_the_remedy(tmp_path):
    archive = pack(tmp_path / "z.zip", {"a/1.txt": b"one"})
    content = bytearray(archive.read_bytes())
    for header, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(header) + offset] |= 1  # the flag that says encrypted
    archive.write_bytes(content)
    with pytest.raises(OSError, match=r"z\.zip: a/1\.txt cannot be unpacked .*password.*Pack it anew"):
        Tree(archive, "set").read("a/1.txt")


@pytest.mark.parametrize(
    "memory", [b"", b"{", b"[]", b"null", b"7", b"\xff", b'{"a/1.txt": "x"}', b'{"a/1.txt": -1}', b'{"top.txt": 5}']
)
def test_checksums__a_damaged_memory_is_computed_anew(folder, tmp_path, memory):
    right = Tree(folder, "set").checksums(FILES)
    (remembered,) = (tmp_path / "runs" / "data" / "checksums").glob("*.json")
    remembered.write_bytes(memory)
    assert Tree(folder, "set").checksums(FILES) == right
    assert Tree(folder, "set").checksums(FILES) == right
    assert b"a/b/2.txt" in remembered.read_bytes()


def test_checksums__a_link_that_leads_nowhere_has_no_size(folder):
    (folder / "set" / "a" / "9.txt").symlink_to("gone")
    assert Tree(folder, "set").checksums(["a/9.txt", "a/1.txt"]) == [
        ("a/9.txt", trees.UNREADABLE, 0),
        ("a/1.txt", 3, zlib.crc32(b"one")),
    ]
    with pytest.raises(OSError, match=r"a/9\.txt: a link that leads nowhere"):
        Tree(folder, "set").read("a/9.txt")
