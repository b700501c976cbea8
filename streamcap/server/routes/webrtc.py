"""WHIP and WHEP (RFC 9725): `POST /whip/NAME` publishes video, `POST /whep/NAME` receives it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from streamcap.server.auth import Auth
from streamcap.server.options import ServerOptions
from streamcap.server.webrtc.rules import SDP, TRICKLE, read_body
from streamcap.server.webrtc.whep import WhepSessions
from streamcap.server.webrtc.whip import WhipSessions

if TYPE_CHECKING:
    from streamcap.server.webrtc.session import WebRtcSession

_SDP_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": {SDP: {"schema": {"type": "string"}}}}}
_CREATED: dict[int | str, dict[str, Any]] = {
    201: {"content": {SDP: {}}, "description": "SDP answer; `Location` is the session"}
}


def routes(whip_sessions: WhipSessions, whep_sessions: WhepSessions, auth: Auth, options: ServerOptions) -> APIRouter:
    router = APIRouter(tags=["video"])

    def created(request: Request, peer: WebRtcSession, answer: str) -> Response:
        """The 201 response to `request`, a POST to `/whip/NAME` or `/whep/NAME`."""
        headers = {
            "Location": f"{quote(request.scope['path'])}/{peer.id}",
            "ETag": f'"{peer.id}"',
            "Cache-Control": "no-store",
        }
        response = Response(answer, 201, headers, SDP)
        for server in options.ice_servers:
            response.headers.append("Link", server.link)
        return response

    def session_routes(
        kind: str,
        check: Callable[[HTTPConnection], Awaitable[None]],
        find: Callable[[str, str], WebRtcSession],
        end: Callable[[str, str], Awaitable[None]],
    ) -> None:
        path = f"/{kind}/{{name}}"

        @router.options(path, include_in_schema=False)
        async def options_of_endpoint(name: str) -> Response:
            return Response(None, 204, {"Accept-Post": SDP, "Allow": "OPTIONS, POST"})

        @router.patch(f"{path}/{{session}}", status_code=204, dependencies=[Depends(check)])
        async def trickle(name: str, session: str, request: Request) -> None:
            """Add ICE candidates (`application/trickle-ice-sdpfrag`)."""
            peer = find(name, session)
            if request.headers.get("if-match", "*") not in ("*", f'"{peer.id}"'):
                raise HTTPException(412, "If-Match names another session")
            await peer.add_candidates(await read_body(request, TRICKLE))

        @router.delete(f"{path}/{{session}}", dependencies=[Depends(check)], response_class=Response)
        async def end_session(name: str, session: str) -> Response:
            """End the session."""
            await end(name, session)
            return Response(None, 200)

    async def end_publisher(name: str, session: str) -> None:
        await whip_sessions.end(whip_sessions.find(name, session), "the publisher left")

    async def end_viewer(name: str, session: str) -> None:
        await whep_sessions.end(whep_sessions.find(name, session))

    created_response: dict[str, Any] = {
        "status_code": 201,
        "response_class": Response,
        "responses": _CREATED,
        "openapi_extra": _SDP_BODY,
    }

    @router.post("/whip/{name}", dependencies=[Depends(auth.publisher)], **created_response)
    async def whip(name: str, request: Request) -> Response:
        """Publish a camera to stream NAME, which is created if it does not exist."""
        publisher, answer = await whip_sessions.publish(name, await read_body(request, SDP))
        return created(request, publisher.peer, answer)

    @router.post("/whep/{name}", dependencies=[Depends(auth.viewer)], **created_response)
    async def whep(name: str, request: Request) -> Response:
        """Watch stream NAME: VP8, scaled down, without audio."""
        session, answer = await whep_sessions.watch(name, await read_body(request, SDP))
        return created(request, session.peer, answer)

    session_routes("whip", auth.publisher, lambda name, session: whip_sessions.find(name, session).peer, end_publisher)
    session_routes("whep", auth.viewer, lambda name, session: whep_sessions.find(name, session).peer, end_viewer)
    return router
