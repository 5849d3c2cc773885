"""The server behind `make explore`: Voila with a bound on its kernels.

    python -m hmq_lab.explorers.pages runs/explore                           # this machine alone
    python -m hmq_lab.explorers.pages runs/explore --address 192.168.1.10    # a room, with a token

A page with Python has a kernel of its own, which takes about 0.8 GB. `Kernels` starts no more than
it may: the next visitor gets a page that says so and tries again by itself. A kernel ends when its
page is left, and when nobody touches the page for a while.
"""

from __future__ import annotations

import html
import ipaddress
import os
import re
import secrets
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

from jupyter_client.session import utcnow
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.web import HTTPError, StaticFileHandler, authenticated
from traitlets import Integer
from voila.app import Voila
from voila.tornado.handler import TornadoVoilaHandler

KERNELS = 8  # at a time
GIGABYTES = 0.8  # of a kernel with a network in it
IDLE = 900  # seconds until the kernel of a page that nobody touches ends
LEFT = 60  # seconds until the kernel of a page that nobody has open ends
AGAIN = 20  # seconds until a page that had to wait asks again
LOCAL = "127.0.0.1"
# They need what Voila lacks, and say so.
LACKING = ("jupyterlab-jupytext", "@jupyter-notebook/lab-extension")


class Kernels(AsyncMappingKernelManager):
    """Kernels, a bounded number of them; those that nobody uses end.

    Attributes:
        most: how many there may be at a time; those that are starting count.
        idle: seconds without a message until a kernel ends although its page is open.
        left: seconds without a message until a kernel ends that no page is connected to.
    """

    most = Integer(KERNELS, config=True)
    idle = Integer(IDLE, config=True)
    left = Integer(LEFT, config=True)

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.starting: set[str] = set()  # ids, so that none counts twice

    def check_place(self) -> None:
        """Raise HTTPError with the status 503, where there are as many kernels as there may be."""
        if len(self.starting.union(self.list_kernel_ids())) >= self.most:
            raise HTTPError(503, f"all {self.most} kernels are in use")

    async def start_kernel(self, **options: Any) -> str:  # type: ignore[override]
        """Start a kernel and return its id; see `check_place`."""
        # No other request comes between this look and the count: nothing is awaited.
        self.check_place()
        kernel_id = options.pop("kernel_id", None) or self.new_kernel_id(**options)
        self.starting.add(kernel_id)
        try:
            return await super().start_kernel(kernel_id=kernel_id, **options)
        finally:
            self.starting.discard(kernel_id)

    async def cull_kernel_if_idle(self, kernel_id: str) -> None:
        """End a kernel that nobody uses any more."""
        kernel = self._kernels[kernel_id]
        # A kernel that nobody can see has no reason to wait, unless its page is still to come.
        is_open = self._kernel_connections.get(kernel_id, 0) > 0
        is_starting = kernel.execution_state == "starting"
        seconds = self.idle if is_open or is_starting else self.left
        is_idle = utcnow() - kernel.last_activity > timedelta(seconds=seconds)
        is_busy = kernel.execution_state == "busy"
        is_dead = kernel.execution_state == "dead"
        if is_dead or (is_idle and not is_busy):
            self.log.info("Kernel %s ends: nobody uses it", kernel_id)
            await self.shutdown_kernel(kernel_id)


class Render(TornadoVoilaHandler):
    """A page with Python, or the page that says that there is no place."""

    async def prepare(self) -> None:
        """Check who asks, and that there is a place, before anything is read or drawn."""
        await super().prepare()
        # Sets the cookie with which a page ends its kernel when it is left.
        _ = self.xsrf_token
        if self.current_user is not None:
            self.kernel_manager.check_place()

    def write_error(self, status_code: int, **details: Any) -> None:
        """Write the page of an error."""
        if status_code != 503:
            super().write_error(status_code, **details)
            return
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Retry-After", str(AGAIN))
        self.finish(full(self.kernel_manager.most, self.base_url))


class Front(JupyterHandler, StaticFileHandler):
    """The front page, its images, and the pages that need no kernel."""

    @authenticated
    async def get(  # type: ignore[override]
        self, path: str, include_body: bool = True
    ) -> None:
        await StaticFileHandler.get(self, path, include_body)

    @authenticated
    async def head(self, path: str) -> None:  # type: ignore[override]
        await StaticFileHandler.get(self, path, include_body=False)


class Pages(Voila):
    """Voila with a front page, bounded kernels and names of this machine only."""

    def init_settings(self) -> dict[str, Any]:
        # A page elsewhere that renames itself to 127.0.0.1 is refused. In a room the token does
        # that.
        return super().init_settings() | {"allow_remote_access": not is_local(self.ip)}

    def init_handlers(self) -> list:
        # The files that are there when the server starts.
        folder = Path(self.root_dir).resolve()
        there = [path.name for path in folder.iterdir() if path.suffix in (".png", ".html")]
        files = "|".join(["", *map(re.escape, sorted(there))])
        front = {"path": str(folder), "default_filename": "index.html"}
        # Only pages with Python start kernels.
        python = {
            "template_paths": self.template_paths,
            "config": self.config,
            "voila_configuration": self.voila_configuration,
        }
        own = [(rf"/({files})", Front, front), (r"/voila/render/(.*)", Render, python)]
        return own + super().init_handlers()


def full(most: int, front: str = "/") -> str:
    """Return the page of a visitor for whom there is no kernel.

    >>> "at most 8 visitors" in full(8)
    True

    Args:
        most: how many kernels there may be.
        front: the address of the front page.
    """
    return FULL.format(most=most, again=AGAIN, front=html.escape(front))


def is_local(address: str) -> bool:
    """Return whether only this machine can reach an address.

    >>> is_local("127.0.0.1"), is_local("localhost"), is_local("192.168.1.10"), is_local("0.0.0.0")
    (True, True, False, False)

    Args:
        address: a number or a name.
    """
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def check_address(address: str) -> None:
    """Raise ValueError unless this machine can be reached under an address.

    >>> check_address("127.0.0.1")

    Args:
        address: a number or a name.
    """
    try:
        family = socket.getaddrinfo(address, None)[0][0]
        socket.create_server((address, 0), family=family).close()
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"an address of this machine is needed, such as {LOCAL}, got {address!r}: "
            f"{getattr(error, 'strerror', None) or error}"
        ) from error


def serve(
    folder: Path,
    port: int,
    browser: bool = True,
    address: str = LOCAL,
    kernels: int = KERNELS,
    idle: int = IDLE,
) -> None:
    """Serve the pages until Ctrl-C, and print the address to open.

    Args:
        folder: of the pages.
        port: where to serve, or near it where that one is taken.
        browser: whether to open a browser; never one in a room.
        address: who can reach the pages: 127.0.0.1 this machine alone, 0.0.0.0 whoever reaches
            this machine. All but this machine need the token.
        kernels: how many pages with Python are open at a time.
        idle: seconds until the kernel of a page that nobody touches ends.
    """
    # A room needs a token, this machine none. It stays off the command line, which others see.
    token = ""
    if not is_local(address):
        token = os.environ.get("JUPYTER_TOKEN") or secrets.token_urlsafe(18)
    said = f"at most {kernels} pages with Python at a time, about {kernels * GIGABYTES:.1f} GB"
    print(said, flush=True)
    if token:
        host = socket.gethostname() if address in ("0.0.0.0", "::") else address
        # An IPv6 address stands in brackets.
        host = f"[{host}]" if ":" in host else host
        print(f"for the room: http://{host}:{port}/?token={token}", flush=True)

    manager = f"{__name__}.Kernels"
    lacking = [f"--VoilaConfiguration.extension_denylist={name}" for name in LACKING]
    arguments = [
        str(folder),
        f"--Voila.ip={address}",
        f"--Voila.token={token}",
        f"--port={port}",
        "--VoilaConfiguration.strip_sources=True",
        f"--VoilaConfiguration.multi_kernel_manager_class={manager}",
        *lacking,
        f"--Kernels.most={kernels}",
        f"--Kernels.idle={idle}",
        f"--Kernels.left={min(idle, LEFT)}",
        # How often is looked; the times above say when a kernel ends.
        f"--MappingKernelManager.cull_idle_timeout={idle}",
        f"--MappingKernelManager.cull_interval={max(1, min(idle, LEFT) // 4)}",
    ]
    # In a room the port must be the one that was said.
    if token:
        arguments.append("--Voila.port_retries=0")
    Pages.launch_instance(arguments + ([] if browser and not token else ["--no-browser"]))


FULL = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{again}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>All places are taken</title><link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark }}
body {{ margin: 0 auto; max-width: 40rem; padding: 3rem 1.5rem;
  font: 1.1rem/1.5 system-ui, "DejaVu Sans", sans-serif }}
</style></head><body>
<h1>All places are taken</h1>
<p>This page needs Python, and at most {most} visitors can use Python at a time. It asks again every
{again} seconds by itself.</p>
<p>Explorers without Python are open to everyone: <a href="{front}">all explorers</a>.</p>
</body></html>
"""
