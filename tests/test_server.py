"""`make explore` for a room: a real server, twenty visitors, a bound on kernels, a token."""

import contextlib
import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

from hmq_lab.explorers import pages, server

MOST, IDLE, VISITORS, TOKEN = 3, 20, 20, "a-token-of-the-room"
START = """
import sys
from pathlib import Path
from hmq_lab.explorers import server
folder, port, most, idle = sys.argv[1:]
server.serve(Path(folder), int(port), True, "0.0.0.0", int(most), int(idle))
"""


def resident(processes):
    """Gigabytes of memory that processes hold, what they share divided among them; one that has
    just ended holds none.
    """
    kilobytes = 0
    for process in processes:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
            kilobytes += int(re.search(r"^Pss: +(\d+)", text, re.MULTILINE)[1])
    return kilobytes * 1024 / 1e9


class Room:
    """The server of a room, and a visitor's requests to it."""

    def __init__(self, port, process, log):
        self.port, self.process, self.log = port, process, log

    def ask(self, path, method="GET", **headers):
        """Status, headers and body of a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1200)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def enter(self, path="/voila/render/light.ipynb"):
        return self.ask(f"{path}?token={TOKEN}")

    def kernels(self):
        """Kernel processes that the server has started and that still run."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()
            except (OSError, ValueError):
                continue
            if state[1] == str(self.process.pid) and state[0] != "Z":
                command = (entry / "cmdline").read_bytes()
                found += [entry.name] if b"ipykernel_launcher" in command else []
        return found

    def memory(self):
        """Gigabytes that the server holds, and those that all its kernels hold together."""
        return resident([self.process.pid]), resident(self.kernels())

    def until(self, number, seconds=120):
        """Wait until so many kernels run."""
        deadline = time.monotonic() + seconds
        while len(found := self.kernels()) != number:
            assert time.monotonic() < deadline, f"{len(found)} kernels, not {number}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A server for whoever has the token, with a page whose kernel is light and one without."""
    folder = tmp_path_factory.mktemp("room")
    page = pages.Page("Light", "A page with Python.", "6 * 7")
    notebook = pages.notebook(page)
    notebook.cells[1].source = page.code
    nbformat.write(notebook, folder / "light.ipynb")
    (folder / "index.html").write_text("<p>all explorers</p>", encoding="utf-8")
    with serving(folder, tmp_path_factory.mktemp("home")) as served:
        yield served


@contextlib.contextmanager
def serving(folder, home, idle=IDLE):
    """The server of a room, with settings of its own, until the block ends."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("kernels are counted by /proc")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    log = folder.with_name("room.log")
    root = Path(__file__).parents[1]
    own = {f"JUPYTER_{kind}_DIR": str(home / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"JUPYTER_TOKEN": TOKEN, "PYTHONPATH": str(root), "IPYTHONDIR": str(home / "ipython")}
    command = [sys.executable, "-c", START, str(folder), str(port), str(MOST), str(idle)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | own
        )
    try:
        deadline = time.monotonic() + 240
        while b"is running at" not in log.read_bytes():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield Room(port, process, log)
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.timeout(900)
def test_of_twenty_visitors_as_many_get_a_kernel_as_there_may_be(room):
    most = 0
    with ThreadPoolExecutor(VISITORS) as visitors:
        asked = [visitors.submit(room.enter) for _ in range(VISITORS)]
        while not all(answer.done() for answer in asked):
            most = max(most, len(room.kernels()))
            time.sleep(0.05)
    answers = [answer.result() for answer in asked]
    served = [body for status, _, body in answers if status == 200]
    refused = [(headers, body) for status, headers, body in answers if status == 503]
    assert len(served) == MOST == most and len(refused) == VISITORS - MOST
    # The output of the cell is in the page, for its script to draw.
    assert all("<title>" in body and '"text/plain": "42"' in body for body in served)

    # The others are told why, and that the page asks again by itself.
    for headers, body in refused:
        assert headers["Retry-After"] == str(server.AGAIN)
        assert f"at most {MOST} visitors" in body and "Traceback" not in body
        assert f'http-equiv="refresh" content="{server.AGAIN}"' in body

    # Nobody looks at the pages that were served: their kernels end, and there is a place again.
    room.until(0)
    assert room.enter()[0] == 200
    room.until(0)


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_twenty_visitors_of_a_page_with_a_network_stay_within_the_stated_memory(tmp_path):
    """Twenty come at once, and again when the first have left."""
    folder = tmp_path / "room"
    folder.mkdir()
    nbformat.write(pages.notebook(pages.PAGES["network"]), folder / "network.ipynb")
    (folder / "index.html").write_text("<p>all explorers</p>", encoding="utf-8")
    # A kernel is given time to start: here three of them import torch at once.
    with serving(folder, tmp_path / "home", idle=120) as room:
        before, _ = room.memory()
        most, peak, answers = 0, 0.0, Counter()
        for _ in range(2):
            with ThreadPoolExecutor(VISITORS) as visitors:
                entering = [
                    visitors.submit(room.enter, "/voila/render/network.ipynb")
                    for _ in range(VISITORS)
                ]
                while not all(answer.done() for answer in entering):
                    most = max(most, len(room.kernels()))
                    peak = max(peak, room.memory()[1])
                    time.sleep(0.2)
            answers.update(answer.result()[0] for answer in entering)
            room.until(0, seconds=600)
        after, _ = room.memory()
    print(f"{2 * VISITORS} visits: {dict(answers)}; at most {most} kernels with {peak:.2f} GB")
    print(f"the server: {before:.2f} GB before, {after:.2f} GB after, no kernel is left")
    # A kernel that has just ended may count for a moment: then a visitor more has to wait.
    assert answers.keys() == {200, 503} and answers.total() == 2 * VISITORS
    assert MOST < answers[200] <= 2 * MOST and most == MOST
    assert peak <= MOST * server.GIGABYTES and after < before + 0.1


@pytest.mark.timeout(300)
def test_a_page_that_is_left_ends_its_kernel_also_if_it_was_opened_directly(room):
    """The browser sends what the page's cookie says: there is one without a visit to the front."""
    room.until(0)
    status, headers, body = room.enter()
    assert status == 200 and len(room.kernels()) == 1
    cookies = dict(re.findall(r"([^=; ]+)=([^;]*)", "; ".join(headers.get_all("Set-Cookie"))))
    sent = "; ".join(f"{name}={value}" for name, value in cookies.items() if name != "expires")
    kernel = re.search(r'"kernelId": ?"([0-9a-f-]+)"', body)[1]
    form = {"Cookie": sent, "Content-Type": "application/x-www-form-urlencoded"}
    path = f"/voila/api/shutdown/{kernel}"
    assert room.ask(path, "POST", **form)[0] == 403 and len(room.kernels()) == 1
    assert room.ask(f"{path}?_xsrf={cookies['_xsrf']}", "POST", **form)[0] == 204
    room.until(0, seconds=30)


def test_without_the_token_nothing_is_served_and_no_kernel_starts(room):
    room.until(0)
    for path in ("/", "/index.html", "/voila/render/light.ipynb", "/voila/tree", "/voila/files/x"):
        for wrong in ("", "?token=another"):
            status, headers, body = room.ask(path + wrong)
            assert status in (302, 403) and "all explorers" not in body
            assert status == 403 or headers["Location"].startswith("/login")
    assert room.ask("/api/kernels/0-0-0-0-0")[0] == 403
    assert not room.kernels()
    status, _, body = room.enter("/")
    assert status == 200 and "all explorers" in body
    # The link is printed once; a browser on this machine is not opened.
    said = room.log.read_text()
    assert f":{room.port}/?token={TOKEN}" in said and "at most 3 pages with Python" in said
    assert "about 2.4 GB" in said


def test_an_address_of_another_machine_is_refused_in_one_line(tmp_path, capsys):
    for address in ("192.0.2.1", "no.such.name.invalid", "x" * 300):
        with pytest.raises(SystemExit) as ended:
            pages.main([str(tmp_path / "pages"), "--address", address])
        assert ended.value.code == 2 and not (tmp_path / "pages").exists()
        said = capsys.readouterr().err
        assert f"an address of this machine is needed, such as 127.0.0.1, got '{address}'" in said


@pytest.mark.parametrize("kernels", ["0", "-1", "many", "1001"])
def test_a_number_of_kernels_that_cannot_be_is_named(kernels, tmp_path, capsys):
    with pytest.raises(SystemExit):
        pages.main([str(tmp_path / "pages"), f"--kernels={kernels}"])
    assert f"kernels must be an integer from 1 to 1000, got {kernels}" in capsys.readouterr().err


def test_only_another_address_asks_for_a_token(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("JUPYTER_TOKEN", raising=False)
    started = []
    monkeypatch.setattr(server.Pages, "launch_instance", started.append)
    for address in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "0.0.0.0"):
        server.serve(tmp_path, 8866, True, address)
    tokens = [
        next(argument for argument in arguments if argument.startswith("--Voila.token="))
        for arguments in started
    ]
    assert tokens[:3] == ["--Voila.token="] * 3
    # Another one each time, and long.
    assert tokens[3] != tokens[4] and min(len(token) for token in tokens[3:]) > 35
    browsers = ["--no-browser" not in arguments for arguments in started]
    assert browsers == [True] * 3 + [False] * 2
    assert capsys.readouterr().out.count("for the room: ") == 2
