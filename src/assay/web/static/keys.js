"use strict";
// What the page adds where scripts run: keys, saving while one types, the time that was looked, the next pair at once, dark or
// light. All of it is optional: without scripts the same forms are sent, and the same pages come.
(() => {
  const root = document.documentElement;
  const kept = (name, value) => {
    try {
      if (value === undefined) return localStorage.getItem(name);
      localStorage.setItem(name, value);
    } catch { /* storage may be forbidden; then choices last for one page */ }
    return value ?? null;
  };
  const theme = kept("assay-theme");
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    button.hidden = false;
    button.addEventListener("click", () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = kept("assay-theme", dark ? "light" : "dark");
    });
    keys();
    begin();
  });

  // -- one page: at the first load, and whenever another one takes its place --------------------------------------------

  let turn = null;   // what ends with the page that is shown: timers, listeners, the question for the pair after it

  function begin() {
    turn?.abort();
    turn = new AbortController();
    kept_boxes();
    const help = document.getElementById("help");
    if (help) fill(help);
    const form = document.getElementById("task") || document.getElementById("done");
    if (form) sends(form);
    if (form && form.id === "task") { task(form); look_ahead(); }
    root.dataset.turn = String(Number(root.dataset.turn || 0) + 1);
  }

  // A listener that ends with the page that is shown: the same page may come back.
  function on(item, what, does, more) {
    item.addEventListener(what, does, { signal: turn.signal, ...more });
  }

  function mark_keys() {   // what the eye sees on a button, a screen reader is told as its key, and not as a part of its name
    const shown = document.body.classList.toggle("keys", kept("assay-keys") !== "off");
    for (const item of document.querySelectorAll("[data-key]")) {
      if (shown) item.setAttribute("aria-keyshortcuts", item.dataset.key);
      else item.removeAttribute("aria-keyshortcuts");
    }
  }

  function kept_boxes() {
    mark_keys();
    for (const [id, name, yes] of [["keys-on", "assay-keys", kept("assay-keys") !== "off"], ["raw", "assay-raw", kept("assay-raw") === "on"]]) {
      const box = document.getElementById(id);
      if (!box) continue;
      box.checked = yes;
      on(box, "change", () => { kept(name, box.checked ? "on" : "off"); mark_keys(); });
    }
    const fold = document.querySelector(".fold");
    if (fold && matchMedia("(max-width: 44rem)").matches) {
      fold.open = kept("assay-fold") !== "closed" || document.getElementById("problem") !== null;
      on(fold, "toggle", (event) => { if (event.target === fold) kept("assay-fold", fold.open ? "open" : "closed"); });
    }
  }

  // -- keys --------------------------------------------------------------------------------------------------------------

  function typing(target) {
    return target.closest("textarea, select, input:not([type=checkbox], [type=radio], [type=submit]), [contenteditable]") !== null;
  }

  function keys() {
    document.addEventListener("keydown", (event) => {
      const help = document.getElementById("help");
      if (event.key === "Escape" && typing(event.target)) { event.target.blur(); return; }
      if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
      if (typing(event.target) || (help && help.open)) return;
      if (kept("assay-keys") === "off" && event.key !== "?") return;
      if (event.key === "m") { document.getElementById("theme").click(); return; }
      const target = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
      if (!target) return;
      event.preventDefault();
      if (target.matches("summary")) {
        target.parentElement.open = !target.parentElement.open;
        const field = target.parentElement.querySelector("textarea, select");
        if (target.parentElement.open) (field || target).focus();
      } else target.click();
    });
  }

  function fill(help) {
    const rows = document.getElementById("help-rows");
    rows.replaceChildren();
    const add = (key, text) => {
      const row = rows.insertRow();
      row.insertCell().append(Object.assign(document.createElement("kbd"), { textContent: key }));
      row.insertCell().textContent = text;
    };
    for (const item of document.querySelectorAll("[data-key]")) {
      const label = item.labels && item.labels.length ? item.labels[0].textContent : item.textContent;
      add(item.dataset.key, label.trim().replace(/\s+/g, " "));
    }
    add("m", "Dark or light");
    const button = document.getElementById("help-button");
    button.hidden = false;
    on(button, "click", () => help.showModal());
    on(document.getElementById("help-close"), "click", () => help.close());
  }

  // -- sending -----------------------------------------------------------------------------------------------------------

  let sending = false;   // a form is sent, or waits for the answer before it
  let saving = null;     // while the next pair is shown already: whether the answer before it was saved, when that is known
  const SOON = 300, SLOW = 3_000, GONE = 30_000;   // ms without an answer: when that is told, told as a problem, and given up

  // Of what is typed, a form sends what was typed in it: the same pair may be open in another window, with more in it. An
  // answer is sent with the reason that stands beside it.
  function body(form, button, answers) {
    const sent = new FormData(form, button);
    for (const name of ["reason", "code", "question", "note"]) {
      const field = form.elements[name];
      if (!field) continue;
      const untouched = !("touched" in field.dataset) && field.value === field.defaultValue;
      if (untouched && !(answers && field.value)) sent.delete(name);
    }
    return sent;
  }

  function sends(form) {
    on(form, "input", (event) => { event.target.dataset.touched = ""; });
    on(form, "submit", (event) => {
      event.preventDefault();
      act(form, event.submitter);
    });
  }

  async function act(form, button) {
    if (sending) return;   // a second press before the next page is there is none
    sending = true;
    form.setAttribute("aria-busy", "true");
    try {
      if (saving && !(await saving)) return;   // the pair before is back on the screen
      if (!form.isConnected) return;
      if (stale) await renew(form);
      const sent = new URLSearchParams(body(form, button, button?.name === "answer"));
      if (ready(form, button)) {
        go_on(form, sent, button);
        return;
      }
      const reply = await post(sent, "sending");
      if (reply.page) show(reply.page, reply.at);
      else tell(reply.problem);
    } finally {
      sending = false;
      form.removeAttribute("aria-busy");
    }
  }

  let stale = false;   // the session that this page was of has ended

  // After a log-in in another tab this page sends the new session's token.
  async function renew(form) {
    const page = await fetch("/task").then((r) => r.text()).catch(() => "");
    const csrf = new DOMParser().parseFromString(page, "text/html").querySelector("#main [name=csrf]")?.value;
    const fields = (ahead?.nodes || []).map((node) => node.querySelector?.("[name=csrf]"));
    for (const field of [form.elements.csrf, ...fields]) if (field && csrf) field.value = csrf;
  }

  // What is sent outlives the page that sends it, as far as browsers let it (64 KiB).
  function deliver(sent, how, more) {
    const text = sent.toString();
    const headers = { "content-type": "application/x-www-form-urlencoded;charset=UTF-8", "x-assay": how };
    return fetch("/task", { method: "POST", body: text, headers, keepalive: text.length < 60_000, ...more });
  }

  // Sends a form; what came back is a page to show, or why there is none.
  async function post(sent, what) {
    const soon = what === "sending" ? setTimeout(() => say("Sending\u2026"), SOON) : 0;
    const slow = setTimeout(() => tell(`Still ${what}: the server has not answered yet.`, "notice"), SLOW);
    try {
      const response = await deliver(sent, "page", { signal: AbortSignal.timeout(GONE) });
      if (response.redirected) { location.assign(response.url); return { problem: "You are logged out." }; }
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      stale = response.status === 401 || response.status === 403;
      if (page.getElementById("main") && (response.ok || response.status === 409)) return { page, at: response.headers.get("x-assay-at") };
      if (response.status === 401) return { problem: "Not saved: you are logged out. Log in in another tab, then press again here." };
      return { problem: `Not saved: ${(page.querySelector(".problem") || page.body).textContent.trim()}` };
    } catch {
      return { problem: "Not saved: is the server there? What you typed is still here; try again." };
    } finally {
      clearTimeout(soon);
      clearTimeout(slow);
    }
  }

  function show(page, at) {
    if (ahead?.typed && page.querySelector("#task [name=submission]")?.value === ahead.submission) {
      put(ahead);   // what was typed in it is nowhere else
      patch(page);
      return;
    }
    put({ title: page.title, nodes: [...page.getElementById("main").childNodes], top: 0 });
    const there = at && document.getElementById(at);
    if (there) there.scrollIntoView({ block: "nearest" });
    aloud();
  }

  function put({ title, nodes, top }) {
    document.title = title;
    document.getElementById("main").replaceChildren(...nodes);
    begin();
    scrollTo({ top, behavior: "instant" });
  }

  function aloud() {
    document.getElementById("live").textContent = (document.getElementById("problem") || document.getElementById("did"))?.textContent || "";
  }

  function tell(text, look = "problem") {
    say(text, look);
    document.getElementById("live").textContent = text;
    const saved = document.getElementById("saved");
    if (saved) saved.textContent = "";
  }

  function say(text, look = "") {
    let did = document.getElementById("did");
    if (!did) document.querySelector("main form").before(did = Object.assign(document.createElement("p"), { id: "did" }));
    Object.assign(did, { textContent: text, className: look });
  }

  // -- the pair after this one: held while this one is read, and shown while the answer to this one is being saved -----------

  let ahead = null;   // { at: the submission of the pair before it, submission, title, nodes, top, typed: was on the screen before }

  async function look_ahead() {
    const form = document.getElementById("task");
    const at = form?.elements.submission.value;
    if (!form || saving || ahead?.at === at || document.visibilityState === "hidden") return;
    ahead = null;
    try {
      const response = await fetch(`/task/ahead?at=${at}`, { signal: turn.signal });
      if (response.status !== 200 || response.redirected) return;   // nothing is left, or nobody is logged in
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const main = page.getElementById("main");
      const submission = main.querySelector("[name=submission]").value;
      for (const picture of main.querySelectorAll("img")) new Image().src = picture.getAttribute("src");
      ahead = { at, submission, title: page.title, nodes: [...main.childNodes], top: 0 };
    } catch { /* then it comes with the answer, as it does without a script */ }
  }

  function ready(form, button) {
    const short = form.elements.reason && form.elements.reason.value.trim().length < Number(form.dataset.least);
    const why = short && !["tie", "cannot decide"].includes(button?.value);   // the server asks for it
    return button?.name === "answer" && !why && ahead !== null && ahead.at === form.elements.submission.value;
  }

  function leave() {
    return { title: document.title, nodes: [...document.getElementById("main").childNodes], top: scrollY };
  }

  // The next pair is shown at once. What the server says of the answer is said beside it; where it was not saved, the pair
  // that it was of comes back as it was left, and the one that was shown is ahead again, with what was typed in it.
  async function go_on(form, sent, button) {
    const before = { ...leave(), at: form.elements.submission.value }, next = ahead;
    let known;
    saving = new Promise((resolve) => { known = resolve; });
    root.dataset.saving = "";
    ahead = null;
    sent.set("following", next.submission);
    put(next);
    say(`Saving: ${button.textContent.trim()}\u2026`);
    const reply = await post(sent, "saving");
    const there = reply.page?.querySelector("#task [name=submission]")?.value;
    saving = null;
    const back = !reply.page || there === before.at;
    if (back) {
      ahead = { ...leave(), at: before.at, submission: next.submission, typed: true };
      put(before);
      if (reply.page) patch(reply.page);
      else tell(reply.problem + (sending ? " What you pressed since was not sent." : ""));
    } else {
      forget(before.at);
      if (there === next.submission) { patch(reply.page); look_ahead(); }
      else show(reply.page);
    }
    delete root.dataset.saving;
    known(!back);
  }

  // What is said beside a pair is renewed; the pair, and what is typed, stay as they are.
  function patch(page) {
    for (const what of [".progress", ".did"]) {
      const fresh = page.querySelector(what);
      if (fresh) document.querySelector(`#main ${what}`).replaceWith(fresh);
    }
    document.getElementById("problem")?.remove();
    const problem = page.getElementById("problem");
    if (problem) {
      const fold = document.querySelector(".fold");
      fold.querySelector("summary").after(problem);
      fold.open = true;
      if (problem.dataset.need) { document.querySelector(".why").open = true; document.getElementById("reason").focus(); }
    }
    mark_keys();
    aloud();
  }

  document.addEventListener("visibilitychange", look_ahead);
  addEventListener("pageshow", (event) => { if (event.persisted) look_ahead(); });
  addEventListener("beforeunload", (event) => { if (saving) event.preventDefault(); });
  addEventListener("pagehide", () => {   // given back to the queue
    const form = document.getElementById("task");
    if (!ahead || !form) return;
    const sent = new URLSearchParams({ do: "release", submission: ahead.submission, csrf: form.elements.csrf.value });
    ahead = null;
    deliver(sent, "quiet").catch(() => null);
  });

  // -- a pair ------------------------------------------------------------------------------------------------------------

  function task(form) {
    // Seconds in which the pair was visible; reloads of the same pair go on from where they were.
    const name = seconds_of(form.elements.submission.value);
    let seconds = Number(sessionStorage.getItem(name)) || Number(form.elements.seconds.value) || 0;
    let last = performance.now();
    const tick = () => {
      const now = performance.now();
      if (document.visibilityState === "visible") seconds += Math.min(5, (now - last) / 1000);
      last = now;
      sessionStorage.setItem(name, String(seconds));
      form.elements.seconds.value = seconds.toFixed(1);
    };
    const clock = setInterval(tick, 1000);
    on(form, "submit", tick, { capture: true });

    const shown = turn.signal;
    const send = async (more) => {
      if (saving) await saving;   // until then this pair is not the one that one is at
      const sent = new URLSearchParams(body(form));
      for (const [key, value] of Object.entries(more)) sent.set(key, value);
      return deliver(sent, "quiet");
    };
    let timer = 0;
    on(form, "input", (event) => {
      if (!event.target.name) return;
      clearTimeout(timer);
      timer = setTimeout(async () => {
        if (sending) return;
        const done = await send({ do: "draft" }).catch(() => null);
        const saved = document.getElementById("saved");
        if (!shown.aborted && saved) saved.textContent = done && done.ok ? "Saved." : "Not saved: is the server there? What you typed is still here.";
      }, 800);
    });
    on(form, "submit", () => clearTimeout(timer));
    shown.addEventListener("abort", () => { clearInterval(clock); clearTimeout(timer); });
    for (const item of form.querySelectorAll("details[data-tool]")) {
      on(item, "toggle", () => { if (item.open) send({ do: "opened", tool: item.dataset.tool }); }, { once: true });
    }
    for (const item of form.querySelectorAll("a[data-tool]")) {
      on(item, "click", () => send({ do: "opened", tool: item.dataset.tool }));
    }
    if (document.getElementById("problem")?.dataset.need) form.elements.reason.focus();
  }

  function seconds_of(submission) {
    return `assay-seconds-${submission}`;
  }

  function forget(submission) {
    sessionStorage.removeItem(seconds_of(submission));
  }
})();
