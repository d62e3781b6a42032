"""A network that can be cut, after which TCP connections to a broker stay open, and nothing passes."""

import selectors
import socket
import threading
from contextlib import suppress
from typing import Self

Address = tuple[str, int]


class Proxy:
    """Forwards connections to `port` of an address of this machine to the first target that listens."""

    def __init__(self, *targets: int | Address, listen: Address = ("127.0.0.1", 0)) -> None:
        """A target without an address is a port of 127.0.0.1."""
        self._targets = [("127.0.0.1", one) if isinstance(one, int) else one for one in targets]
        self._listener = socket.create_server(listen)
        self.port: int = self._listener.getsockname()[1]
        self._is_cut = threading.Event()
        self._is_closed = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve)

    def cut(self) -> None:
        """Both ends keep their connections and hear nothing."""
        self._is_cut.set()

    def mend(self) -> None:
        self._is_cut.clear()

    def _serve(self) -> None:
        while not self._is_closed.is_set():
            if self._is_cut.is_set():
                self._is_closed.wait(0.05)
                continue
            for key, _ in self._selector.select(0.05):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._forward(key.fileobj, key.data)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        for target in self._targets:
            with suppress(OSError):
                far = socket.create_connection(target)
                break
        else:
            near.close()
            return
        for one, other in ((near, far), (far, near)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(one, selectors.EVENT_READ, other)

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        if source.fileno() < 0:
            return  # closed with its other end, in this same round
        try:
            data = source.recv(65536)
            sink.sendall(data)
        except OSError:
            data = b""
        if not data:
            for end in (source, sink):
                self._selector.unregister(end)
                end.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
