"use strict";
// What the page adds where scripts run: keys, saving while one types, the time that was looked, the next page in one round trip,
// dark or light. All of it is optional: without scripts the same forms are sent, and the same pages come.
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

  // -- one page: at the first load, and whenever the next one takes its place ------------------------------------------

  let turn = null;   // what ends with the page that is shown: timers, and listeners outside it

  function begin() {
    turn?.abort();
    turn = new AbortController();
    kept_boxes();
    const help = document.getElementById("help");
    if (help) fill(help);
    const form = document.getElementById("task") || document.getElementById("done");
    if (form) sends(form);
    if (form && form.id === "task") task(form);
    root.dataset.turn = String(Number(root.dataset.turn || 0) + 1);
  }

  function kept_boxes() {
    const mark = () => {   // what the eye sees on a button, a screen reader is told as its key, and not as a part of its name
      const on = document.body.classList.toggle("keys", kept("assay-keys") !== "off");
      for (const item of document.querySelectorAll("[data-key]")) {
        if (on) item.setAttribute("aria-keyshortcuts", item.dataset.key);
        else item.removeAttribute("aria-keyshortcuts");
      }
    };
    mark();
    for (const [id, name, on] of [["keys-on", "assay-keys", kept("assay-keys") !== "off"], ["raw", "assay-raw", kept("assay-raw") === "on"]]) {
      const box = document.getElementById(id);
      if (!box) continue;
      box.checked = on;
      box.addEventListener("change", () => { kept(name, box.checked ? "on" : "off"); mark(); });
    }
    const fold = document.querySelector(".fold");
    if (fold && matchMedia("(max-width: 44rem)").matches) {
      fold.open = kept("assay-fold") !== "closed" || document.getElementById("problem") !== null;
      fold.addEventListener("toggle", (event) => { if (event.target === fold) kept("assay-fold", fold.open ? "open" : "closed"); });
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
    button.addEventListener("click", () => help.showModal());
    document.getElementById("help-close").addEventListener("click", () => help.close());
  }

  // -- sending -----------------------------------------------------------------------------------------------------------

  let sending = false;
  const SLOW = 3_000, GONE = 30_000;   // ms without an answer: when that is told, and when it is given up

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
    form.addEventListener("input", (event) => { event.target.dataset.touched = ""; });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!sending) act(form, event.submitter);   // a second press before the next page is there is none
    });
  }

  async function act(form, button) {
    sending = true;
    form.setAttribute("aria-busy", "true");
    const slow = setTimeout(() => tell("Still sending: the server has not answered yet."), SLOW);
    try {
      const sent = new URLSearchParams(body(form, button, button?.name === "answer"));
      const response = await fetch("/task", { method: "POST", body: sent, headers: { "x-assay": "page" }, signal: AbortSignal.timeout(GONE) });
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      if (response.redirected) location.assign(response.url);   // to the log-in
      else if (page.getElementById("main") && (response.ok || response.status === 409)) show(page, response.headers.get("x-assay-at"));
      else tell(page.querySelector(".problem")?.textContent || page.body.textContent);
    } catch {
      tell("Not saved: is the server there? What you typed is still here; try again.");
    } finally {
      clearTimeout(slow);
      sending = false;
      form.removeAttribute("aria-busy");
    }
  }

  function show(page, at) {
    document.title = page.title;
    document.getElementById("main").replaceChildren(...page.getElementById("main").childNodes);
    begin();
    const there = at && document.getElementById(at);
    if (there) there.scrollIntoView({ block: "nearest" });
    else scrollTo({ top: 0, behavior: "instant" });
    document.getElementById("live").textContent = (document.getElementById("problem") || document.getElementById("did"))?.textContent || "";
  }

  function tell(text) {
    let did = document.getElementById("did");
    if (!did) document.querySelector("main form").before(did = Object.assign(document.createElement("p"), { id: "did" }));
    Object.assign(did, { textContent: text, className: "problem" });
    document.getElementById("live").textContent = text;
    const saved = document.getElementById("saved");
    if (saved) saved.textContent = "";
  }

  // -- a pair ------------------------------------------------------------------------------------------------------------

  function task(form) {
    // Seconds in which the page was visible; reloads of the same pair go on from where they were.
    const name = `assay-seconds-${form.elements.submission.value}`;
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
    form.addEventListener("submit", tick, { capture: true });

    const saved = document.getElementById("saved");
    const send = (more) => {
      const sent = body(form);
      for (const [key, value] of Object.entries(more)) sent.set(key, value);
      return fetch("/task", { method: "POST", body: new URLSearchParams(sent), headers: { "x-assay": "quiet" }, keepalive: true });
    };
    let timer = 0;
    form.addEventListener("input", (event) => {
      if (!event.target.name) return;
      clearTimeout(timer);
      timer = setTimeout(async () => {
        if (sending) return;
        const done = await send({ do: "draft" }).catch(() => null);
        saved.textContent = done && done.ok ? "Saved." : "Not saved: is the server there? What you typed is still here.";
      }, 800);
    });
    form.addEventListener("submit", () => clearTimeout(timer));
    turn.signal.addEventListener("abort", () => { clearInterval(clock); clearTimeout(timer); });
    for (const item of form.querySelectorAll("details[data-tool]")) {
      item.addEventListener("toggle", () => { if (item.open) send({ do: "opened", tool: item.dataset.tool }); }, { once: true });
    }
    for (const item of form.querySelectorAll("a[data-tool]")) {
      item.addEventListener("click", () => send({ do: "opened", tool: item.dataset.tool }));
    }
    if (document.getElementById("problem")?.dataset.need) form.elements.reason.focus();
  }
})();
