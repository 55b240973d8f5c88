"""Load and ring a function app as Azure's Python worker does: with the worker's own code (the package azure-functions-runtime).

Run as a program: ``python platform_worker.py FOLDER [TICKS]``, with the worker's package on PYTHONPATH. Only the messages are
stand-ins, since the real ones need a gRPC connection to the host. Prints what the worker answered, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from types import SimpleNamespace
from typing import Any

import azure_functions_runtime as worker


class Message:
    """Any message of the protocol: holds what it is given."""

    Failure, Success = 0, 1  # StatusResult
    undefined, out, inout = 0, 1, 2  # BindingInfo: data types and directions

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Protocol:
    def __getattr__(self, name: str) -> type[Message]:
        return Message


class Timer:
    """The host's message for a timer that fired."""

    name = "timer"

    def __init__(self) -> None:
        self.data = self
        self.json = json.dumps({"IsPastDue": False, "ScheduleStatus": None, "Schedule": {"AdjustForDST": True}})

    def WhichOneof(self, group: str) -> str:
        return {"rpc_data": "data", "data": "json"}[group]


def request(**parts: Any) -> SimpleNamespace:
    return SimpleNamespace(request=SimpleNamespace(**parts), properties={"host": "localhost", "protos": Protocol()})


def failure(response: Any) -> str | None:
    result = response.result
    return None if result.status == Message.Success else result.exception.message + "\n" + result.exception.stack_trace


async def main(folder: str, ticks: int) -> None:
    os.chdir(folder)
    sys.path.insert(0, folder)
    init = SimpleNamespace(capabilities={}, function_app_directory=folder)
    answer: dict[str, Any] = {"refused": failure(await worker.worker_init_request(request(worker_init_request=init)))}
    listed = (await worker.functions_metadata_request(request())).function_metadata_results or []
    answer["functions"] = {item.name: [json.loads(raw) for raw in item.raw_bindings] for item in listed}
    answer["ticks"] = [await ring(item.function_id) for item in listed for _ in range(ticks)]
    print(json.dumps(answer))


async def ring(function_id: str) -> str | None:
    invocation = SimpleNamespace(
        invocation_id="invocation-1",
        function_id=function_id,
        input_data=[Timer()],
        trigger_metadata={},
        trace_context=SimpleNamespace(
            trace_parent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", trace_state="", attributes={}
        ),
        retry_context=SimpleNamespace(retry_count=0, max_retry_count=0, exception=None),
    )
    return failure(await worker.invocation_request(request(invocation_request=invocation)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0))
