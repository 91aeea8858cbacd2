"""Starlette: the same as case_api_fastapi, with asynchronous requests on aiosqlite.

uvicorn case_api_starlette:api
"""

import uuid

import aiosqlite
from case_service import TABLES, CaseOpened, app
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def create_case(request: Request) -> JSONResponse:
    title, case_id = (await request.json())["title"], str(uuid.uuid4())
    async with aiosqlite.connect("cases.db") as db:
        await db.executescript(TABLES)
        await db.execute("INSERT INTO cases VALUES (?, ?)", (case_id, title))
        await app.outbox.add(db, CaseOpened(case_id, title), key=case_id)
        await db.commit()  # case and event, or neither
    request.state.seaway.nudge()  # after the commit: the relay looks at once
    return JSONResponse({"id": case_id}, status_code=201)


async def tasks(request: Request) -> JSONResponse:
    query = "SELECT what FROM tasks WHERE case_id = ?"
    async with aiosqlite.connect("cases.db") as db:
        rows = await db.execute_fetchall(query, (request.path_params["case_id"],))
    return JSONResponse([what for (what,) in rows])


api = Starlette(
    lifespan=app.lifespan,  # connected, with relay, consumers and sweeper at work
    routes=[
        Route("/cases", create_case, methods=["POST"]),
        Route("/cases/{case_id}/tasks", tasks),
    ],
)
