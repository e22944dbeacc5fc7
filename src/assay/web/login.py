"""Logging in and out, one's own numbers, one's own password."""

from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment

from assay.web.accounts import LEAST, SESSION_S, Accounts, TooMany
from assay.web.desk import Access
from assay.web.quality import annotators
from assay.web.store import Store

_WRONG = "Name and password (or token) do not belong together."
_TOO_MANY = "Too many failed attempts; try again in a quarter of an hour."


class CookieAccess(Access, Protocol):
    """`Access` that knows its cookie."""

    cookie: str
    https: bool


@dataclass(frozen=True, slots=True)
class _Site:
    """What both parts of the log-in answer with."""

    accounts: Accounts
    access: CookieAccess
    pages: Environment

    def page(self, name: str, request: Request, status: int = 200, **more: Any) -> HTMLResponse:
        who = self.access.person(request)
        html = self.pages.get_template(name).render(who=who, csrf=self.access.csrf(request), **more)
        return HTMLResponse(html, status)

    def with_cookie(self, response: Response, cookie: str) -> Response:
        response.set_cookie(
            self.access.cookie, cookie, max_age=int(SESSION_S), httponly=True, samesite="lax", secure=self.access.https
        )
        return response


def make_router(accounts: Accounts, store: Store, access: CookieAccess, pages: Environment) -> APIRouter:
    router, site = APIRouter(default_response_class=HTMLResponse), _Site(accounts, access, pages)
    _in_and_out(router, site)
    _me(router, site, store)
    return router


def _in_and_out(router: APIRouter, site: _Site) -> None:
    """`/login` and `/logout`."""
    accounts, access = site.accounts, site.access

    @router.get("/login")
    def login_page(request: Request) -> Response:
        return (
            RedirectResponse("/", 303)
            if access.person(request)
            else site.page("login.html", request, problem="", typed="")
        )

    @router.post("/login")
    def log_in(
        request: Request,
        name: Annotated[str, Form(max_length=100)] = "",
        secret: Annotated[str, Form(max_length=1000)] = "",
    ) -> Response:
        address = request.client.host if request.client else ""
        try:
            cookie = accounts.log_in(name.strip(), secret, address)
        except TooMany:
            return site.page("login.html", request, 429, problem=_TOO_MANY, typed=name)
        if cookie is None:
            return site.page("login.html", request, 401, problem=_WRONG, typed=name)
        if before := access.person(request):
            accounts.log_out(request.cookies[access.cookie], before.name)
        return site.with_cookie(RedirectResponse("/", 303), cookie)

    @router.post("/logout")
    def log_out(request: Request, csrf: Annotated[str, Form()] = "") -> Response:
        who = access.person(request)
        if who is None or not access.csrf_holds(request, csrf):
            raise HTTPException(403, "This form is too old; reload the page.")
        accounts.log_out(request.cookies.get(access.cookie, ""), who.name)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(access.cookie, httponly=True, samesite="lax", secure=access.https)
        return response


def _me(router: APIRouter, site: _Site, store: Store) -> None:
    """`/me`: one's own numbers and password."""
    accounts, access = site.accounts, site.access

    def mine(request: Request, status: int = 200, problem: str = "", done: str = "") -> HTMLResponse:
        who = access.person(request)
        if who is None:
            raise HTTPException(401, "Please log in.")
        works = store.works(who.name)
        row = next(iter(annotators(works)), None)
        pace = store.pace(who.name, store.settings())
        return site.page("me.html", request, status, row=row, pace=pace, least=LEAST, problem=problem, done=done)

    @router.get("/me")
    def my_page(request: Request) -> HTMLResponse:
        return mine(request, done="Your password is changed." if "changed" in request.query_params else "")

    @router.post("/me")
    def change_password(
        request: Request, csrf: Annotated[str, Form()] = "", old: Annotated[str, Form(max_length=1000)] = "",
        new: Annotated[str, Form(max_length=1000)] = "",
    ) -> Response:  # fmt: skip
        who = access.person(request)
        if who is None:
            raise HTTPException(401, "Please log in.")
        if not access.csrf_holds(request, csrf):
            raise HTTPException(403, "This form is too old; reload the page.")
        address = request.client.host if request.client else ""
        try:
            accounts.set_password(who.name, old, new, address)
            cookie = accounts.log_in(who.name, new, address)
        except (ValueError, TooMany) as error:
            return mine(request, 422, problem=str(error) or "Too many attempts; try again later.")
        return site.with_cookie(RedirectResponse("/me?changed", 303), cookie or "")
