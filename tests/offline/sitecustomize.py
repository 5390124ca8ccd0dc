"""No test may reach beyond this machine: an audit hook refuses it, in this process and in every kernel it starts."""

import sys

_LOCAL = ("127.", "localhost", "::1", "0.0.0.0")


def _refuse(event: str, arguments: tuple) -> None:
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # other families are local by nature
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host and not host.startswith(_LOCAL):
        raise ConnectionRefusedError(f"tests run without a network, but something asked for {host}")


sys.addaudithook(_refuse)
