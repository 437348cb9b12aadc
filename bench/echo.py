"""`python -m bench.echo SOCKET`: the raw floor, a server that does nothing with its calls.

The loop and the codec of the daemon (uvloop, msgspec, a line a message), and no daemon.
"""

import asyncio
import sys
from typing import cast

import msgspec
import uvloop

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Echo(asyncio.Protocol):
    """Answers each line with its parameters."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's own class, which asyncio's cannot be told apart by.
        self._transport = cast("asyncio.WriteTransport", transport)
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        whole, _, self._rest = (self._rest + data).rpartition(b"\n")
        for line in whole.split(b"\n"):
            message = _decode(line)
            answer = {"jsonrpc": "2.0", "id": message["id"], "result": message["params"]}
            self._transport.write(_encode(answer) + b"\n")


async def serve(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(Echo, path)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
